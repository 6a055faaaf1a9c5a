import assert from "node:assert/strict";
import { test } from "node:test";
import type { CaptureEnv } from "../ir/interpret.ts";
import { interpret } from "../ir/interpret.ts";
import { print } from "../ir/print.ts";
import { fixed } from "./captures.ts";
import { clamp, floorDiv, floorMod } from "./language.ts";
import { and, type MaskMod, maskMod, not, offset, or, type ScoreMod, scoreMod } from "./mod.ts";
import { ModError } from "./mod-error.ts";
import { tensor } from "./tensor.ts";

const ids = Int32Array.from({ length: 64 }, (_, i) => Math.floor(i / 10));
const flags = Uint8Array.from({ length: 64 }, (_, i) => Number(i % 3 === 0));
const grid = tensor(Int32Array.from({ length: 24 }, (_, i) => (i * 7) % 5), [4, 6]);
const bias = Float32Array.from({ length: 128 }, (_, i) => Math.sin(i));
const causal = maskMod((_b, _h, q, kv) => q >= kv);

/** Each is called as a plain function and interpreted from its own text; both must agree everywhere. */
const masks: Readonly<Record<string, MaskMod>> = {
  "comparison": causal,
  "captured number": maskMod(({ size }) => (_b, _h, q, kv) => q - kv < size, { size: 9 }),
  "captures as one object": maskMod((c) => (_b, _h, q, kv) => q - kv < c.size && c.ids[kv]! > 0, { size: 9, ids }),
  "renamed capture": maskMod(({ size: w }) => (_b, _h, q, kv) => q - kv < w, { size: 9 }),
  "fraction against an index": maskMod(({ cut }) => (_b, _h, q, kv) => q * cut > kv, { cut: 0.5 }),
  "fractional literal": maskMod((_b, _h, q, kv) => q < 20.5 && kv > -0.5 && 3.5 !== q && kv <= 1e12),
  "integer result": maskMod(({ flags }) => (_b, _h, _q, kv) => flags[kv]!, { flags }),
  "table of two dimensions": maskMod(({ grid }) => (_b, h, q, _kv) => grid[h]![q % 6]! > 1 && grid.length === 4 && grid[0]!.length === 6, { grid }),
  "plain array of booleans": maskMod(({ rows }) => (_b, h) => Boolean(rows[h]), { rows: [1, 0, 1, 1] }),
  "captured boolean": maskMod(({ on }) => (_b, _h, q, kv) => !on || q > kv, { on: true }),
  "document": maskMod(({ ids }) => (_b, _h, q, kv) => ids[q] === ids[kv], { ids }),
  "early returns": maskMod(({ ids }) => (_b, _h, q, kv) => {
    if (q < 5) return true;
    if (kv > q) {
      if (ids[q] !== ids[kv]) return false;
      return kv - q < 3;
    } else if (q === kv) return true;
    const d = q - kv;
    return d % 2 === 0;
  }, { ids }),
  "variables assigned in branches": maskMod((_b, h, q, kv) => {
    let w = 4;
    if (h > 1) w = 8; else if (h === 1) { w += 2; w *= 2; }
    let near = q - kv;
    if (near < 0) near = -near;
    return near <= w;
  }),
  "loop with a fixed bound": maskMod(({ n, starts }) => (_b, _h, q, kv) => {
    let seen = 0;
    for (let i = 0; i < n; i++) {
      if (q >= starts[i]! && kv >= starts[i]!) seen++;
      if (seen > 2) return kv % 2 === 0;
    }
    return seen > 0;
  }, { n: fixed(3), starts: Int32Array.of(3, 20, 40) }),
  "helpers": maskMod((_b, _h, q, kv) => {
    const tile = (i: number): number => floorDiv(i, 8);
    function near(a: number, b: number): boolean { return Math.abs(a - b) <= 1; }
    return near(tile(q), tile(kv)) && q >= kv;
  }),
  "outer function with a body": maskMod(({ size }) => {
    const twice = size * 2;
    return (_b, _h, q, kv) => q - kv < twice;
  }, { size: 5 }),
  "a mod captured": maskMod(({ inner, ids }) => (b, h, q, kv) => inner(b, h, q + 1, kv) && ids[q] === ids[kv], { inner: causal, ids }),
  "integer division": maskMod((_b, _h, q, kv) => Math.floor((q - kv) / 7) + Math.trunc((q - kv) / 7) + Math.ceil((q - kv) / 7) + ((kv - q) / 3 | 0) < 3),
  "division kept in a variable": maskMod((_b, _h, q, kv) => { const r = (q - kv) / 6; return Math.floor(r) === ~~r; }),
  "% of negative numbers": maskMod((_b, _h, q, kv) => (q - kv) % 5 === -2 || floorMod(q - kv, 5) === 4),
  "bit operations": maskMod((_b, _h, q, kv) => (((q & 5) ^ (kv | 2)) << 1) > (~q >> 1) + (kv >>> 2) + ((q > kv ? 1 : 0) & 1)),
  "& of comparisons": maskMod((_b, _h, q, kv) => Number(q >= kv) & Number(q - kv < 9)),
  "&& and || as values": maskMod((_b, h, q, kv) => (h && q - kv) > (q % 3 || 2)),
  "Math in f32": maskMod((_b, _h, q, kv) => Math.floor(Math.log2(1 + Math.abs(q - kv))) <= 3 && Math.hypot(q, kv) > 4 && Math.min(q, kv, 7) !== Math.max(1, 2)),
  "clamp, sign, round, pow": maskMod((_b, _h, q, kv) => clamp(q - kv, -3, 3) === Math.sign(q - kv) * 3 || Math.round(q / 2) === kv || q ** 2 < 2 ** 5),
  "index from f32": maskMod(({ ids }) => (_b, _h, q) => ids[Math.floor(Math.sqrt(q))]! >= ids[Math.min(q, 63)]! - 6, { ids }),
  "guarded load": maskMod(({ short }) => (_b, _h, q) => q < 4 && short[q] === 1, { short: Int32Array.of(0, 1, 1, 0) }),
  "and, or, not, offset": or(and(causal, not(maskMod(({ size }) => (_b, _h, q, kv) => q - kv < size, { size: 3 }))), offset(causal, { kv: 40 })),
  "two captures of one name": and(maskMod(({ size }) => (_b, _h, q, kv) => q - kv < size, { size: 30 }), maskMod(({ size }) => (_b, _h, q, kv) => q - kv > size, { size: -5 })),
  "constants and shadowing": maskMod((_b, _h, q, kv) => { const kv2 = Math.PI > 3 ? kv : -Infinity; { const q = 3; if (kv2 < q) return true; } return q > kv2; }),
  "function keyword and directives": maskMod(function (_b, _h, q, kv) { "use strict"; return q >= kv; }),
};

for (const [name, mask] of Object.entries(masks)) {
  test(`${name}: the compiled mask says what the function says`, () => {
    const expr = mask.expr(), values = mask.values();
    let allowed = 0;
    for (let b = 0; b < 2; b++) for (let h = 0; h < 4; h++) for (let q = h; q < 60; q += 4) for (let kv = b; kv < 60; kv += 2) {
      const plain = Number(Boolean(mask(b, h, q, kv)));
      allowed += plain;
      assert.equal(interpret(expr, { b, h, q, kv, score: 0, ...values }), plain, `at b ${b} h ${h} q ${q} kv ${kv}: ${print(expr)}`);
    }
    assert.ok(allowed > 0, "the mask allows nothing, so the test shows nothing");
  });
}

const scores: Readonly<Record<string, ScoreMod>> = {
  "identity": scoreMod((score) => score),
  "soft cap": scoreMod(({ cap }) => (score) => cap * Math.tanh(score / cap), { cap: 50 }),
  "alibi": scoreMod(({ slopes }) => (score, _b, h, q, kv) => score + slopes[h]! * (kv - q), { slopes: Float32Array.of(0.5, 0.25, 0.125, 0.1) }),
  "relative table": scoreMod(({ bias }) => (score, _b, _h, q, kv) => score + bias[clamp(q - kv + 64, 0, 127)]!, { bias }),
  "masking by score": scoreMod((score, _b, _h, q, kv) => (q >= kv ? score : -Infinity)),
  "T5 buckets": scoreMod(({ table, half }) => (score, _b, _h, q, kv) => {
    const n = Math.max(q - kv, 0);
    const large = half + Math.floor((Math.log(Math.max(n, 1) / half) / Math.log(128 / half)) * half);
    return score + table[n < half ? n : Math.min(large, 2 * half - 1)]!;
  }, { table: Float32Array.from({ length: 32 }, (_, i) => i / 7), half: 16 }),
  "powers and constants": scoreMod((score, _b, _h, q, kv) => score ** 2 * 2 ** -0.5 + Math.SQRT2 * Math.exp(-Math.abs(q - kv)) + Math.cos(score) - Math.log1p(q)),
  "a dot product in a loop": scoreMod(({ a, c }) => (score, _b, _h, q, kv) => {
    let sum = 0;
    for (let d = 0; d < 6; d++) sum += a[q % 4]![d]! * c[kv % 4]![d]!;
    return score + 0.25 * sum;
  }, { a: tensor(bias.slice(0, 24), [4, 6]), c: tensor(bias.slice(24, 48), [4, 6]) }),
  "an integer result": scoreMod((_score, _b, _h, q, kv) => (q ^ kv) & 255),
};

for (const [name, mod] of Object.entries(scores)) {
  test(`${name}: the compiled score is the function's, up to f32`, () => {
    const expr = mod.expr(), values: CaptureEnv = mod.values();
    for (let h = 0; h < 4; h++) for (let q = 0; q < 40; q += 3) for (let kv = 0; kv < 40; kv += 2) {
      const score = Math.fround(Math.sin(q * 40 + kv) * 9), want = mod(score, 0, h, q, kv), got = interpret(expr, { b: 0, h, q, kv, score, ...values });
      assert.ok(got === want || Math.abs(got - want) <= 1e-5 * (1 + Math.abs(want)), `${got} for ${want} at h ${h} q ${q} kv ${kv}`);
    }
  });
}

test("a captured number may change its value without a new expression, and its type with one", () => {
  const captures = { size: 4 };
  const mask = maskMod(({ size }) => (_b, _h, q, kv) => q - kv < size, captures);
  const before = mask.expr();
  captures.size = 9;
  assert.equal(mask.expr(), before);
  assert.deepEqual(mask.values().uniforms, { size: 9 });
  assert.equal(mask(0, 0, 8, 0), true);
  captures.size = 2.5;
  assert.match(print(mask.expr()), /toF32\(q - kv\) < size:f32/);
});

test("a whole number used only as f32 is one, so that a fraction later costs no new kernel", () => {
  const captures = { cap: 50 };
  const mod = scoreMod(({ cap }) => (score) => cap * Math.tanh(score / cap), captures);
  const before = print(mod.expr());
  captures.cap = 50.5;
  assert.equal(print(mod.expr()), before);
});

test("fixed() is part of the expression, and a table captured twice has one slot", () => {
  const mask = maskMod(({ n, a, b }) => (_b, _h, q, kv) => a[q]! + b[kv]! > n, { n: fixed(3), a: ids, b: ids });
  assert.equal(print(mask.expr()), "(a:i32[q] + a:i32[kv]) > 3");
  assert.deepEqual(mask.lower().bindings.map((b) => b.slot.name), ["a"]);
});

test("what bundlers make of a mod means the same", () => {
  const written = maskMod(({ size }) => (_b, _h, q, kv) => { if (q < 4) return true; const d = q - kv; return floorDiv(d, 8) < size && floorMod(d, 8) > 1; }, { size: 3 });
  const forms: readonly string[] = [
    "({ size }) => (b, h, q, kv) => { if (q < 4) return true; const d = q - kv; return (0, import_attention.floorDiv)(d, 8) < size && (0, import_attention.floorMod)(d, 8) > 1; }",
    "({ size }) => (b, h, q, kv) => { if (q < 4) return true; const d = q - kv; return __vite_ssr_import_0__.floorDiv(d, 8) < size && __vite_ssr_import_0__.floorMod(d, 8) > 1; }",
    "({size:t})=>(e,r,n,i)=>{if(n<4)return!0;let o=n-i;return floorDiv(o,8)<t&&floorMod(o,8)>1}",
    "function({size:t}){return function(e,r,n,i){var o=n-i;return n<4||floorDiv(o,8)<t&&floorMod(o,8)>1}}",
  ];
  for (const form of forms) {
    const made = maskMod((new Function(`return (${form});`) as () => never)(), { size: 3 } as never) as MaskMod;
    for (const q of [0, 3, 4, 20]) for (const kv of [0, 5, 19, 30]) assert.equal(interpret(made.expr(), { b: 0, h: 0, q, kv, score: 0, ...made.values() }), Number(written(0, 0, q, kv)), form);
  }
});

const outside = 3;
test("an error says the file, line and column of the construct in it", () => {
  const marker = new Error().stack!.split("\n")[1]!.match(/:(\d+):\d+\)?$/)!;
  const first = maskMod((_b, _h, q, kv) => q - kv < outside);
  const later = maskMod((_b, _h, q, kv) => {
    const d = q - kv;
    return d < outside;
  });
  const caught = (mask: MaskMod): ModError => {
    try {
      mask.expr();
    } catch (error) {
      if (error instanceof ModError) return error;
    }
    throw new Error("no ModError");
  };
  const line = Number(marker[1]);
  assert.match(caught(first).file!, /attention\/parse\.test\.ts$/);
  assert.deepEqual([caught(first).line, caught(first).column], [line + 1, "  const first = maskMod((_b, _h, q, kv) => q - kv < ".length + 1]);
  assert.deepEqual([caught(later).line, caught(later).column], [line + 4, "    return d < ".length + 1]);
  assert.match(caught(later).message, /parse\.test\.ts:\d+:16 'outside' is not a parameter.*\n {6}return d < outside;\n {17}\^$/s);
});
