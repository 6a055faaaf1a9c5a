/**
 * Rows of keys and values that are not f32 in memory, widened to f32 (and scaled) on their way into a thread's scratch.
 *
 *   bf16   the upper half of an f32           f16   bits moved to f32's place, times 2^112 (subnormals come out right)
 *   int8   times the row's scale              fp8   e4m3: bits moved, times 2^120, times the row's scale
 *
 * Knows no attention.
 */
import type { KvFormat } from "../../ir/plan.ts";
import { f32x4, forRange, i32, i32x4, i8x16, splat, v128, type Local, type Memory, type Node, type Operand } from "./assembler.ts";
import type { MakeLocal } from "./kernel.ts";

/** Formats whose rows need widening. */
type Narrow = Exclude<KvFormat, "f32">;
const isWidened = (format: KvFormat | undefined): format is Narrow => format !== undefined && format !== "f32";

interface Row {
  readonly bytes: 1 | 2;
  /** Four elements as i32 lanes; `load` reads exactly their bytes. */
  load(address: Operand, offset: number): Node;
  one(address: Operand, offset: number): Node;
  /** i32 lanes of raw bits to f32 lanes, without the scale. The lanes are a local. */
  widen(raw: Local): Node;
  readonly scaled: boolean;
}

const half = { bytes: 2, load: (a: Operand, o: number) => v128.load16x4_u(a, o), one: (a: Operand, o: number) => i32.load16_u(a, o), scaled: false } as const;
/** Four bytes, sign- or zero-extended: WebAssembly loads eight or one, so the two steps are spelled. */
const quarter = (signed: boolean): Pick<Row, "bytes" | "load" | "one" | "scaled"> => ({
  bytes: 1, scaled: true,
  load: (a, o) => [1, 2, 3].reduce<Node>((v, lane) => i32x4.replace_lane(v, signed ? i32.load8_s(a, o + lane) : i32.load8_u(a, o + lane), lane), i32x4.splat(signed ? i32.load8_s(a, o) : i32.load8_u(a, o))),
  one: (a, o) => (signed ? i32.load8_s(a, o) : i32.load8_u(a, o)),
});
const signBit = (raw: Local, from: number): Node => i32x4.shl(v128.and(raw, splat.i32(from)), from === 0x80 ? 24 : 16);

const rows: Readonly<Record<Narrow, Row>> = {
  bf16: { ...half, widen: (raw) => i32x4.shl(raw, 16) },
  f16: {
    ...half,
    widen: (raw) => {
      const magnitude = v128.and(raw, splat.i32(0x7fff));
      const finite = f32x4.mul(i32x4.shl(magnitude, 13), splat.f32(2 ** 112));
      // Exponent 31 is infinity or NaN: all ones in f32 too.
      return v128.or(v128.or(finite, v128.and(i32x4.gt_s(magnitude, splat.i32(0x7bff)), splat.i32(0x7f800000))), signBit(raw, 0x8000));
    },
  },
  int8: { ...quarter(true), widen: (raw) => f32x4.convert_i32x4_s(raw) },
  fp8: {
    ...quarter(false),
    widen: (raw) => {
      const magnitude = v128.and(raw, splat.i32(0x7f));
      const finite = f32x4.mul(i32x4.shl(magnitude, 20), splat.f32(2 ** 120));
      return v128.or(v128.or(finite, v128.and(i32x4.eq(magnitude, splat.i32(0x7f)), splat.i32(0x7fc00000))), signBit(raw, 0x80));
    },
  },
};

/** Whether rows are widened where they are used, in registers: bf16 costs half an instruction an element there. */
export const isWidenedInPlace = (format: KvFormat | undefined, dim: number): boolean => format === "bf16" && dim % 8 === 0;
/** Whether rows are widened into scratch first, for all who use them. */
export const isCopied = (format: KvFormat | undefined, dim: number): format is Narrow => isWidened(format) && !isWidenedInPlace(format, dim);

const halves = [[0, 1, 2, 3], [4, 5, 6, 7]] as const;
/** Eight bf16 as two vectors of f32, in order: zeros below each. */
export const widenEight = (raw: Local, to: readonly [Local, Local]): Node[] =>
  halves.map((half, n) => to[n]!.set(i8x16.shuffle(splat.i32(0), raw, half.flatMap((i) => [2 * i, 2 * i + 1, 16 + 2 * i, 17 + 2 * i]))));

/** Writes `dim` elements at `from` in the memory `cache` as f32 to `to`, which has room for `dim` rounded up to 4. `scale`: the address of the row's factor. */
export function widenRow(local: MakeLocal, cache: Memory, format: Narrow, dim: number, from: Local, to: Local, scale: Node): Node[] {
  const row = rows[format];
  const raw = local("v128", "raw"), factor = local("v128", "factor"), d = local("i32", "widenAt"), source = local("i32", "widenFrom");
  const result = (): Node => (row.scaled ? f32x4.mul(row.widen(raw), factor) : row.widen(raw));
  const whole = dim & ~3;
  return [
    ...(row.scaled ? [factor.set(v128.load32_splat(scale))] : []),
    ...(whole > 0 ? [forRange(d, 0, whole, 4, [
      source.set(i32.add(from, row.bytes === 1 ? d : i32.shl(d, 1))),
      raw.set(row.load(cache.at(source), 0)),
      v128.store(i32.add(to, i32.shl(d, 2)), result()),
    ])] : []),
    ...Array.from({ length: dim - whole }, (_, i) => [
      raw.set(i32x4.splat(row.one(cache.at(from), row.bytes * (whole + i)))),
      v128.store32_lane(to, result(), 0, 4 * (whole + i)),
    ]).flat(),
  ];
}
