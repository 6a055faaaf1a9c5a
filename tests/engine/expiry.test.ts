/** Pages that no layer looks at any more, on real models: given back while their sequence runs, and nothing of it shows. */
import assert from "node:assert/strict";
import test from "node:test";
import { and, causal, chunked, maskMod, slidingWindow, tensor } from "../../src/attention/index.ts";
import { neverExpires } from "../../src/attention/expiry.ts";
import { type AttentionOverride, resolveOverride } from "../../src/attention/override.ts";
import { capsOf, openBackend } from "../../src/backend/registry.ts";
import type { Batch } from "../../src/engine/batch.ts";
import { Engine, type EngineLimits, type ForwardModel } from "../../src/engine/engine.ts";
import { ProgramModel } from "../../src/engine/forward.ts";
import { openEngine } from "../../src/engine/open.ts";
import { loadModel, openCheckpoint, planExpiry, planModel, readOwnAttention } from "../../src/model/load.ts";
import { PageNeeds } from "../../src/model/page-needs.ts";
import { defaultSampling, type SamplingParams } from "../../src/sampling/params.ts";
import { plainExpiry, seesChunk, seesWindow } from "./plain-expiry.ts";
import { device, fixture, openTiny } from "./tiny-model.ts";

const limits: EngineLimits = { maxModelLen: 1024, maxNumSeqs: 3, maxNumBatchedTokens: 32, pageSize: 16, numPages: 200 };
const caps = capsOf("cpu");
const elsewhere = device !== "cpu" && "sizes and bits are those of the cpu";
const prompt = (seed: number, length: number): Int32Array => Int32Array.from({ length }, (_, i) => (seed * 31 + i * i * 7) % 300 + 3);
const sampled = (seed: number, maxTokens: number): SamplingParams => ({ ...defaultSampling, seed, temperature: 0.9, maxTokens, ignoreEos: true, logprobs: 1 });
const configOf = (name: string, attention?: AttentionOverride) => {
  const { config, source } = openCheckpoint(fixture(name), { caps });
  source.close();
  return attention ? { ...config, override: resolveOverride(attention, readOwnAttention(fixture(name))) } : config;
};

/** Tokens and log-probabilities of each request. */
async function drain(engine: Engine, during: () => void = () => {}): Promise<Map<string, unknown[]>> {
  const out = new Map<string, unknown[]>();
  while (!engine.idle) {
    for (const { id, tokens, logprobs = [], message } of await engine.step()) {
      assert.equal(message, undefined);
      out.set(id, [...(out.get(id) ?? []), ...tokens, ...logprobs]);
    }
    during();
  }
  return out;
}

test("a sliding window in every layer lets pages go, a mask of the operator's own does, and one layer that sees everything keeps them all", () => {
  const expiring = (name: string, attention?: AttentionOverride) => {
    const expiry = planExpiry([configOf(name, attention)], limits, caps);
    return expiry && new PageNeeds(limits, expiry).order.length;
  };
  const numBlocks = limits.maxModelLen / limits.pageSize;
  assert.equal(expiring("mistral-sw"), numBlocks - 2, "all but the tile of the last query");
  for (const name of ["llama", "gemma2", "gemma3"]) assert.equal(expiring(name), 0, name);
  assert.equal(expiring("llama", { maskMod: and(causal, chunked(64)) }), numBlocks - 4, "all but the last chunk");
  assert.equal(expiring("llama", { layers: { 0: { maskMod: slidingWindow(20) } } }), 0, "the other layer sees everything");
  const shared = tensor(new Int32Array(new SharedArrayBuffer(4)), [1]);
  assert.equal(expiring("llama", { maskMod: maskMod(({ size }) => (_b, _h, q, kv) => q >= kv && q - kv < size[0]!, { size: shared }) }), undefined, "what is written there later may be a larger window");
  const llama = configOf("llama"), mistral = configOf("mistral-sw");
  assert.ok(planExpiry([mistral, llama], limits, caps)!.every((position) => position === neverExpires), "a draft model looks at pages of the same numbers");
});

test("a pool must hold what one sequence holds at once, and no more", () => {
  const config = configOf("mistral-sw"), mostHeld = new PageNeeds(limits, planExpiry([config], limits, caps)).mostHeld(limits.maxModelLen);
  assert.ok(mostHeld < 10, `${mostHeld}`);
  planModel(config, { ...limits, numPages: mostHeld }, caps);
  assert.throws(() => planModel(config, { ...limits, numPages: mostHeld - 1 }, caps), /pages of 16 tokens is too small for one sequence of maxModelLen 1024/);
  assert.throws(() => planModel(configOf("gemma3"), { ...limits, numPages: 63 }, caps), /63 pages of 16 tokens is too small/);
});

test("a request several times longer than the KV cache gives the bytes that it gives with room for all of it", { skip: elsewhere }, async () => {
  const maxTokens = 640, perPage = planModel(configOf("mistral-sw"), limits, caps).bytes.kvCache / limits.numPages;
  const request = (engine: Engine) => engine.submit("long", prompt(1, 150), sampled(7, maxTokens));
  await using roomy = await openTiny(fixture("mistral-sw"), limits);
  const whole = new Engine(roomy, { limits, eosTokenIds: [] });
  request(whole);
  let most = 0;
  const want = await drain(whole, () => (most = Math.max(most, limits.numPages - whole.stats().numFreePages)));
  assert.deepEqual([want.get("long")!.length, most, whole.stats().numExpiredPages], [2 * maxTokens, 50, 0]);

  const options = { model: fixture("mistral-sw"), device, threads: 2, maxModelLen: 1024, maxNumSeqs: 3, maxNumBatchedTokens: 32, blockSize: 16, kvCacheBytes: 9.5 * perPage } as const;
  for (const enablePrefixCaching of [true, false]) {
    const { engine, info, release } = await openEngine({ ...options, enablePrefixCaching }, () => 0);
    try {
      assert.deepEqual([info.numPages, info.maxModelLen], [9, 1024]);
      for (let i = 0; i < 3; i++) {
        request(engine);
        // Others come and go beside it, and are in its way.
        engine.submit("beside", prompt(2, 40), sampled(1, 30));
        engine.submit("also", prompt(3, 100), sampled(2, 10));
        assert.deepEqual((await drain(engine)).get("long"), want.get("long"), `round ${i}`);
        if (i === 0 && !enablePrefixCaching) break;
      }
      const { numExpiredPages, numFreePages } = engine.stats();
      assert.ok(numExpiredPages > 40, `${numExpiredPages}`);
      assert.equal(numFreePages, 9);
    } finally {
      await release();
    }
  }
});

test("kernels never read a page that was given back: not numbers in it, and in all that nobody holds, do not show", { skip: elsewhere }, async () => {
  for (const [name, attention, sees, pageSize] of [
    ["mistral-sw", undefined, seesWindow(16), 16], ["mistral-sw", undefined, seesWindow(16), 5], ["llama", { maskMod: and(causal, chunked(48)) }, seesChunk(48), 8],
  ] as const) {
    const { source } = openCheckpoint(fixture(name), { caps, kvCacheDtype: "float32" }), config = { ...configOf(name, attention), kvFormat: "f32" as const };
    const backend = await openBackend(device, { threads: 2 });
    try {
      const own: EngineLimits = { ...limits, maxModelLen: 320, pageSize, numPages: 240 };
      const model = await loadModel(backend, source, config, own), program = new ProgramModel(backend, model);
      const spare = own.numPages - 1;
      let numSpoilt = 0;
      /** Spoils all pages but those that the sequences of a step hold, and points at one of the spoilt ones where a page has expired. */
      const spoil = ({ numSequences, firstPosition, kvLength, blockTable, maxPagesPerSequence }: Batch, needs: PageNeeds): void => {
        const held = new Set<number>();
        for (let s = 0; s < numSequences; s++) for (let block = 0; block * pageSize < kvLength[s]!; block++) {
          const at = s * maxPagesPerSequence + block;
          if (needs.isExpired(block, firstPosition[s]!)) blockTable[at] = spare;
          else held.add(blockTable[at]!);
        }
        for (let page = 0; page < own.numPages; page++) if (!held.has(page)) {
          numSpoilt++;
          for (const { key, value } of model.kv) for (const { data, numHeads, headDim } of [key, value]) {
            const length = numHeads * pageSize * headDim;
            backend.write(data, page * length * 4, new Uint8Array(new Float32Array(length).fill(NaN).buffer));
          }
        }
      };
      const run = async (expiry?: Int32Array) => {
        const needs = new PageNeeds(own, expiry);
        const { vocabSize, runsAhead } = program, through: ForwardModel = expiry ? { vocabSize, runsAhead, launch: (batch, wanted) => (spoil(batch, needs), program.launch(batch, wanted)) } : program;
        const engine = new Engine(through, { limits: { ...own, enablePrefixCaching: false }, eosTokenIds: [], ...(expiry && { expiry }) });
        for (const id of [1, 2]) engine.submit(String(id), prompt(id, 16), sampled(id, 70 + 10 * id));
        const out = await drain(engine);
        assert.equal(engine.stats().numExpiredPages > 2 * Math.floor(40 / pageSize), expiry !== undefined);
        return out;
      };
      assert.deepEqual(await run(planExpiry([config], own, caps)), await run());
      assert.ok(numSpoilt > 1000);
      // Kernels read whole tiles: pages that go when their own keys are out of sight, and those beside them are not, are still read.
      await assert.rejects(run(plainExpiry(sees, pageSize, own.maxModelLen)), /not numbers/);
    } finally {
      source.close();
      await backend.close();
    }
  }
});
