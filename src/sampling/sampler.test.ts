import assert from "node:assert/strict";
import test from "node:test";
import { stream, uniform } from "../core/random.ts";
import { defaultSampling, type SamplingParams } from "./params.ts";
import { LogitRules } from "./rules.ts";
import { Sampler } from "./sampler.ts";

/** The slow definition: sort everything, filter in vLLM's order, draw. Also says when a top-p boundary is a matter of rounding. */
function oracle(logits: Float32Array, p: SamplingParams, seed: number, position: number): { token: number | undefined; close: boolean; kept: number } {
  const all = [...logits];
  if (all.some((x) => Number.isNaN(x) || x === Infinity) || all.every((x) => x === -Infinity)) return { token: undefined, close: false, kept: 0 };
  let order = all.map((_, id) => id).sort((a, b) => logits[b]! - logits[a]! || a - b);
  // -Infinity minus itself is NaN, so equal infinities are ordered by the `||` as well.
  const max = logits[order[0]!]!;
  if (p.temperature < 1e-5) return { token: order[0]!, close: false, kept: 1 };
  const mass = all.map((x) => Math.exp((x - max) * (1 / Math.max(p.temperature, 0.01))));
  order = order.filter((id) => mass[id]! >= p.minP);
  if (p.topK > 0) order = order.slice(0, p.topK);
  const total = order.reduce((sum, id) => sum + mass[id]!, 0);
  let before = 0, close = false;
  if (p.topP < 1) {
    order = order.filter((id, i) => {
      const keep = i === 0 || before < p.topP * total;
      close ||= Math.abs(before - p.topP * total) < 1e-12 * total;
      before += mass[id]!;
      return keep;
    });
  }
  order.sort((a, b) => a - b);
  const u = uniform(seed, position) * order.reduce((sum, id) => sum + mass[id]!, 0);
  let sum = 0;
  return { token: order.find((id) => (sum += mass[id]!) > u), close, kept: order.length };
}

test("the token is the one that the fully sorted definition draws, for random logits with ties, -Infinity and every filter", () => {
  const random = stream(7);
  const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)]!;
  const sampler = new Sampler(3000);
  let ties = 0, close = 0, cut = 0;
  for (let i = 0; i < 3000; i++) {
    const size = pick([1, 2, 3, 10, 40, 300, 300, 3000]);
    const scale = pick([0, 0.5, 3, 30]);
    const grain = pick([0, 0, 1, 0.25]);
    const logits = Float32Array.from({ length: size }, () => {
      const x = (random() - 0.5) * 2 * scale;
      return random() < 0.05 ? -Infinity : grain ? Math.round(x / grain) * grain : x;
    });
    if (grain) ties++;
    const p: SamplingParams = {
      ...defaultSampling,
      temperature: pick([0, 1e-6, 0.001, 0.3, 1, 1, 2, 50]),
      topK: pick([0, 0, -1, 1, 2, 7, size - 1, size, size + 1, 10 * size]),
      topP: pick([1, 1, 0.999, 0.9, 0.5, 0.1, 1e-9]),
      minP: pick([0, 0, 0, 0.02, 0.5, 1]),
    };
    const expected = oracle(logits, p, i, 5);
    // Where rounding decides the edge of top-p, both answers are right.
    if (expected.close) close++;
    else assert.equal(sampler.sample(logits, p, i, 5), expected.token, `case ${i}: ${size} tokens, ${JSON.stringify(p)}`);
    if (expected.kept > 1 && expected.kept < size) cut++;
  }
  assert.ok(ties > 500 && cut > 500, `${ties} with ties, ${cut} really filtered`);
  assert.ok(close < 1000, `${close} cases were too close to tell`);
});

test("equal logits go to the lowest id: greedy, top-k 1 and a tiny top-p all take it", () => {
  const sampler = new Sampler(100);
  const logits = new Float32Array(100).fill(-1);
  logits.fill(2, 40, 90);
  for (const p of [{ temperature: 0 }, { topK: 1 }, { topP: 1e-9 }]) {
    for (let position = 0; position < 20; position++) assert.equal(sampler.sample(logits, { ...defaultSampling, ...p }, 1, position), 40);
  }
});

test("logits without a distribution give no token, sampled or greedy", () => {
  const sampler = new Sampler(4);
  for (const temperature of [0, 1]) {
    const p = { ...defaultSampling, temperature };
    for (const bad of [[0, NaN, 1, 2], [NaN, 0, 1, 2], [0, 1, 2, Infinity], [-Infinity, -Infinity, -Infinity, -Infinity]]) {
      assert.equal(sampler.sample(Float32Array.from(bad), p, 1, 1), undefined, String(bad));
    }
    assert.equal(sampler.sample(Float32Array.of(-Infinity, 3, -Infinity, -Infinity), p, 1, 1), 1);
  }
});

test("rules that forbid the token whose logit is no number do not hide it", () => {
  const sampler = new Sampler(4);
  for (const temperature of [0, 1]) {
    for (const p of [{ allowedTokenIds: [0, 1] }, { badWords: [[3]] }, { minTokens: 1, stopTokenIds: [3] }]) {
      const params = { ...defaultSampling, temperature, logitsProcessors: [() => {}], ...p }, rules = LogitRules.of(params, Int32Array.of(0), new Set());
      for (const bad of [NaN, Infinity]) assert.equal(sampler.sample(Float32Array.of(1, 2, 0, bad), params, 1, 1, rules), undefined, `${Object.keys(p)[0]} ${bad}`);
      assert.notEqual(sampler.sample(Float32Array.of(1, 2, 0, 3), params, 1, 1, rules), undefined);
    }
  }
});

test("the same seed and position give the same token whatever was sampled in between", () => {
  const random = stream(3);
  const logits = Float32Array.from({ length: 500 }, () => random() * 6);
  const p = { ...defaultSampling, topP: 0.95 };
  const warm = new Sampler(500);
  const tokens = Array.from({ length: 50 }, (_, i) => warm.sample(logits, p, 11, i));
  for (let i = 49; i >= 0; i--) {
    warm.sample(logits, { ...p, topK: 3, temperature: 9 }, i, i);
    assert.equal(warm.sample(logits, p, 11, i), tokens[i]);
  }
  assert.ok(new Set(tokens).size > 10);
  assert.notDeepEqual(Array.from({ length: 50 }, (_, i) => warm.sample(logits, p, 12, i)), tokens, "another seed");
});

test("sampled frequencies match the filtered probabilities (chi-square)", () => {
  const logits = Float32Array.of(1, 0.5, 2, -1, 0, 1.5, -0.5, 0.25, -3, 1);
  const cases = [
    { p: {}, keep: () => true },
    { p: { temperature: 0.5 }, keep: () => true },
    { p: { topK: 4 }, keep: (id: number) => [2, 5, 0, 9].includes(id) },
    { p: { minP: 0.3 }, keep: (id: number) => [2, 5, 0, 9].includes(id) },
    { p: { topP: 0.5 }, keep: (id: number) => [2, 5].includes(id) },
  ];
  const draws = 20_000;
  const sampler = new Sampler(logits.length);
  for (const [c, { p, keep }] of cases.entries()) {
    const params = { ...defaultSampling, ...p };
    const mass = [...logits].map((x, id) => (keep(id) ? Math.exp(x / params.temperature) : 0));
    const total = mass.reduce((a, b) => a + b);
    const counts = new Array<number>(logits.length).fill(0);
    for (let position = 0; position < draws; position++) counts[sampler.sample(logits, params, 100 + c, position)!]!++;
    let chi = 0, freedom = -1;
    for (const [id, m] of mass.entries()) {
      const expected = (draws * m) / total;
      if (expected === 0) {
        assert.equal(counts[id], 0, `case ${c}: token ${id} was filtered out`);
        continue;
      }
      chi += (counts[id]! - expected) ** 2 / expected;
      freedom++;
    }
    // Wilson-Hilferty: z of the chi-square. 3.1 is one in a thousand.
    const z = (Math.cbrt(chi / freedom) - (1 - 2 / (9 * freedom))) / Math.sqrt(2 / (9 * freedom));
    assert.ok(z < 3.1, `case ${c}: chi-square ${chi.toFixed(1)} with ${freedom} degrees of freedom`);
  }
});
