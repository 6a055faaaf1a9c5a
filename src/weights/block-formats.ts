/**
 * The element types of GGUF files, block by block: how many elements lie in how many bytes, and what numbers those are.
 *
 * Plain loops over bytes, as the format's definition reads: the oracle for every faster way. It knows no file and no tensor.
 *
 *   type  elements  bytes   a block                                                          element
 *   Q8_0        32     34   d f16 | 32 i8                                                    d q
 *   Q4_0        32     18   d f16 | 16 pairs of 4 bits                                       d (q - 8)
 *   Q4_1        32     20   d f16 | m f16 | 16 pairs of 4 bits                               d q + m
 *   Q5_0        32     22   d f16 | 32 fifth bits | 16 pairs of 4 bits                       d (q - 16)
 *   Q5_1        32     24   d f16 | m f16 | 32 fifth bits | 16 pairs of 4 bits               d q + m
 *   Q4_K       256    144   d f16 | m f16 | 8 scales and mins of 6 bits | 128 pairs          d s q - m t
 *   Q5_K       256    176   d f16 | m f16 | 8 scales and mins | 256 fifth bits | 128 pairs   d s q - m t
 *   Q6_K       256    210   128 pairs of 4 bits | 256 upper 2 bits | 16 scales i8 | d f16    d s (q - 32)
 *
 * A pair's low half belongs to the first half of its run of elements, its high half to the second.
 */
import { fromBf16, fromF16 } from "../core/dtype.ts";
import { invariant } from "../core/errors.ts";

/** Writes the elements of the block at byte `at` of `bytes` to `out`, from element `to` on. */
type Expand = (bytes: DataView, at: number, out: Float32Array, to: number) => void;

export interface BlockFormat {
  /** The type's number in a tensor's entry. */
  readonly id: number;
  readonly blockElements: number;
  readonly blockBytes: number;
  /** The elements of whole blocks, rounded once to f32. `bytes` need not be aligned. */
  readonly toFloat32: (bytes: Uint8Array) => Float32Array<ArrayBuffer>;
}

function format(id: number, blockElements: number, blockBytes: number, expand: Expand): BlockFormat {
  return {
    id, blockElements, blockBytes,
    toFloat32(bytes) {
      invariant(bytes.byteLength % blockBytes === 0, `${bytes.byteLength} bytes are not whole blocks of ${blockBytes}`);
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      const numBlocks = bytes.byteLength / blockBytes;
      const out = new Float32Array(numBlocks * blockElements);
      for (let block = 0; block < numBlocks; block++) expand(view, block * blockBytes, out, block * blockElements);
      return out;
    },
  };
}

const f16 = (bytes: DataView, at: number): number => fromF16(bytes.getUint16(at, true));

/** Scale and minimum of eight runs of 32, six bits each, in 12 bytes: four of each whole, the last four's upper two bits in the first four's spare ones. */
export function sixBits(bytes: DataView, at: number, run: number): { readonly scale: number; readonly min: number } {
  const byte = (i: number): number => bytes.getUint8(at + i);
  if (run < 4) return { scale: byte(run) & 63, min: byte(run + 4) & 63 };
  return { scale: (byte(run + 4) & 15) | ((byte(run - 4) >> 6) << 4), min: (byte(run + 4) >> 4) | ((byte(run) >> 6) << 4) };
}

export const blockFormats = {
  F32: format(0, 1, 4, (bytes, at, out, to) => void (out[to] = bytes.getFloat32(at, true))),
  F16: format(1, 1, 2, (bytes, at, out, to) => void (out[to] = f16(bytes, at))),
  BF16: format(30, 1, 2, (bytes, at, out, to) => void (out[to] = fromBf16(bytes.getUint16(at, true)))),

  Q8_0: format(8, 32, 34, (bytes, at, out, to) => {
    const d = f16(bytes, at);
    for (let i = 0; i < 32; i++) out[to + i] = d * bytes.getInt8(at + 2 + i);
  }),

  Q4_0: format(2, 32, 18, (bytes, at, out, to) => {
    const d = f16(bytes, at);
    for (let i = 0; i < 16; i++) {
      const pair = bytes.getUint8(at + 2 + i);
      out[to + i] = d * ((pair & 15) - 8);
      out[to + i + 16] = d * ((pair >> 4) - 8);
    }
  }),

  Q4_1: format(3, 32, 20, (bytes, at, out, to) => {
    const d = f16(bytes, at), m = f16(bytes, at + 2);
    for (let i = 0; i < 16; i++) {
      const pair = bytes.getUint8(at + 4 + i);
      out[to + i] = d * (pair & 15) + m;
      out[to + i + 16] = d * (pair >> 4) + m;
    }
  }),

  Q5_0: format(6, 32, 22, (bytes, at, out, to) => {
    const d = f16(bytes, at), fifth = bytes.getUint32(at + 2, true);
    for (let i = 0; i < 16; i++) {
      const pair = bytes.getUint8(at + 6 + i);
      out[to + i] = d * (((pair & 15) | (((fifth >>> i) & 1) << 4)) - 16);
      out[to + i + 16] = d * (((pair >> 4) | (((fifth >>> (i + 16)) & 1) << 4)) - 16);
    }
  }),

  Q5_1: format(7, 32, 24, (bytes, at, out, to) => {
    const d = f16(bytes, at), m = f16(bytes, at + 2), fifth = bytes.getUint32(at + 4, true);
    for (let i = 0; i < 16; i++) {
      const pair = bytes.getUint8(at + 8 + i);
      out[to + i] = d * ((pair & 15) | (((fifth >>> i) & 1) << 4)) + m;
      out[to + i + 16] = d * ((pair >> 4) | (((fifth >>> (i + 16)) & 1) << 4)) + m;
    }
  }),

  Q4_K: format(12, 256, 144, (bytes, at, out, to) => {
    const d = f16(bytes, at), dmin = f16(bytes, at + 2);
    for (let run = 0; run < 8; run++) {
      const { scale, min } = sixBits(bytes, at + 4, run);
      const pairs = at + 16 + 32 * (run >> 1), shift = 4 * (run & 1);
      for (let i = 0; i < 32; i++) out[to + 32 * run + i] = d * scale * ((bytes.getUint8(pairs + i) >> shift) & 15) - dmin * min;
    }
  }),

  Q5_K: format(13, 256, 176, (bytes, at, out, to) => {
    const d = f16(bytes, at), dmin = f16(bytes, at + 2);
    for (let run = 0; run < 8; run++) {
      const { scale, min } = sixBits(bytes, at + 4, run);
      const pairs = at + 48 + 32 * (run >> 1), shift = 4 * (run & 1);
      for (let i = 0; i < 32; i++) {
        const q = ((bytes.getUint8(pairs + i) >> shift) & 15) | (((bytes.getUint8(at + 16 + i) >> run) & 1) << 4);
        out[to + 32 * run + i] = d * scale * q - dmin * min;
      }
    }
  }),

  Q6_K: format(14, 256, 210, (bytes, at, out, to) => {
    const d = f16(bytes, at + 208);
    for (let i = 0; i < 256; i++) {
      // Halves of 128 elements; in each, run 0 and 2 share the first 32 pairs, run 1 and 3 the second, all four a byte of upper bits.
      const half = i >> 7, run = (i >> 5) & 3, column = i & 31;
      const low = (bytes.getUint8(at + 64 * half + 32 * (run & 1) + column) >> (4 * (run >> 1))) & 15;
      const high = (bytes.getUint8(at + 128 + 32 * half + column) >> (2 * run)) & 3;
      out[to + i] = d * bytes.getInt8(at + 192 + (i >> 4)) * ((low | (high << 4)) - 32);
    }
  }),
} as const satisfies Readonly<Record<string, BlockFormat>>;

/** GGUF's element types that can be read here, as the format names them. */
export type BlockType = keyof typeof blockFormats;
