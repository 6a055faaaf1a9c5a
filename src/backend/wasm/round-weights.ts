/**
 * Weights of f32, bf16 or f16 rounded to packed blocks (`quantizeRows` of backend/quantized.ts is the definition), by all threads: a model
 * of a billion parameters is quantised while it is read. Knows no tensors.
 */
import type { DType } from "../../core/dtype.ts";
import { blockElements, drawnIn, largestReach, quantizedFormats, type QuantizedDType } from "../quantized.ts";
import { f32, f32x4, forRange, i16x8, i32, i32x4, i8x16, splat, v128, when, type Func, type Local, type Module, type Node, type Operand } from "./assembler.ts";
import { argument, forEachClaimed, kernel, type MakeLocal } from "./kernel.ts";
import { least, sumOfLanes } from "./rows.ts";

/** Types that weights are rounded from. */
export type FloatType = "F32" | "BF16" | "F16";
export const floatTypes = { F32: "f32", BF16: "bf16", F16: "f16" } as const satisfies Readonly<Record<FloatType, DType>>;
export const floatBytes: Readonly<Record<FloatType, number>> = { F32: 4, BF16: 2, F16: 2 };

/** What a checkpoint's float weights are rounded to. */
export type RoundedDType = Extract<QuantizedDType, "int8" | "uint4">;
export const isRounded = (dtype: QuantizedDType): dtype is RoundedDType => dtype === "int8" || dtype === "uint4";

/** from: numbers of the type, to: packed blocks, both without gaps. `refused` becomes 1 where a block reaches beyond f16 or has NaN. */
export const roundArgs = { from: 0, to: 1, blocks: 2, refused: 3 } as const;

/** Blocks of one piece of work. */
const pieceBlocks = 256;
const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** Four numbers as f32. f16: bits moved to f32's place, times 2^112; exponent 31 is infinity or NaN in f32 too. */
const loadFour: Readonly<Record<FloatType, (address: Local, offset: number, raw: Local) => Node>> = {
  F32: (address, offset) => v128.load(address, offset),
  BF16: (address, offset) => i32x4.shl(v128.load16x4_u(address, offset), 16),
  F16: (address, offset, raw) => {
    const magnitude = v128.and(raw.tee(v128.load16x4_u(address, offset)), splat.i32(0x7fff));
    return v128.or(
      v128.or(f32x4.mul(i32x4.shl(magnitude, 13), splat.f32(2 ** 112)), v128.and(i32x4.gt_s(v128.and(raw, splat.i32(0x7fff)), splat.i32(0x7bff)), splat.i32(0x7f800000))),
      i32x4.shl(v128.and(raw, splat.i32(0x8000)), 16),
    );
  },
};

const swapped = (x: Operand, order: readonly number[]): Node => i8x16.shuffle(x, x, order.flatMap((lane) => range(4).map((byte) => 4 * lane + byte)));
/** All lanes of `x` become `op` of the four. */
const acrossLanes = (x: Local, op: (a: Operand, b: Operand) => Node): Node[] => [x.set(op(x, swapped(x, [2, 3, 0, 1]))), x.set(op(x, swapped(x, [1, 0, 3, 2])))];
const bytesOfCodes = (codes: readonly Node[]): Node => {
  const [a, b, c, d] = codes as [Node, Node, Node, Node];
  return i8x16.narrow_i16x8_s(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d));
};

/** Sets `half` to the f16 bits of the magnitudes `x`, ties to even, and `x` to what they are. Subnormals by adding what makes their unit an f32's last place. */
const toHalf = (x: Local, half: Local): Node[] => [
  half.set(v128.bitselect(
    i32x4.sub(f32x4.add(x, splat.f32(0.5)), splat.i32(0x3f000000)),
    i32x4.shr_u(i32x4.add(i32x4.add(i32x4.sub(x, splat.i32(0x38000000)), splat.i32(0xfff)), v128.and(i32x4.shr_u(x, 13), splat.i32(1))), 13),
    i32x4.lt_s(x, splat.i32(0x38800000)),
  )),
  x.set(v128.bitselect(f32x4.mul(f32x4.convert_i32x4_s(half), splat.f32(2 ** -24)), i32x4.add(i32x4.shl(half, 13), splat.i32(0x38000000)), i32x4.lt_s(half, splat.i32(0x400)))),
];
/** 1 / x, 0 of 0. */
const inverseOf = (x: Local): Node => v128.andnot(f32x4.div(splat.f32(1), x), f32x4.eq(x, splat.f32(0)));

/** Rounds the 32 numbers in `v`, eight vectors, to the block at `to`. */
type RoundBlock = (local: MakeLocal, v: readonly Local[], to: Local, refuse: Node) => readonly Node[];

const roundInt8: RoundBlock = (local, v, to, refuse) => {
  const scale = local("v128", "scale"), half = local("v128", "half"), inverse = local("v128", "inverse");
  const code = (x: Operand): Node => i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(x, inverse)));
  return [
    scale.set(f32x4.abs(v[0]!)),
    ...v.slice(1).map((x) => scale.set(f32x4.max(scale, f32x4.abs(x)))),
    ...acrossLanes(scale, f32x4.max),
    when(i32.eqz(f32.lt(f32x4.extract_lane(scale, 0), largestReach)), [refuse]),
    scale.set(f32x4.div(scale, splat.f32(127))),
    ...toHalf(scale, half),
    inverse.set(inverseOf(scale)),
    i32.store16(to, i32x4.extract_lane(half, 0)),
    ...[0, 4].map((j) => v128.store(to, bytesOfCodes(v.slice(j, j + 4).map(code)), 2 + 4 * j)),
  ];
};

/** Each lane of the vectors is a pair of extremes: `drawnIn` of the reach from either side. */
const roundUint4: RoundBlock = (local, v, to, refuse) => {
  const low = local("v128", "low"), high = local("v128", "high"), reach = local("v128", "reach");
  const scales = local("v128", "scales"), mins = local("v128", "mins"), inverses = local("v128", "inverses"), scaleBits = local("v128", "scaleBits"), minBits = local("v128", "minBits");
  const scale = local("v128", "scale"), min = local("v128", "min"), inverse = local("v128", "inverse"), x = local("v128", "off"), error = local("v128", "error");
  const total = local("f32", "total"), best = local("f32", "best"), bits = local("i32", "bits");
  const bestMin = local("v128", "bestMin"), bestInverse = local("v128", "bestInverse");
  const code = (x: Local, min: Local, inverse: Local): Node => f32x4.pmin(f32x4.pmax(f32x4.nearest(f32x4.mul(f32x4.add(x, min), inverse)), splat.f32(0)), splat.f32(15));
  const takeLane = (lane: number): Node[] => [
    best.set(total),
    bits.set(i32.or(i32x4.extract_lane(scaleBits, lane), i32.shl(i32x4.extract_lane(minBits, lane), 16))),
    bestMin.set(min),
    bestInverse.set(inverse),
  ];
  const fractions = (lanes: readonly (0 | 1)[]): Node => ({ ...splat.f32(0), numbers: lanes.map((lane) => lane * drawnIn) });
  return [
    low.set(splat.f32(0)),
    high.set(splat.f32(0)),
    ...v.flatMap((x) => [low.set(f32x4.min(low, x)), high.set(f32x4.max(high, x))]),
    ...acrossLanes(low, f32x4.min),
    ...acrossLanes(high, f32x4.max),
    reach.set(f32x4.sub(high, low)),
    when(i32.eqz(f32.lt(f32x4.extract_lane(reach, 0), largestReach)), [refuse]),
    low.set(f32x4.pmin(splat.f32(0), f32x4.add(low, f32x4.mul(reach, fractions([0, 1, 0, 1]))))),
    high.set(f32x4.pmax(splat.f32(0), f32x4.sub(high, f32x4.mul(reach, fractions([0, 0, 1, 1]))))),
    scales.set(f32x4.div(f32x4.sub(high, low), splat.f32(15))),
    mins.set(f32x4.abs(low)),
    ...toHalf(scales, scaleBits),
    ...toHalf(mins, minBits),
    inverses.set(inverseOf(scales)),
    ...range(4).flatMap((lane) => [
      ...([[scale, scales], [min, mins], [inverse, inverses]] as const).map(([one, all]) => one.set(swapped(all, [lane, lane, lane, lane]))),
      error.set(splat.f32(0)),
      ...v.flatMap((value) => [
        x.set(f32x4.sub(f32x4.sub(f32x4.mul(code(value, min, inverse), scale), min), value)),
        error.set(f32x4.add(error, f32x4.mul(x, x))),
      ]),
      total.set(sumOfLanes(error)),
      ...(lane === 0 ? takeLane(lane) : [when(f32.lt(total, best), takeLane(lane))]),
    ]),
    i32.store(to, i32.or(bits, 0x80000000 | 0)), // minimums are negative
    v128.store(to, v128.or(
      bytesOfCodes(v.slice(0, 4).map((x) => i32x4.trunc_sat_f32x4_s(code(x, bestMin, bestInverse)))),
      i16x8.shl(bytesOfCodes(v.slice(4).map((x) => i32x4.trunc_sat_f32x4_s(code(x, bestMin, bestInverse)))), 4),
    ), 4),
  ];
};
const rounders: Readonly<Record<RoundedDType, RoundBlock>> = { int8: roundInt8, uint4: roundUint4 };

/** Adds `round_<dtype>_<type>`. */
export function roundWeights(m: Module, dtype: RoundedDType, type: FloatType): Func {
  const { blockBytes } = quantizedFormats[dtype];
  return kernel(m, `round_${dtype}_${type}`, (args, _thread, local) => {
    const word = (name: keyof typeof roundArgs): Node => argument(args, roundArgs[name]);
    const piece = local("i32", "piece"), pieces = local("i32", "pieces"), blocks = local("i32", "blocks"), block = local("i32", "block"), end = local("i32", "end");
    const from = local("i32", "from"), to = local("i32", "to"), raw = local("v128", "raw"), v = range(8).map((i) => local("v128", `v${i}`));
    return [
      blocks.set(word("blocks")),
      pieces.set(i32.div_u(i32.add(blocks, pieceBlocks - 1), pieceBlocks)),
      forEachClaimed(piece, pieces, [
        block.set(i32.mul(piece, pieceBlocks)),
        end.set(least(i32.add(block, pieceBlocks), blocks)),
        from.set(i32.add(word("from"), i32.mul(block, blockElements * floatBytes[type]))),
        to.set(i32.add(word("to"), i32.mul(block, blockBytes))),
        forRange(block, block, end, 1, [
          ...v.map((x, i) => x.set(loadFour[type](from, 4 * i * floatBytes[type], raw))),
          ...rounders[dtype](local, v, to, i32.store(args, 1, 4 * roundArgs.refused)),
          from.set(i32.add(from, blockElements * floatBytes[type])),
          to.set(i32.add(to, blockBytes)),
        ]),
      ]),
    ];
  });
}
