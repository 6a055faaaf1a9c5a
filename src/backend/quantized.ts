/**
 * Weights of 8 and 4 bits, and the activations they are multiplied with: what the formats mean, and how they are handed over.
 *
 * Weights come in blocks of 32 along K, codes q with a scale s (and a minimum m) each:
 *
 *   int8    s q          q from -128 to 127      uint8   s q + m    q from 0 to 255
 *   int4    s (q - 8)    q from 0 to 15          uint4   s q + m    q from 0 to 15
 *
 * A backend lays them out as it likes, in no more than `quantizedBytes`. They are handed over (`Backend.writeRows`) as rows of packed
 * blocks, little-endian, without gaps: s as f16, then m as f16 where there is one, then the codes: a byte each, or of 4 bits
 * byte i holding code i below and code i + 16 above. So int8, int4 and uint4 are what GGUF calls Q8_0, Q4_0 and Q4_1.
 *
 * Activations (dtype "int8") are rounded in blocks of 32 as well: scale = max |x| / 127, code = x * (127 / max |x|) rounded to even, in
 * f32 each, the factor no larger than f32 goes. Rows are padded with zeros to whole blocks.
 */
import { fromF16, toF16 } from "../core/dtype.ts";

export type QuantizedDType = "int8" | "uint8" | "int4" | "uint4";

interface QuantizedFormat {
  readonly bits: 4 | 8;
  /** Whether blocks have a minimum beside the scale. */
  readonly hasMin: boolean;
  /** What is subtracted from a code before it is scaled. */
  readonly zero: 0 | 8;
  /** Of a packed block. */
  readonly blockBytes: number;
}

export const quantizedFormats: Readonly<Record<QuantizedDType, QuantizedFormat>> = {
  int8: { bits: 8, hasMin: false, zero: 0, blockBytes: 34 },
  uint8: { bits: 8, hasMin: true, zero: 0, blockBytes: 36 },
  int4: { bits: 4, hasMin: false, zero: 8, blockBytes: 18 },
  uint4: { bits: 4, hasMin: true, zero: 0, blockBytes: 20 },
};
export const isQuantized = (dtype: string): dtype is QuantizedDType => Object.hasOwn(quantizedFormats, dtype);

/** Elements of a block. */
export const blockElements = 32;
/** Rows of a weight are padded to whole panels of this many. */
export const panelRows = 16;

/** How many blocks a row of `columns` elements has. */
export const blocksOf = (columns: number): number => Math.ceil(columns / blockElements);

/** Bytes of a packed row. */
export const packedRowBytes = (dtype: QuantizedDType, columns: number): number => blocksOf(columns) * quantizedFormats[dtype].blockBytes;

/** Bytes that a weight takes in a backend's memory. */
export const quantizedBytes = (dtype: QuantizedDType, rows: number, columns: number): number =>
  Math.ceil(rows / panelRows) * panelRows * packedRowBytes(dtype, columns);

/**
 * Byte offsets in a block of int8 activations: 32 codes, then of the block: the scale (f32), -128 times the sum of the codes (i32), the
 * scale times that sum (f32).
 */
export const activationBlock = { codes: 0, scale: 32, offset: 36, sum: 40, bytes: 48 } as const;

/** Bytes of a row of int8 activations: what an Activation's `stride` counts. */
export const activationRowBytes = (columns: number): number => blocksOf(columns) * activationBlock.bytes;

const f32 = Math.fround;
export const largestF32 = (2 - 2 ** -23) * 2 ** 127;

/** x rounded to a whole number, ties to even. */
export function roundEven(x: number): number {
  const floor = Math.floor(x), rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

/** A row of activations as blocks: the definition that kernels are compared with. */
export function quantizeActivations(x: ArrayLike<number>): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(activationRowBytes(x.length));
  const view = new DataView(out.buffer);
  for (let block = 0; block < blocksOf(x.length); block++) {
    const from = block * blockElements, to = Math.min(from + blockElements, x.length), at = block * activationBlock.bytes;
    let largest = 0;
    for (let i = from; i < to; i++) largest = Math.max(largest, Math.abs(x[i]!));
    const scale = f32(largest / 127), inverse = Math.min(f32(127 / largest), largestF32);
    let sum = 0;
    for (let i = from; i < to; i++) {
      const code = roundEven(f32(x[i]! * inverse)) || 0; // NaN has code 0, and its scale is NaN
      view.setInt8(at + i - from, code);
      sum += code;
    }
    view.setFloat32(at + activationBlock.scale, scale, true);
    view.setInt32(at + activationBlock.offset, -128 * sum, true);
    view.setFloat32(at + activationBlock.sum, f32(scale * sum), true);
  }
  return out;
}

/** The numbers that a row of int8 activations stands for. */
export function activationValues(row: Uint8Array, columns: number): Float64Array {
  const view = new DataView(row.buffer, row.byteOffset, row.byteLength);
  return Float64Array.from({ length: columns }, (_, i) => {
    const at = Math.floor(i / blockElements) * activationBlock.bytes;
    return view.getInt8(at + (i % blockElements)) * view.getFloat32(at + activationBlock.scale, true);
  });
}

/** The numbers that a packed row of a weight stands for, rounded once to f32. */
export function dequantizeRow(packed: Uint8Array, dtype: QuantizedDType, columns: number): Float32Array<ArrayBuffer> {
  const { bits, hasMin, zero, blockBytes } = quantizedFormats[dtype];
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  return Float32Array.from({ length: columns }, (_, k) => {
    const at = Math.floor(k / blockElements) * blockBytes, i = k % blockElements, codes = at + (hasMin ? 4 : 2);
    const byte = view.getUint8(codes + (bits === 8 ? i : i % 16));
    const code = bits === 4 ? (i < 16 ? byte & 15 : byte >> 4) : dtype === "int8" ? (byte << 24) >> 24 : byte;
    return (code - zero) * fromF16(view.getUint16(at, true)) + (hasMin ? fromF16(view.getUint16(at + 2, true)) : 0);
  });
}

/** A block of weights that reaches this far or farther is refused: its scale might be beyond f16. */
export const largestReach = 65504;
/** By how much of a block's reach uint4's extremes are drawn in, where that makes the error less. */
export const drawnIn = f32(0.04);

/**
 * Rows of f32 as packed blocks. s and m are rounded to f16 before codes are.
 *
 * int8: s = max |x| / 127. int4: s so that the number of the greatest magnitude is code 0, whose reach is the longest (as llama.cpp does for
 * Q4_0). uint8: from the least to the greatest of the block and zero, m being the least. uint4: the same, but that either end may be drawn in (`leastError`).
 * int8 and uint4 are computed in f32, as backend/wasm/round-weights.ts does.
 * @throws RangeError when a number is not finite or a block reaches too far
 */
export function quantizeRows(values: Float32Array, dtype: QuantizedDType, columns: number): Uint8Array<ArrayBuffer> {
  const { bits, hasMin, zero, blockBytes } = quantizedFormats[dtype];
  const numRows = values.length / columns, rowBytes = packedRowBytes(dtype, columns), lowest = -zero, highest = 2 ** bits - 1 - zero;
  const out = new Uint8Array(numRows * rowBytes);
  const view = new DataView(out.buffer);
  for (let row = 0; row < numRows; row++) {
    for (let block = 0; block < blocksOf(columns); block++) {
      const from = row * columns + block * blockElements, at = row * rowBytes + block * blockBytes;
      const x = values.subarray(from, Math.min(from + blockElements, (row + 1) * columns));
      let least = 0, greatest = 0;
      for (const value of x) {
        least = Math.min(least, value); // NaN stays
        greatest = Math.max(greatest, value);
      }
      if (!(greatest - least < largestReach)) throw new RangeError(`a block of weights reaches from ${least} to ${greatest}`);
      const { scale, min } = fit(dtype, x, least, greatest), inverse = scale === 0 ? 0 : f32(1 / scale);
      view.setUint16(at, toF16(scale), true);
      if (hasMin) view.setUint16(at + 2, toF16(min), true);
      const codes = at + (hasMin ? 4 : 2);
      for (let i = 0; i < blockElements; i++) {
        const rounded = roundEven(f32(f32((x[i] ?? 0) - min) * inverse));
        if (dtype === "int8") view.setInt8(codes + i, Math.max(-128, Math.min(127, rounded))); // a subnormal scale is coarse
        else {
          const code = Math.max(lowest, Math.min(highest, rounded)) + zero;
          if (bits === 8) out[codes + i] = code;
          else out[codes + (i & 15)]! |= i < 16 ? code : code << 4;
        }
      }
    }
  }
  return out;
}
const f16Nearest = (x: number): number => fromF16(toF16(x));

interface Fit { readonly scale: number; readonly min: number }

/** Scale and minimum of a block from `least` (at most 0) to `greatest` (at least 0). */
function fit(dtype: QuantizedDType, x: Float32Array, least: number, greatest: number): Fit {
  switch (dtype) {
    case "int8": return { scale: f16Nearest(f32(Math.max(greatest, -least) / 127)), min: 0 };
    case "int4": return { scale: f16Nearest((greatest > -least ? greatest : least) / -8), min: 0 };
    case "uint8": return { scale: f16Nearest((greatest - least) / 255), min: f16Nearest(least) };
    case "uint4": return leastError(x, least, greatest);
  }
}

/** Of four pairs of extremes, each end as it is or drawn in, the one whose codes leave the least squared error; the first of equals. In f32, lane i mod 4. */
function leastError(x: Float32Array, least: number, greatest: number): Fit {
  const drawn = f32(f32(greatest - least) * drawnIn);
  const [low, high] = [Math.min(0, f32(least + drawn)), Math.max(0, f32(greatest - drawn))];
  let best: Fit | undefined, bestError = 0;
  for (const [from, to] of [[least, greatest], [low, greatest], [least, high], [low, high]] as const) {
    const scale = f16Nearest(f32(f32(to - from) / 15)), min = -f16Nearest(Math.abs(from)), inverse = scale === 0 ? 0 : f32(1 / scale);
    const sums = [0, 0, 0, 0];
    for (let i = 0; i < x.length; i++) {
      const code = Math.max(0, Math.min(15, roundEven(f32(f32(x[i]! - min) * inverse)))), off = f32(f32(f32(code * scale) + min) - x[i]!);
      sums[i & 3] = f32(sums[i & 3]! + f32(off * off));
    }
    const error = f32(f32(sums[0]! + sums[1]!) + f32(sums[2]! + sums[3]!));
    if (best && !(error < bestError)) continue;
    best = { scale, min };
    bestError = error;
  }
  return best!;
}
