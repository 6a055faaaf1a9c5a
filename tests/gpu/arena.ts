/** Matrices on the GPU and here, in one piece of memory that each case takes anew. What a case is to write is poisoned with NaN. Knows no op. */
import type { Activation } from "../../src/backend/backend.ts";
import { CudaBuffer } from "../../src/backend/cuda/memory.ts";
import type { Element } from "../../src/backend/cuda/modules.ts";
import { fromFloat32, toFloat32 } from "../../src/core/dtype.ts";
import { invariant } from "../../src/core/errors.ts";
import type { Machine } from "./machine.ts";

export type Type = "f32" | Element;
export const bytesOf: Readonly<Record<Type, number>> = { f32: 4, bf16: 2, f16: 2 };

/** Numbers as their type holds them, on the GPU and here; here none in a dry run. */
export interface Numbers {
  readonly buffer: CudaBuffer;
  readonly values: Float32Array;
}
export interface Matrix extends Numbers {
  readonly a: Activation;
  readonly type: Type;
}

/** An activation as ops take it; f32 has no dtype. */
export const activation = (buffer: CudaBuffer, type: Type, columns: number, stride = columns, rows: "tokens" | "logits" = "tokens"): Activation =>
  ({ data: buffer, ...(type !== "f32" && { dtype: type }), rows, columns, stride });

export class Arena {
  /** Where the next piece begins: set it back to give pieces back. */
  top = 0;
  readonly #machine: Machine;
  readonly #all: CudaBuffer;
  #state = 1;

  constructor(machine: Machine, bytes: number) {
    this.#machine = machine;
    this.#all = new CudaBuffer(machine.device.alloc(bytes), bytes);
  }

  take(bytes: number): CudaBuffer {
    const buffer = this.#all.slice(this.top, bytes);
    this.top += Math.ceil((bytes + 64) / 256) * 256;
    invariant(this.top <= this.#all.bytes, "the arena is full");
    return buffer;
  }

  /** From -1 to 1. */
  random(): number {
    return ((this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0) / 2 ** 31) - 1;
  }

  /** `n` random numbers up to `scale`. */
  numbers(n: number, type: Type, scale = 1): Numbers {
    const buffer = this.take(n * bytesOf[type]);
    if (this.#machine.dry) return { buffer, values: new Float32Array() };
    const values = Float32Array.from({ length: n }, () => this.random() * scale), bytes = fromFloat32(values, type);
    this.#machine.device.write(buffer.address, bytes);
    return { buffer, values: type === "f32" ? values : toFloat32(bytes, type) };
  }

  ints(values: readonly number[]): CudaBuffer {
    const buffer = this.take(4 * values.length);
    this.#machine.device.write(buffer.address, new Uint8Array(Int32Array.from(values).buffer));
    return buffer;
  }

  input(rows: number, columns: number, stride: number, type: Type, scale = 1): Matrix {
    const numbers = this.numbers(rows * stride, type, scale);
    return { a: activation(numbers.buffer, type, columns, stride), type, ...numbers };
  }

  /** Poisoned. */
  output(rows: number, columns: number, stride: number, type: Type, rowsAs: "tokens" | "logits" = "tokens"): Matrix {
    const buffer = this.take(rows * stride * bytesOf[type]);
    this.#machine.device.fill(buffer.address, 0xff, buffer.bytes);
    return { a: activation(buffer, type, columns, stride, rowsAs), type, values: new Float32Array(), buffer };
  }

  /** Poisons what rows of a matrix do not hold: behind `columns` of the first `rows`, and all of the others. */
  poisonRest({ buffer, a: { stride, columns }, type }: Matrix, rows: number): void {
    const bytes = bytesOf[type];
    for (let r = 0; r * stride * bytes < buffer.bytes; r++) {
      const from = r < rows ? columns : 0;
      this.#machine.device.fill(buffer.address + bytes * (r * stride + from), 0xff, bytes * (stride - from));
    }
  }

  async read(buffer: CudaBuffer, type: Type): Promise<Float32Array> {
    return toFloat32(await this.#machine.device.read(buffer.address, buffer.bytes), type);
  }
}
