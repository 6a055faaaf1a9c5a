/**
 * What each operator does to ranges: the abstract counterpart of the `eval` rows in expr.ts.
 *
 * A value is a cell of eight doubles. Every number x the cell stands for satisfies, at once,
 *
 *   lo <= x <= hi            and            x = aq q + ak kv + r  with  rlo <= r <= rhi
 *
 * for the q and kv of the box; `nan` says whether x may be NaN. The second form is what proves `q - (q - kv) >= 0`. An f32
 * cell has it only while `int` is set: all its values are integers up to 2^24, so that f32 arithmetic on them is exact.
 * A bool cell uses lo and hi only: [0, 0], [1, 1] or [0, 1].
 *
 * Rules: bounds are rounded as the values are (rounding is monotone); an i32 that could wrap becomes the full range; functions
 * that machines approximate are widened; an operator may always answer with a wider range, never with a narrower one.
 */
import type { BinaryOp, Type, UnaryOp } from "./expr.ts";

export const cell = { lo: 0, hi: 1, aq: 2, ak: 3, rlo: 4, rhi: 5, nan: 6, int: 7, words: 8 } as const;
const { lo: LO, hi: HI, aq: AQ, ak: AK, rlo: RLO, rhi: RHI, nan: NAN, int: INT } = cell;

/** The box, at the front of the cells: q in [v[0], v[1]], kv in [v[2], v[3]]. */
const Q0 = 0, Q1 = 1, K0 = 2, K1 = 3;

const minI32 = -(2 ** 31), maxI32 = 2 ** 31 - 1;
/** Integers up to here, and their sums within it, are exact in f32. */
const exactF32 = 2 ** 24;
/** Coefficients up to here times any i32, and rests up to the second, stay exact in doubles. */
export const maxCoefficient = 2 ** 20;
export const maxRest = 2 ** 51;

type Cells = Float64Array;
/** Writes the cell at `o` from operand cells. */
type Unary = (v: Cells, o: number, x: number) => void;
type Binary = (v: Cells, o: number, a: number, b: number) => void;

/** A cell that is the interval [lo, hi] and no more. */
export function setInterval(v: Cells, o: number, lo: number, hi: number, nan = 0): void {
  v[o + LO] = lo; v[o + HI] = hi;
  v[o + AQ] = 0; v[o + AK] = 0; v[o + RLO] = lo; v[o + RHI] = hi;
  v[o + NAN] = nan; v[o + INT] = 0;
}

/** As `setInterval`, for an i32 that wraps when it leaves 32 bits (or was not a number at all). */
export function setI32(v: Cells, o: number, lo: number, hi: number): void {
  if (lo >= minI32 && hi <= maxI32) setInterval(v, o, lo, hi);
  else setInterval(v, o, minI32, maxI32);
}

/** Any f32, NaN included. */
export function setAnyF32(v: Cells, o: number): void {
  setInterval(v, o, -Infinity, Infinity, 1);
}

/** Marks an f32 cell whose values are small integers. */
export function markInt(v: Cells, o: number): void {
  if (v[o + LO]! >= -exactF32 && v[o + HI]! <= exactF32 && v[o + NAN] === 0) v[o + INT] = 1;
}

export function copyCell(v: Cells, o: number, x: number): void {
  for (let i = 0; i < cell.words; i++) v[o + i] = v[x + i]!;
}

/** The cell of the union of two. */
export function join(v: Cells, o: number, a: number, b: number): void {
  const sameLine = v[a + AQ] === v[b + AQ] && v[a + AK] === v[b + AK];
  const aq = v[a + AQ]!, ak = v[a + AK]!;
  const rlo = Math.min(v[a + RLO]!, v[b + RLO]!), rhi = Math.max(v[a + RHI]!, v[b + RHI]!);
  const int = v[a + INT]! * v[b + INT]!;
  setInterval(v, o, Math.min(v[a + LO]!, v[b + LO]!), Math.max(v[a + HI]!, v[b + HI]!), Math.max(v[a + NAN]!, v[b + NAN]!));
  if (sameLine) { v[o + AQ] = aq; v[o + AK] = ak; v[o + RLO] = rlo; v[o + RHI] = rhi; }
  v[o + INT] = int;
}

/** x = aq q + ak kv + [rlo, rhi], known as well to lie in [lo, hi]; `limit` is the largest magnitude that stays exact. */
function setLine(v: Cells, o: number, aq: number, ak: number, rlo: number, rhi: number, lo: number, hi: number, limit: number): boolean {
  const lineLo = rlo + Math.min(aq * v[Q0]!, aq * v[Q1]!) + Math.min(ak * v[K0]!, ak * v[K1]!);
  const lineHi = rhi + Math.max(aq * v[Q0]!, aq * v[Q1]!) + Math.max(ak * v[K0]!, ak * v[K1]!);
  const straight = Math.abs(aq) <= maxCoefficient && Math.abs(ak) <= maxCoefficient && rlo >= -maxRest && rhi <= maxRest;
  if (straight) { lo = Math.max(lo, lineLo); hi = Math.min(hi, lineHi); }
  if (!(lo >= -limit && hi < limit)) return false;
  v[o + LO] = lo; v[o + HI] = hi;
  v[o + AQ] = straight ? aq : 0; v[o + AK] = straight ? ak : 0;
  v[o + RLO] = straight ? rlo : lo; v[o + RHI] = straight ? rhi : hi;
  v[o + NAN] = 0; v[o + INT] = 1;
  return true;
}

/** a + sign * b. */
function addLines(v: Cells, o: number, a: number, b: number, sign: 1 | -1, limit: number): boolean {
  const bLo = sign > 0 ? v[b + LO]! : -v[b + HI]!, bHi = sign > 0 ? v[b + HI]! : -v[b + LO]!;
  const rLo = sign > 0 ? v[b + RLO]! : -v[b + RHI]!, rHi = sign > 0 ? v[b + RHI]! : -v[b + RLO]!;
  return setLine(v, o, v[a + AQ]! + sign * v[b + AQ]!, v[a + AK]! + sign * v[b + AK]!, v[a + RLO]! + rLo, v[a + RHI]! + rHi,
    v[a + LO]! + bLo, v[a + HI]! + bHi, limit);
}

/** a + b and a - b of i32. */
export function addCells(v: Cells, o: number, a: number, b: number): void {
  if (!addLines(v, o, a, b, 1, i32Limit)) setInterval(v, o, minI32, maxI32);
}
export function subtractCells(v: Cells, o: number, a: number, b: number): void {
  if (!addLines(v, o, a, b, -1, i32Limit)) setInterval(v, o, minI32, maxI32);
}

/** c * x + d. */
function scaleLine(v: Cells, o: number, x: number, c: number, d: number, limit: number): boolean {
  const flip = c < 0;
  return setLine(v, o, c * v[x + AQ]!, c * v[x + AK]!, c * v[x + (flip ? RHI : RLO)]! + d, c * v[x + (flip ? RLO : RHI)]! + d,
    c * v[x + (flip ? HI : LO)]! + d, c * v[x + (flip ? LO : HI)]! + d, limit);
}

/** i32 results of line arithmetic: exact, or the full range. */
const i32Limit = 2 ** 31;
const orFull = (ok: boolean, v: Cells, o: number): void => { if (!ok) setInterval(v, o, minI32, maxI32); };
const isPoint = (v: Cells, x: number): boolean => v[x + LO] === v[x + HI];
const bothInt = (v: Cells, a: number, b: number): boolean => v[a + INT] === 1 && v[b + INT] === 1;
const anyNan = (v: Cells, a: number, b: number): number => Math.max(v[a + NAN]!, v[b + NAN]!);
const unbounded = (v: Cells, x: number): boolean => v[x + LO] === -Infinity || v[x + HI] === Infinity;
const hasZero = (v: Cells, x: number): boolean => v[x + LO]! <= 0 && v[x + HI]! >= 0;

/** Least and greatest of f at the four corners: right where f is monotone in each operand alone. */
function corners(v: Cells, o: number, a: number, b: number, f: (a: number, b: number) => number, set: (v: Cells, o: number, lo: number, hi: number) => void): void {
  const w = f(v[a + LO]!, v[b + LO]!), x = f(v[a + LO]!, v[b + HI]!), y = f(v[a + HI]!, v[b + LO]!), z = f(v[a + HI]!, v[b + HI]!);
  set(v, o, Math.min(w, x, y, z), Math.max(w, x, y, z));
}

/** An f32 result of an exact operation: bounds rounded as values are. */
const setF32 = (v: Cells, o: number, lo: number, hi: number): void => {
  if (Number.isNaN(lo) || Number.isNaN(hi)) setAnyF32(v, o);
  else setInterval(v, o, Math.fround(lo), Math.fround(hi));
};

/** Room for a machine's approximation of exp, tanh and their kin: 2^-20 relative, some sixteen units in the last place. */
const below = (x: number): number => (Number.isFinite(x) ? Math.fround(x - Math.abs(x) * 2 ** -20 - 2 ** -120) : x);
const above = (x: number): number => (Number.isFinite(x) ? Math.fround(x + Math.abs(x) * 2 ** -20 + 2 ** -120) : x);

/** A non-decreasing function of f32, defined from `from` up (NaN below), with values in [least, most]. */
function rising(f: (x: number) => number, from = -Infinity, least = -Infinity, most = Infinity): Unary {
  return (v, o, x) => {
    const nan = v[x + LO]! < from ? 1 : v[x + NAN]!;
    const lo = f(Math.max(v[x + LO]!, from)), hi = f(Math.max(v[x + HI]!, from));
    setInterval(v, o, Math.max(least, below(lo)), Math.min(most, above(hi)), nan);
  };
}

/** A non-decreasing function to whole numbers, exact on f32. */
function rounding(f: (x: number) => number): Unary {
  return (v, o, x) => {
    if (v[x + INT] === 1) copyCell(v, o, x);
    else { setInterval(v, o, f(v[x + LO]!), f(v[x + HI]!), v[x + NAN]); markInt(v, o); }
  };
}

const wave: Unary = (v, o, x) => setInterval(v, o, -1 - 2 ** -20, 1 + 2 ** -20, unbounded(v, x) ? 1 : v[x + NAN]);

const negate: Unary = (v, o, x) => {
  const nan = v[x + NAN]!, int = v[x + INT]!;
  const aq = -v[x + AQ]!, ak = -v[x + AK]!, rlo = -v[x + RHI]!, rhi = -v[x + RLO]!;
  setInterval(v, o, -v[x + HI]!, -v[x + LO]!, nan);
  v[o + AQ] = aq; v[o + AK] = ak; v[o + RLO] = rlo; v[o + RHI] = rhi; v[o + INT] = int;
};

const absolute: Unary = (v, o, x) => {
  if (v[x + LO]! >= 0) copyCell(v, o, x);
  else if (v[x + HI]! <= 0) negate(v, o, x);
  else {
    const int = v[x + INT]!;
    setInterval(v, o, 0, Math.max(-v[x + LO]!, v[x + HI]!), v[x + NAN]);
    v[o + INT] = int;
  }
};

const wrapping = (f: Unary): Unary => (v, o, x) => {
  f(v, o, x);
  if (v[o + HI]! > maxI32) setInterval(v, o, minI32, maxI32);
};

/** By operator, then by operand type where the two differ. */
export const unaryRanges: Readonly<Record<UnaryOp, Unary | Readonly<Partial<Record<Type, Unary>>>>> = {
  neg: { i32: wrapping(negate), f32: negate },
  abs: { i32: wrapping(absolute), f32: absolute },
  sign: (v, o, x) => { const nan = v[x + NAN]!; setInterval(v, o, Math.sign(v[x + LO]!), Math.sign(v[x + HI]!), nan); v[o + INT] = 1 - nan; },
  not: (v, o, x) => setInterval(v, o, 1 - v[x + HI]!, 1 - v[x + LO]!),
  bitNot: (v, o, x) => orFull(scaleLine(v, o, x, -1, -1, i32Limit), v, o),
  floor: rounding(Math.floor),
  ceil: rounding(Math.ceil),
  round: rounding(Math.round),
  trunc: rounding(Math.trunc),
  sqrt: rising(Math.sqrt, 0, 0),
  exp: rising(Math.exp, -Infinity, 0),
  log: rising(Math.log, 0),
  log2: rising(Math.log2, 0),
  log1p: rising(Math.log1p, -1),
  sin: wave,
  cos: wave,
  tan: (v, o) => setAnyF32(v, o),
  tanh: rising(Math.tanh, -Infinity, -1, 1),
  toF32: (v, o, x) => {
    copyCell(v, o, x);
    v[o + LO] = Math.fround(v[x + LO]!);
    v[o + HI] = Math.fround(v[x + HI]!);
    v[o + NAN] = 0; v[o + INT] = 0;
    markInt(v, o);
  },
  toI32: (v, o, x) => {
    if (v[x + INT] === 1) return copyCell(v, o, x);
    const clip = (y: number): number => Math.max(minI32, Math.min(maxI32, Math.trunc(y)));
    const nan = v[x + NAN]!, lo = clip(v[x + LO]!), hi = clip(v[x + HI]!);
    setInterval(v, o, nan ? Math.min(0, lo) : lo, nan ? Math.max(0, hi) : hi);
  },
  boolToI32: (v, o, x) => setInterval(v, o, v[x + LO]!, v[x + HI]!),
};

/** x mod n for one n: a shift where the whole range has the same quotient, else `otherwise`. */
function modulo(v: Cells, o: number, x: number, n: number, quotient: (x: number) => number, otherwise: (lo: number, hi: number) => readonly [number, number]): void {
  if (n === 0) return setInterval(v, o, 0, 0);
  const lo = v[x + LO]!, hi = v[x + HI]!;
  const k = quotient(lo / n);
  if (k === quotient(hi / n)) return orFull(scaleLine(v, o, x, 1, -k * n, i32Limit), v, o);
  const [least, most] = otherwise(lo, hi);
  setInterval(v, o, least, most);
}

const floorModI32: Binary = (v, o, a, b) => {
  if (isPoint(v, b)) {
    const n = v[b + LO]!;
    return modulo(v, o, a, n, Math.floor, () => (n > 0 ? [0, n - 1] : [n + 1, 0]));
  }
  const most = Math.max(0, v[b + HI]! - 1), least = Math.min(0, v[b + LO]! + 1);
  setInterval(v, o, v[b + LO]! > 0 ? 0 : least, v[b + LO]! > 0 && v[a + LO]! >= 0 ? Math.min(most, v[a + HI]!) : most);
};

const remI32: Binary = (v, o, a, b) => {
  const n = Math.max(Math.abs(v[b + LO]!), Math.abs(v[b + HI]!));
  const clip = (lo: number, hi: number): readonly [number, number] =>
    n === 0 ? [0, 0] : [lo < 0 ? Math.max(lo, 1 - n) : 0, hi > 0 ? Math.min(hi, n - 1) : 0];
  if (isPoint(v, b)) return modulo(v, o, a, n, Math.trunc, clip);
  const [least, most] = clip(v[a + LO]!, v[a + HI]!);
  setInterval(v, o, least, most);
};

const floorDivI32: Binary = (v, o, a, b) => {
  if (isPoint(v, b) && v[b + LO] === 1) return copyCell(v, o, a);
  if (isPoint(v, b) && v[b + LO] === 0) return setInterval(v, o, 0, 0);
  if (!hasZero(v, b)) return corners(v, o, a, b, (x, y) => Math.floor(x / y), setI32);
  const most = Math.max(Math.abs(v[a + LO]!), Math.abs(v[a + HI]!));
  setI32(v, o, -most, most);
};

const shiftRight: Binary = (v, o, a, b) => {
  const lo = v[a + LO]!, hi = v[a + HI]!;
  if (isPoint(v, b)) setInterval(v, o, lo >> v[b + LO]!, hi >> v[b + LO]!);
  else setInterval(v, o, lo >= 0 ? 0 : lo, hi < 0 ? -1 : hi);
};

/**
 * Bit operations by known bits: all numbers of [lo, hi] share the bits above the highest one in which lo and hi differ.
 * `ones` are bits surely set in the result, `maybe` bits that may be.
 */
function bits(ones: (a1: number, b1: number, aM: number, bM: number) => number, maybe: (a1: number, b1: number, aM: number, bM: number) => number): Binary {
  const open = (lo: number, hi: number): number => {
    const zeros = Math.clz32(lo ^ hi);
    return zeros === 32 ? 0 : zeros === 0 ? -1 : (1 << (32 - zeros)) - 1;
  };
  return (v, o, a, b) => {
    const aOpen = open(v[a + LO]!, v[a + HI]!), bOpen = open(v[b + LO]!, v[b + HI]!);
    const a1 = v[a + LO]! & ~aOpen, b1 = v[b + LO]! & ~bOpen, aM = a1 | aOpen, bM = b1 | bOpen;
    const least = ones(a1, b1, aM, bM), most = maybe(a1, b1, aM, bM);
    // An open sign bit: the least number has it set, the greatest has not.
    if ((least ^ most) < 0) setInterval(v, o, least | minI32, most & maxI32);
    else setInterval(v, o, least, most);
  };
}

const bitAndBits = bits((a1, b1) => a1 & b1, (_a1, _b1, aM, bM) => aM & bM);

const bitAnd: Binary = (v, o, a, b) => {
  const mask = v[b + LO]!;
  if (isPoint(v, b) && mask >= 0 && (mask & (mask + 1)) === 0 && mask < maxI32) {
    return modulo(v, o, a, mask + 1, Math.floor, () => [0, mask]);
  }
  const aHi = v[a + LO]! >= 0 ? v[a + HI]! : maxI32, bHi = v[b + LO]! >= 0 ? v[b + HI]! : maxI32;
  bitAndBits(v, o, a, b);
  setInterval(v, o, v[o + LO]!, Math.min(v[o + HI]!, aHi, bHi));
};

const addF32 = (sign: 1 | -1): Binary => (v, o, a, b) => {
  if (bothInt(v, a, b) && addLines(v, o, a, b, sign, exactF32)) return;
  const bLo = sign > 0 ? v[b + LO]! : -v[b + HI]!, bHi = sign > 0 ? v[b + HI]! : -v[b + LO]!;
  const opposite = (v[a + LO] === -Infinity && bHi === Infinity) || (v[a + HI] === Infinity && bLo === -Infinity);
  if (opposite || anyNan(v, a, b)) setAnyF32(v, o);
  else setF32(v, o, v[a + LO]! + bLo, v[a + HI]! + bHi);
};

const mulI32: Binary = (v, o, a, b) => {
  if (isPoint(v, b)) orFull(scaleLine(v, o, a, v[b + LO]!, 0, i32Limit), v, o);
  else if (isPoint(v, a)) orFull(scaleLine(v, o, b, v[a + LO]!, 0, i32Limit), v, o);
  else corners(v, o, a, b, (x, y) => x * y, setI32);
};

const mulF32: Binary = (v, o, a, b) => {
  if (bothInt(v, a, b)) {
    if (isPoint(v, b) && scaleLine(v, o, a, v[b + LO]!, 0, exactF32)) return;
    if (isPoint(v, a) && scaleLine(v, o, b, v[a + LO]!, 0, exactF32)) return;
  }
  const zeroTimesInfinity = (unbounded(v, a) && hasZero(v, b)) || (unbounded(v, b) && hasZero(v, a));
  if (zeroTimesInfinity || anyNan(v, a, b)) setAnyF32(v, o);
  else corners(v, o, a, b, (x, y) => x * y, setF32);
};

const divF32 = (f: (a: number, b: number) => number): Binary => (v, o, a, b) => {
  if (hasZero(v, b) || (unbounded(v, a) && unbounded(v, b)) || anyNan(v, a, b)) setAnyF32(v, o);
  else corners(v, o, a, b, f, setF32);
};

const remF32: Binary = (v, o, a, b) => {
  const nan = hasZero(v, b) || unbounded(v, a) ? 1 : anyNan(v, a, b);
  const most = Math.max(Math.abs(v[b + LO]!), Math.abs(v[b + HI]!));
  setInterval(v, o, v[a + LO]! < 0 ? Math.max(v[a + LO]!, -most) : 0, v[a + HI]! > 0 ? Math.min(v[a + HI]!, most) : 0, nan);
};

const powF32: Binary = (v, o, a, b) => {
  if (!(v[a + LO]! > 0) || unbounded(v, a) || unbounded(v, b) || anyNan(v, a, b)) return setAnyF32(v, o);
  corners(v, o, a, b, Math.pow, (cells, at, lo, hi) => setInterval(cells, at, Math.max(0, below(lo)), above(Math.fround(hi))));
};

const hypotF32: Binary = (v, o, a, b) => {
  const far = (x: number): number => Math.max(Math.abs(v[x + LO]!), Math.abs(v[x + HI]!));
  const near = (x: number): number => (hasZero(v, x) ? 0 : Math.min(Math.abs(v[x + LO]!), Math.abs(v[x + HI]!)));
  const lo = Math.hypot(near(a), near(b)), hi = Math.hypot(far(a), far(b)), nan = anyNan(v, a, b);
  setInterval(v, o, Math.max(0, below(lo)), above(Math.fround(hi)), nan);
};

/** min (sign -1) and max (sign 1): the dominating operand itself where there is one. */
const extreme = (sign: 1 | -1): Binary => (v, o, a, b) => {
  const nan = anyNan(v, a, b);
  const over = (x: number, y: number): boolean => (sign > 0 ? v[x + LO]! >= v[y + HI]! : v[x + HI]! <= v[y + LO]!);
  if (!nan && over(a, b)) return copyCell(v, o, a);
  if (!nan && over(b, a)) return copyCell(v, o, b);
  const f = sign > 0 ? Math.max : Math.min;
  const int = v[a + INT]! * v[b + INT]!;
  setInterval(v, o, f(v[a + LO]!, v[b + LO]!), f(v[a + HI]!, v[b + HI]!), nan);
  v[o + INT] = int;
};

/** Bounds of a - b in `difference`, where that says more than the two ranges do. */
const difference = { lo: 0, hi: 0 };
function subtract(v: Cells, a: number, b: number): void {
  const aq = v[a + AQ]! - v[b + AQ]!, ak = v[a + AK]! - v[b + AK]!;
  difference.lo = v[a + RLO]! - v[b + RHI]! + Math.min(aq * v[Q0]!, aq * v[Q1]!) + Math.min(ak * v[K0]!, ak * v[K1]!);
  difference.hi = v[a + RHI]! - v[b + RLO]! + Math.max(aq * v[Q0]!, aq * v[Q1]!) + Math.max(ak * v[K0]!, ak * v[K1]!);
}

/** A comparison: `always` and `never` judge the two ranges, `line` the difference. A NaN makes every comparison false but `ne`. */
function comparison(
  always: (aLo: number, aHi: number, bLo: number, bHi: number) => boolean, never: (aLo: number, aHi: number, bLo: number, bHi: number) => boolean,
  alwaysLine: (lo: number, hi: number) => boolean, neverLine: (lo: number, hi: number) => boolean, isInt: boolean, nanIs: 0 | 1 = 0,
): Binary {
  return (v, o, a, b) => {
    const nan = anyNan(v, a, b);
    let yes = always(v[a + LO]!, v[a + HI]!, v[b + LO]!, v[b + HI]!);
    let no = never(v[a + LO]!, v[a + HI]!, v[b + LO]!, v[b + HI]!);
    if (!yes && !no && (isInt || bothInt(v, a, b))) {
      subtract(v, a, b);
      yes = alwaysLine(difference.lo, difference.hi);
      no = neverLine(difference.lo, difference.hi);
    }
    if (nan && nanIs === 0) yes = false;
    if (nan && nanIs === 1) no = false;
    setInterval(v, o, yes ? 1 : 0, no ? 0 : 1);
  };
}

const compare = {
  lt: (isInt: boolean) => comparison((_l, aHi, bLo) => aHi < bLo, (aLo, _h, _l, bHi) => aLo >= bHi, (_lo, hi) => hi < 0, (lo) => lo >= 0, isInt),
  le: (isInt: boolean) => comparison((_l, aHi, bLo) => aHi <= bLo, (aLo, _h, _l, bHi) => aLo > bHi, (_lo, hi) => hi <= 0, (lo) => lo > 0, isInt),
  eq: (isInt: boolean) => comparison((aLo, aHi, bLo, bHi) => aLo === aHi && bLo === bHi && aLo === bLo, (aLo, aHi, bLo, bHi) => aHi < bLo || bHi < aLo,
    (lo, hi) => lo === 0 && hi === 0, (lo, hi) => lo > 0 || hi < 0, isInt),
  ne: (isInt: boolean) => comparison((aLo, aHi, bLo, bHi) => aHi < bLo || bHi < aLo, (aLo, aHi, bLo, bHi) => aLo === aHi && bLo === bHi && aLo === bLo,
    (lo, hi) => lo > 0 || hi < 0, (lo, hi) => lo === 0 && hi === 0, isInt, 1),
};
const flipped = (f: Binary): Binary => (v, o, a, b) => f(v, o, b, a);
/** Bool cells carry a constant line, so that they may be compared as integers. */
const typed = (make: (isInt: boolean) => Binary) => ({ i32: make(true), f32: make(false), bool: make(true) });

export const binaryRanges: Readonly<Record<BinaryOp, Binary | Readonly<Partial<Record<Type, Binary>>>>> = {
  add: { i32: addCells, f32: addF32(1) },
  sub: { i32: subtractCells, f32: addF32(-1) },
  mul: { i32: mulI32, f32: mulF32 },
  div: divF32((a, b) => a / b),
  rem: { i32: remI32, f32: remF32 },
  floorDiv: { i32: floorDivI32, f32: divF32((a, b) => Math.floor(a / b)) },
  floorMod: { i32: floorModI32, f32: (v, o) => setAnyF32(v, o) },
  min: extreme(-1),
  max: extreme(1),
  pow: powF32,
  hypot: hypotF32,
  lt: typed(compare.lt),
  le: typed(compare.le),
  gt: typed((isInt) => flipped(compare.lt(isInt))),
  ge: typed((isInt) => flipped(compare.le(isInt))),
  eq: typed(compare.eq),
  ne: typed(compare.ne),
  and: (v, o, a, b) => setInterval(v, o, Math.min(v[a + LO]!, v[b + LO]!), Math.min(v[a + HI]!, v[b + HI]!)),
  or: (v, o, a, b) => setInterval(v, o, Math.max(v[a + LO]!, v[b + LO]!), Math.max(v[a + HI]!, v[b + HI]!)),
  bitAnd,
  bitOr: bits((a1, b1) => a1 | b1, (_a1, _b1, aM, bM) => aM | bM),
  bitXor: bits((a1, b1, aM, bM) => (a1 & ~bM) | (b1 & ~aM), (a1, b1, aM, bM) => (aM | bM) & ~(a1 & b1)),
  shl: (v, o, a, b) => (isPoint(v, b) ? orFull(scaleLine(v, o, a, 2 ** (v[b + LO]! & 31), 0, i32Limit), v, o) : setInterval(v, o, minI32, maxI32)),
  shr: shiftRight,
};
