/**
 * Rows of f32 on their way into the KV cache, rounded to 16 bits: to nearest, ties to even, as core/dtype.ts has it. The other way is widen.ts.
 *
 *   bf16   bits + 0x7fff + (the lowest bit that stays), the upper half of that
 *   f16    from 2^-14 on: the same with 13 bits less and the exponent moved; below: adding 1/2 leaves multiples of 2^-24 in the low bits
 *
 * Knows no attention.
 */
import type { KvCacheFormat } from "../backend.ts";
import { f32x4, i32, i32x4, i8x16, splat, v128, type Local, type Memory, type Node } from "./assembler.ts";
import type { MakeLocal } from "./kernel.ts";
import { overColumns } from "./rows.ts";

type Narrow = Exclude<KvCacheFormat, "f32">;

/** f32 lanes to i32 lanes below 2^16. */
const narrow: Readonly<Record<Narrow, (local: MakeLocal, x: Local) => { readonly code: readonly Node[]; readonly bits: Node }>> = {
  bf16: (_, x) => {
    const rounded = i32x4.add(i32x4.add(x, splat.i32(0x7fff)), v128.and(i32x4.shr_u(x, 16), splat.i32(1)));
    const quiet = v128.or(x, splat.i32(0x400000));
    return { code: [], bits: i32x4.shr_u(v128.bitselect(quiet, rounded, f32x4.ne(x, x)), 16) };
  },
  f16: (local, x) => {
    const magnitude = local("v128", "magnitude"), half = local("v128", "half");
    const rebased = i32x4.sub(magnitude, splat.i32(0x38000000));
    const normal = i32x4.shr_u(i32x4.add(i32x4.add(rebased, splat.i32(0xfff)), v128.and(i32x4.shr_u(rebased, 13), splat.i32(1))), 13);
    const subnormal = i32x4.sub(f32x4.add(magnitude, splat.f32(0.5)), splat.i32(0x3f000000));
    const code = [
      magnitude.set(v128.and(x, splat.i32(0x7fffffff))),
      half.set(v128.bitselect(subnormal, normal, i32x4.lt_s(magnitude, splat.i32(0x38800000)))),
      half.set(v128.bitselect(splat.i32(0x7c00), half, i32x4.gt_s(magnitude, splat.i32(0x477fefff)))),
      half.set(v128.bitselect(splat.i32(0x7e00), half, i32x4.gt_s(magnitude, splat.i32(0x7f800000)))),
    ];
    return { code, bits: v128.or(half, i32x4.shr_u(v128.and(x, splat.i32(0x80000000)), 16)) };
  },
};

const lowHalves = [0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13];

/** Writes the `bytes` bytes of f32 at `from` to `to`, in the memory `cache`, in the format. */
export function narrowRow(local: MakeLocal, cache: Memory, format: KvCacheFormat, from: Local, to: Local, bytes: Local): Node[] {
  const x = local("v128", "wide");
  return overColumns(local, 0, bytes, (lanes, c) => {
    if (format === "f32") {
      const at = cache.at(i32.add(to, c));
      return [x.set(lanes.load(from, c)), lanes.count === 4 ? v128.store(at, x) : v128.store32_lane(at, x, 0)];
    }
    const { code, bits } = narrow[format](local, x), at = cache.at(i32.add(to, i32.shr_u(c, 1)));
    const store = lanes.count === 4 ? v128.store64_lane(at, i8x16.shuffle(x, x, lowHalves), 0) : i32.store16(at, i32x4.extract_lane(x, 0));
    return [x.set(lanes.load(from, c)), ...code, x.set(bits), store];
  });
}
