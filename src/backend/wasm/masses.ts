/**
 * How likely a logit is beside the largest of its row.
 *
 *   mass(x) = 2^((x - largest) rate), rate = log2(e) / temperature, rounded to a whole number of 2^-41
 *
 * Computed in doubles, kept in i64: sums of masses are exact in any order, so that what is found by them depends on the row alone. Adding
 * 1.5 * 2^52 to a double leaves its nearest whole number in the low bits. Knows no choices.
 */
import { f64x2, i64x2, type Local, type Node } from "./assembler.ts";
import type { MakeLocal } from "./kernel.ts";

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

/** Code that sets `masses` to the masses, i64, of two logits given as doubles. What is -Infinity has none. */
export function massesOf(local: MakeLocal, logits: Node, largest: Local, rate: Local, masses: Local, f64: (x: number) => Node): Node[] {
  const t = local("v128", "octaves");
  return [
    t.set(f64x2.pmax(f64x2.mul(f64x2.sub(logits, largest), rate), f64(-massOctaves))),
    ...powerOfTwo(local, t, masses, f64, massBits),
    masses.set(i64x2.sub(f64x2.add(masses, f64(wholeNumbers)), f64(wholeNumbers))),
  ];
}
