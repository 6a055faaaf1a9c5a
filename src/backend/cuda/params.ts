/**
 * The one parameter of a kernel, written field by field as C lays a struct out.
 *
 * Kernels take `const __grid_constant__ Params p`, a plain struct; calls here stand in the order of its members. Knows no kernel.
 */
import { invariant } from "../../core/errors.ts";

/** Bytes that a kernel's parameters may have on every architecture. */
export const maxParamBytes = 4096;

export class Params {
  #view: DataView<ArrayBuffer>;
  #length = 0;
  /** A struct is padded to its most demanding member; 8 at least, as any struct with an address in it. */
  #alignment = 8;

  /** `bytes`: how much to begin with; it grows. */
  constructor(bytes = 128) {
    this.#view = new DataView(new ArrayBuffer(bytes));
  }

  /** A device address: a pointer member. */
  ptr(address: number): this {
    invariant(Number.isSafeInteger(address) && address >= 0, `${address} is no device address`);
    const at = this.#take(8, 8);
    this.#view.setUint32(at, address % 2 ** 32, true);
    this.#view.setUint32(at + 4, Math.floor(address / 2 ** 32), true);
    return this;
  }

  i32(x: number): this {
    invariant(x === (x | 0), `${x} is no int32`);
    const at = this.#take(4, 4);
    this.#view.setInt32(at, x, true);
    return this;
  }

  u32(x: number): this {
    invariant(x === x >>> 0, `${x} is no uint32`);
    const at = this.#take(4, 4);
    this.#view.setUint32(at, x, true);
    return this;
  }

  f32(x: number): this {
    const at = this.#take(4, 4);
    this.#view.setFloat32(at, x, true);
    return this;
  }

  i64(x: number): this {
    invariant(Number.isSafeInteger(x), `${x} is no whole number`);
    const at = this.#take(8, 8);
    this.#view.setBigInt64(at, BigInt(x), true);
    return this;
  }

  /** A member given as its bytes; `alignment` is its type's, a power of two (64 of a tensor map). */
  raw(data: Uint8Array, alignment: number): this {
    const at = this.#take(data.length, alignment);
    new Uint8Array(this.#view.buffer).set(data, at);
    return this;
  }

  /** The struct so far, padded at its end: a copy. */
  bytes(): Uint8Array<ArrayBuffer> {
    const copy = new Uint8Array(Math.ceil(this.#length / this.#alignment) * this.#alignment);
    copy.set(new Uint8Array(this.#view.buffer, 0, this.#length));
    return copy;
  }

  /** Where a member of so many bytes stands. The view may be another one after it. */
  #take(bytes: number, alignment: number): number {
    const at = Math.ceil(this.#length / alignment) * alignment, end = at + bytes;
    invariant(end <= maxParamBytes, `parameters of ${end} bytes, and a kernel takes ${maxParamBytes}`);
    if (end > this.#view.byteLength) {
      const larger = new Uint8Array(Math.max(end, 2 * this.#view.byteLength));
      larger.set(new Uint8Array(this.#view.buffer));
      this.#view = new DataView(larger.buffer);
    }
    this.#length = end;
    this.#alignment = Math.max(this.#alignment, alignment);
    return at;
  }
}
