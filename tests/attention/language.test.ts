/** Every construct of the language on the wasm backend: what the kernel computes is what the function returns, at every index. */
// The language is wider than this project's own style: minifiers write the rest of it.
/* oxlint-disable eslint/eqeqeq, eslint/no-unused-expressions */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { and, clamp, fixed, floorDiv, floorMod, type MaskMod, maskMod, type Mod, not, offset, or, type OutputMod, outputMod, type ScoreMod, scoreMod, tensor, type WeightMod, weightMod } from "../../src/attention/index.ts";
import type { Backend } from "../../src/backend/backend.ts";
import { open } from "../../src/backend/wasm/open.ts";
import { altered } from "./altered.ts";
import { called, compiled } from "./probe.ts";

let wasm: Backend;
before(async () => {
  wasm = await open({ threads: 1 });
});
after(() => wasm.close());

/** Masks are the function's exactly; numbers are, up to some roundings of f32. */
async function agrees(mod: Mod, reference: Mod = mod): Promise<void> {
  const got = await compiled(mod, wasm), want = called(reference);
  assert.equal(got.length, want.length);
  const first = want[0]!;
  let differs = false;
  want.forEach((x, i) => {
    const y = got[i]!;
    differs ||= x !== first;
    if (mod.kind === "mask" ? y !== x : !(Object.is(x, y) || x === y || Math.abs(x - y) <= 2e-5 * (1 + Math.abs(x)))) assert.fail(`element ${i} is ${y}, the function says ${x}: ${String(mod.fn)}`);
  });
  assert.ok(differs, `the mod is ${first} everywhere, so the test shows little`);
}

const ids = Int32Array.from({ length: 40 }, (_, i) => Math.floor(i / 7));
const bytes = Uint8Array.from({ length: 40 }, (_, i) => (i * 53) % 256);
const wave = Float32Array.from({ length: 80 }, (_, i) => Math.sin(i));
const grid = tensor(Int32Array.from({ length: 24 }, (_, i) => (i * 7) % 5), [4, 6]);
const cube = tensor(Float32Array.from({ length: 2 * 4 * 40 }, (_, i) => Math.cos(i)), [2, 4, 40]);
const causal = maskMod((_b, _h, q, kv) => q >= kv);
const near = maskMod(({ size }) => (_b, _h, q, kv) => Math.abs(q - kv) < size, { size: 6 });
const capped = scoreMod(({ cap }) => (score) => cap * Math.tanh(score / cap), { cap: 1.5 });

const masks: Readonly<Record<string, MaskMod>> = {
  "comparisons of all kinds": maskMod((b, h, q, kv) => (q > kv && q < 20) || (q >= 25 && kv <= 3) || (q === kv) || (h == 2 && q !== 7 && kv != b)),
  "equality of conditions": maskMod((b, _h, q, kv) => (q > kv) === (b === 0) && (q > 3) !== (kv > 5)),
  "true, false and !": maskMod((_b, _h, q, kv) => (q > kv ? true : !(kv < 9)) && !false),
  "a number as a condition": maskMod((_b, h, q, kv) => (h ? (q - kv) % 3 : kv & 4)),
  "a fraction and NaN as conditions": maskMod(({ wave }) => (_b, _h, q, kv) => ((q - q) / (kv - 4) ? true : Math.sqrt(q - kv) ? kv % 2 === 0 : wave[kv]! - wave[q]!), { wave }),
  "a fraction against an index": maskMod(({ cut }) => (_b, _h, q, kv) => q * cut > kv || kv >= 28.5 || q === 3.5, { cut: 0.75 }),
  "bounds beyond 32 bits": maskMod((_b, _h, q, kv) => q > -3e9 && kv < 1e10 && q !== 4e9 && q >= kv),
  "Infinity and -Infinity": maskMod((_b, _h, q, kv) => q < Infinity && kv > -Infinity && Math.min(q, Infinity) > kv),
  "integer division of either sign": maskMod((_b, _h, q, kv) => floorDiv(q - kv, 4) === Math.floor((q - kv) / 4) && Math.trunc((q - kv) / 4) + Math.ceil((kv - q) / 3) + ((q - kv) / 5 | 0) + ~~((kv - q) / 2) > -2),
  "remainders of either sign": maskMod((_b, _h, q, kv) => (q - kv) % 5 === -2 || floorMod(q - kv, 5) === 4 || (q - kv) % -3 === 1),
  "bit operations": maskMod((_b, _h, q, kv) => (((q & 5) ^ (kv | 2)) << 1) > (~q >> 1) + (kv >>> 2) + ((q - kv) >> 2) + 24),
  "shifts by the low five bits": maskMod((_b, _h, q, kv) => (q << (kv + 30)) > (kv << 33) && ((q - kv) >>> 1) > 100),
  "bits of a fraction": maskMod((_b, _h, q, kv) => ((q * 0.75) | 0) > ((kv * 1.5) & 7)),
  "wrapping in 32 bits": maskMod((_b, _h, q, kv) => Math.imul(q + 40000, kv * 60000 + 1) > 0),
  "if, else if, else": maskMod((_b, h, q, kv) => {
    if (h === 0) return q >= kv;
    else if (h === 1) { if (kv > q) return false; } else return (q + kv) % 2 === 0;
    return q - kv < 5;
  }),
  "early returns in order": maskMod((_b, _h, q, kv) => { if (q < 4) return kv < 2; if (kv > 20) return true; if (q === kv) return false; return kv % 3 === 0; }),
  "assignment in branches": maskMod((_b, h, q, kv) => { let w = 3, d = q - kv; if (d < 0) { d = -d; w -= 1; } else if (h > 2) { w *= 4; w++; } w <<= 1; return d <= w; }),
  "assignment in one branch only": maskMod((_b, h, q, kv) => { let w: number; if (h > 1) w = 9; else w = 2; return q - kv < w; }),
  "shadowing in blocks": maskMod((_b, _h, q, kv) => { const x = kv; { const kv = 3; if (q < kv) return x > 4; } return q > x; }),
  "a loop": maskMod(({ starts }) => (_b, _h, q, kv) => { for (let i = 0; i < 3; i++) if (q >= starts[i]! && kv >= starts[i]! && kv < starts[i]! + 6) return true; return false; }, { starts: Int32Array.of(0, 9, 20) }),
  "a loop to a fixed number, with assignments": maskMod(({ n, starts }) => (_b, _h, q, kv) => { let seen = 0; for (let i = n - 1; i >= 0; i -= 1) { if (q >= starts[i]!) seen++; if (kv >= starts[i]!) seen -= 1; } return seen > 0; }, { n: fixed(3), starts: Int32Array.of(4, 11, 23) }),
  "loops in loops, and while": maskMod((_b, _h, q, kv) => { let s = 0, i = 0; while (i < 3) { for (let j = i; j < 4; j += 2) s += (q >> i) ^ (kv >> j); i++; } return s > 20; }),
  "a loop that returns from within": maskMod((_b, _h, q, kv) => { let s = q; for (let i = 1; i < 5; i++) { s -= kv; if (s < 0) return i % 2 === 0; s += i; } return s > 9; }),
  "helper arrows and functions": maskMod((_b, _h, q, kv) => {
    const tile = (i: number): number => floorDiv(i, 8), close = (a: number, c: number): boolean => Math.abs(a - c) <= 1;
    return close(tile(q), tile(kv)) && later(kv, q);
    function later(a: number, c: number): boolean { if (a === 5) return true; return c >= a; }
  }),
  "a helper that is given another, and one that returns one": maskMod((_b, h, q, kv) => { const twice = (f: (x: number) => number, x: number): number => f(f(x)); const add = (n: number) => (x: number): number => x + n; return twice(add(h), kv) <= q; }),
  "a helper that assigns outside itself": maskMod((_b, _h, q, kv) => { let s = 0; const bump = (x: number): boolean => { if (x > 9) return false; s += x; return true; }; const a = bump(q) && bump(kv), c = q > kv || bump(3); return a ? s > 8 : c && s < 4; }),
  "assignments inside expressions": maskMod((_b, h, q, kv) => { let x = 0, y; const z = (y = q - kv) > 2 && (x = y) % 2 === 0; if (h > 1 ? (x += 3, z) : x++ > 4) return --y > 3; return x > y || z; }),
  "conditions as statements": maskMod((_b, h, q, kv) => { let w = 1, v = 0; h > 1 ? w = 7 : h === 1 && (w += 2, v = w); q > kv || (v = 5); return Math.abs(q - kv) < w + v; }),
  "&& and || as values": maskMod((_b, h, q, kv) => (h && q - kv) > (q % 3 || 2)),
  "var, before its declaration and after a return": maskMod(new Function("b", "h", "q", "kv", "w = h; if (q > kv) { var x = q - kv; } else x = kv; return y = x - w, y > 4; var w, y;") as MaskMod),
  "the function keyword and a directive": maskMod(function (_b, _h, q, kv) { "use strict"; return q >= kv; }),
  "parameters of other names, and fewer": maskMod((_0, $, i) => i % 3 > $),
  "number and boolean captured": maskMod(({ size, on, half }) => (_b, _h, q, kv) => (on ? q - kv < size : q < 3) && q * half < kv, { size: 9, on: true, half: 0.5 }),
  "captures as one object, renamed, and taken apart later": and(
    maskMod((c) => (_b, _h, q, kv) => q - kv < c.size && c.ids[kv]! >= 0, { size: 9, ids }), maskMod(({ size: w }) => (_b, _h, q, kv) => kv - q < w, { size: 5 }),
    maskMod((c) => { const { ids, size: least } = c, { abs, PI } = Math; return (_b, _h, q, kv) => abs(ids[q]! - ids[kv]!) >= least || q > PI * 7; }, { ids, size: 1 }),
  ),
  "arrays of every element type": maskMod(({ a, c, d, e, f, g }) => (_b, _h, q, kv) => a[q]! + c[kv]! > d[q]! + e[kv]! * f[q]! + (g[q % 3] ? 1 : 0), {
    a: bytes, c: Int8Array.from({ length: 31 }, (_, i) => i * 8 - 120), d: Uint16Array.from({ length: 31 }, (_, i) => i * 9), e: Int16Array.from({ length: 31 }, (_, i) => i - 15), f: new Float64Array(31).fill(0.5), g: [1, 0, 1],
  }),
  "tables of two and three dimensions, and their lengths": maskMod(({ grid, cube }) => (b, h, q, kv) => grid[h]![q % grid[0]!.length]! > 1 === cube[b]![h]![kv]! > 0 || kv > cube[0]![0]!.length - 12, { grid, cube }),
  "an index computed": maskMod(({ ids }) => (_b, _h, q, kv) => ids[Math.floor(Math.sqrt(q * kv))]! > ids[clamp(q - kv, 0, 30)]! - 1, { ids }),
  "a load of a load": maskMod(({ ids, grid }) => (_b, h, q, kv) => grid[ids[q]! % 4]![ids[kv]!]! > h, { ids, grid }),
  "guarded loads": maskMod(({ few }) => (_b, _h, q, kv) => (q < 4 && few[q] === 1) || (kv >= 27 ? few[kv - 27]! > 0 : !(q >= 4 || few[q]! > 0)), { few: Int32Array.of(0, 1, 1, 0) }),
  "what stands for an element that is not there": maskMod(({ few, grid }) => (_b, h, q, kv) => (few[kv - 2] ?? q & 1) === 1 || (grid[h]![q - kv] ?? -1) > 2, { few: Int32Array.of(0, 1, 1, 0), grid }),
  "a load guarded by an early return": maskMod(({ few }) => (_b, _h, q, kv) => { if (kv > 3) return kv < q; const x = few[kv]!; return x === 1 && q > 2; }, { few: Int32Array.of(0, 1, 1, 0) }),
  "mods inside mods": maskMod(({ inner, other, s }) => (b, h, q, kv) => inner(b, h, q + 1, kv) && (other(b, h, q, kv) || s(q - kv, b, h, q, kv) > 1), { inner: causal, other: near, s: capped }),
  "and, or, not, offset": or(and(causal, not(near)), offset(causal, { query: -3, kv: 20 })),
  "captures of one name in three mods": and(near, maskMod(({ size }) => (_b, _h, q, kv) => q - kv > size, { size: -3 }), maskMod(({ size }) => (_b, _h, q, kv) => q * size > kv, { size: 1.5 })),
  "the package's functions captured": maskMod(({ floorDiv, c }) => (_b, _h, q, kv) => floorDiv(q, 3) === c(kv, 2, 8), { floorDiv, c: clamp }),
  "Number and Boolean": maskMod(({ bytes }) => (_b, _h, q, kv) => Boolean(bytes[q]! & 4) && Number(q > kv) + 1 > Number(kv > 9), { bytes }),
};
for (const [name, mask] of Object.entries(masks)) test(`mask, ${name}`, () => agrees(mask));

const scores: Readonly<Record<string, ScoreMod>> = {
  "identity": scoreMod((score) => score),
  "arithmetic": scoreMod((score, b, h, q, kv) => (score + h) * 0.5 - (q - kv) / (1 + b) - -score),
  "integers, fractions and both": scoreMod(({ n, x }) => (score, _b, _h, q, kv) => score + n * (q - kv) + x * kv + (q / 4 - kv / 3) + 7 % 4, { n: 3, x: 0.25 }),
  "an integer result, and a condition counted": scoreMod((_s, _b, _h, q, kv) => ((q ^ kv) & 255) + Number(q > kv) - +(kv > 3)),
  "powers": scoreMod((score, _b, h, q) => score ** 2 - score ** 3 / 9 + score ** 4 / 50 + 2 ** -h + (q + 1) ** 0.5 + Math.pow(2, score) + score ** 1),
  "Math of one argument": scoreMod((s, _b, _h, q) => Math.abs(s) + Math.sign(s) + Math.floor(s) - Math.ceil(s * 1.5) + Math.round(s * 3) + Math.trunc(s * 2) + Math.sqrt(q) + Math.fround(s)),
  "exponentials and logarithms": scoreMod((s, _b, _h, q, kv) => Math.exp(s) / 9 + Math.log(1 + q) + Math.log2(1 + kv) - Math.log1p(q * 0.5)),
  "circles and hyperbolas": scoreMod((s, _b, _h, q) => Math.sin(s) + Math.cos(q * 0.3) + Math.tan(s / 4) - Math.tanh(s) + Math.hypot(s, q, 1) + Math.hypot(s)),
  "min and max of one to four": scoreMod((s, _b, h, q, kv) => Math.min(s, 1) + Math.max(q, kv, 3) - Math.min(q, kv, h, 2) + Math.max(s)),
  "constants of Math": scoreMod((s) => s * Math.PI + Math.E - Math.LN2 * Math.LN10 + Math.LOG2E * Math.LOG10E + Math.SQRT2 - Math.SQRT1_2),
  "clamp, floorDiv and floorMod of fractions": scoreMod((s, _b, _h, q, kv) => clamp(s, -1, 0.5) + floorDiv(q - kv, 2.5) + floorMod(q - kv, 2.5) + (q - kv) % 2.5),
  "-Infinity where nothing is": scoreMod((score, _b, _h, q, kv) => (q >= kv || kv === 0 ? score : Math.max(-Infinity, -9))),
  "soft cap inside another mod": scoreMod(({ inner, slope }) => (score, b, h, q, kv) => inner(score * 2, b, h, q, kv) - slope * Math.abs(q - kv), { inner: capped, slope: 0.05 }),
  "a table by difference": scoreMod(({ wave }) => (score, _b, _h, q, kv) => score + wave[q - kv + 31]! * wave.length, { wave }),
  "a dot product in a loop": scoreMod(({ grid, cube, d }) => (score, b, h, q, kv) => { let sum = 0; for (let i = 0; i < d; i++) sum += grid[q & 3]![i]! * cube[b]![h]![kv + i]!; return score + 0.25 * sum; }, { grid, cube, d: fixed(6) }),
  "a polynomial by Horner's rule": scoreMod(({ c }) => (score) => { let y = 0; for (let i = 4; i >= 0; i--) y = y * score * 0.5 + c[i]!; return y; }, { c: Float32Array.of(1, -0.5, 0.25, 2, -1) }),
  "branches with fractions": scoreMod((score, _b, h, q, kv) => { let x = score; if (q < kv) { x -= 1; if (h > 2) return -x; } else if ((q - kv) % 3 === 0) x *= 1.5; return Math.max(x, -2); }),
};
for (const [name, mod] of Object.entries(scores)) test(`score, ${name}`, () => agrees(mod));

const weights: Readonly<Record<string, WeightMod>> = {
  "a sigmoid": weightMod((score) => 1 / (1 + Math.exp(-score))),
  "a squared relu with a captured threshold": weightMod(({ least }) => (score) => { const x = Math.max(score - least, 0); return x * x; }, { least: 0.25 }),
  "by head, position and a table": weightMod(({ wave }) => (s, b, h, q, kv) => (h > 1 ? wave[kv]! : s) / (1 + b + Math.abs(q - kv)), { wave }),
};
for (const [name, mod] of Object.entries(weights)) test(`weight, ${name}`, () => agrees(mod));

const outputs: Readonly<Record<string, OutputMod>> = {
  "a gate by head and element": outputMod(({ gate }) => (out, _b, h, _q, d) => out * gate[h]![d]!, { gate: tensor(Float32Array.from({ length: 4 * 31 }, (_, i) => Math.sin(i)), [4, 31]) }),
  "by every index, under conditions": outputMod((x, b, h, q, d) => { if (d % 2 === 1) return x + 0.1 * q; return b > 0 ? -x : x * h + d; }),
  "a loop and a helper": outputMod((out, _b, _h, _q, d) => { const f = (x: number): number => Math.tanh(x) + 1; let y = out; for (let i = 0; i < 3; i++) y = f(y * (i + d)); return y; }),
};
for (const [name, mod] of Object.entries(outputs)) test(`output, ${name}`, () => agrees(mod));

const written = maskMod(({ size, ids }) => (_b, h, q, kv) => {
  const near = (a: number, c: number): boolean => Math.abs(a - c) <= size;
  function tile(i: number): number { return floorDiv(i, 4); }
  if (q < 3) return true;
  let w = 4;
  if (h > 1) { w = 8; } else if (h === 1) { w += 2; w *= 2; }
  const d = q - kv;
  if (d < 0) return ids[q] === ids[kv] && d > -3;
  for (let i = 0; i < 3; i++) { if (kv === i * 5) return true; }
  return near(tile(q), tile(kv)) || (d < w && floorMod(d, 3) !== 1);
}, { size: 1, ids });
/** A mod of a text in which names are what tools leave in the module. */
function fromText(text: string, captures: Record<string, unknown>): MaskMod {
  const counter = { s: new Proxy([] as number[], { get: () => 0 }), f: [] as number[], b: new Proxy([] as number[][], { get: () => [] }) };
  const named = (f: unknown): unknown => f;
  const make = new Function("floorDiv", "floorMod", "attention_1", "_attention", "o", "__name", "cov_d3doo89m7", `return (${text});`) as (...names: unknown[]) => never;
  const exports = { floorDiv, floorMod };
  return maskMod(make(floorDiv, floorMod, exports, exports, exports, named, () => counter), captures as never);
}
for (const [tool, text] of Object.entries(altered)) {
  test(`what ${tool} leaves of a mod means what was written`, async () => {
    const mod = fromText(text, { size: 1, ids });
    await agrees(mod, written);
    assert.deepEqual(called(mod), called(written));
  });
}

test("counting coverage as V8 does changes no mod", async () => {
  const { Session } = await import("node:inspector/promises");
  const session = new Session();
  session.connect();
  try {
    await session.post("Profiler.enable");
    await session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: true });
    await agrees(maskMod(({ size }) => (_b, _h, q, kv) => { const d = q - kv; return d >= 0 && d < size; }, { size: 7 }));
  } finally {
    session.disconnect();
  }
});
