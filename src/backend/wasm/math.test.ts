import assert from "node:assert/strict";
import { test } from "node:test";
import { forRange, i32, Module, v128, type Local, type Node } from "./assembler.ts";
import type { MakeLocal } from "./kernel.ts";
import { KeptConstants, MathLibrary, type MathFunction, tanhInPlace } from "./math.ts";

const capacity = 1 << 15;

/** A function of arrays: out[i] = f(x[i], y[i]). */
function applied(name: MathFunction, operands: 1 | 2): (x: Float32Array, y?: Float32Array) => Float32Array {
  return overArrays((m, _, x, y) => {
    const math = new MathLibrary(m);
    return { before: [], each: [], value: operands === 1 ? math.call(name, x) : math.call(name, x, y) };
  });
}

/** The same for code in place of a call. `zero` is always 0. */
function overArrays(make: (m: Module, local: MakeLocal, x: Node, y: Node, zero: Local) => { readonly before: readonly Node[]; readonly each: readonly Node[]; readonly value: Node }): (x: Float32Array, y?: Float32Array) => Float32Array {
  const m = new Module();
  m.func("run", { bytes: "i32" }, "none", ({ bytes }, local) => {
    const i = local("i32", "i"), zero = local("i32", "zero");
    const { before, each, value } = make(m, local, v128.load(i, 65536), v128.load(i, 65536 + 4 * capacity), zero);
    return [zero.set(i32.shr_u(bytes, 31)), ...before, forRange(i, 0, bytes, 16, [...each, v128.store(i, value, 65536 + 8 * capacity)])];
  });
  const memory = new WebAssembly.Memory({ initial: 16, maximum: 65536, shared: true });
  const { run } = new WebAssembly.Instance(new WebAssembly.Module(m.bytes()), { env: { memory } }).exports as { run: (bytes: number) => void };
  const data = new Float32Array(memory.buffer, 65536);
  return (x, y) => {
    const out = new Float32Array(x.length);
    for (let from = 0; from < x.length; from += capacity) {
      const n = Math.min(capacity, x.length - from);
      data.set(x.subarray(from, from + n));
      if (y) data.set(y.subarray(from, from + n), capacity);
      run(Math.ceil(n / 4) * 16);
      out.set(data.subarray(2 * capacity, 2 * capacity + n), from);
    }
    return out;
  };
}

const words = new Int32Array(1), float = new Float32Array(words.buffer);
/** Floats in order of value as integers. */
function ordinal(x: number): number {
  float[0] = x;
  return words[0]! < 0 ? -2147483648 - words[0]! : words[0]!;
}
/** How many floats lie between; Infinity where only one is NaN. */
function ulps(got: number, want: number): number {
  if (Number.isNaN(got) || Number.isNaN(want)) return Number.isNaN(got) && Number.isNaN(want) ? 0 : Infinity;
  return Math.abs(ordinal(got) - ordinal(Math.fround(want)));
}

/** mulberry32 */
function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t ^= t + Math.imul(t ^ (t >>> 7), 61 | t);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
const count = 100_000;
const uniformly = (seed: number, low: number, high: number): Float32Array => {
  const next = random(seed);
  return Float32Array.from({ length: count }, () => low + (high - low) * next());
};
/** Every exponent alike: bit patterns drawn at random, finite ones. */
const anyFloats = (seed: number): Float32Array => {
  const next = random(seed);
  return Float32Array.from({ length: count }, () => {
    do words[0] = next() * 2 ** 32; while (!Number.isFinite(float[0]));
    return float[0]!;
  });
};
const edges = Float32Array.from([
  0, -0, 1, -1, 0.5, -0.5, 2, -2, 3, -3, 1e-45, -1e-45, 1e-38, -1e-38, 3.4028234e38, -3.4028234e38, Infinity, -Infinity, NaN,
  88.7, 88.72283, 88.73, 89, 90, -87.3, -87.4, -103.2, -103.97, -104, -105, 1e10, -1e10, 0.625, 0.62499, Math.PI, Math.PI / 2, 1e6, 2 ** 24, 2 ** 30, 1e20, 2.5, -2.5, 1 - 2 ** -24, 1 + 2 ** -23,
]);

function worst(name: MathFunction, x: Float32Array, want: (x: number) => number, absolute = 0): { ulp: number; at: number } {
  const got = applied(name, 1)(x);
  let ulp = 0, at = 0;
  for (let i = 0; i < x.length; i++) {
    const w = want(x[i]!);
    if (Math.abs(got[i]! - w) <= absolute) continue;
    const distance = ulps(got[i]!, w);
    if (distance > ulp) [ulp, at] = [distance, x[i]!];
  }
  return { ulp, at };
}
function check(name: MathFunction, x: Float32Array, want: (x: number) => number, limit: number, absolute = 0): void {
  const { ulp, at } = worst(name, x, want, absolute);
  assert.ok(ulp <= limit, `${name}(${at}) is ${ulp} ulp off: ${applied(name, 1)(Float32Array.of(at))[0]}, ${want(at)} wanted`);
}

test("exp is within 2 ulp from denormal results to overflow", () => {
  check("exp", uniformly(1, -104, 89), Math.exp, 2);
  check("exp", uniformly(2, -1, 1), Math.exp, 2);
  check("exp", edges, Math.exp, 2);
});

test("exp is exactly 0 for -Infinity and far below, exactly 1 at 0, Infinity above 89, and keeps NaN", () => {
  assert.deepEqual([...applied("exp", 1)(Float32Array.of(-Infinity, -1e30, -104.1, 0, -0, 89.5, Infinity, NaN))], [0, 0, 0, 1, 1, Infinity, Infinity, NaN]);
});

test("tanh is within 4 ulp and saturates", () => {
  check("tanh", uniformly(3, -10, 10), Math.tanh, 4);
  check("tanh", uniformly(4, -0.7, 0.7), Math.tanh, 4);
  check("tanh", anyFloats(5), Math.tanh, 4);
  check("tanh", edges, Math.tanh, 4);
  assert.ok(Object.is(applied("tanh", 1)(Float32Array.of(-0))[0], -0));
});

test("sigmoid is within 4 ulp wherever its result is a normal number", () => {
  const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
  check("sigmoid", uniformly(6, -87, 30), sigmoid, 4);
  check("sigmoid", edges, sigmoid, 4, 1.2e-38);
});

test("logarithms are within 1 ulp for floats of every size, with JavaScript's special values", () => {
  for (const [name, f] of [["log", Math.log], ["log2", Math.log2], ["log1p", Math.log1p]] as const) {
    check(name, anyFloats(7), f, 1);
    check(name, uniformly(8, 0.5, 2), f, 1);
    check(name, uniformly(9, -0.99, 0.5), f, 1);
    check(name, edges, f, 1);
  }
});

test("log2 of a power of two is exact", () => {
  const x = Float32Array.from({ length: 277 }, (_, i) => 2 ** (i - 149));
  assert.deepEqual([...applied("log2", 1)(x)], Array.from({ length: 277 }, (_, i) => i - 149));
});

test("sin, cos and tan are within 1 ulp up to a million", () => {
  for (const [name, f] of [["sin", Math.sin], ["cos", Math.cos], ["tan", Math.tan]] as const) {
    check(name, uniformly(10, -4, 4), f, 1);
    check(name, uniformly(11, -1e6, 1e6), f, 1);
    check(name, Float32Array.from({ length: count }, (_, n) => (n * Math.PI) / 2), f, 1);
    check(name, edges, f, 1);
  }
});

test("sin and cos of floats of any size are within 1 ulp or 1e-15", () => {
  check("sin", anyFloats(12), Math.sin, 1, 1e-15);
  check("cos", anyFloats(13), Math.cos, 1, 1e-15);
});

/** The largest distance of a function of two arguments from its definition. */
function checkPairs(name: MathFunction, x: Float32Array, y: Float32Array, want: (a: number, b: number) => number): void {
  const got = applied(name, 2)(x, y);
  for (let i = 0; i < x.length; i++) {
    const w = want(x[i]!, y[i]!);
    assert.ok(ulps(got[i]!, w) <= 1, `${name}(${x[i]}, ${y[i]}) is ${got[i]}, ${w} wanted`);
  }
}
const edgePairs = [...edges].flatMap((a) => [...edges].map((b) => [a, b] as const));
const firsts = Float32Array.from(edgePairs, ([a]) => a), seconds = Float32Array.from(edgePairs, ([, b]) => b);

test("pow is within 1 ulp and has JavaScript's special cases, signs of zero included", () => {
  checkPairs("pow", uniformly(14, 0, 10), uniformly(15, -30, 30), (a, b) => a ** b);
  checkPairs("pow", uniformly(16, -5, 5), uniformly(17, -20, 20).map(Math.round), (a, b) => a ** b);
  checkPairs("pow", anyFloats(18), uniformly(19, -2, 2), (a, b) => a ** b);
  checkPairs("pow", firsts, seconds, (a, b) => a ** b);
  const got = applied("pow", 2)(Float32Array.of(-0, -0, -Infinity, -0), Float32Array.of(3, -3, -3, 2));
  for (const [i, want] of [-0, -Infinity, -0, 0].entries()) assert.ok(Object.is(got[i], want), `case ${i} is ${got[i]}`);
});

test("hypot is within 1 ulp, neither overflows nor vanishes early, and Infinity wins over NaN", () => {
  checkPairs("hypot", anyFloats(20), anyFloats(21), Math.hypot);
  checkPairs("hypot", firsts, seconds, Math.hypot);
});

test("rem is exact for floats of every size, and has the sign of its dividend", () => {
  const same = (x: Float32Array, y: Float32Array): void => applied("rem", 2)(x, y).forEach((r, i) => assert.ok(Object.is(r, x[i]! % y[i]!), `${x[i]} % ${y[i]} is ${r}, ${x[i]! % y[i]!} wanted`));
  same(anyFloats(22), anyFloats(23));
  same(anyFloats(24), uniformly(25, -3, 3));
  same(firsts, seconds);
});

test("gelu follows the normal distribution also in its negative tail", () => {
  // Values of the normal distribution's cumulative, from tables of high precision.
  const cases = [
    [-8, 6.22096057427178e-16], [-5, 2.8665157187919333e-7], [-3, 1.3498980316300946e-3], [-1, 0.15865525393145705], [-0.25, 0.4012936743170763],
    [0.25, 0.5987063256829237], [1, 0.8413447460685429], [3, 0.9986501019683699], [5, 0.9999997133484281], [40, 1],
  ] as const;
  const got = applied("gelu", 1)(Float32Array.from(cases, ([x]) => x));
  cases.forEach(([x, cumulative], i) => assert.ok(Math.abs(got[i]! / (x * cumulative) - 1) < 1e-7, `gelu(${x}) is ${got[i]}, ${x * cumulative} wanted`));
  assert.deepEqual([...applied("gelu", 1)(Float32Array.of(0, Infinity, NaN, -40))], [0, Infinity, NaN, -0]);
});

test("a module carries only the functions it calls, and one library adds each of them once", () => {
  const m = new Module();
  const math = new MathLibrary(m);
  m.func("twice", { p: "i32" }, "none", ({ p }) => [v128.store(p, math.exp(math.exp(v128.load(p))))]);
  const text = m.text();
  assert.equal(text.match(/^func /gm)?.length, 2);
  assert.match(text, /func exp\(/);
});

test("tanh in place of a call gives the function's bits", () => {
  const inPlace = overArrays((_, local, x, __, zero) => {
    const at = local("v128", "at"), result = local("v128", "result"), constants = new KeptConstants(local);
    const each = [at.set(x), ...tanhInPlace(local, at, result, constants.f32)];
    return { before: constants.code(zero), each, value: result.get };
  });
  for (const x of [uniformly(3, -12, 12), uniformly(4, -0.7, 0.7), anyFloats(5), edges]) {
    const bits = (values: Float32Array) => new Int32Array(values.buffer, values.byteOffset, values.length);
    assert.deepEqual(bits(inPlace(x)), bits(applied("tanh", 1)(x)));
  }
});
