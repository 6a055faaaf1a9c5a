/**
 * Buffers of the reference backend: a piece of an ArrayBuffer, read through typed arrays.
 *
 * Every allocation is an ArrayBuffer of its own, so that a stray read can never find a neighbour's numbers.
 */
import { bytesPerElement, fromFloat32, toFloat32 } from "../../core/dtype.ts";
import { invariant } from "../../core/errors.ts";
import type { Buffer, Weight } from "../backend.ts";
import { dequantizeRow, isQuantized, packedRowBytes } from "../quantized.ts";

export class ReferenceBuffer implements Buffer {
  readonly bytes: number;
  readonly store: ArrayBuffer;
  readonly offset: number;

  constructor(store: ArrayBuffer, offset: number, bytes: number) {
    this.store = store;
    this.offset = offset;
    this.bytes = bytes;
  }

  slice(offset: number, bytes: number): ReferenceBuffer {
    invariant(offset >= 0 && bytes >= 0 && offset + bytes <= this.bytes, `slice [${offset}, +${bytes}) of a buffer of ${this.bytes} bytes`);
    return new ReferenceBuffer(this.store, this.offset + offset, bytes);
  }
}

function own(buffer: Buffer): ReferenceBuffer {
  invariant(buffer instanceof ReferenceBuffer, "a buffer of another backend was given to the reference backend");
  return buffer;
}

export function bytesOf(buffer: Buffer): Uint8Array {
  const { store, offset, bytes } = own(buffer);
  return new Uint8Array(store, offset, bytes);
}

export function f32Of(buffer: Buffer): Float32Array {
  const { store, offset, bytes } = own(buffer);
  return new Float32Array(store, offset, bytes >> 2);
}

export function i32Of(buffer: Buffer): Int32Array {
  const { store, offset, bytes } = own(buffer);
  return new Int32Array(store, offset, bytes >> 2);
}

/** Types of numbers that are not in blocks. */
export type FloatType = "f32" | "bf16" | "f16";

/** `length` numbers of `type` from element `at` on, as f32: a view where they are that, a widened copy of 16 bits. */
export function floatsAt(buffer: Buffer, type: FloatType, at: number, length: number): Float32Array {
  const { store, offset, bytes } = own(buffer), size = bytesPerElement[type];
  invariant(at >= 0 && (at + length) * size <= bytes, `elements ${at} to ${at + length} of ${type} in a buffer of ${bytes} bytes`);
  return type === "f32" ? new Float32Array(store, offset + size * at, length) : toFloat32(new Uint8Array(store, offset + size * at, size * length), type);
}

/** Writes `values` as `type` from element `at` on, rounded once: to nearest, ties to even (to 16 bits by way of f32). */
export function putFloats(buffer: Buffer, type: FloatType, at: number, values: ArrayLike<number>): void {
  const { store, offset, bytes } = own(buffer), size = bytesPerElement[type];
  invariant(at >= 0 && (at + values.length) * size <= bytes, `elements ${at} to ${at + values.length} of ${type} in a buffer of ${bytes} bytes`);
  if (type === "f32") new Float32Array(store, offset + size * at, values.length).set(values);
  else new Uint8Array(store, offset + size * at, size * values.length).set(fromFloat32(values, type));
}

/** Row `row` of a weight, widened to f32. Quantised rows lie as they were handed over. */
export function weightRow(weight: Weight, row: number): Float32Array {
  invariant(row >= 0 && row < weight.rows, `row ${row} of a weight with ${weight.rows} rows`);
  const { store, offset } = own(weight.data);
  if (isQuantized(weight.dtype)) {
    const bytes = packedRowBytes(weight.dtype, weight.columns);
    return dequantizeRow(new Uint8Array(store, offset + row * bytes, bytes), weight.dtype, weight.columns);
  }
  if (weight.dtype !== "bf16") return floatsAt(weight.data, weight.dtype, row * weight.columns, weight.columns);
  // The upper half of an f32.
  const words = Uint32Array.from(new Uint16Array(store, offset + 2 * row * weight.columns, weight.columns));
  for (let i = 0; i < words.length; i++) words[i]! <<= 16;
  return new Float32Array(words.buffer);
}
