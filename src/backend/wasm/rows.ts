/**
 * Walking the rows and columns of matrices: what the kernels of the fixed ops share. Knows none of them.
 */
import { constant, f32, f32x4, forRange, i32, i32x4, splat, v128, type Local, type Memory, type Node, type Operand } from "./assembler.ts";
import { argument, forEachClaimed, type MakeLocal } from "./kernel.ts";

/** How weights are stored. */
export type WeightType = "f32" | "bf16";
export const bytesPerWeight: Readonly<Record<WeightType, number>> = { f32: 4, bf16: 2 };

/** Four weights as f32, `offset` bytes behind the address. The bits of a bf16 are the high half of an f32's. */
export const loadFourWeights: Readonly<Record<WeightType, (address: Operand, offset: number) => Node>> = {
  f32: (address, offset) => v128.load(address, offset),
  bf16: (address, offset) => i32x4.shl(v128.load16x4_u(address, offset), 16),
};
/** One weight in lane 0, zeros beside it. */
export const loadOneWeight: Readonly<Record<WeightType, (address: Operand) => Node>> = {
  f32: (address) => v128.load32_zero(address),
  bf16: (address) => i32x4.replace_lane(splat.i32(0), i32.shl(i32.load16_u(address), 16), 0),
};

/** Every kernel's first two argument words: the address of the batch header, and which of its words is the row count. */
export const rowWords = { header: 0, rowsWord: 1 } as const;
/** The row count that the header holds now. */
export const rowCount = (args: Local): Node => i32.load(i32.add(argument(args, rowWords.header), i32.shl(argument(args, rowWords.rowsWord), 2)));

/** base + row * stride, stride counting f32 elements. */
export const rowAddress = (base: Node, row: Operand, stride: Node): Node => i32.add(base, i32.shl(i32.mul(row, stride), 2));

/** An argument that is an f32, in all lanes. */
export const splatArgument = (args: Local, word: number): Node => v128.load32_splat(args, 4 * word);

/** Four elements of a row, or one in lane 0 with zeros beside it. `i` counts bytes of f32. */
export interface Lanes {
  readonly count: 1 | 4;
  load(base: Operand, i: Operand): Node;
  loadWeight(dtype: WeightType, weights: Memory, base: Operand, i: Operand): Node;
  store(base: Operand, i: Operand, value: Operand): Node;
}
export const four: Lanes = {
  count: 4,
  load: (base, i) => v128.load(i32.add(base, i)),
  loadWeight: (dtype, weights, base, i) => loadFourWeights[dtype](weights.at(i32.add(base, dtype === "f32" ? i : i32.shr_u(i, 1))), 0),
  store: (base, i, value) => v128.store(i32.add(base, i), value),
};
export const one: Lanes = {
  count: 1,
  load: (base, i) => v128.load32_zero(i32.add(base, i)),
  loadWeight: (dtype, weights, base, i) => loadOneWeight[dtype](weights.at(i32.add(base, dtype === "f32" ? i : i32.shr_u(i, 1)))),
  store: (base, i, value) => v128.store32_lane(i32.add(base, i), value, 0),
};

/** `body` for the elements at byte offsets [from, to): by fours, what is left one by one. */
export function overColumns(local: MakeLocal, from: Operand, to: Local, body: (lanes: Lanes, i: Local) => readonly Node[]): Node[] {
  const i = local("i32", "i"), whole = local("i32", "whole");
  const start = typeof from === "number" ? constant("i32", from) : from;
  return [
    whole.set(i32.add(start, i32.and(i32.sub(to, start), -16))),
    forRange(i, start, whole, 16, body(four, i)),
    forRange(i, whole, to, 4, body(one, i)),
  ];
}

const pieceColumns = 512;

/** Claims stretches of `pieceColumns` columns of all rows: `body` runs with `row` set, for the byte offsets [from, to) of it. */
export function overStretches(args: Local, local: MakeLocal, columns: Node, body: (row: Local, from: Local, to: Local) => readonly Node[]): Node[] {
  const piece = local("i32", "piece"), pieces = local("i32", "pieces"), stretches = local("i32", "stretches"), width = local("i32", "columns");
  const row = local("i32", "row"), from = local("i32", "from"), to = local("i32", "to");
  return [
    width.set(columns),
    stretches.set(i32.div_u(i32.add(width, pieceColumns - 1), pieceColumns)),
    pieces.set(i32.mul(rowCount(args), stretches)),
    forEachClaimed(piece, pieces, [
      row.set(i32.div_u(piece, stretches)),
      from.set(i32.mul(i32.rem_u(piece, stretches), 4 * pieceColumns)),
      to.set(least(i32.add(from, 4 * pieceColumns), i32.shl(width, 2))),
      ...body(row, from, to),
    ]),
  ];
}

/** (l0 + l1) + (l2 + l3), an f32. */
export const sumOfLanes = (v: Local): Node => {
  const lane = (i: number): Node => f32x4.extract_lane(v, i);
  return f32.add(f32.add(lane(0), lane(1)), f32.add(lane(2), lane(3)));
};

/**
 * Sets `factor` to 1 / sqrt(mean(x^2) + epsilon) in all lanes, for the `bytes` bytes of f32 at `x`. The order of the sum is fixed: lane
 * i mod 4, i ascending; the last (count mod 4) to lane 0; then (l0 + l1) + (l2 + l3).
 */
export function rmsFactor(local: MakeLocal, factor: Local, x: Local, bytes: Local, epsilon: Node): Node[] {
  const value = local("v128", "value");
  return [
    factor.set(splat.f32(0)),
    ...overColumns(local, 0, bytes, (lanes, i) => [value.set(lanes.load(x, i)), factor.set(f32x4.relaxed_madd(value, value, factor))]),
    factor.set(f32x4.splat(f32.div(constant("f32", 1), f32.sqrt(f32.add(f32.div(sumOfLanes(factor), f32.convert_i32_s(i32.shr_u(bytes, 2))), epsilon))))),
  ];
}

/** The smaller of two i32; both are evaluated twice. */
export const least = (a: Operand, b: Operand): Node => i32.select(a, b, i32.lt_s(a, b));
/** The larger. */
export const most = (a: Operand, b: Operand): Node => i32.select(a, b, i32.gt_s(a, b));
