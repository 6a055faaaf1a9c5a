/**
 * The panels that quantised weights lie in, and how rows of packed blocks (backend/quantized.ts) get there.
 *
 * A panel holds 16 rows of the weight, block by block along K:
 *
 *   block   codes, 16 rows x 32    then 16 scales, then 16 minimums where there are any (2 bytes each, packedFloat)
 *   codes   vectors of 4 rows x 4 codes: k 0..3 of rows 0..3, 4..7, 8..11, 12..15, then k 4..7 of them, and so on;
 *           of 4 bits a byte holds code k below and code k + 16 above
 *
 * `writePanels` goes row by row, as it is defined; the kernel `pack_<dtype>` does whole panels, by all threads. Knows no tensors and no files.
 */
import { fromF16 } from "../../core/dtype.ts";
import { invariant, UsageError } from "../../core/errors.ts";
import { blockElements, blocksOf, packedRowBytes, panelRows, quantizedFormats, type QuantizedDType } from "../quantized.ts";
import { f32, f32x4, forRange, i32, i32x4, i8x16, splat, v128, when, type Func, type Local, type Module, type Node, type Operand } from "./assembler.ts";
import { argument, forEachClaimed, kernel } from "./kernel.ts";

/** What the second operand of the relaxed dot product may hold. */
export type DotOperand = "unsigned8" | "signed8" | "7bits";

/** Bytes of one block of a panel. */
export const panelBlockBytes = (dtype: QuantizedDType): number => panelRows * quantizedFormats[dtype].blockBytes;

/** Vectors of four rows in a panel, and activations of one dot product. */
export const groups = panelRows / 4, dotElements = 4;
const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/**
 * Scales and minimums are 16 bits: a sign, 5 bits of exponent and 10 of mantissa as in f16, but reaching from 2^-28 to 8, without
 * subnormals (their arithmetic takes a hundred times as long): the bits of 2^-98 times the value as f32, shifted.
 */
export const packedFloatShift = 13, packedFloatScale = 2 ** 98;
const largestPackedFloat = 8;
/** Bits of the packed float for every f16 there is, NaN and what is too large being undefined. */
export function packedFloat(value: number): number | undefined {
  const magnitude = Math.abs(value);
  if (!(magnitude < largestPackedFloat)) return undefined;
  bits.setFloat32(0, magnitude < 2 ** -28 ? 0 : magnitude / packedFloatScale);
  return (bits.getUint32(0) >>> packedFloatShift) | (value < 0 || Object.is(value, -0) ? 0x8000 : 0);
}
const bits = new DataView(new ArrayBuffer(4));
/** Whether a dtype's scales may be negative: others are stored without the sign. Minimums always have one. */
export const hasSignedScales = (dtype: QuantizedDType): boolean => dtype === "int4";
/** Four packed floats as f32. */
export function unpackFour(address: Operand, offset: number, signed: boolean): Node {
  const shifted = i32x4.shl(signed ? v128.load16x4_s(address, offset) : v128.load16x4_u(address, offset), packedFloatShift);
  return f32x4.mul(signed ? v128.and(shifted, splat.i32(~0x70000000)) : shifted, splat.f32(packedFloatScale));
}

/** What is added to a code where it lies in memory, so that the dot product reads it right. */
export function codeOffset(dtype: QuantizedDType, operand: DotOperand): number {
  if (quantizedFormats[dtype].bits === 4) return 0;
  const isUnsigned = operand !== "signed8";
  return dtype === "int8" ? (isUnsigned ? 128 : 0) : isUnsigned ? 0 : -128;
}

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

/** Argument words of `pack_<dtype>`. packed: rows of packed blocks, 16 for each panel; weight: where row `firstRow` of it goes, in the memory `weights`. */
export const packArgs = { packed: 0, rowBytes: 1, weight: 2, panels: 3, blocks: 4, /** Out: 0x10000 and the bits of an f16 that cannot be held. */ refused: 5 } as const;

/** Adds `pack_<dtype>`: what panels.ts does row by row, for whole panels. */
export function packPanels(m: Module, dtype: QuantizedDType, operand: DotOperand): Func {
  const { bits, hasMin, blockBytes } = quantizedFormats[dtype];
  const codesAt = hasMin ? 4 : 2, codeBytes = bits === 8 ? blockElements : blockElements / 2;
  const flip = (codeOffset(dtype, operand) & 0xff) === 128 ? splat.i32(0x80808080 | 0) : undefined;
  const weights = m.memory("weights");
  return kernel(m, `pack_${dtype}`, (args, _thread, local) => {
    const word = (name: keyof typeof packArgs): Node => argument(args, packArgs[name]);
    const panel = local("i32", "panel"), panels = local("i32", "panels"), rowBytes = local("i32", "rowBytes");
    const from = local("i32", "from"), to = local("i32", "to"), block = local("i32", "block"), bitsOfFloat = local("i32", "bits"), magnitude = local("i32", "magnitude");
    const row = range(4).map((i) => local("i32", `row${i}`)), v = range(4).map((i) => local("v128", `v${i}`)), t = range(4).map((i) => local("v128", `t${i}`));
    const words = (a: Local, b: Local, ...lanes: readonly number[]): Node => i8x16.shuffle(a, b, lanes.flatMap((lane) => range(4).map((byte) => 4 * lane + byte)));
    /** 16 codes of each of four rows: four vectors of four codes of each. */
    const transpose = (at: number, group: number): Node[] => [
      ...v.map((x, i) => x.set(flip ? v128.xor(v128.load(row[i]!, codesAt + at), flip) : v128.load(row[i]!, codesAt + at))),
      t[0]!.set(words(v[0]!, v[1]!, 0, 4, 1, 5)), t[1]!.set(words(v[2]!, v[3]!, 0, 4, 1, 5)), t[2]!.set(words(v[0]!, v[1]!, 2, 6, 3, 7)), t[3]!.set(words(v[2]!, v[3]!, 2, 6, 3, 7)),
      ...([[0, 1, [0, 1, 4, 5]], [0, 1, [2, 3, 6, 7]], [2, 3, [0, 1, 4, 5]], [2, 3, [2, 3, 6, 7]]] as const)
        .map(([a, b, lanes], step) => v128.store(weights.at(to), words(t[a]!, t[b]!, ...lanes), 16 * ((at / 4 + step) * groups + group))),
    ];
    /** An f16 of a row as packed float: its exponent moved by 14, or where it is subnormal by way of f32. */
    const float = (from: Local, source: number, target: number, signed: boolean): Node[] => {
      const tooLarge = i32.ge_u(magnitude, 0x4800);
      const float = i32.select(
        i32.add(magnitude, 14 << 10), i32.shr_u(i32.reinterpret_f32(f32.mul(f32.convert_i32_u(magnitude), 2 ** -24 / packedFloatScale)), packedFloatShift), i32.ge_u(magnitude, 0x400),
      );
      return [
        bitsOfFloat.set(i32.load16_u(from, source)),
        magnitude.set(i32.and(bitsOfFloat, 0x7fff)),
        when(signed ? tooLarge : i32.or(tooLarge, i32.gt_u(bitsOfFloat, 0x8000)), [i32.store(args, i32.or(bitsOfFloat, 0x10000), 4 * packArgs.refused)]),
        i32.store16(weights.at(to), signed ? i32.or(i32.and(bitsOfFloat, 0x8000), float) : float, target),
      ];
    };
    return [
      panels.set(word("panels")),
      rowBytes.set(word("rowBytes")),
      forEachClaimed(panel, panels, [
        from.set(i32.add(word("packed"), i32.mul(i32.mul(panel, panelRows), rowBytes))),
        to.set(i32.add(word("weight"), i32.mul(i32.mul(panel, word("blocks")), panelBlockBytes(dtype)))),
        forRange(block, 0, word("blocks"), 1, [
          ...range(groups).flatMap((group) => [
            row[0]!.set(i32.add(from, i32.mul(rowBytes, 4 * group))),
            ...row.slice(1).map((r, i) => r.set(i32.add(row[i]!, rowBytes))),
            ...range(codeBytes / 16).flatMap((half) => transpose(16 * half, group)),
            ...row.flatMap((r, i) => [
              ...float(r, 0, panelRows * codeBytes + 2 * (4 * group + i), hasSignedScales(dtype)),
              ...(hasMin ? float(r, 2, panelRows * codeBytes + 2 * panelRows + 2 * (4 * group + i), true) : []),
            ]),
          ]),
          from.set(i32.add(from, blockBytes)),
          to.set(i32.add(to, panelBlockBytes(dtype))),
        ]),
      ]),
    ];
  });
}
