/**
 * The functions WebAssembly lacks, four f32 lanes at a time: exp and its kin in f32, the rest in two halves of f64.
 *
 * What each promises (ulp of f32, held by math.test.ts):
 *   exp       2 ulp, denormal results included; 0 below -104, Infinity above 88.73
 *   tanh      4 ulp; +-1 from |x| > 9.1
 *   sigmoid   4 ulp where the result is normal; 0 below -88.8
 *   log log1p 1 ulp
 *   log2 sin cos tan pow hypot   1 ulp: computed in double, rounded once. sin, cos and tan for every finite x
 *             (above 2^28 quarter turns: 1 ulp or 1e-15 absolute). Special values as JavaScript's Math has them.
 *   rem       exact
 *   gelu      x times the normal distribution's cumulative, relative error 1e-7 also in the negative tail
 *
 * A function is added to the module when it is first used, so a kernel carries only what it calls. Knows no kernels.
 */
import { branchIf, call, f32x4, f64, f64x2, i32, i32x4, i64x2, i8x16, lanes, loop, splat, v128, when, type Func, type Local, type Module, type Node, type Operand } from "./assembler.ts";
import type { MakeLocal } from "./kernel.ts";

type Vector = Node;
type Build = (library: MathLibrary, local: MakeLocal, x: Operand, y: Operand) => readonly Node[];

/** The low halves of two vectors, side by side. */
export const joinLow = (a: Operand, b: Operand): Node => i8x16.shuffle(a, b, [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23]);
const either = (condition: Operand, yes: Operand, no: Operand): Vector => v128.bitselect(yes, no, condition);
const highHalf = [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7];
/** i64 lanes of equal value, by its high word. */
const highWords = (word: number): Vector => lanes(0, word, 0, word);
/** Two floats of four as doubles. */
export const half = (x: Operand, high: boolean): Vector => f64x2.promote_low_f32x4(high ? i8x16.shuffle(x, x, highHalf) : x);
const joined = (low: Operand, high: Operand): Vector => joinLow(f32x4.demote_f64x2_zero(low), f32x4.demote_f64x2_zero(high));

/** c[0] x^(n-1) + ... + c[n-1]. `x` must be free to evaluate many times: a local. */
const polynomial = (x: Operand, coefficients: readonly number[], f32: (x: number) => Vector = splat.f32): Vector =>
  coefficients.slice(1).reduce<Vector>((sum, c) => f32x4.relaxed_madd(sum, x, f32(c)), f32(coefficients[0]!));
const polynomialF64 = (x: Operand, coefficients: readonly number[]): Vector =>
  coefficients.slice(1).reduce<Vector>((sum, c) => f64x2.relaxed_madd(sum, x, splat.f64(c)), splat.f64(coefficients[0]!));

/** A function of f32 lanes that is computed in double, one half after the other. */
const inHalves = (name: DoubleFunction): Build => (library, _, x) => [joined(library.call(name, half(x, false)), library.call(name, half(x, true)))];
const pairInHalves = (name: DoubleFunction): Build => (library, _, x, y) =>
  [joined(library.call(name, half(x, false), half(y, false)), library.call(name, half(x, true), half(y, true)))];

/** (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2: the coefficients of Cephes' expf. */
const expPolynomial = [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1];

/**
 * e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln 2 / 2. Adding 1.5 * 2^23 leaves n in the low bits of the sum. 2^n is applied
 * in two steps, so that results may be denormal or overflow. NaN passes: pmin and pmax (one instruction each, where min and max take
 * seven on x86) give their first operand when a comparison is false.
 */
const exp: Build = (_, local, x) => {
  const c = local("v128", "clamped"), t = local("v128", "shifted"), n = local("v128", "n"), r = local("v128", "r"), first = local("v128", "first");
  const powerOfTwo = (k: Node): Node => i32x4.shl(i32x4.add(k, splat.i32(127)), 23);
  return [
    c.set(f32x4.pmax(f32x4.pmin(x, splat.f32(89)), splat.f32(-104))),
    t.set(f32x4.relaxed_madd(c, splat.f32(Math.LOG2E), splat.f32(12582912))),
    n.set(f32x4.sub(t, splat.f32(12582912))),
    r.set(f32x4.relaxed_nmadd(n, splat.f32(0.693359375), c)),
    r.set(f32x4.relaxed_nmadd(n, splat.f32(-2.12194440e-4), r)),
    t.set(i32x4.sub(t, splat.i32(0x4b400000))),
    first.set(i32x4.shr_s(t, 1)),
    n.set(polynomial(r, expPolynomial)),
    r.set(f32x4.add(f32x4.relaxed_madd(n, f32x4.mul(r, r), r), splat.f32(1))),
    f32x4.mul(f32x4.mul(r, powerOfTwo(first.get)), powerOfTwo(i32x4.sub(t, first))),
  ];
};

/** (tanh x / x - 1) / x^2 for |x| < 0.625, in x^2: the coefficients of Cephes' tanhf. */
const tanhPolynomial = [-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1];

/** 1 - 2 / (e^2|x| + 1) with the sign of x; below 0.625, where that cancels, an odd polynomial. */
const tanh: Build = (library, local, x) => {
  const a = local("v128", "magnitude"), z = local("v128", "square"), small = local("v128", "small");
  const odd = polynomial(z, tanhPolynomial);
  return [
    a.set(f32x4.abs(x)),
    z.set(f32x4.mul(x, x)),
    small.set(f32x4.relaxed_madd(f32x4.mul(odd, z), a, a)),
    z.set(f32x4.sub(splat.f32(1), f32x4.div(splat.f32(2), f32x4.add(library.exp(f32x4.add(a, a)), splat.f32(1))))),
    v128.or(either(f32x4.lt(a, splat.f32(0.625)), small, z), v128.and(x, splat.i32(0x80000000))),
  ];
};

const sigmoid: Build = (library, _, x) => [f32x4.div(splat.f32(1), f32x4.add(splat.f32(1), library.exp(f32x4.neg(x))))];

/** Bits of sqrt 1/2 and of 1: added and taken away, an exponent's step is at sqrt 2. */
const halfRoot = 0x3f3504f3, oneBits = 0x3f800000;

/**
 * log u + c for normal u > 0, u = 2^k (1 + f) with 1 + f in [sqrt 1/2, sqrt 2): f - f^2/2 + s (f^2/2 + R(s^2)) + k ln 2 + c, s = f / (2 + f).
 * The coefficients are fdlibm's; ln 2 in two parts. `f` and `k` are set first, for `c` to be made of.
 */
function logOf(u: Operand, f: Local, k: Local, local: MakeLocal, adjust: readonly Node[], c: Operand): readonly Node[] {
  const s = local("v128", "ratio"), z = local("v128", "ratio2"), w = local("v128", "ratio4"), halfSquare = local("v128", "halfSquare");
  return [
    k.set(i32x4.add(u, splat.i32(oneBits - halfRoot))),
    f.set(f32x4.sub(i32x4.add(v128.and(k, splat.i32(0x7fffff)), splat.i32(halfRoot)), splat.f32(1))),
    k.set(i32x4.sub(i32x4.shr_u(k, 23), splat.i32(127))),
    ...adjust,
    k.set(f32x4.convert_i32x4_s(k)),
    s.set(f32x4.div(f, f32x4.add(f, splat.f32(2)))),
    z.set(f32x4.mul(s, s)),
    w.set(f32x4.mul(z, z)),
    halfSquare.set(f32x4.mul(f32x4.mul(f, f), splat.f32(0.5))),
    w.set(f32x4.add(
      f32x4.mul(w, f32x4.relaxed_madd(w, splat.f32(0.24279078841), splat.f32(0.40000972152))),
      f32x4.mul(z, f32x4.relaxed_madd(w, splat.f32(0.28498786688), splat.f32(0.66666662693))),
    )),
    s.set(f32x4.add(f32x4.mul(s, f32x4.add(halfSquare, w)), f32x4.add(f32x4.mul(k, splat.f32(9.0580006145e-6)), c))),
    f32x4.add(f32x4.add(f32x4.sub(s, halfSquare), f), f32x4.mul(k, splat.f32(0.69313812256))),
  ];
}

/** The special values of log: those of `x` where `u`, whose logarithm `log` is, has none. */
const logEnds = (log: Operand, u: Operand, x: Operand): Vector => either(
  f32x4.eq(u, splat.f32(0)), splat.f32(-Infinity),
  either(f32x4.lt(u, splat.f32(0)), splat.f32(NaN), either(f32x4.lt(u, splat.f32(Infinity)), log, x)),
);

/** Denormal numbers are scaled by 2^25 first. */
const log: Build = (_, local, x) => {
  const u = local("v128", "u"), f = local("v128", "f"), k = local("v128", "k"), tiny = local("v128", "tiny"), result = local("v128", "log");
  const steps = logOf(u, f, k, local, [k.set(i32x4.sub(k, v128.and(tiny, splat.i32(25))))], splat.f32(0));
  return [
    tiny.set(f32x4.lt(x, splat.f32(2 ** -126))),
    u.set(either(tiny, f32x4.mul(x, splat.f32(2 ** 25)), x)),
    ...steps.slice(0, -1),
    result.set(steps.at(-1)!),
    logEnds(result, x, x),
  ];
};

/** log u + (what rounding took from u) / u, u = 1 + x; where u is near 1, f = x itself. */
const log1p: Build = (_, local, x) => {
  const u = local("v128", "u"), f = local("v128", "f"), k = local("v128", "k"), c = local("v128", "lost"), near = local("v128", "near"), result = local("v128", "log");
  const steps = logOf(u, f, k, local, [
    near.set(i32x4.eq(k, splat.i32(0))),
    c.set(either(i32x4.gt_s(k, splat.i32(1)), f32x4.sub(splat.f32(1), f32x4.sub(u, x)), f32x4.sub(x, f32x4.sub(u, splat.f32(1))))),
    c.set(v128.andnot(f32x4.div(c, u), near)),
    f.set(either(near, x, f)),
  ], c);
  return [
    u.set(f32x4.add(x, splat.f32(1))),
    ...steps.slice(0, -1),
    result.set(steps.at(-1)!),
    either(f32x4.eq(x, splat.f32(0)), x, logEnds(result, u, x)), // -0 stays
  ];
};

/** e^x in double for x that a float can hold the result of; beyond, something that rounds to 0 or Infinity in f32. */
const expF64: Build = (_, local, x) => {
  const c = local("v128", "clamped"), n = local("v128", "n");
  const taylor = Array.from({ length: 13 }, (__, i) => 1 / factorial(12 - i));
  return [
    c.set(f64x2.max(f64x2.min(x, splat.f64(700)), splat.f64(-700))),
    n.set(f64x2.nearest(f64x2.mul(c, splat.f64(Math.LOG2E)))),
    c.set(f64x2.relaxed_nmadd(n, splat.f64(1.9082149292705877e-10), f64x2.relaxed_nmadd(n, splat.f64(6.93147180369123816490e-1), c))),
    n.set(i64x2.extend_low_i32x4_s(i32x4.trunc_sat_f64x2_s_zero(n))),
    f64x2.mul(polynomialF64(c, taylor), i64x2.shl(i64x2.add(n, lanes(1023, 0, 1023, 0)), 52)),
  ];
};

/** x = 2^e m with m in [sqrt 1/2, sqrt 2): log m = 2 (s + s^3/3 + ...), s = (m-1)/(m+1). `scale`: units of the result per [e, log m]. */
const logF64 = (scale: readonly [number, number]): Build => (_, local, x) => {
  const e = local("v128", "exponent"), m = local("v128", "mantissa"), above = local("v128", "above"), z = local("v128", "square");
  const series = Array.from({ length: 11 }, (__, i) => 2 / (2 * (10 - i) + 1));
  return [
    // The exponent's bits under those of 2^52 are 2^52 + exponent.
    e.set(f64x2.sub(v128.or(i64x2.shr_u(x, 52), highWords(0x43300000)), splat.f64(2 ** 52 + 1023))),
    m.set(v128.or(v128.and(x, lanes(-1, 0xfffff, -1, 0xfffff)), splat.f64(1))),
    above.set(f64x2.gt(m, splat.f64(Math.SQRT2))),
    m.set(either(above, f64x2.mul(m, splat.f64(0.5)), m)),
    e.set(f64x2.add(e, v128.and(above, splat.f64(1)))),
    m.set(f64x2.div(f64x2.sub(m, splat.f64(1)), f64x2.add(m, splat.f64(1)))),
    z.set(f64x2.mul(m, m)),
    m.set(f64x2.mul(m, polynomialF64(z, series))),
    m.set(f64x2.add(f64x2.mul(e, splat.f64(scale[0])), f64x2.mul(m, splat.f64(scale[1])))),
    m.set(either(f64x2.lt(x, splat.f64(Infinity)), m, x)),
    m.set(either(f64x2.lt(x, splat.f64(0)), splat.f64(NaN), m)),
    either(f64x2.eq(x, splat.f64(0)), splat.f64(-Infinity), m),
  ];
};

/** The first 192 bits of 2/pi, 24 at a time; a float times 24 bits is exact in double. */
const twoOverPi = [0xa2f983, 0x6e4e44, 0x1529fc, 0x2757d1, 0xf534dd, 0xc0db62, 0x95993c, 0x439041];

/** x in quarter turns, less whole turns, for x of any size: each exact partial product is taken modulo 4 before it is added. */
const quarterTurns: Build = (_, local, x) => {
  const sum = local("v128", "sum"), part = local("v128", "part");
  return [
    ...twoOverPi.toReversed().flatMap((bits, i) => [
      part.set(f64x2.mul(x, splat.f64(bits * 2 ** (-24 * (twoOverPi.length - i))))),
      part.set(f64x2.sub(part, f64x2.mul(f64x2.nearest(f64x2.mul(part, splat.f64(0.25))), splat.f64(4)))),
      sum.set(f64x2.add(sum, part)),
    ]),
    sum.get,
  ];
};

/** pi/2 in three parts, the first two of 25 bits: their products with a number below 2^28 are exact. */
const halfPi = ((): readonly [number, number, number] => {
  const bits25 = (x: number, ulp: number): number => Math.floor(x / ulp) * ulp;
  const first = bits25(Math.PI / 2, 2 ** -24);
  const second = bits25(Math.PI / 2 - first, 2 ** -50);
  return [first, second, Math.PI / 2 - first - second + 6.123233995736766036e-17];
})();

/** sin(x + quarter * pi/2): r = x - n pi/2, then the polynomial and the sign of quadrant n + quarter. */
const sinF64 = (quarter: 0 | 1): Build => (library, local, x) => {
  const n = local("v128", "n"), r = local("v128", "r"), z = local("v128", "square"), far = local("v128", "far"), turns = local("v128", "turns");
  const q = n;
  const alternating = (from: number): number[] => Array.from({ length: 8 }, (_, i) => (i % 2 ? 1 : -1) / factorial(from + 2 * (7 - i)));
  return [
    n.set(f64x2.nearest(f64x2.mul(x, splat.f64(2 / Math.PI)))),
    r.set(halfPi.reduce<Node>((rest, part) => f64x2.relaxed_nmadd(n, splat.f64(part), rest), v128.or(x, x))),
    r.set(either(f64x2.eq(n, splat.f64(0)), x, r)),
    far.set(f64x2.gt(f64x2.abs(n), splat.f64(2 ** 28))),
    when(v128.any_true(far), [
      turns.set(library.call("quarterTurns_f64x2", x)),
      n.set(either(far, f64x2.nearest(turns), n)),
      r.set(either(far, f64x2.mul(f64x2.sub(turns, n), splat.f64(Math.PI / 2)), r)),
    ]),
    q.set(f64x2.add(n, splat.f64(quarter))),
    q.set(f64x2.sub(q, f64x2.mul(f64x2.floor(f64x2.mul(q, splat.f64(0.25))), splat.f64(4)))),
    z.set(f64x2.mul(r, r)),
    far.set(f64x2.mul(r, polynomialF64(z, alternating(1)))),
    turns.set(polynomialF64(z, alternating(0))),
    // Quadrants 1 and 3 take the cosine; 2 and 3 are negative.
    r.set(either(v128.or(f64x2.eq(q, splat.f64(1)), f64x2.eq(q, splat.f64(3))), turns, far)),
    v128.xor(r, v128.and(f64x2.ge(q, splat.f64(2)), highWords(0x80000000))),
  ];
};

const tanF64: Build = (library, _, x) => [f64x2.div(library.call("sin_f64x2", x), library.call("cos_f64x2", x))];

/**
 * e^(b log|a|), then JavaScript's special cases: x ** 0 is 1 even for NaN; a negative number to a power that is no integer is NaN;
 * an odd power keeps the sign (also of zero and -Infinity); (+-1) ** (+-Infinity) is NaN, which 0 * Infinity gives by itself.
 */
const powF64: Build = (library, local, a, b) => {
  const r = local("v128", "r"), h = local("v128", "half_b"), integer = local("v128", "integer");
  return [
    r.set(library.call("exp_f64x2", f64x2.mul(b, library.call("log_f64x2", f64x2.abs(a))))),
    h.set(f64x2.mul(b, splat.f64(0.5))),
    integer.set(f64x2.eq(f64x2.trunc(b), b)),
    // Odd: an integer whose half is none.
    h.set(v128.andnot(integer, f64x2.eq(f64x2.trunc(h), h))),
    r.set(v128.or(r, v128.and(v128.and(a, h), highWords(0x80000000)))),
    integer.set(v128.or(integer, f64x2.eq(f64x2.abs(a), splat.f64(Infinity)))),
    r.set(either(v128.andnot(f64x2.lt(a, splat.f64(0)), integer), splat.f64(NaN), r)),
    either(f64x2.eq(b, splat.f64(0)), splat.f64(1), r),
  ];
};

/**
 * x % y of doubles that hold floats, exactly: takes off the first 24 bits of the quotient until it has no more. Their product with y is
 * exact, and so is the difference. A negative x gives a negative result or -0.
 */
const remF64: Build = (_, local, x, y) => {
  const r = local("v128", "rest"), n = local("v128", "quotient");
  return [
    r.set(v128.or(x, x)),
    loop("bits", (more) => [
      n.set(f64x2.trunc(f64x2.div(r, y))),
      r.set(f64x2.sub(r, f64x2.mul(v128.and(n, lanes(-(2 ** 29), -1, -(2 ** 29), -1)), y))),
      branchIf(more, v128.any_true(f64x2.ge(f64x2.abs(n), splat.f64(2 ** 24)))),
    ]),
    // A finite x is less than an infinite y, whose product with 0 is NaN.
    r.set(either(v128.andnot(f64x2.eq(f64x2.abs(y), splat.f64(Infinity)), f64x2.eq(f64x2.abs(x), splat.f64(Infinity))), x, r)),
    v128.or(r, v128.and(x, highWords(0x80000000))),
  ];
};

/** Squares of floats neither overflow nor vanish in double. An infinite side wins over NaN. */
const hypotF64: Build = (_, __, a, b) => [
  either(
    v128.or(f64x2.eq(f64x2.abs(a), splat.f64(Infinity)), f64x2.eq(f64x2.abs(b), splat.f64(Infinity))),
    splat.f64(Infinity),
    f64x2.sqrt(f64x2.add(f64x2.mul(a, a), f64x2.mul(b, b))),
  ),
];

/** Chebyshev coefficients of log(erfc(z) / t) + z^2 in 4t - 2, t = 2 / (2 + z); the first is halved when summed. */
const erfcSeries = [
  -1.3026537197817094, 6.419697923564902e-1, 1.9476473204185836e-2, -9.561514786808631e-3, -9.46595344482036e-4, 3.66839497852761e-4,
  4.2523324806907e-5, -2.0278578112534e-5, -1.624290004647e-6, 1.303655835580e-6, 1.5626441722e-8, -8.5238095915e-8, 6.529054439e-9,
  5.059343495e-9, -9.91364156e-10, -2.27365122e-10,
];

/** x/2 erfc(-x / sqrt 2), which does not cancel for negative x. */
const geluF64: Build = (library, local, x) => {
  const z = local("v128", "z"), t = local("v128", "t"), y = local("v128", "y"), d = local("v128", "d"), dd = local("v128", "dd"), next = local("v128", "next");
  return [
    z.set(f64x2.mul(f64x2.abs(x), splat.f64(Math.SQRT1_2))),
    t.set(f64x2.div(splat.f64(2), f64x2.add(z, splat.f64(2)))),
    y.set(f64x2.sub(f64x2.mul(t, splat.f64(4)), splat.f64(2))),
    ...erfcSeries.slice(1).toReversed().flatMap((c) => [
      next.set(f64x2.add(f64x2.sub(f64x2.mul(y, d), dd), splat.f64(c))),
      dd.set(d),
      d.set(next),
    ]),
    d.set(f64x2.sub(f64x2.add(f64x2.mul(f64x2.mul(y, d), splat.f64(0.5)), splat.f64(0.5 * erfcSeries[0]!)), dd)),
    d.set(f64x2.mul(t, library.call("exp_f64x2", f64x2.sub(d, f64x2.mul(z, z))))),
    d.set(either(f64x2.gt(x, splat.f64(0)), f64x2.sub(splat.f64(2), d), d)),
    f64x2.mul(f64x2.mul(x, splat.f64(0.5)), d),
  ];
};

/** 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = x sigmoid(2 sqrt(2/pi) (x + ...)), which does not cancel. */
const geluTanh: Build = (library, local, x) => {
  const inner = local("v128", "inner");
  return [
    inner.set(f32x4.mul(x, f32x4.relaxed_madd(f32x4.mul(x, x), splat.f32(0.044715), splat.f32(1)))),
    f32x4.mul(x, library.sigmoid(f32x4.mul(inner, splat.f32(2 * Math.sqrt(2 / Math.PI))))),
  ];
};

function factorial(n: number): number {
  return n < 2 ? 1 : n * factorial(n - 1);
}

interface Row { readonly operands: 1 | 2; readonly build: Build }
const doubleFunctions = {
  exp_f64x2: { operands: 1, build: expF64 },
  log_f64x2: { operands: 1, build: logF64([Math.LN2, 1]) },
  log2_f64x2: { operands: 1, build: logF64([1, Math.LOG2E]) },
  quarterTurns_f64x2: { operands: 1, build: quarterTurns },
  sin_f64x2: { operands: 1, build: sinF64(0) },
  cos_f64x2: { operands: 1, build: sinF64(1) },
  tan_f64x2: { operands: 1, build: tanF64 },
  pow_f64x2: { operands: 2, build: powF64 },
  hypot_f64x2: { operands: 2, build: hypotF64 },
  rem_f64x2: { operands: 2, build: remF64 },
  gelu_f64x2: { operands: 1, build: geluF64 },
} as const satisfies Record<string, Row>;
type DoubleFunction = keyof typeof doubleFunctions;

const functions = {
  ...doubleFunctions,
  exp: { operands: 1, build: exp },
  tanh: { operands: 1, build: tanh },
  sigmoid: { operands: 1, build: sigmoid },
  geluTanh: { operands: 1, build: geluTanh },
  gelu: { operands: 1, build: inHalves("gelu_f64x2") },
  log: { operands: 1, build: log },
  log2: { operands: 1, build: inHalves("log2_f64x2") },
  log1p: { operands: 1, build: log1p },
  sin: { operands: 1, build: inHalves("sin_f64x2") },
  cos: { operands: 1, build: inHalves("cos_f64x2") },
  tan: { operands: 1, build: inHalves("tan_f64x2") },
  pow: { operands: 2, build: pairInHalves("pow_f64x2") },
  hypot: { operands: 2, build: pairInHalves("hypot_f64x2") },
  rem: { operands: 2, build: pairInHalves("rem_f64x2") },
} as const satisfies Record<string, Row>;
/** Each becomes an internal function of the module under this name. The `_f64x2` ones take and give two doubles, the others four floats. */
export type MathFunction = keyof typeof functions;

/** The functions of one module: make one library per module and hand it to whoever adds kernels there. */
export class MathLibrary {
  readonly #module: Module;
  readonly #made = new Map<MathFunction, Func>();

  constructor(m: Module) {
    this.#module = m;
  }

  /** A call of the function, which is added to the module on first use. Operands and result are v128. */
  call(name: MathFunction, x: Operand, y?: Operand): Node {
    let made = this.#made.get(name);
    if (!made) {
      const row: Row = functions[name];
      made = row.operands === 1
        ? this.#module.func(name, { x: "v128" }, "v128", ({ x }, local) => row.build(this, local, x, x), { internal: true })
        : this.#module.func(name, { x: "v128", y: "v128" }, "v128", ({ x, y }, local) => row.build(this, local, x, y), { internal: true });
      this.#made.set(name, made);
    }
    return y === undefined ? call(made, x) : call(made, x, y);
  }

  exp(x: Operand): Node { return this.call("exp", x); }
  tanh(x: Operand): Node { return this.call("tanh", x); }
  sigmoid(x: Operand): Node { return this.call("sigmoid", x); }
  gelu(x: Operand): Node { return this.call("gelu", x); }
  geluTanh(x: Operand): Node { return this.call("geluTanh", x); }
  log(x: Operand): Node { return this.call("log", x); }
  log2(x: Operand): Node { return this.call("log2", x); }
  log1p(x: Operand): Node { return this.call("log1p", x); }
  sin(x: Operand): Node { return this.call("sin", x); }
  cos(x: Operand): Node { return this.call("cos", x); }
  tan(x: Operand): Node { return this.call("tan", x); }
  pow(x: Operand, y: Operand): Node { return this.call("pow", x, y); }
  hypot(x: Operand, y: Operand): Node { return this.call("hypot", x, y); }
  rem(x: Operand, y: Operand): Node { return this.call("rem", x, y); }
}

/**
 * Vector constants that stay in registers through a loop. V8 makes a literal anew, in three instructions, at each use; what it cannot know to
 * be constant it keeps. So each is a sum with an i32 that is always 0.
 */
export class KeptConstants {
  readonly #local: MakeLocal;
  readonly #kept = new Map<number, Local>();
  readonly #keptDoubles = new Map<number, Local>();
  constructor(local: MakeLocal) {
    this.#local = local;
  }
  readonly f32 = (x: number): Node => {
    const kept = this.#kept.get(x) ?? this.#local("v128", `constant${this.#kept.size}`);
    this.#kept.set(x, kept);
    return kept.get;
  };
  readonly f64 = (x: number): Node => {
    const kept = this.#keptDoubles.get(x) ?? this.#local("v128", `double${this.#keptDoubles.size}`);
    this.#keptDoubles.set(x, kept);
    return kept.get;
  };
  /** To stand before the loop, made after it. `zero` must be a local. */
  code(zero: Local): Node[] {
    const bits = new DataView(new ArrayBuffer(4));
    const floats = [...this.#kept].map(([x, to]) => {
      bits.setFloat32(0, x);
      return to.set(i32x4.splat(i32.add(zero, bits.getInt32(0))));
    });
    return [...floats, ...[...this.#keptDoubles].map(([x, to]) => to.set(f64x2.splat(f64.add(f64.convert_i32_s(zero), x))))];
  }
}

/** Code that splits e^r: what is left in `r` times two to the power of n, whose shift `t` has in its low bits. Cephes's reduction. `n` is scratch. */
const exponential = (t: Local, n: Local, r: Local, f32: (x: number) => Vector): Node[] => [
  t.set(f32x4.relaxed_madd(r, f32(Math.LOG2E), f32(12582912))),
  n.set(f32x4.sub(t, f32(12582912))),
  r.set(f32x4.relaxed_nmadd(n, f32(0.693359375), r)),
  r.set(f32x4.relaxed_nmadd(n, f32(-2.12194440e-4), r)),
  n.set(polynomial(r, expPolynomial, f32)),
  r.set(f32x4.add(f32x4.relaxed_madd(n, f32x4.mul(r, r), r), f32(1))),
];

/**
 * Code that sets `result` to e^x for x <= 0 (or NaN), in place of a call: for the inner loop of a softmax. 2 ulp; exactly 1 at 0 and exactly
 * 0 below -86, where a probability beside the row's largest, 1, is lost in rounding anyway. `x` must be a local; `f32` makes
 * constants.
 */
export function expOfNonPositive(local: MakeLocal, x: Local, result: Local, f32: (x: number) => Vector = splat.f32): Node[] {
  const t = local("v128", "shifted"), n = local("v128", "n"), r = local("v128", "r");
  return [
    r.set(f32x4.pmax(x, f32(-86))),
    ...exponential(t, n, r, f32),
    // The shift leaves nothing of 1.5 * 2^23 but n, in the exponent's place.
    result.set(v128.andnot(i32x4.add(r, i32x4.shl(t, 23)), f32x4.lt(x, f32(-86)))),
  ];
}

/**
 * Code that sets `result` to tanh x, the function's very bits, in place of a call: for loops over many elements. e^2|x| is taken no further than
 * e^20, whose 2 / (e^20 + 1) is lost beside 1 already. `x` must be a local, and is not `result`.
 */
export function tanhInPlace(local: MakeLocal, x: Local, result: Local, f32: (x: number) => Vector): Node[] {
  const a = local("v128", "magnitude"), z = local("v128", "square"), t = local("v128", "shifted"), n = local("v128", "n"), r = local("v128", "r");
  return [
    a.set(f32x4.abs(x)),
    r.set(f32x4.pmin(f32x4.add(a, a), f32(20))),
    ...exponential(t, n, r, f32),
    r.set(i32x4.add(r, i32x4.shl(t, 23))),
    z.set(f32x4.mul(x, x)),
    n.set(f32x4.relaxed_madd(f32x4.mul(polynomial(z, tanhPolynomial, f32), z), a, a)),
    z.set(f32x4.sub(f32(1), f32x4.div(f32(2), f32x4.add(r, f32(1))))),
    result.set(v128.or(either(f32x4.lt(a, f32(0.625)), n, z), v128.xor(x, a))),
  ];
}
