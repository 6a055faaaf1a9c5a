/**
 * The words of the language of mods that are not syntax: Math, and the three functions this package adds.
 *
 * Each is callable as it stands (a mod is an ordinary function), and the compiler knows it by its name.
 */
import type { UnaryOp } from "../ir/expr.ts";

/** a / b rounded toward minus infinity; on integers an integer operation. `Math.floor(a / b)` is the same. */
export function floorDiv(a: number, b: number): number {
  return Math.floor(a / b);
}

/** a modulo b with the sign of b: what Python's % is. JavaScript's % has the sign of a. */
export function floorMod(a: number, b: number): number {
  return a - Math.floor(a / b) * b;
}

/** x, but at least lo and at most hi. */
export function clamp(x: number, lo: number, hi: number): number {
  return Math.min(Math.max(x, lo), hi);
}

/** Functions a mod may call by name, or capture. */
export const packageFunctions: Readonly<Record<string, (...args: number[]) => number>> = { floorDiv, floorMod, clamp } as Record<string, (...args: number[]) => number>;

/** Math functions of one f32. */
export const realFunctions: Readonly<Record<string, UnaryOp>> = {
  sqrt: "sqrt", exp: "exp", log: "log", log2: "log2", log1p: "log1p", sin: "sin", cos: "cos", tan: "tan", tanh: "tanh",
};

/** Math functions that leave an integer as it is. */
export const roundingFunctions: Readonly<Record<string, "floor" | "ceil" | "round" | "trunc">> = { floor: "floor", ceil: "ceil", round: "round", trunc: "trunc" };

/** Other Math functions, handled by name in lower.ts. */
export const otherFunctions: ReadonlySet<string> = new Set(["abs", "sign", "min", "max", "pow", "hypot", "fround", "imul"]);

export const mathConstants: Readonly<Record<string, number>> = {
  PI: Math.PI, E: Math.E, LN2: Math.LN2, LN10: Math.LN10, LOG2E: Math.LOG2E, LOG10E: Math.LOG10E, SQRT2: Math.SQRT2, SQRT1_2: Math.SQRT1_2,
};

/** What to write for a Math function the language has not. */
export const mathRemedies: Readonly<Record<string, string>> = {
  log10: "Math.log(x) / Math.LN10", expm1: "Math.exp(x) - 1", cbrt: "x ** (1 / 3) for x >= 0", random: "a captured table of random numbers",
  sinh: "(Math.exp(x) - Math.exp(-x)) / 2", cosh: "(Math.exp(x) + Math.exp(-x)) / 2", clz32: "31 - Math.floor(Math.log2(x))",
};
