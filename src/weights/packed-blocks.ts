/**
 * From the element types of files to the packed blocks that backends take (backend/quantized.ts).
 *
 *   as they are   Q8_0 to int8, Q4_0 to int4, Q4_1 to uint4
 *   exactly       Q5_0 to int8, Q5_1 to uint8: their codes in bytes
 *   nearly        Q4_K to uint4, Q5_K to uint8: a run's scale and minimum, products of an f16 and 6 bits, are rounded to f16
 *   rounded anew  Q6_K to int8, whose blocks have two scales; and every type to another one that was asked for: by the backend, from the numbers
 *
 * It knows no file and no tensor; block-formats.ts is the definition of what the bytes mean.
 */
import { blocksOf, quantizedFormats, type QuantizedDType } from "../backend/quantized.ts";
import { fromF16, toF16 } from "../core/dtype.ts";
import { type BlockType, blockFormats, sixBits } from "./block-formats.ts";

/** The format that a type is computed from in, keeping what it says. Undefined for the types that are no blocks. */
export const packedAs: Readonly<Partial<Record<BlockType, QuantizedDType>>> = {
  Q8_0: "int8", Q5_0: "int8", Q6_K: "int8", Q5_1: "uint8", Q5_K: "uint8", Q4_0: "int4", Q4_1: "uint4", Q4_K: "uint4",
};

/** Rows of a file's bytes as rows of packed blocks. */
export type Pack = (bytes: Uint8Array) => Uint8Array;

/** How whole rows of a type become packed blocks of `dtype`; the result may be the argument. Undefined where the numbers must be rounded anew. */
export function packer(type: BlockType, dtype: QuantizedDType): Pack | undefined {
  if (packedAs[type] !== dtype) return undefined;
  return blockFormats[type].blockBytes === quantizedFormats[dtype].blockBytes ? (bytes) => bytes : repackers[type];
}

/** Block after block: `repack` writes what the block at `at` says to byte `to` of `out`. */
function eachBlock(type: BlockType, dtype: QuantizedDType, repack: (source: DataView, at: number, out: Uint8Array, to: number, view: DataView) => void): Pack {
  const { blockElements, blockBytes } = blockFormats[type];
  const packedBytes = blocksOf(blockElements) * quantizedFormats[dtype].blockBytes;
  return (bytes) => {
    const source = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), numBlocks = bytes.byteLength / blockBytes;
    const out = new Uint8Array(numBlocks * packedBytes), view = new DataView(out.buffer);
    for (let block = 0; block < numBlocks; block++) repack(source, block * blockBytes, out, block * packedBytes, view);
    return out;
  };
}

/** The 32 codes of 5 bits: 16 pairs of 4 bits at `pairs`, their upper bits at `fifth`. Less `zero`, times `sign`. */
function fiveBits(source: DataView, fifth: number, pairs: number, out: Uint8Array, to: number, zero: number, sign: 1 | -1): void {
  const upper = source.getUint32(fifth, true);
  for (let i = 0; i < 16; i++) {
    const pair = source.getUint8(pairs + i);
    out[to + i] = sign * (((pair & 15) | (((upper >>> i) & 1) << 4)) - zero);
    out[to + 16 + i] = sign * (((pair >> 4) | (((upper >>> (i + 16)) & 1) << 4)) - zero);
  }
}

/** Scale and minimum of a run of 32 of a K type, as f16 to `to`. */
function runScale(source: DataView, at: number, run: number, to: number, view: DataView): void {
  const { scale, min } = sixBits(source, at + 4, run);
  view.setUint16(to, toF16(fromF16(source.getUint16(at, true)) * scale), true);
  view.setUint16(to + 2, toF16(-fromF16(source.getUint16(at + 2, true)) * min), true);
}

const repackers: Readonly<Partial<Record<BlockType, Pack>>> = {
  Q5_0: eachBlock("Q5_0", "int8", (source, at, out, to, view) => {
    // llama.cpp's scales of Q5_0 have a sign, those of int8 have none: it goes into the codes.
    const scale = source.getUint16(at, true);
    view.setUint16(to, scale & 0x7fff, true);
    fiveBits(source, at + 2, at + 6, out, to + 2, 16, scale < 0x8000 ? 1 : -1);
  }),
  Q5_1: eachBlock("Q5_1", "uint8", (source, at, out, to, view) => {
    view.setUint32(to, source.getUint32(at, true), true);
    fiveBits(source, at + 4, at + 8, out, to + 4, 0, 1);
  }),
  // 16 bytes of d, m and eight runs' scales; then 32 bytes for each two runs of 32, the first below, the second above.
  Q4_K: eachBlock("Q4_K", "uint4", (source, at, out, to, view) => {
    for (let run = 0; run < 8; run++, to += quantizedFormats.uint4.blockBytes) {
      runScale(source, at, run, to, view);
      const codes = at + 16 + 32 * (run >> 1), shift = 4 * (run & 1);
      for (let i = 0; i < 16; i++) out[to + 4 + i] = ((source.getUint8(codes + i) >> shift) & 15) | (((source.getUint8(codes + 16 + i) >> shift) & 15) << 4);
    }
  }),
  // As Q4_K, with 32 bytes of fifth bits before the pairs: bit `run` of byte i is that of code i.
  Q5_K: eachBlock("Q5_K", "uint8", (source, at, out, to, view) => {
    for (let run = 0; run < 8; run++, to += quantizedFormats.uint8.blockBytes) {
      runScale(source, at, run, to, view);
      const codes = at + 48 + 32 * (run >> 1), shift = 4 * (run & 1);
      for (let i = 0; i < 32; i++) out[to + 4 + i] = ((source.getUint8(codes + i) >> shift) & 15) | (((source.getUint8(at + 16 + i) >> run) & 1) << 4);
    }
  }),
};
