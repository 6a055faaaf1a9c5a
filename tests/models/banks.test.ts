/**
 * Models larger than one memory of the wasm backend. Its memories are made small instead, so that a fixture's weights and caches lie
 * in several; where they lie must not show in a single bit.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { capsOf } from "../../src/backend/registry.ts";
import { open, type WasmOptions } from "../../src/backend/wasm/open.ts";
import type { WasmBuffer } from "../../src/backend/wasm/memory.ts";
import type { Backend, BufferUse } from "../../src/backend/backend.ts";
import { type FormatOptions, loadModel, openCheckpoint, planModel } from "../../src/model/load.ts";
import { randomCheckpoint } from "./checkpoints.ts";
import { Driver } from "./driver.ts";

const limits = { maxModelLen: 64, maxNumSeqs: 2, maxNumBatchedTokens: 32, pageSize: 4, numPages: 640, maxNumLogits: 4 };
const prompt = [1, 5, 9, 200, 17, 31, 8, 8, 64, 300, 2, 45, 90, 111, 7, 3, 250, 19];
/** 4.3M parameters; each of the tensors fits a bank, and not all of one kind do. */
const shape = {
  hidden_size: 256, intermediate_size: 512, vocab_size: 4096, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 64, max_position_embeddings: 64,
  rms_norm_eps: 1e-5, tie_word_embeddings: false,
};
const bankBytes = 80 * 65536;

/** Logits of prefill and decode on a backend, and in which banks weights and caches were. */
async function run(folder: string, options: WasmOptions, formats: FormatOptions = {}): Promise<{ logits: Float32Array[]; banks: Record<BufferUse, Set<number>> }> {
  const { source, config } = openCheckpoint(folder, formats);
  const backend = await open({ memoryBytes: planModel(config, limits, capsOf("cpu")).totalBytes, ...options });
  const banks = { weights: new Set<number>(), kvCache: new Set<number>() };
  let numRecorded = 0;
  const watched = new Proxy(backend, {
    get: (target, key) => {
      if (key === "record") numRecorded++;
      if (key !== "alloc") return typeof target[key as keyof Backend] === "function" ? (target[key as "close"]).bind(target) : target[key as keyof Backend];
      return (bytes: number, use?: BufferUse) => {
        const buffer = target.alloc(bytes, use) as WasmBuffer;
        if (use) banks[use].add(buffer.bank);
        if (use) assert.ok(numRecorded >= 2, "what kernels of logits work in is taken before weights and caches");
        return buffer;
      };
    },
  });
  try {
    const model = await loadModel(watched, source, config, limits);
    const driver = new Driver(backend, model);
    const ids = prompt.map((id) => id % config.vocabSize);
    const steps = [
      await driver.step([{ sequence: 0, position: 0, ids: ids.slice(0, 11), wanted: 1 }, { sequence: 1, position: 0, ids: ids.slice(3, 8), wanted: 1 }]),
      await driver.step([{ sequence: 0, position: 11, ids: ids.slice(11, 12), wanted: 1 }, { sequence: 1, position: 5, ids: ids.slice(8), wanted: 3 }]),
    ];
    return { logits: steps.flat(), banks };
  } finally {
    source.close();
    await backend.close();
  }
}

const cases: Readonly<Record<string, FormatOptions>> = {
  "LlamaForCausalLM": { quantization: "none" },
  "Qwen3ForCausalLM": { quantization: "int8", kvCacheDtype: "float32" },
  "MistralForCausalLM": { quantization: "int4", kvCacheDtype: "float16" },
};
for (const [architecture, formats] of Object.entries(cases)) {
  test(`${architecture}, ${JSON.stringify(formats)}: weights and caches in several memories give the bits of one, on any number of threads`, async (t) => {
    const folder = randomCheckpoint(t, { architectures: [architecture], ...shape }, "BF16");
    const one = await run(folder, { threads: 2 }, formats);
    assert.deepEqual([...one.banks.weights, ...one.banks.kvCache], [0, 0], "everything fits one memory of the usual size");
    for (const threads of [1, 2]) {
      const several = await run(folder, { threads, bankBytes }, formats);
      assert.ok(several.banks.weights.has(0) && several.banks.weights.size > 1, `weights lie in ${[...several.banks.weights]}`);
      assert.ok(several.banks.kvCache.size > 1, `caches lie in ${[...several.banks.kvCache]}`);
      assert.deepEqual(several.logits, one.logits);
    }
  });
}

test("a model that does not fit says which tensor had no room, and what to do", async (t) => {
  const folder = randomCheckpoint(t, { architectures: ["LlamaForCausalLM"], ...shape }, "BF16");
  await assert.rejects(run(folder, { threads: 1, bankBytes, memoryBytes: 0 }), {
    name: "UsageError", message: /^no room for [\w.]+ \([\d.]+ [KM]iB\): .*memory is full.*; try a smaller model, --quantization int8 or int4/,
  });
  await assert.rejects(run(folder, { threads: 1, bankBytes: 2 * 65536 }), { name: "UsageError", message: /hold all but weights and KV cache.*; try a smaller --max-model-len, --max-num-batched-tokens/ });
});
