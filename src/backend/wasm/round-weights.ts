/**
 * Weights of f32, bf16 or f16 rounded to packed int8 blocks (`quantizeRows` of backend/quantized.ts is the definition), by all threads: a model
 * of a billion parameters is quantised while it is read. Knows no tensors.
 */
import type { DType } from "../../core/dtype.ts";
import { blockElements, quantizedFormats } from "../quantized.ts";
import { constant, f32, f32x4, forRange, i16x8, i32, i32x4, i8x16, splat, v128, when, type Func, type Local, type Module, type Node, type Operand } from "./assembler.ts";
import { argument, forEachClaimed, kernel } from "./kernel.ts";
import { least } from "./rows.ts";

/** Types that weights are rounded from. */
export type FloatType = "F32" | "BF16" | "F16";
export const floatTypes = { F32: "f32", BF16: "bf16", F16: "f16" } as const satisfies Readonly<Record<FloatType, DType>>;
export const floatBytes: Readonly<Record<FloatType, number>> = { F32: 4, BF16: 2, F16: 2 };

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

/** Adds `round_int8_<type>`. */
export function roundWeights(m: Module, type: FloatType): Func {
  const { blockBytes } = quantizedFormats.int8;
  return kernel(m, `round_int8_${type}`, (args, _thread, local) => {
    const word = (name: keyof typeof roundArgs): Node => argument(args, roundArgs[name]);
    const piece = local("i32", "piece"), pieces = local("i32", "pieces"), blocks = local("i32", "blocks"), block = local("i32", "block"), end = local("i32", "end");
    const from = local("i32", "from"), to = local("i32", "to"), bits = local("i32", "bits"), half = local("i32", "half"), scale = local("f32", "scale");
    const v = range(8).map((i) => local("v128", `v${i}`)), largest = local("v128", "largest"), inverse = local("v128", "inverse"), raw = local("v128", "raw");
    const swapped = (x: Operand, order: readonly number[]): Node => i8x16.shuffle(x, x, order.flatMap((lane) => range(4).map((byte) => 4 * lane + byte)));
    const code = (x: Operand): Node => i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(x, inverse)));
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
          largest.set(f32x4.abs(v[0]!)),
          ...v.slice(1).map((x) => largest.set(f32x4.max(largest, f32x4.abs(x)))),
          largest.set(f32x4.max(largest, swapped(largest, [2, 3, 0, 1]))),
          largest.set(f32x4.max(largest, swapped(largest, [1, 0, 3, 2]))),
          scale.set(f32.div(f32x4.extract_lane(largest, 0), 127)),
          when(i32.eqz(f32.lt(f32x4.extract_lane(largest, 0), 65504)), [i32.store(args, 1, 4 * roundArgs.refused)]),
          // To f16, ties to even: subnormals by adding what makes their unit an f32's last place.
          bits.set(i32.reinterpret_f32(scale)),
          when(i32.lt_u(bits, 0x38800000), [
            half.set(i32.sub(i32.reinterpret_f32(f32.add(scale, 0.5)), 0x3f000000)),
            scale.set(f32.mul(f32.convert_i32_s(half), 2 ** -24)),
          ], [
            bits.set(i32.sub(bits, 0x38000000)),
            half.set(i32.shr_u(i32.add(i32.add(bits, 0xfff), i32.and(i32.shr_u(bits, 13), 1)), 13)),
            scale.set(f32.reinterpret_i32(i32.add(i32.shl(half, 13), 0x38000000))),
          ]),
          i32.store16(to, half),
          inverse.set(f32x4.splat(f32.select(constant("f32", 0), f32.div(1, scale), i32.eqz(half)))),
          ...[0, 4].map((j) => v128.store(to, i8x16.narrow_i16x8_s(
            i16x8.narrow_i32x4_s(code(v[j]!), code(v[j + 1]!)), i16x8.narrow_i32x4_s(code(v[j + 2]!), code(v[j + 3]!)),
          ), 2 + 4 * j)),
          from.set(i32.add(from, blockElements * floatBytes[type])),
          to.set(i32.add(to, blockBytes)),
        ]),
      ]),
    ];
  });
}
