/** Prompts and times of a benchmark: of the lengths asked for, and the same for the same seed. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { arrivals, firstId, randomSamples } from "./dataset.ts";

const options = { numPrompts: 50, inputTokens: 20, outputTokens: 7, prefixTokens: 5, rangeRatio: 0, vocabSize: 300, seed: 3 };

test("the same seed draws the same prompts, another seed others", () => {
  assert.deepEqual(randomSamples(options), randomSamples(options));
  assert.notDeepEqual(randomSamples(options), randomSamples({ ...options, seed: 4 }));
  assert.deepEqual(randomSamples({ ...options, numPrompts: 10 }), randomSamples(options).slice(0, 10), "more prompts begin with the same");
});

test("prompts have the prefix in common and nothing else, of exact lengths and ids within the vocabulary", () => {
  const samples = randomSamples(options);
  const prefix = samples[0]!.prompt.slice(0, 5);
  for (const { prompt, outputTokens } of samples) {
    assert.equal(prompt.length, 25);
    assert.equal(outputTokens, 7);
    assert.deepEqual(prompt.slice(0, 5), prefix);
    assert.ok(prompt.every((id) => Number.isInteger(id) && id >= firstId && id < 300));
  }
  assert.equal(new Set(samples.map(({ prompt }) => prompt.slice(5).join())).size, 50);
  assert.throws(() => randomSamples({ ...options, vocabSize: firstId }), /must be larger/);
});

test("a range ratio spreads lengths over the whole range and not beyond", () => {
  const samples = randomSamples({ ...options, numPrompts: 400, prefixTokens: 0, rangeRatio: 0.5 });
  const inputs = samples.map(({ prompt }) => prompt.length), outputs = samples.map((sample) => sample.outputTokens);
  assert.deepEqual([Math.min(...inputs), Math.max(...inputs)], [10, 30]);
  assert.deepEqual([Math.min(...outputs), Math.max(...outputs)], [3, 11]);
});

test("arrivals keep the rate; burstiness says how even the gaps are", () => {
  assert.deepEqual(arrivals(3, Infinity, 1, 0), [0, 0, 0]);
  assert.deepEqual(arrivals(100, 10, 1, 7), arrivals(100, 10, 1, 7));
  // Gaps of a gamma distribution of shape k have a squared coefficient of variation of 1/k; 4000 draws give it to within a tenth or so.
  for (const burstiness of [0.25, 1, 4]) {
    const times = arrivals(4000, 10, burstiness, 1);
    assert.ok(Math.abs(times.at(-1)! - 400) < 1e-6, "the last comes at count / rate");
    const gaps = times.map((time, i) => time - (times[i - 1] ?? 0));
    assert.ok(gaps.every((gap) => gap >= 0));
    const variance = gaps.reduce((sum, gap) => sum + (gap - 0.1) ** 2, 0) / gaps.length;
    const expected = 0.01 / burstiness;
    assert.ok(variance > expected * 0.75 && variance < expected * 1.35, `burstiness ${burstiness}: ${variance}, not near ${expected}`);
  }
});
