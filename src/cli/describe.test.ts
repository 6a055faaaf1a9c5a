import assert from "node:assert/strict";
import { test } from "node:test";
import type { EngineInfo } from "../engine/messages.ts";
import { countText, curlLine, describe } from "./describe.ts";
import { speedLine } from "./speed.ts";

test("counts read with two figures or so", () => {
  assert.deepEqual([12, 1200, 9_800_000, 7e9].map(countText), ["12", "1.2 K", "9.8 M", "7.0 B"]);
});

test("the first curl line fits what the model can be asked, and never shows a key", () => {
  assert.match(curlLine("http://x", { hasTokenizer: true, hasChatTemplate: true }, false), /^curl http:\/\/x\/v1\/chat\/completions .*"messages"/);
  assert.match(curlLine("http://x", { hasTokenizer: true, hasChatTemplate: false }, false), /\/v1\/completions .*"prompt":"Once/);
  assert.match(curlLine("http://x", { hasTokenizer: false, hasChatTemplate: false }, true), /\$TESSERA_API_KEY.*"prompt":\[1,2,3\]/);
});

test("speed counts the tokens after the first", () => {
  const usage = { promptTokens: 5, completionTokens: 11, totalTokens: 16, cachedTokens: 0 };
  assert.equal(speedLine({ usage, finishReason: "stop" }, 0, 0.05, 0.15), "[11 tokens, 100 tokens/s, first after 50 ms]");
  assert.equal(speedLine({ usage: { ...usage, completionTokens: 1 }, finishReason: "length" }, 0, 0.05, 0.05), "[1 token, first after 50 ms, cut at the token limit]");
});

test("weights that were rounded when they were loaded are said to be, and how to have them as they were; so is how little of the cache a sequence holds", () => {
  const info: EngineInfo = {
    architecture: "LlamaForCausalLM", backend: "wasm", dtype: "int8", kvCacheDtype: "bfloat16", numParameters: 4e8, maxModelLen: 10, vocabSize: 10, pageSize: 1, numPages: 10,
    maxNumSeqs: 1, maxNumBatchedTokens: 1, eosTokenIds: [], weightBytes: 0, kvBytes: 0, enablePrefixCaching: true, schedulingPolicy: "fcfs", loadSeconds: 0,
  };
  assert.match(describe(info)[0]!, /, int8, context/);
  assert.match(describe({ ...info, dtype: "bfloat16", convertedFrom: "Q4_K" })[0]!, /, bfloat16 made of Q4_K on load, context/);
  assert.match(describe({ ...info, quantizedOnLoad: true })[0]!, /, int8 rounded on load \(--quantization none keeps .*\), context/);
  assert.match(describe(info)[2]!, / = 10 tokens in 10 pages of 1$/);
  assert.match(describe({ ...info, mostHeldPages: 3 })[2]!, / = 10 tokens in 10 pages of 1, of which a sequence holds 3 at most$/);
});
