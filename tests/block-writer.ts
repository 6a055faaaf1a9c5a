/**
 * Rounds f32 numbers to GGUF's quantised types, the plain way: for tests and for measuring what a type costs.
 *
 * Scales are those that just reach a block's extremes (of Q8_0, Q4_0 and Q4_1 those of backend/quantized.ts); llama.cpp searches for better ones
 * where it makes K types, so its files are a little better than these. Written by the description in block-formats.ts, which reads them.
 */
import { quantizeRows } from "../src/backend/quantized.ts";
import { fromF16, toF16 } from "../src/core/dtype.ts";
import { blockFormats, type BlockType } from "../src/weights/block-formats.ts";

export type QuantizedBlockType = Exclude<BlockType, "F32" | "F16" | "BF16">;

const f16 = (x: number): number => fromF16(toF16(x));
const code = (x: number, least: number, most: number): number => Math.max(least, Math.min(most, Math.round(x)));
/** The number of the largest magnitude. */
const extreme = (x: Float32Array): number => x.reduce((largest, value) => (Math.abs(value) > Math.abs(largest) ? value : largest), 0);
const inverse = (scale: number): number => (scale === 0 ? 0 : 1 / scale);

/** 32 codes of 5 bits: pairs of four bits behind the fifth bits. */
function putFiveBits(out: DataView, at: number, codes: readonly number[]): void {
  out.setUint32(at, codes.reduce((bits, q, i) => bits | ((q >> 4) << i), 0), true);
  for (let i = 0; i < 16; i++) out.setUint8(at + 4 + i, (codes[i]! & 15) | ((codes[i + 16]! & 15) << 4));
}

/** Q4_K and Q5_K: runs of 32, their scales and minimums as multiples from 0 to 63 of one f16 each. */
function writeRuns(x: Float32Array, out: DataView, at: number, bits: 4 | 5): void {
  const runs = Array.from({ length: 8 }, (_, run) => x.subarray(32 * run, 32 * run + 32));
  const most = 2 ** bits - 1, mins = runs.map((run) => -Math.min(0, ...run)), scales = runs.map((run, r) => (Math.max(0, ...run) + mins[r]!) / most);
  const d = f16(Math.max(...scales) / 63), dmin = f16(Math.max(...mins) / 63);
  out.setUint16(at, toF16(d), true);
  out.setUint16(at + 2, toF16(dmin), true);
  const six = (values: readonly number[], unit: number): number[] => values.map((value) => code(value * inverse(unit), 0, 63));
  const s = six(scales, d), m = six(mins, dmin);
  for (let run = 0; run < 4; run++) {
    out.setUint8(at + 4 + run, s[run]! | ((s[run + 4]! >> 4) << 6));
    out.setUint8(at + 8 + run, m[run]! | ((m[run + 4]! >> 4) << 6));
    out.setUint8(at + 12 + run, (s[run + 4]! & 15) | ((m[run + 4]! & 15) << 4));
  }
  const fifth = at + 16, pairs = bits === 5 ? at + 48 : at + 16;
  runs.forEach((values, run) => values.forEach((value, i) => {
    const q = code((value + dmin * m[run]!) * inverse(d * s[run]!), 0, most), pair = pairs + 32 * (run >> 1) + i;
    out.setUint8(pair, out.getUint8(pair) | ((q & 15) << (4 * (run & 1))));
    if (bits === 5) out.setUint8(fifth + i, out.getUint8(fifth + i) | ((q >> 4) << run));
  }));
}

type Write = (x: Float32Array, out: DataView, at: number) => void;
const asPacked = (dtype: Parameters<typeof quantizeRows>[1]): Write => (x, out, at) => new Uint8Array(out.buffer).set(quantizeRows(x, dtype, x.length), at);

/** A block of `x` to byte `at` of zeros. */
const writers: Readonly<Record<QuantizedBlockType, Write>> = {
  Q8_0: asPacked("int8"),
  Q4_0: asPacked("int4"),
  Q4_1: asPacked("uint4"),
  Q5_0: (x, out, at) => {
    const d = f16(extreme(x) / -16);
    out.setUint16(at, toF16(d), true);
    putFiveBits(out, at + 2, Array.from(x, (value) => code(value * inverse(d), -16, 15) + 16));
  },
  Q5_1: (x, out, at) => {
    const m = f16(Math.min(...x)), d = f16((Math.max(...x) - m) / 31);
    out.setUint16(at, toF16(d), true);
    out.setUint16(at + 2, toF16(m), true);
    putFiveBits(out, at + 4, Array.from(x, (value) => code((value - m) * inverse(d), 0, 31)));
  },
  Q4_K: (x, out, at) => writeRuns(x, out, at, 4),
  Q5_K: (x, out, at) => writeRuns(x, out, at, 5),
  Q6_K: (x, out, at) => {
    const scales = Array.from({ length: 16 }, (_, run) => extreme(x.subarray(16 * run, 16 * run + 16)) / -32);
    const d = f16(Math.max(...scales.map(Math.abs)) / 127), s = scales.map((scale) => code(scale * inverse(d), -128, 127));
    out.setUint16(at + 208, toF16(d), true);
    s.forEach((scale, run) => out.setInt8(at + 192 + run, scale));
    x.forEach((value, i) => {
      const q = code(value * inverse(d * s[i >> 4]!), -32, 31) + 32;
      const half = i >> 7, run = (i >> 5) & 3, column = i & 31;
      const low = at + 64 * half + 32 * (run & 1) + column, high = at + 128 + 32 * half + column;
      out.setUint8(low, out.getUint8(low) | ((q & 15) << (4 * (run >> 1))));
      out.setUint8(high, out.getUint8(high) | ((q >> 4) << (2 * run)));
    });
  },
};

/** Whole blocks of `type` that come nearest to `values`. */
export function writeBlocks(type: QuantizedBlockType, values: Float32Array): Uint8Array<ArrayBuffer> {
  const { blockElements, blockBytes } = blockFormats[type];
  const out = new Uint8Array((values.length / blockElements) * blockBytes), view = new DataView(out.buffer);
  for (let block = 0; block * blockElements < values.length; block++) writers[type](values.subarray(block * blockElements, (block + 1) * blockElements), view, block * blockBytes);
  return out;
}
