/** Loading checkpoints in the shapes they come in: other configs, shards, element types, odd sizes; and the memory it takes. */
import assert from "node:assert/strict";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { Backend, BufferUse } from "../../src/backend/backend.ts";
import { open } from "../../src/backend/reference/open.ts";
import { toFloat32 } from "../../src/core/dtype.ts";
import { readConfig } from "../../src/model/config.ts";
import { loadModel, openCheckpoint, planModel } from "../../src/model/load.ts";
import { families } from "../../src/model/registry.ts";
import { backends } from "./backends.ts";
import { fixture, fixtureNames, randomCheckpoint, readTensors, temporaryFolder, tensor, writeTensors } from "./checkpoints.ts";
import { Driver, maxDifference } from "./driver.ts";

const limits = { maxModelLen: 64, maxNumSeqs: 2, maxNumBatchedTokens: 32, pageSize: 4, numPages: 32, maxNumLogits: 4 };
const prompt = [1, 5, 9, 200, 17, 31, 8, 8, 64, 300, 2, 45, 90, 111, 7, 3, 250, 19];

/** The logits of the last tokens of `prompt`, computed in two chunks. */
async function logitsOf(backend: Backend, folder: string, dtype?: "float32" | "bfloat16"): Promise<Float32Array> {
  const { source, config } = openCheckpoint(folder, { kvCacheDtype: "float32", ...(dtype && { dtype }) });
  try {
    const model = await loadModel(backend, source, config, limits);
    const driver = new Driver(backend, model);
    const ids = prompt.map((id) => id % config.vocabSize);
    await driver.step([{ sequence: 0, position: 0, ids: ids.slice(0, 7), wanted: 0 }]);
    const rows = await driver.step([{ sequence: 0, position: 7, ids: ids.slice(7), wanted: 4 }]);
    return Float32Array.from(rows.flatMap((row) => [...row]));
  } finally {
    source.close();
    await backend.close();
  }
}

const readJson = (path: string): Record<string, unknown> => JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;

for (const name of fixtureNames) {
  test(`${name}: a config as transformers 4 writes it means the same`, () => {
    const five = readJson(join(fixture(name), "config.json"));
    type Rope = { rope_theta: number; rope_type: string };
    const { rope_parameters, dtype, layer_types: _, ...four } = five as { rope_parameters: Rope & { full_attention?: Rope; sliding_attention?: Rope }; dtype: string; layer_types?: unknown };
    const { rope_theta, ...scaling } = rope_parameters.full_attention ?? rope_parameters;
    if (rope_parameters.sliding_attention) Object.assign(four, { rope_local_base_freq: rope_parameters.sliding_attention.rope_theta });
    Object.assign(four, { rope_theta, rope_scaling: scaling.rope_type === "default" ? null : scaling, torch_dtype: dtype, transformers_version: "4.46.0", _name_or_path: "x" });
    // Version 4 leaves out what is the default of every model.
    if ("tie_word_embeddings" in four && name.startsWith("gemma")) delete four.tie_word_embeddings;
    assert.deepEqual(readConfig({ config: four, weightDType: "f32" }, families), readConfig({ config: five, weightDType: "f32" }, families));
  });
}

test("shards load as one file does", async (t) => {
  const folder = temporaryFolder(t);
  const weight_map: Record<string, string> = {};
  const tensors = [...readTensors(join(fixture("qwen2"), "model.safetensors"))];
  for (let shard = 0; shard < 3; shard++) {
    const file = `model-0000${shard + 1}-of-00003.safetensors`;
    const part = tensors.filter((_, i) => i % 3 === shard);
    for (const [name] of part) weight_map[name] = file;
    writeTensors(join(folder, file), new Map(part));
  }
  writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ metadata: { total_size: 1 }, weight_map }));
  copyFileSync(join(fixture("qwen2"), "config.json"), join(folder, "config.json"));
  assert.deepEqual(await logitsOf(await open(), folder), await logitsOf(await open(), fixture("qwen2")));
});

test("weights in f16 and f32, and bf16 widened, give the logits of the bf16 they came from; rounding back loses nothing", async (t) => {
  const expected = await logitsOf(await open(), fixture("llama-tied-bias"));
  assert.deepEqual(await logitsOf(await open(), fixture("llama-tied-bias"), "float32"), expected);
  for (const dtype of ["F32", "F16"] as const) {
    const folder = temporaryFolder(t);
    const tensors = [...readTensors(join(fixture("llama-tied-bias"), "model.safetensors"))];
    writeTensors(join(folder, "model.safetensors"), new Map(tensors.map(([name, { shape, data }]) => [name, tensor(dtype, shape, toFloat32(data, "bf16"))])));
    copyFileSync(join(fixture("llama-tied-bias"), "config.json"), join(folder, "config.json"));
    // The smallest bf16 weights are beyond f16, by less than 2^-25 each.
    const tolerance = dtype === "F16" ? 1e-4 : 0;
    assert.ok(maxDifference(await logitsOf(await open(), folder), expected) <= tolerance);
    assert.ok(maxDifference(await logitsOf(await open(), folder, "bfloat16"), expected) <= tolerance);
  }
});

test("a folder that is no checkpoint is refused with what is missing", (t) => {
  assert.throws(() => openCheckpoint("/no/such"), { name: "UsageError", message: /not a folder/ });
  assert.throws(() => openCheckpoint(temporaryFolder(t)), { name: "UsageError", message: /no config\.json/ });
  assert.throws(() => openCheckpoint(temporaryFolder(t, { "config.json": {} })), { name: "UsageError", message: /neither model\.safetensors nor/ });
  const broken = temporaryFolder(t);
  writeFileSync(join(broken, "config.json"), "{");
  assert.throws(() => openCheckpoint(broken), { name: "UsageError", message: /config\.json is not JSON/ });
});

test("a model allocates exactly what its plan says, and tells how far loading is", async () => {
  for (const name of fixtureNames) {
    const backend = await open();
    const asked: number[] = [];
    const counting = new Proxy(backend, {
      get: (target, key) => (key === "alloc" ? (bytes: number, use?: BufferUse) => (asked.push(bytes), target.alloc(bytes, use)) : typeof target[key as keyof Backend] === "function" ? (target[key as "close"]).bind(target) : target[key as keyof Backend]),
    });
    const { source, config } = openCheckpoint(fixture(name));
    const plan = planModel(config, limits, backend.caps);
    const told: (readonly [number, number])[] = [];
    await loadModel(counting, source, config, limits, (_, done, total) => told.push([done, total]));
    source.close();
    assert.deepEqual(asked.toSorted((a, b) => a - b), plan.parts.map((part) => part.bytes).toSorted((a, b) => a - b));
    assert.equal(asked.reduce((sum, bytes) => sum + bytes, 0), plan.totalBytes);
    assert.ok(told.length > 10 && told.every(([done, total], i) => done <= total && (i === 0 || done > told[i - 1]![0])));
    assert.equal(...told.at(-1)!);
  }
});

/** Sizes that no vector width divides. */
const oddSizes: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  "hidden 66, heads of 22": { architectures: ["LlamaForCausalLM"], hidden_size: 66, num_attention_heads: 3, num_key_value_heads: 1, intermediate_size: 51, mlp_bias: true, attention_bias: true },
  "hidden 35, heads of 10": { architectures: ["Qwen3ForCausalLM"], hidden_size: 35, num_attention_heads: 6, num_key_value_heads: 3, head_dim: 10, intermediate_size: 7 },
  "hidden 7, heads of 2": {
    architectures: ["Gemma2ForCausalLM"], hidden_size: 7, num_attention_heads: 5, num_key_value_heads: 1, head_dim: 2, intermediate_size: 33,
    sliding_window: 5, query_pre_attn_scalar: 2, attn_logit_softcapping: 1.5, final_logit_softcapping: 3.25,
  },
};
for (const { name: backendName, open: openOther, skip } of backends.filter(({ name }) => name !== "reference")) {
  for (const [what, sizes] of Object.entries(oddSizes)) {
    for (const dtype of ["F32", "BF16"] as const) {
      test(`${what}, ${dtype}: ${backendName} computes what the reference does`, { skip }, async (t) => {
        const folder = randomCheckpoint(t, { vocab_size: 37, num_hidden_layers: 2, max_position_embeddings: 64, rms_norm_eps: 1e-5, ...sizes }, dtype);
        const expected = await logitsOf(await open(), folder);
        const difference = maxDifference(await logitsOf(await openOther(), folder), expected);
        assert.ok(difference <= 1e-4, `differs by ${difference}`);
      });
    }
  }
}
