import assert from "node:assert/strict";
import test from "node:test";
import { checkSampling, defaultSampling, type SamplingParams } from "./params.ts";

test("every field is bounded, and the error names it and its value", () => {
  const good: readonly Partial<SamplingParams>[] = [
    {}, { temperature: 0 }, { topP: 1e-9 }, { topK: -1 }, { minP: 1 }, { seed: -5 }, { logitsProcessors: [() => {}] }, { stopTokenIds: [0, 9] }, { logprobs: 20 }, { promptLogprobs: 0 }, { maxTokens: 1 },
    { repetitionPenalty: 0.01 }, { presencePenalty: -2 }, { frequencyPenalty: 2 }, { logitBias: new Map([[9, -100], [0, 100]]) }, { allowedTokenIds: [9] }, { badWords: [[1, 2], [9]] },
    { minTokens: 16 },
  ];
  for (const p of good) assert.equal(checkSampling({ ...defaultSampling, ...p }, 10), undefined, JSON.stringify(p));
  const bad: readonly (readonly [keyof SamplingParams, unknown])[] = [
    ["temperature", -0.1], ["temperature", NaN], ["temperature", Infinity], ["topP", 0], ["topP", 1.1], ["topP", NaN], ["topK", -2], ["topK", 1.5],
    ["minP", -0.1], ["minP", 2], ["seed", 0.5], ["seed", 2 ** 60], ["logitsProcessors", [5]], ["maxTokens", 0], ["maxTokens", 1.5], ["stopTokenIds", [10]],
    ["stopTokenIds", [-1]], ["stopTokenIds", [0.5]], ["ignoreEos", 1], ["logprobs", 21], ["logprobs", -1], ["promptLogprobs", 21], ["promptLogprobs", -1],
    ["repetitionPenalty", 0], ["repetitionPenalty", Infinity], ["repetitionPenalty", NaN], ["presencePenalty", 2.1], ["presencePenalty", NaN], ["frequencyPenalty", -2.1],
    ["logitBias", new Map([[10, 1]])], ["logitBias", new Map([[1, 101]])], ["logitBias", new Map([[1, NaN]])], ["allowedTokenIds", []], ["allowedTokenIds", [10]],
    ["badWords", [[]]], ["badWords", [[1, 10]]], ["minTokens", -1], ["minTokens", 17], ["minTokens", 0.5],
  ];
  for (const [field, value] of bad) {
    const error = checkSampling({ ...defaultSampling, [field]: value }, 10);
    assert.equal(error?.param, field, `${field} ${String(value)}`);
    assert.ok(error.message.startsWith(`${field} is ${String(value)}; it must be `), error.message);
  }
});
