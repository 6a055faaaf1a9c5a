/**
 * Hostile config.json and generation_config.json: one to three places of a good one changed. It is refused by a UsageError that names file
 * and field, or read as it stands: every size is the file's, and no field is left that nobody knows. What is read can be planned for.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { capsOf } from "../../src/backend/registry.ts";
import { UsageError } from "../../src/core/errors.ts";
import { generationDefaults } from "../../src/llm/generation-defaults.ts";
import { type ModelConfig, readConfig } from "../../src/model/config.ts";
import { planMemory } from "../../src/model/memory.ts";
import { families } from "../../src/model/registry.ts";
import { fixture, fixtureNames } from "../models/checkpoints.ts";
import { fuzz, pick, takeAllocated, watchAllocations } from "./fuzz.ts";
import { mutated, treeOf } from "./json.ts";

watchAllocations();

const read = (name: string, file: string): object => JSON.parse(readFileSync(join(fixture(name), file), "utf8")) as object;
const configs = fixtureNames.map((name) => read(name, "config.json"));
const generation = read("llama", "generation_config.json");
/** Names that some good file has. */
const known = new Set(configs.flatMap((config) => Object.keys(config)));

const sizes: Readonly<Record<string, (config: ModelConfig) => unknown>> = {
  hidden_size: (c) => c.hiddenSize, vocab_size: (c) => c.vocabSize, intermediate_size: (c) => c.intermediateSize, num_hidden_layers: (c) => c.layers.length,
  num_attention_heads: (c) => c.numQueryHeads, num_key_value_heads: (c) => c.numKvHeads, head_dim: (c) => c.headDim, max_position_embeddings: (c) => c.maxPositions, rms_norm_eps: (c) => c.normEpsilon,
};

test("configs with one to three places changed are read as they stand, or refused by file and field", (t) => {
  const trees = configs.map((config) => treeOf(config));
  return fuzz(t, { inputs: [4000, 500_000], floors: { read: 0.1, refused: 0.3, "no JSON": 0.001 } }, ({ random, did }) => {
    const text = mutated(pick(random, trees), random, did);
    let raw: unknown;
    try {
      raw = JSON.parse(text);
    } catch {
      return "no JSON";
    }
    takeAllocated();
    try {
      const config = readConfig({ config: raw, weightDType: "f32" }, families);
      const fields = raw as Readonly<Record<string, unknown>>;
      for (const [name, value] of Object.entries(sizes)) if ((fields[name] ?? undefined) !== undefined) assert.equal(value(config), fields[name], name);
      for (const [name, value] of Object.entries(fields)) assert.ok(value === null || known.has(name), `${name} was passed over`);
      assert.ok(config.eosTokenIds.every((id) => id < config.vocabSize));
      const maxModelLen = Math.min(config.maxPositions, 64);
      const { totalBytes } = planMemory(config, { maxModelLen, maxNumSeqs: 2, maxNumBatchedTokens: 32, pageSize: 16, numPages: 8 }, capsOf("cpu"), []);
      assert.ok(totalBytes > 0 && !Number.isNaN(totalBytes));
      assert.ok(takeAllocated() < 2 ** 20 + 4096 * config.layers.length, "memory");
      return "read";
    } catch (error) {
      assert.ok(error instanceof UsageError && /^(config\.json|eos_token_id)/.test(error.message), String((error as Error).stack));
      assert.ok(error.message.length < 2000 && takeAllocated() < 2 ** 20, error.message.slice(0, 200));
      return "refused";
    }
  });
});

test("generation configs with one to three places changed give end tokens and sampling that requests can have, or are refused by file and field", (t) => {
  const tree = treeOf({ ...generation, temperature: 0.6, top_p: 0.9, top_k: 40, min_p: 0.05, repetition_penalty: 1.1, eos_token_id: [2, 3] });
  return fuzz(t, { inputs: [3000, 500_000], floors: { read: 0.1, refused: 0.1 } }, ({ random, did }) => {
    const text = mutated(tree, random, did);
    try {
      const defaults = generationDefaults(text);
      const parsed = JSON.parse(text) as Readonly<Record<string, unknown>>;
      for (const [name, value] of Object.entries({ temperature: defaults.temperature, top_p: defaults.topP, top_k: defaults.topK, min_p: defaults.minP, repetition_penalty: defaults.repetitionPenalty })) {
        assert.equal(value, parsed[name] ?? undefined, name);
        assert.ok(value === undefined || (Number.isFinite(value) && value >= -1), name);
      }
      readConfig({ config: configs[0], generation: parsed, weightDType: "f32" }, families);
      return "read";
    } catch (error) {
      assert.ok(error instanceof UsageError && /^(generation_config\.json|eos_token_id)/.test(error.message), String((error as Error).stack));
      assert.ok(error.message.length < 1000);
      return "refused";
    }
  });
});

test("what the fuzzer found: a billion layers, defaults that no request could have, a generation_config.json that is null", () => {
  const [llama] = configs;
  assert.throws(() => readConfig({ config: { ...llama, num_hidden_layers: 1e9 }, weightDType: "f32" }, families), { name: "UsageError", message: /num_hidden_layers is 1000000000/ });
  assert.throws(() => generationDefaults("null"), { name: "UsageError", message: /generation_config\.json is null/ });
  assert.throws(() => generationDefaults('{"temperature": -1}'), { name: "UsageError", message: /generation_config\.json: temperature is -1/ });
  assert.throws(() => generationDefaults('{"top_p": "0.9"}'), { name: "UsageError", message: /generation_config\.json: top_p is "0\.9"/ });
  assert.deepEqual(generationDefaults('{"temperature": null, "top_k": 0, "do_sample": true}'), { topK: 0 });
});
