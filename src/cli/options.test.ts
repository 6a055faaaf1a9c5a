import assert from "node:assert/strict";
import { test } from "node:test";
import { BadRequest } from "../core/errors.ts";
import { flagOf, loadOptions, parseBias, parseBytes, parseIds, parseInteger, parseNumber, parsePort, parseSeconds, parseSpeculative, samplingParams, spelledParams } from "./options.ts";

test("sizes read as vLLM reads them: capital units are binary, small ones decimal", () => {
  for (const [text, bytes] of [["0", 0], ["1000", 1000], ["64M", 64 * 2 ** 20], ["64m", 64e6], ["1.5G", 1.5 * 2 ** 30], ["1GiB", 2 ** 30], ["2k", 2000]] as const) assert.equal(parseBytes(text), bytes);
  for (const text of ["", "-1", "1T", "M", "1e6", "64 M"]) assert.throws(() => parseBytes(text), /bytes/);
});

test("numbers are numbers to the last character", () => {
  assert.equal(parseInteger("-5"), -5);
  for (const text of ["", "5x", "1.5", "1e3"]) assert.throws(() => parseInteger(text), /integer/);
  assert.equal(parseNumber("0.5"), 0.5);
  for (const text of ["", " ", "x", "0.5x", "NaN"]) assert.throws(() => parseNumber(text), /number/);
});

test("flags that were not given set nothing, so that the library's own defaults hold", () => {
  assert.deepEqual(loadOptions({}, {}), {});
  assert.deepEqual(loadOptions({ kvCacheMemoryBytes: 5, maxModelLen: 7, chatTemplate: "x.jinja" }, {}), { kvCacheBytes: 5, maxModelLen: 7, chatTemplate: "x.jinja" });
  assert.deepEqual(loadOptions({ hfToken: "hf_x" }, { HF_ENDPOINT: "http://hub" }), { hub: { token: "hf_x", hubUrl: "http://hub" } });
  assert.deepEqual(samplingParams({ temperature: 0, stop: ["x"] }), { temperature: 0, stop: ["x"] });
});

test("token ids and biases are read from a flag's text, and only sampling flags become parameters", () => {
  assert.deepEqual(parseIds("5,6,70"), [5, 6, 70]);
  for (const text of ["", "5,", "5;6", "-1", "a"]) assert.throws(() => parseIds(text), /token ids/);
  assert.deepEqual(parseBias("7=1.5", parseBias("5=-100")), { 5: -100, 7: 1.5 });
  for (const text of ["", "5", "5:1", "x=1", "-1=1"]) assert.throws(() => parseBias(text), /a token id and a number/);
  assert.throws(() => parseBias("5=x"), /number/);
  const flags = { repetitionPenalty: 1.1, logitBias: { 5: -100 }, allowedTokenIds: [5], badWords: ["x"], minTokens: 2, ignoreEos: true, includeStopStrInOutput: true };
  assert.deepEqual(samplingParams({ ...flags, ...{ system: "be kind" } }), flags);
  assert.throws(() => spelledParams({ presencePenalty: 3 }), (error) => error instanceof BadRequest && /^--presence-penalty is 3; it must be a number from -2 to 2/.test(error.message));
  assert.throws(() => spelledParams({ logitBias: { 5: 200 } }), (error) => error instanceof BadRequest && /^--logit-bias\[5\] is 200; it must be/.test(error.message));
});

test("--speculative-config is vLLM's JSON with the library's names", () => {
  assert.deepEqual(parseSpeculative('{"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4, "prompt_lookup_min": 2}'), { method: "ngram", numSpeculativeTokens: 5, promptLookupMax: 4, promptLookupMin: 2 });
  for (const text of ["", "ngram", "[]", "null", "5", "{method: ngram}"]) assert.throws(() => parseSpeculative(text), /it must be JSON, such as/);
});

test("ports and deadlines are refused beyond their bounds", () => {
  assert.deepEqual([parsePort("0"), parsePort("65535"), parseSeconds("0"), parseSeconds("0.5")], [0, 65535, 0, 0.5]);
  for (const text of ["-1", "99999", "x"]) assert.throws(() => parsePort(text), /port|integer/);
  for (const text of ["-1", "1e9", "Infinity", ""]) assert.throws(() => parseSeconds(text), /seconds|number/);
});

test("a wrong value for a choice of tokens names the flag, before any model is loaded", () => {
  assert.deepEqual(spelledParams({ topP: 0.5, stop: ["x"] }), { "--top-p": 0.5, "--stop": ["x"] });
  assert.equal(flagOf("maxTokens"), "--max-tokens");
  assert.throws(() => spelledParams({ maxTokens: -1 }), (error) => error instanceof BadRequest && /^--max-tokens is -1; it must be an integer from 1/.test(error.message));
});
