/** Models of random weights, by config.json alone: on every device, the same each time, and through the engine; and the memory that an engine takes of a GPU. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import type { Backend } from "../../src/backend/backend.ts";
import { type Device, openBackend } from "../../src/backend/registry.ts";
import { toFloat32 } from "../../src/core/dtype.ts";
import { openEngine } from "../../src/engine/open.ts";
import { loadModel, openCheckpoint } from "../../src/model/load.ts";
import { defaultSampling } from "../../src/sampling/params.ts";
import { temporaryFolder } from "./checkpoints.ts";
import { Driver } from "./driver.ts";

const limits = { maxModelLen: 64, maxNumSeqs: 1, maxNumBatchedTokens: 32, pageSize: 16, numPages: 8, maxNumLogits: 8 };
const llama = {
  architectures: ["LlamaForCausalLM"], vocab_size: 200, hidden_size: 96, intermediate_size: 160, num_hidden_layers: 3, num_attention_heads: 6, num_key_value_heads: 2, max_position_embeddings: 64,
  eos_token_id: 3, attention_bias: true,
};
const gemma = { ...llama, architectures: ["Gemma2ForCausalLM"], attention_bias: false, head_dim: 16, query_pre_attn_scalar: 16, sliding_window: 8 };

async function logitsOf(backend: Backend, folder: string): Promise<readonly Float32Array[]> {
  const { source, config } = openCheckpoint(folder, { caps: backend.caps, loadFormat: "dummy" });
  const model = await loadModel(backend, source, config, limits);
  const rows = await new Driver(backend, model).step([{ sequence: 0, position: 0, ids: [5, 100, 7, 199, 0, 1, 2, 3], wanted: 8 }]);
  await backend.close();
  return rows.map((row) => row.slice());
}

for (const [name, config] of Object.entries({ llama, gemma })) {
  test(`a ${name} of dummy weights is a folder with a config.json; its logits are finite, differ from token to token and are the same each time`, async (t) => {
    const folder = temporaryFolder(t, { "config.json": config });
    const [first, again, cpu, half] = [
      await logitsOf(await openBackend("reference"), folder), await logitsOf(await openBackend("reference"), folder), await logitsOf(await openBackend("cpu", { threads: 2 }), folder),
      await logitsOf(await openBackend("reference", { as: "cuda" }), folder),
    ];
    assert.deepEqual(again, first);
    const spread = (rows: readonly Float32Array[]): number => Math.max(...rows.flatMap((row) => [...row].map(Math.abs)));
    assert.ok(spread(first) > 0.05 && spread(first) < 50, `logits within ${spread(first)}`);
    assert.notDeepEqual(first[0], first[1]);
    for (const [other, most] of [[cpu, 0.02], [half, 0.05]] as const) first.forEach((row, r) => row.forEach((x, i) => assert.ok(Math.abs(x - other[r]![i]!) <= most * spread(first), `logit ${i} of row ${r}: ${x}, ${other[r]![i]}`)));
  });
}

test("dummy tensors are small normal-like numbers, of rows that differ, in the config's type; norms multiply by 1", (t) => {
  for (const [config, ones] of [[llama, 1], [{ ...gemma, torch_dtype: "float16" }, 0]] as const) {
    const { source } = openCheckpoint(temporaryFolder(t, { "config.json": config }), { loadFormat: "dummy" });
    const half = "torch_dtype" in config ? "F16" : "BF16";
    const read = (name: string): Float32Array => {
      const { bytes, dtype } = source.info(name)!, into = new Uint8Array(bytes), split = 2 * Math.floor(bytes / 6);
      assert.equal(dtype, half);
      // In two pieces, as a loader takes it.
      source.read(name, into.subarray(0, split));
      source.read(name, into.subarray(split), split);
      return toFloat32(into, half === "F16" ? "f16" : "bf16");
    };
    assert.deepEqual(new Set(read("model.layers.1.input_layernorm.weight")), new Set([ones]));
    const embed = read("model.embed_tokens.weight"), head = config === llama ? read("lm_head.weight") : read("model.layers.0.mlp.up_proj.weight");
    const deviation = Math.sqrt(embed.reduce((sum, x) => sum + x * x, 0) / embed.length), mean = embed.reduce((sum, x) => sum + x, 0) / embed.length;
    assert.ok(Math.abs(deviation - 0.02) < 0.001 && Math.abs(mean) < 0.001, `${mean} and ${deviation}`);
    assert.equal(new Set(Array.from({ length: 200 }, (_, r) => String(embed.subarray(96 * r, 96 * r + 8)))).size, 200);
    assert.notDeepEqual(head.subarray(0, 96), embed.subarray(0, 96));
  }
});

test("dummy weights of a GGUF file, in a type of no floats, or by another name of a format, are refused", (t) => {
  const refuse = (path: string, loadFormat: string, message: RegExp): void =>
    assert.throws(() => openCheckpoint(path, { loadFormat: loadFormat as "dummy" }), { name: "UsageError", message });
  refuse(join(import.meta.dirname, "m.gguf"), "dummy", /loadFormat \(--load-format\) is dummy, which needs a folder with a config\.json, and .*m\.gguf is a GGUF file/);
  refuse(temporaryFolder(t, { "config.json": { ...llama, dtype: "float8" } }), "dummy", /config\.json: dtype is "float8"; dummy weights are made in float32, float16, bfloat16/);
  refuse(temporaryFolder(t, { "config.json": llama }), "pt", /loadFormat \(--load-format\) is "pt"; it must be one of auto, dummy/);
});

/** The reference as a GPU of `bytes`. */
async function gpu(bytes: number): Promise<Backend> {
  const backend = await openBackend("reference", { as: "cuda" });
  return new Proxy(backend, { get: (target, key: keyof Backend) => (key === "availableBytes" ? () => bytes : typeof target[key] === "function" ? (target[key] as () => void).bind(target) : target[key]) });
}

test("an engine of dummy weights generates by token ids, and takes its share of the GPU's memory and no more", async (t) => {
  const folder = temporaryFolder(t, { "config.json": llama }), MiB = 2 ** 20;
  const start = (more: object) => openEngine({ model: folder, device: "cuda", loadFormat: "dummy", maxNumSeqs: 2, maxNumBatchedTokens: 64, ...more }, () => 0, undefined, gpu(2.5 * MiB));
  const taken: number[] = [];
  for (const gpuMemoryUtilization of [undefined, 0.6]) {
    const { engine, info, release } = await start({ blockSize: 8, ...(gpuMemoryUtilization !== undefined && { gpuMemoryUtilization }) });
    assert.deepEqual([info.dtype, info.kvCacheDtype, info.pageSize, info.convertedFrom], ["bfloat16", "bfloat16", 8, undefined]);
    taken.push(info.weightBytes + info.kvBytes);
    engine.submit("one", Int32Array.of(1, 2, 3), { ...defaultSampling, temperature: 0, maxTokens: 5, ignoreEos: true });
    const tokens: number[] = [];
    while (!engine.idle) for (const delta of await engine.step()) tokens.push(...delta.tokens);
    assert.equal(tokens.length, 5);
    await release();
  }
  assert.ok(taken[0]! <= 0.9 * 2.5 * MiB && taken[1]! <= 0.6 * 2.5 * MiB && taken[1]! <= taken[0]!, String(taken));
  await assert.rejects(start({ gpuMemoryUtilization: 0.1 }), { name: "UsageError", message: /the model takes .* without any KV cache, and 256\.00 KiB is available/ });
  await assert.rejects(start({ gpuMemoryUtilization: 1.5 }), { name: "UsageError", message: /gpuMemoryUtilization \(--gpu-memory-utilization\) is 1\.5; it must be above 0 and at most 1/ });
  const onCpu = openEngine({ model: folder, device: "cpu", threads: 1, loadFormat: "dummy", gpuMemoryUtilization: 0.5 }, () => 0);
  await assert.rejects(onCpu, { name: "UsageError", message: /is 0\.5, and device cpu has no memory of its own; leave it out/ });
});

test("what is wrong with a model is told before there is no device", async (t) => {
  const opening = Promise.reject(new Error("no device")), folder = temporaryFolder(t, { "config.json": llama });
  const start = (more: object): Promise<unknown> => openEngine({ model: folder, device: "cuda" as Device, ...more }, () => 0, undefined, opening as Promise<Backend>);
  await assert.rejects(start({}), /has neither model\.safetensors/);
  await assert.rejects(start({ loadFormat: "dummy", quantization: "int4" }), /quantization \(--quantization\) is int4, and device cuda/);
  await assert.rejects(start({ loadFormat: "dummy", dtype: "float32" }), /dtype \(--dtype\) is float32, and device cuda/);
  await assert.rejects(start({ loadFormat: "dummy", kvCacheDtype: "float32" }), /kvCacheDtype \(--kv-cache-dtype\) is float32; device cuda/);
  await assert.rejects(start({ loadFormat: "dummy" }), /no device/);
});
