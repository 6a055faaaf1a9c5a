import assert from "node:assert/strict";
import { test } from "node:test";
import { BadRequest } from "../core/errors.ts";
import { snakeCase } from "./fields.ts";
import { checkParams, fitMaxTokens } from "./params.ts";

const vocabSize = 100;

test("nothing asked for gives vLLM's defaults", () => {
  const { sampling, maxTokens, stop, badWords } = checkParams({}, vocabSize);
  assert.deepEqual(sampling, {
    temperature: 1, topP: 1, topK: 0, minP: 0, seed: undefined, repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0, logitBias: undefined,
    allowedTokenIds: undefined, minTokens: 0, stopTokenIds: [], ignoreEos: false, logprobs: undefined,
  });
  assert.deepEqual(badWords, []);
  assert.equal(maxTokens, undefined);
  assert.deepEqual(stop, []);
});

test("every field at and beyond its bounds is taken or refused by its name, in the caller's spelling", () => {
  const cases: Readonly<Record<string, { readonly good: readonly unknown[]; readonly bad: readonly unknown[] }>> = {
    temperature: { good: [0, 1e-9, 100], bad: [-0.001, 100.1, NaN, Infinity, "1", true, [1], {}] },
    topP: { good: [1e-9, 1], bad: [0, -1, 1.0001, NaN, "1"] },
    topK: { good: [-1, 0, 1, 2 ** 31 - 1], bad: [-2, 1.5, 2 ** 31, "5"] },
    minP: { good: [0, 1], bad: [-0.1, 1.1, NaN] },
    seed: { good: [-1, 0, Number.MAX_SAFE_INTEGER], bad: [2 ** 53, 1.5, "1", Infinity] },
    maxTokens: { good: [1, 2 ** 31 - 1], bad: [0, -1, 1.5, 2 ** 31, Infinity, "16"] },
    logprobs: { good: [0, 20], bad: [-1, 21, 1.5, true] },
    stop: { good: ["x", ["x", "yy"], []], bad: ["", [""], ["a", 1], 5, "\ud800", Array(65).fill("x"), "x".repeat(1025)] },
    stopTokenIds: { good: [[], [0, 99]], bad: [[100], [-1], [1.5], ["1"], 5, "5", Array(1025).fill(1)] },
    repetitionPenalty: { good: [1e-9, 1, 5], bad: [0, -1, Infinity, NaN, "1"] },
    presencePenalty: { good: [-2, 2], bad: [-2.01, 2.01, NaN, "0"] },
    frequencyPenalty: { good: [-2, 2], bad: [-2.01, 2.01, NaN, true] },
    logitBias: { good: [{}, { 0: -100, 99: 100 }], bad: [[], 5, "5", { 100: 1 }, { "-1": 1 }, { x: 1 }, { 1.5: 1 }, { "": 1 }, { 5: 101 }, { 5: "1" }, { 5: null }, Object.fromEntries(Array.from({ length: 16_385 }, (_, i) => [i, 0]))] },
    allowedTokenIds: { good: [[0], [99, 99]], bad: [[], [100], [-1], 5, "5", {}] },
    badWords: { good: [[], ["x", " y"]], bad: [[""], ["  "], [5], Array(1001).fill("x"), ["x".repeat(1025)], "\ud800"] },
    minTokens: { good: [0, 5], bad: [-1, 1.5, 2 ** 31, "1"] },
    ignoreEos: { good: [true, false], bad: ["true", 0, 1] },
    includeStopStrInOutput: { good: [true], bad: [1] },
    skipSpecialTokens: { good: [false], bad: ["no"] },
  };
  for (const [field, { good, bad }] of Object.entries(cases)) {
    for (const value of [...good, null, undefined]) checkParams({ [field]: value }, vocabSize);
    for (const value of bad) {
      assert.throws(() => checkParams({ [field]: value }, vocabSize), (error) => error instanceof BadRequest && error.param === field && error.message.startsWith(field));
      const spelled = snakeCase(field);
      assert.throws(() => checkParams({ [spelled]: value }, vocabSize, snakeCase), (error) => error instanceof BadRequest && error.param === spelled);
    }
  }
});

test("fields of the prototype are no fields", () => {
  const raw = JSON.parse('{"__proto__": {"temperature": 0.5}}') as Record<string, unknown>;
  assert.equal(checkParams(raw, vocabSize).sampling.temperature, 1);
  assert.equal(({} as Record<string, unknown>)["temperature"], undefined);
});

test("a message shows the value, the bounds and where in a list it stands", () => {
  assert.throws(() => checkParams({ top_p: 1.5 }, vocabSize, snakeCase), { message: "top_p is 1.5; it must be a number above 0 and at most 1" });
  assert.throws(() => checkParams({ stop_token_ids: [1, 100] }, vocabSize, snakeCase),
    { message: "stop_token_ids[1] is 100; it must be an integer from 0 to 99, as the model's vocabulary has 100 tokens" });
});

test("what may be generated is what was asked, the default cut to the context, or an error with the numbers", () => {
  const asked = (maxTokens?: number) => checkParams({ maxTokens }, vocabSize);
  assert.equal(fitMaxTokens(10, asked(90), 16, 100, "prompt"), 90);
  assert.equal(fitMaxTokens(90, asked(), 16, 100, "prompt"), 10);
  assert.equal(fitMaxTokens(10, asked(), Infinity, 100, "messages"), 90);
  assert.throws(() => fitMaxTokens(10, asked(91), 16, 100, "prompt"), (error) => error instanceof BadRequest && error.param === "maxTokens" && /at most 90.*10 tokens.*100/.test(error.message));
  assert.equal(fitMaxTokens(10, checkParams({ minTokens: 16 }, vocabSize), 16, 100, "prompt"), 16);
  for (const params of [{ minTokens: 17 }, { maxTokens: 5, minTokens: 6 }]) {
    const most = params.maxTokens ?? 16;
    assert.throws(() => fitMaxTokens(10, checkParams(params, vocabSize), 16, 100, "prompt"), (error) =>
      error instanceof BadRequest && error.param === "minTokens" && error.message === `minTokens is ${params.minTokens}; it must be at most ${most}, which is all that may be generated (maxTokens)`);
  }
  assert.throws(() => fitMaxTokens(100, asked(), 16, 100, "messages"), (error) => error instanceof BadRequest && error.param === "messages" && /100 tokens.*at most 99/.test(error.message));
  assert.throws(() => fitMaxTokens(0, asked(), 16, 100, "prompt"), (error) => error instanceof BadRequest && error.param === "prompt");
});
