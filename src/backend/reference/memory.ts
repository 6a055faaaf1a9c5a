/**
 * Buffers of the reference backend: a piece of an ArrayBuffer, read through typed arrays.
 *
 * Every allocation is an ArrayBuffer of its own, so that a stray read can never find a neighbour's numbers.
 */
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

/** Row `row` of a weight, widened to f32. Quantised rows lie as they were handed over. */
export function weightRow(weight: Weight, row: number): Float32Array {
  invariant(row >= 0 && row < weight.rows, `row ${row} of a weight with ${weight.rows} rows`);
  const { store, offset } = own(weight.data);
  if (isQuantized(weight.dtype)) {
    const bytes = packedRowBytes(weight.dtype, weight.columns);
    return dequantizeRow(new Uint8Array(store, offset + row * bytes, bytes), weight.dtype, weight.columns);
  }
  if (weight.dtype === "f32") return new Float32Array(store, offset + 4 * row * weight.columns, weight.columns);
  // bf16 is the upper half of an f32.
  const words = Uint32Array.from(new Uint16Array(store, offset + 2 * row * weight.columns, weight.columns));
  for (let i = 0; i < words.length; i++) words[i]! <<= 16;
  return new Float32Array(words.buffer);
}
