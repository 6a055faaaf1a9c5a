import assert from "node:assert/strict";
import { test } from "node:test";
import type { Backend, Buffer, Weight } from "../backend/backend.ts";
import { capsOf } from "../backend/registry.ts";
import { type DType, fromFloat32, toFloat32 } from "../core/dtype.ts";
import { UsageError } from "../core/errors.ts";
import { blockFormats } from "../weights/block-formats.ts";
import type { FileDType } from "../weights/safetensors.ts";
import type { WeightSource } from "../weights/source.ts";
import { type ModelConfig, readConfig } from "./config.ts";
import { families } from "./registry.ts";
import { listTensors, tensorBytes } from "./tensors.ts";
import { stagingBytes } from "./memory.ts";
import { chooseWeightFormats } from "./weight-formats.ts";
import { checkWeights, loadWeights } from "./weights.ts";

const raw = {
  architectures: ["LlamaForCausalLM"], vocab_size: 5, hidden_size: 4, intermediate_size: 6, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1,
  max_position_embeddings: 16, attention_bias: true,
};
const config = (weightDType: ModelConfig["weightDType"], more: object = {}): ModelConfig => readConfig({ config: { ...raw, ...more }, weightDType }, families);

/** A checkpoint for `config` whose n-th tensor holds n, n + 1/8, n + 2/8, ... */
function checkpoint(c: ModelConfig, dtype: FileDType): Map<string, { dtype: FileDType; shape: readonly number[]; data: Uint8Array }> {
  const parts = listTensors(c).flatMap((spec) => spec.parts);
  return new Map(parts.map(({ source, shape }, n) => {
    const values = Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => n + (i % 8) / 8);
    return [source, { dtype, shape, data: fromFloat32(values, dtype.toLowerCase() as DType) }];
  }));
}

function sourceOf(tensors: ReadonlyMap<string, { dtype: FileDType; shape: readonly number[]; data: Uint8Array }>): WeightSource {
  return {
    names: () => tensors.keys(),
    info: (name) => tensors.has(name) ? { ...tensors.get(name)!, bytes: tensors.get(name)!.data.length } : undefined,
    read: (name, into, offset = 0) => into.set(tensors.get(name)!.data.subarray(offset, offset + into.length)),
    close() {},
  };
}

/** Memory that can be viewed (as wasm's) or only written (as a GPU's). */
function memory(viewed: boolean): { backend: Backend; bytes: Map<Buffer, Uint8Array> } {
  const bytes = new Map<Buffer, Uint8Array>();
  const backend = {
    alloc(size: number): Buffer {
      const buffer: Buffer = { bytes: size, slice: () => assert.fail("no slice is needed") };
      bytes.set(buffer, new Uint8Array(new SharedArrayBuffer(size)));
      return buffer;
    },
    view: (buffer: Buffer) => (viewed ? bytes.get(buffer) : undefined),
    write: (to: Buffer, offset: number, data: Uint8Array) => bytes.get(to)!.set(data, offset),
    free: (buffer: Buffer) => void bytes.delete(buffer),
  };
  return { backend: backend as unknown as Backend, bytes };
}

for (const viewed of [true, false]) {
  for (const stored of ["BF16", "F16", "F32"] as const) {
    test(`${stored} weights arrive as f32 and as bf16, joined in order, ${viewed ? "in memory that is read into" : "by writes"}`, async () => {
      for (const weightDType of ["f32", "bf16"] as const) {
        const c = config(weightDType);
        const tensors = checkpoint(c, stored);
        const { backend, bytes } = memory(viewed);
        const specs = new Map(listTensors(c).map((spec) => [spec.name, spec]));
        const told: (readonly [number, number])[] = [];
        const weights = await loadWeights(backend, sourceOf(tensors), c, (name) => backend.alloc(name === "staging" ? stagingBytes : tensorBytes(specs.get(name)!)), (done, total) => told.push([done, total]));
        const { qkv: [qkv], qkvBias } = weights.layers[0]!;
        const prefix = "model.layers.0.self_attn";
        const joined = (suffix: string): number[] => ["q", "k", "v"].flatMap((x) => [...toFloat32(tensors.get(`${prefix}.${x}_proj.${suffix}`)!.data, stored.toLowerCase() as DType)]);
        assert.deepEqual([qkv!.dtype, qkv!.rows, qkv!.columns], [weightDType, 8, 4]);
        assert.deepEqual([...toFloat32(bytes.get(qkv!.data)!, weightDType)], joined("weight"));
        assert.deepEqual([...toFloat32(bytes.get(qkvBias!.data)!, "f32")], joined("bias"));
        const total = [...specs.values()].reduce((sum, spec) => sum + tensorBytes(spec), 0);
        assert.deepEqual(told.at(-1), [total, total]);
        assert.ok(told.every(([done], i) => i === 0 || done > told[i - 1]![0]));
      }
    });
  }
}

test("gemma's norms get their 1 when they are loaded, and nothing else does", async () => {
  const c = config("bf16", { architectures: ["Gemma2ForCausalLM"], head_dim: 2, query_pre_attn_scalar: 2, sliding_window: 4, attention_bias: false });
  const tensors = checkpoint(c, "BF16");
  const { backend, bytes } = memory(true);
  const weights = await loadWeights(backend, sourceOf(tensors), c, (name) => backend.alloc(name === "staging" ? stagingBytes : tensorBytes(listTensors(c).find((spec) => spec.name === name)!)), () => {});
  assert.deepEqual([...toFloat32(bytes.get(weights.finalNorm.data)!, "f32")], [...toFloat32(tensors.get("model.norm.weight")!.data, "bf16")].map((x) => x + 1));
  assert.deepEqual(bytes.get(weights.embed.data), tensors.get("model.embed_tokens.weight")!.data);
  assert.equal(weights.head, undefined);
});

test("what is missing, left over, of another shape or unreadable is refused by name", async () => {
  const c = config("f32");
  const refuse = (change: (tensors: ReturnType<typeof checkpoint>) => void, message: RegExp): void => {
    const tensors = checkpoint(c, "F32");
    change(tensors);
    assert.throws(() => checkWeights(sourceOf(tensors), c), { name: "UsageError", message });
  };
  refuse((t) => t.delete("model.layers.0.mlp.up_proj.weight"), /lacks model\.layers\.0\.mlp\.up_proj\.weight/);
  refuse((t) => t.delete("lm_head.weight"), /lacks lm_head\.weight/);
  refuse((t) => t.set("model.layers.1.mlp.up_proj.weight", t.get("model.norm.weight")!), /has model\.layers\.1\.mlp\.up_proj\.weight/);
  refuse((t) => t.set("model.norm.weight", { ...t.get("model.norm.weight")!, shape: [5] }), /model\.norm\.weight has shape \[5\], but the config asks for \[4\]/);
  refuse((t) => t.set("model.norm.weight", { ...t.get("model.norm.weight")!, dtype: "I8" }), /model\.norm\.weight is I8/);
});

test("a stored rotary table is passed over, and a head too where embeddings are tied", async () => {
  const tied = config("f32", { tie_word_embeddings: true });
  const tensors = checkpoint(config("f32"), "F32");
  tensors.set("model.layers.0.self_attn.rotary_emb.inv_freq", tensors.get("model.norm.weight")!);
  checkWeights(sourceOf(tensors), tied);
  assert.ok(tensors.has("lm_head.weight"));
});

test("auto keeps bf16 where all matrices are bf16, and is f32 otherwise", async () => {
  const tensors = checkpoint(config("f32"), "BF16");
  tensors.set("model.norm.weight", { ...tensors.get("model.norm.weight")!, dtype: "F32" });
  assert.equal(chooseWeightFormats(sourceOf(tensors), "auto", "auto", capsOf("cpu")).weightDType, "bf16");
  assert.equal(chooseWeightFormats(sourceOf(tensors), "float32", "auto", capsOf("cpu")).weightDType, "f32");
  tensors.set("lm_head.weight", { ...tensors.get("lm_head.weight")!, dtype: "F16" });
  assert.equal(chooseWeightFormats(sourceOf(tensors), "auto", "auto", capsOf("cpu")).weightDType, "f32");
  assert.equal(chooseWeightFormats(sourceOf(tensors), "bfloat16", "auto", capsOf("cpu")).weightDType, "bf16");
});

test("blocks that are rounded anew arrive as their numbers, in order, a little at a time", async () => {
  const c = config("int8", { hidden_size: 256, num_attention_heads: 4, intermediate_size: 256, vocab_size: 1100, attention_bias: false, tie_word_embeddings: true });
  const { blockBytes, blockElements, toFloat32: numbers } = blockFormats.Q4_0;
  const matrices = new Map(listTensors(c).flatMap((spec) => spec.parts).map(({ source, shape }, n) => {
    if (shape.length === 1) return [source, { dtype: "F32" as const, shape, data: new Uint8Array(4 * shape[0]!) }];
    const data = Uint8Array.from({ length: (shape[0]! * shape[1]! / blockElements) * blockBytes }, (_, i) => (i % blockBytes === 1 ? 0x2c : (i * 7 + n + (i >> 8)) & 255));
    return [source, { dtype: "Q4_0" as FileDType, shape, data }];
  }));
  const rowsLeft = (rows: number) => (row: number): number => rows - 1 - row;
  const plain = sourceOf(matrices), name = "model.embed_tokens.weight";
  const source: WeightSource = { ...plain, info: (tensor) => (tensor === name ? { ...plain.info(name)!, fileRow: rowsLeft(1100) } : plain.info(tensor)) };
  const { backend } = memory(false), calls: { readonly weight: Weight; readonly row: number; readonly values: Float32Array; readonly type: string | undefined }[] = [];
  const recording: Backend = { ...backend, writeRows: async (weight, row, rows, type) => void calls.push({ weight, row, values: toFloat32(rows.slice(), "f32"), type }) };
  const { embed } = await loadWeights(recording, source, c, (tensor) => backend.alloc(tensor === "staging" ? stagingBytes : tensorBytes(listTensors(c).find((spec) => spec.name === tensor)!)), () => {});
  const ours = calls.filter(({ weight }) => weight.data === embed.data);
  assert.ok(ours.length > 1 && ours.every(({ type, values }) => type === "F32" && values.byteLength <= stagingBytes));
  const expected = numbers(matrices.get(name)!.data), found = new Float32Array(expected.length);
  for (const { row, values } of ours) found.set(values, row * 256);
  for (const row of [0, 1, 511, 512, 1099]) assert.deepEqual(found.subarray(row * 256, (row + 1) * 256), expected.subarray((1099 - row) * 256, (1100 - row) * 256), `row ${row}`);
});

test("quantised matrices arrive by whole panels, however wide their rows are, and what a backend refuses is told with the tensor's name", async () => {
  const c = config("int8", { hidden_size: 32, intermediate_size: 16384, attention_bias: false }), specs = new Map(listTensors(c).map((spec) => [spec.name, spec]));
  const load = (stored: FileDType, writeRows: (rows: number, columns: number) => void): Promise<unknown> => {
    const { backend } = memory(true), bytesEach = stored === "F32" ? 4 : 2;
    const quantized = { ...backend, writeRows: async ({ columns }: { columns: number }, _: number, bytes: Uint8Array) => writeRows(bytes.length / columns / bytesEach, columns) };
    return loadWeights(quantized as unknown as Backend, sourceOf(checkpoint(c, stored)), c, (name) => backend.alloc(name === "staging" ? stagingBytes : tensorBytes(specs.get(name)!)), () => {});
  };
  for (const stored of ["F32", "BF16"] as const) {
    const down: number[] = [];
    await load(stored, (rows, columns) => columns === 16384 && down.push(rows));
    assert.deepEqual(down, [16, 16], stored);
  }
  await assert.rejects(load("F32", () => {
    throw new UsageError("a scale of 9");
  }), { name: "UsageError", message: "model.embed_tokens.weight: a scale of 9" });
});
