/** Tables that several cases capture. */
import { packing } from "../../../src/attention/mods/packed-documents.ts";

export function numbers(length: number, f: (i: number) => number): Int32Array {
  return Int32Array.from({ length }, (_, i) => f(i));
}

export function floats(length: number, f: (i: number) => number): Float32Array {
  return Float32Array.from({ length }, (_, i) => f(i));
}

/** Documents of uneven lengths, some of them 1, until `total` positions are full. */
export function documentsOf(total: number): { readonly documents: Int32Array; readonly starts: Int32Array } {
  const lengths: number[] = [];
  for (let left = total, i = 0; left > 0; i++) {
    const length = Math.min(left, [37, 1, 64, 12, 90][i % 5]!);
    lengths.push(length);
    left -= length;
  }
  return packing(lengths);
}

/** Bits 0, 2, 4, ... of i, side by side. */
export function evenBits(i: number): number {
  let x = 0;
  for (let bit = 0; bit < 15; bit++) x |= ((i >> (2 * bit)) & 1) << bit;
  return x;
}
