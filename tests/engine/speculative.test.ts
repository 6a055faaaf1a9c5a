/** An engine opened with speculation: what the two models take is planned to the byte, and what cannot be is refused by name before anything is loaded. */
import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { capsOf, openBackend } from "../../src/backend/registry.ts";
import { UsageError } from "../../src/core/errors.ts";
import { type EngineOptions, openEngine } from "../../src/engine/open.ts";
import { readSpeculativeConfig, type SpeculativeConfig } from "../../src/engine/speculative-config.ts";
import { openCheckpoint, planModel } from "../../src/model/load.ts";
import { defaultSampling } from "../../src/sampling/params.ts";
import { device, fixture } from "./tiny-model.ts";

const options: EngineOptions = { model: fixture("llama"), device, threads: 1, maxModelLen: 64, maxNumSeqs: 3, maxNumBatchedTokens: 24, blockSize: 8, quantization: "none" };
const demo = (name: string) => new URL(`../../models/${name}`, import.meta.url).pathname;

test("model and draft model take what their two plans say, rows of logits for the drafts included", async () => {
  for (const [speculativeConfig, maxNumLogits] of [[{ model: fixture("qwen3"), numSpeculativeTokens: 4 }, 15], [{ method: "ngram", numSpeculativeTokens: 20 }, 24]] as const) {
    const backend = await openBackend(device, { threads: 1 });
    let asked = 0;
    const alloc = backend.alloc.bind(backend);
    backend.alloc = (bytes, use) => ((asked += bytes), alloc(bytes, use));
    const { info, release } = await openEngine({ ...options, speculativeConfig }, () => 0, undefined, Promise.resolve(backend));
    const { maxModelLen, maxNumSeqs, maxNumBatchedTokens, pageSize, numPages } = info;
    const limits = { maxModelLen, maxNumSeqs, maxNumBatchedTokens, pageSize, numPages };
    const plan = (path: string, rows: number) => {
      const { config, source } = openCheckpoint(path, { quantization: "none" });
      source.close();
      return planModel(config, { ...limits, maxNumLogits: rows }, capsOf(device));
    };
    const plans = [plan(options.model, maxNumLogits), ...("model" in speculativeConfig ? [plan(speculativeConfig.model, maxNumSeqs)] : [])];
    const sum = (of: (one: (typeof plans)[number]) => number) => plans.reduce((total, one) => total + of(one), 0);
    assert.equal(asked, sum((one) => one.totalBytes));
    assert.deepEqual([info.kvBytes, info.weightBytes], [sum((one) => one.bytes.kvCache), sum((one) => one.bytes.weights)]);
    assert.equal(info.speculation?.numSpeculativeTokens, speculativeConfig.numSpeculativeTokens);
    await release();
  }
});

test("the pages of both caches are chosen together: a draft model's come off the pool", async () => {
  const numPages = async (speculativeConfig?: SpeculativeConfig) => {
    const { info, release } = await openEngine({ ...options, maxNumSeqs: 24, kvCacheBytes: 200_000, ...(speculativeConfig && { speculativeConfig }) }, () => 0);
    await release();
    return info.numPages;
  };
  const [alone, looked, drafted] = [await numPages(), await numPages({ method: "ngram", numSpeculativeTokens: 2 }), await numPages({ model: fixture("llama"), numSpeculativeTokens: 2 })];
  assert.equal(looked, alone);
  assert.equal(drafted, Math.floor(alone / 2), "the draft model is as large as the model");
});

test("a draft model of another vocabulary, or of a shorter context than is asked for, is refused", async () => {
  const open = (more: Partial<EngineOptions>) => openEngine({ ...options, ...more }, () => 0);
  await assert.rejects(open({ speculativeConfig: { model: demo("demo-draft"), numSpeculativeTokens: 2 } }),
    (error) => error instanceof UsageError && /^speculativeConfig\.model \(--speculative-config model\) has a vocabulary of 2048 tokens and the model one of 320;/.test(error.message));
  await assert.rejects(open({ speculativeConfig: { model: "/nowhere", numSpeculativeTokens: 2 } }), (error) => error instanceof UsageError && /\/nowhere is not a folder/.test(error.message));
  const short = mkdtempSync(join(tmpdir(), "tessera-short-"));
  try {
    cpSync(fixture("llama"), short, { recursive: true });
    const config = JSON.parse(readFileSync(join(short, "config.json"), "utf8")) as object;
    writeFileSync(join(short, "config.json"), JSON.stringify({ ...config, max_position_embeddings: 48 }));
    const speculativeConfig = { model: short, numSpeculativeTokens: 2 };
    await assert.rejects(open({ speculativeConfig }), (error) => error instanceof UsageError && /^maxModelLen \(--max-model-len\) is 64, and speculativeConfig\.model .* has 48 positions; pass at most that/.test(error.message));
    const { maxModelLen: _, ...rest } = options;
    const { info, release } = await openEngine({ ...rest, speculativeConfig }, () => 0);
    await release();
    assert.equal(info.maxModelLen, 48);
  } finally {
    rmSync(short, { recursive: true });
  }
});

test("where the device runs ahead, a draft model that is the model itself is right in every token, and the tokens are those without it", async () => {
  const prompts = [[5, 6, 7], [5, 6, 7, 8, 9, 10, 11, 12, 13], [40], [9, 9, 9, 9]];
  const run = async (speculativeConfig?: SpeculativeConfig) => {
    const { engine, info, release } = await openEngine({ ...options, device: "reference", maxModelLen: 40, maxNumSeqs: 4, blockSize: 4, ...(speculativeConfig && { speculativeConfig }) }, () => 0);
    prompts.forEach((prompt, i) => engine.submit(`${i}`, Int32Array.from(prompt), { ...defaultSampling, temperature: i % 2, seed: i, maxTokens: 14, ignoreEos: true, ...(i === 3 && { logprobs: 1 }) }));
    const tokens = prompts.map(() => [] as number[]);
    while (!engine.idle) for (const delta of await engine.step()) tokens[Number(delta.id)]!.push(...delta.tokens);
    await release();
    assert.equal(capsOf("reference").runsAhead, true);
    return { tokens, stats: engine.stats(), info };
  };
  const plain = await run(), drafted = await run({ model: options.model, numSpeculativeTokens: 3 }), looked = await run({ method: "ngram", numSpeculativeTokens: 3, promptLookupMin: 1 });
  assert.deepEqual(drafted.tokens, plain.tokens);
  assert.deepEqual(looked.tokens, plain.tokens);
  const accepted = drafted.stats.acceptedPerPosition.reduce((sum, count) => sum + count, 0);
  assert.ok(drafted.stats.numDraftTokens > 30 && looked.stats.numDraftTokens > 0, `${drafted.stats.numDraftTokens} and ${looked.stats.numDraftTokens} drafts`);
  assert.equal(accepted, drafted.stats.numDraftTokens);
});

test("fields of speculativeConfig: vLLM's defaults, and what is wrong with one is said by both its names", () => {
  const read = (config: unknown) => readSpeculativeConfig(config as SpeculativeConfig);
  assert.deepEqual(read({ method: "ngram", numSpeculativeTokens: 5 }), { method: "ngram", numSpeculativeTokens: 5, promptLookupMin: 5, promptLookupMax: 5 });
  assert.deepEqual(read({ method: "ngram", numSpeculativeTokens: 5, promptLookupMax: 4 }), { method: "ngram", numSpeculativeTokens: 5, promptLookupMin: 4, promptLookupMax: 4 });
  assert.deepEqual(read({ method: "ngram", numSpeculativeTokens: 5, promptLookupMin: 2, promptLookupMax: 4 }), { method: "ngram", numSpeculativeTokens: 5, promptLookupMin: 2, promptLookupMax: 4 });
  assert.deepEqual(read({ model: "x", numSpeculativeTokens: 1 }), { method: "draft_model", numSpeculativeTokens: 1, model: "x" });
  assert.deepEqual(read(read({ model: "x", numSpeculativeTokens: 1 })), read({ model: "x", numSpeculativeTokens: 1 }), "what is filled in stays as it is");
  const wrong: readonly (readonly [unknown, RegExp])[] = [
    [5, /^speculativeConfig \(--speculative-config\) is 5; it must be an object/],
    [{}, /^speculativeConfig\.method \(--speculative-config method\) is missing; it must be one of ngram, draft_model/],
    [{ method: "eagle", numSpeculativeTokens: 1 }, /\.method .* is "eagle"/],
    [{ method: "ngram" }, /^speculativeConfig\.numSpeculativeTokens \(--speculative-config num_speculative_tokens\) is missing; it must be an integer from 1 to 64/],
    [{ method: "ngram", numSpeculativeTokens: 65 }, /numSpeculativeTokens .* is 65/],
    [{ method: "ngram", numSpeculativeTokens: 1, promptLookupMin: 5, promptLookupMax: 4 }, /promptLookupMin .*prompt_lookup_min\) is 5; it must be at most promptLookupMax, which is 4/],
    [{ method: "ngram", numSpeculativeTokens: 1, promptLookupMax: 0 }, /promptLookupMax .* is 0; it must be an integer from 1/],
    [{ method: "ngram", numSpeculativeTokens: 1, model: "x" }, /\.model .* is "x"; it must be left out/],
    [{ method: "draft_model", numSpeculativeTokens: 1 }, /\.model .* is missing; it must be the draft model/],
    [{ model: "x", numSpeculativeTokens: 1, promptLookupMin: 2 }, /promptLookupMin .* is 2; it must be left out/],
    [{ model: "x", numSpeculativeToken: 1 }, /^speculativeConfig\.numSpeculativeToken \(--speculative-config\) is no field of it; it has method,/],
  ];
  for (const [config, message] of wrong) assert.throws(() => read(config), (error) => error instanceof UsageError && message.test(error.message) || assert.fail(String(error)));
});
