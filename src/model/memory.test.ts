import assert from "node:assert/strict";
import { test } from "node:test";
import { capsOf } from "../backend/registry.ts";
import { readConfig } from "./config.ts";
import { bytesPerPage, describeMemory, formatBytes, planMemory } from "./memory.ts";
import { families } from "./registry.ts";

const config = readConfig({
  config: {
    architectures: ["LlamaForCausalLM"], vocab_size: 100, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1,
    max_position_embeddings: 128, tie_word_embeddings: true,
  },
  weightDType: "bf16",
}, families);
const limits = { maxModelLen: 128, maxNumSeqs: 4, maxNumBatchedTokens: 32, pageSize: 16, numPages: 20 };

test("the plan counts every byte by kind", () => {
  const plan = planMemory(config, limits, capsOf("cpu"), [100, 50]);
  const layerMatrices = 2 * (16 * 32 + 16 * 16 + 48 * 16 + 16 * 24);
  assert.equal(plan.bytes.weights, 2 * 100 * 16 + 2 * (layerMatrices + 2 * 64) + 64);
  assert.equal(plan.bytes.kvCache, 2 * 2 * 20 * 16 * 8 * 4);
  assert.equal(plan.bytes.kvCache, 20 * bytesPerPage(config, 16));
  assert.equal(plan.bytes.rotary, 128 * 8 * 4);
  assert.equal(plan.bytes.workLists, 448 + 256);
  assert.equal(plan.totalBytes, plan.parts.reduce((sum, part) => sum + part.bytes, 0));
  assert.ok(plan.parts.every((part) => part.bytes % 64 === 0));
  assert.equal(new Set(plan.parts.map((part) => part.name)).size, plan.parts.length);
});

test("rows of logits are one for each sequence, or as many as asked for", () => {
  const logits = (maxNumLogits?: number): number => planMemory(config, { ...limits, ...(maxNumLogits !== undefined && { maxNumLogits }) }, capsOf("cpu"), []).parts.find((part) => part.name === "logits")!.bytes;
  assert.equal(logits(), 4 * 100 * 4);
  assert.equal(logits(32), 32 * 100 * 4);
});

test("there is room for the edits of every row, of large vocabularies for those of one at least", () => {
  const edits = (vocabSize: number): number => planMemory({ ...config, vocabSize }, limits, capsOf("cpu"), []).parts.find((part) => part.name === "sampling.edits")!.bytes / 16;
  assert.deepEqual([100, 2 ** 16, 2 ** 17, 2 ** 19].map(edits), [4 * 100, 2 ** 18, 2 ** 18, 2 ** 19]);
});

test("limits that cannot be are refused by name", () => {
  assert.throws(() => planMemory(config, { ...limits, maxModelLen: 129 }, capsOf("cpu"), []), /maxModelLen is 129, but the model was made for 128 positions/);
  assert.throws(() => planMemory(config, { ...limits, maxNumSeqs: 0 }, capsOf("cpu"), []), /maxNumSeqs is 0/);
});

test("the description has a line for each kind, largest first, and the sum", () => {
  assert.match(describeMemory(planMemory(config, limits, capsOf("cpu"), [100])), /^step inputs +52\d\.\d\d KiB\nKV cache +40\.00 KiB\nactivations +.* KiB\n[^]*\ntotal +\d+\.\d\d KiB$/);
  assert.deepEqual([0, 1, 1023, 1024, 1.5 * 2 ** 30].map(formatBytes), ["0 B", "1 B", "1023 B", "1.00 KiB", "1.50 GiB"]);
});
