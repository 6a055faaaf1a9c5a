/**
 * Rows of packed blocks (backend/quantized.ts) into the panels that the kernels read (quantized.ts): codes of 16 rows interleaved by
 * four, scales and minimums as packed floats. Row by row, as it is defined; the kernel `pack_<dtype>` does whole panels.
 *
 * Knows no tensors and no files.
 */
import { fromF16 } from "../../core/dtype.ts";
import { invariant, UsageError } from "../../core/errors.ts";
import { blockElements, blocksOf, packedRowBytes, panelRows, quantizedFormats, type QuantizedDType } from "../quantized.ts";
import { codeOffset, type DotOperand, hasSignedScales, packedFloat, panelBlockBytes } from "./quantized.ts";

/** Packed floats of all f16, and a mark where there is none. */
let packedFloats: Uint32Array | undefined;
const none = 0xffffffff;
function packedFloatTable(): Uint32Array {
  packedFloats ??= Uint32Array.from({ length: 65536 }, (_, bits) => packedFloat(fromF16(bits)) ?? none);
  return packedFloats;
}

/** What is told of an f16 that cannot be held. */
export const scaleError = (dtype: QuantizedDType, f16: number): UsageError =>
  new UsageError(`a block of ${dtype} has the scale or minimum ${fromF16(f16)}; only numbers below 8 can be computed with, and no negative scales but those of int4: keep the weights unquantised (--quantization none)`);

/** Writes rows of packed blocks of a weight to its panels. `memory` are the weight's bytes, `firstRow` counts its rows. @throws UsageError for a scale that cannot be held */
export function writePanels(memory: Uint8Array, dtype: QuantizedDType, columns: number, firstRow: number, packed: Uint8Array, operand: DotOperand): void {
  const { bits, hasMin, blockBytes } = quantizedFormats[dtype];
  const numBlocks = blocksOf(columns), rowBytes = packedRowBytes(dtype, columns), rows = packed.length / rowBytes;
  invariant(Number.isInteger(rows), `${packed.length} bytes are not whole rows of ${rowBytes}`);
  const floats = packedFloatTable();
  const source = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  const words = new Int32Array(memory.buffer, memory.byteOffset, memory.byteLength >> 2), halves = new Uint16Array(memory.buffer, memory.byteOffset, memory.byteLength >> 1);
  const codeBytes = bits === 8 ? blockElements : blockElements / 2, codesAt = hasMin ? 4 : 2;
  const offset = codeOffset(dtype, operand) & 0xff;
  /** Adding 128 to each of four bytes, or taking it away, flips their upper bits. */
  const flip = offset === 128 ? 0x80808080 | 0 : 0;
  const blockWords = panelBlockBytes(dtype) / 4;
  const signedScales = hasSignedScales(dtype);
  const take = (at: number, signed: boolean): number => {
    const bitsOfFloat = source.getUint16(at, true), float = floats[bitsOfFloat]!;
    if (float === none || (!signed && bitsOfFloat > 0x8000)) throw scaleError(dtype, bitsOfFloat);
    return signed ? float : float & 0x7fff;
  };
  for (let r = 0; r < rows; r++) {
    const row = firstRow + r, lane = row % panelRows;
    let to = Math.floor(row / panelRows) * numBlocks * blockWords + lane;
    for (let block = 0, from = r * rowBytes; block < numBlocks; block++, from += blockBytes, to += blockWords) {
      for (let i = 0, at = from + codesAt; i < codeBytes; i += 4, at += 4) words[to + (i >> 2) * panelRows] = source.getInt32(at, true) ^ flip;
      const scales = 2 * (to - lane) + (codeBytes * panelRows) / 2 + lane;
      halves[scales] = take(from, signedScales);
      if (hasMin) halves[scales + panelRows] = take(from + 2, true);
    }
  }
}
