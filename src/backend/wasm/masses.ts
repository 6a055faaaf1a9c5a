/**
 * How likely a logit is beside the largest of its row.
 *
 *   mass(x) = 2^((x - largest) rate), rate = log2(e) / temperature, rounded to a whole number of 2^-41
 *
 * Computed in doubles, kept in i64: sums of masses are exact in any order, so that what is found by them depends on the row alone. Adding
 * 1.5 * 2^52 to a double leaves its nearest whole number in the low bits. Knows no choices.
 */
import { call, f32, f32x4, f64x2, i32, i32x4, i64, i64x2, v128, when, type Func, type Local, type Module, type Node } from "./assembler.ts";
import type { MakeLocal } from "./kernel.ts";
import type { LogitRows } from "./logit-rows.ts";
import { half, KeptConstants } from "./math.ts";

/** A mass is at most 2^massBits, that of the largest logit. */
export const massBits = 41;
/** Octaves below the largest logit from which on every mass is 0. */
export const massOctaves = massBits + 2;

/** (2^f - 1) / f and 1, f from -1/2 to 1/2: minimax, relative error 1.5e-14, exact at 0. */
const powers = [
  1.0148341268202081e-07, 1.3258335398449777e-06, 1.5252990011882775e-05, 0.0001540344088448824, 0.0013333557625477476, 0.009618129181163879,
  0.05550410866841569, 0.2402265069572282, 0.6931471805598851, 1,
];
const wholeNumbers = 1.5 * 2 ** 52;

/** Code that sets `power` to 2^(t + exponent) in two doubles, |t| below 1000. Spoils t; `f64` makes constants. */
export function powerOfTwo(local: MakeLocal, t: Local, power: Local, f64: (x: number) => Node, exponent = 0): Node[] {
  const n = local("v128", "whole");
  return [
    n.set(f64x2.add(t, f64(wholeNumbers + exponent))),
    t.set(f64x2.sub(t, f64x2.sub(n, f64(wholeNumbers + exponent)))),
    power.set(powers.slice(1).reduce((sum, c) => f64x2.relaxed_madd(sum, t, f64(c)), f64(powers[0]!))),
    power.set(i64x2.add(power, i64x2.shl(n, 52))),
  ];
}

/**
 * Code that sets `masses` to the masses, i64, of two logits given as doubles; with `offset` they are left that much too large, which is 2 instructions less.
 * What is -Infinity or NaN has none.
 */
export function massesOf(local: MakeLocal, logits: Node, largest: Local, rate: Local, masses: Local, f64: (x: number) => Node, offset: "offset" | "exact"): Node[] {
  const t = local("v128", "octaves");
  return [
    t.set(f64x2.pmax(f64(-massOctaves), f64x2.mul(f64x2.sub(logits, largest), rate))),
    ...powerOfTwo(local, t, masses, f64, massBits),
    masses.set(f64x2.add(masses, f64(wholeNumbers))),
    ...(offset === "offset" ? [] : [masses.set(i64x2.sub(masses, f64(wholeNumbers)))]),
  ];
}
/** What `massesOf` leaves in four masses together, modulo 2^64: 4 times the bits of 1.5 * 2^52. */
const offsetOfFour = 0x0ce0 * 2 ** 48;

/** Adds `massSum(row, from, to, low, largest, rate)`: the masses of the logits from `low` on. */
export function addMassSum(m: Module, rows: LogitRows): Func {
  return m.func("massSum", { row: "i32", from: "i32", to: "i32", low: "f32", largest: "f64", rate: "f64" }, "i64", ({ row, from, to, low, largest, rate }, local) => {
    const v = (name: string): Local => local("v128", name), zero = local("i32", "zero"), fours = local("i32", "fours"), constants = new KeptConstants(local);
    const lows = v("lows"), tops = v("largests"), rates = v("rates"), dropped = v("dropped"), masses = v("masses"), sum = [v("sumLow"), v("sumHigh")];
    const walk = rows.over(local, row, from, to, 1, ([x]) => [
      dropped.set(f32x4.lt(x!, lows)),
      when(i32.ne(i32x4.bitmask(dropped), 15), [
        x!.set(v128.or(x!, dropped)), // NaN
        ...sum.flatMap((s, i) => [...massesOf(local, half(x!, i === 1), tops, rates, masses, constants.f64, "offset"), s.set(i64x2.add(s, masses))]),
        fours.set(i32.add(fours, 1)),
      ]),
    ]);
    return [
      zero.set(i32.shr_u(from, 31)),
      ...constants.code(zero),
      lows.set(f32x4.splat(low)),
      tops.set(f64x2.splat(largest)),
      rates.set(f64x2.splat(rate)),
      ...walk,
      sum[0]!.set(i64x2.add(sum[0]!, sum[1]!)),
      i64.sub(i64.add(i64x2.extract_lane(sum[0]!, 0), i64x2.extract_lane(sum[0]!, 1)), i64.mul(i64.extend_i32_u(fours), offsetOfFour)),
    ];
  }, { internal: true });
}

/** The mass of one logit: as a row by itself, written to `place`, so that it is the same. */
export const massOfOne = (massSum: Func, place: Node, logit: Node, largest: Local, rate: Local): { readonly write: Node; readonly mass: Node } =>
  ({ write: f32.store(place, logit), mass: call(massSum, place, 0, 4, -Infinity, largest, rate) });
