/** The fixture checkpoints as GGUF files, made by llama.cpp's rules, against the same goldens; and files whose model cannot be run. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { open } from "../../src/backend/reference/open.ts";
import { loadModel, openCheckpoint, readOwnAttention } from "../../src/model/load.ts";
import { interleaved } from "../../src/model/gguf.ts";
import { convertToGguf, type MatrixType } from "../gguf-model.ts";
import { type GgufContents, writeGguf } from "../gguf-writer.ts";
import { backends } from "./backends.ts";
import { fixture, fixtureNames, readGoldens, temporaryFolder } from "./checkpoints.ts";
import { Driver, maxDifference } from "./driver.ts";

/** Absolute, in logits: as of the folders they are made from. */
const tolerance = 1e-3;
const limits = { maxModelLen: 176, maxNumSeqs: 3, maxNumBatchedTokens: 224, pageSize: 5, numPages: 120, maxNumLogits: 24 };

function write(t: TestContext, contents: GgufContents, name = "model.gguf"): string {
  const path = join(temporaryFolder(t), name);
  writeFileSync(path, writeGguf(contents));
  return path;
}

/** The logits of all goldens of `name`, by the model at `path`. */
async function logitsOf(path: string, name: string, openBackend = open): Promise<Float32Array[]> {
  const backend = await openBackend();
  const { source, config } = openCheckpoint(path, { kvCacheDtype: "float32" });
  try {
    const driver = new Driver(backend, await loadModel(backend, source, config, limits));
    return await driver.step(readGoldens(name).map(({ ids, logits }, sequence) => ({ sequence, position: 0, ids, wanted: logits.length })));
  } finally {
    source.close();
    await backend.close();
  }
}

for (const { name: backendName, open: openBackend, skip } of backends) {
  describe(`on ${backendName}`, { skip }, () => {
    for (const name of fixtureNames) {
      test(`${name} as a GGUF file gives the golden logits`, async (t) => {
        const logits = await logitsOf(write(t, convertToGguf(fixture(name))), name, openBackend as typeof open);
        const expected = readGoldens(name).flatMap((golden) => golden.logits);
        expected.forEach((row, i) => assert.ok(maxDifference(row, logits[i]!) <= tolerance, `row ${i} differs by ${maxDifference(row, logits[i]!)}`));
      });
    }
  });
}

for (const type of ["F16", "BF16"] as const satisfies readonly MatrixType[]) {
  test(`matrices in ${type} give the golden logits of the bf16 they came from, q's and k's rows in their places`, async (t) => {
    const logits = await logitsOf(write(t, convertToGguf(fixture("llama-tied-bias"), type)), "llama-tied-bias");
    const expected = readGoldens("llama-tied-bias").flatMap((golden) => golden.logits);
    expected.forEach((row, i) => assert.ok(maxDifference(row, logits[i]!) <= tolerance, `row ${i} differs by ${maxDifference(row, logits[i]!)}`));
  });
}

test("a GGUF file's config is its folder's, but for the norms' 1 and what the file says in its own way", (t) => {
  for (const name of fixtureNames) {
    const path = write(t, convertToGguf(fixture(name), "BF16"));
    const [ours, theirs] = [path, fixture(name)].map((from) => {
      const { config, source } = openCheckpoint(from);
      source.close();
      return config;
    });
    const { rope, normEpsilon, attentionScale, ...rest } = ours!;
    const { rope: theirRope, normEpsilon: theirEpsilon, attentionScale: theirScale, ...theirRest } = theirs!;
    assert.deepEqual(rest, { ...theirRest, normOffset: 0 }, name);
    assert.equal(Math.fround(theirEpsilon), normEpsilon);
    // gemma2's scalar is folded into q.
    assert.equal(attentionScale, name === "gemma2" ? 32 ** -0.5 : theirScale);
    if (name !== "llama3-rope") assert.deepEqual(rope, theirRope, name);
  }
});

test("a split model is read as one, from its first part", async (t) => {
  const { metadata, tensors } = convertToGguf(fixture("qwen2"));
  const folder = temporaryFolder(t);
  const part = (i: number, total = tensors.length): GgufContents => ({
    metadata: { ...(i === 0 ? metadata : {}), "split.no": ["u16", i], "split.count": ["u16", 3], "split.tensors.count": ["i32", total] },
    tensors: tensors.filter((_, n) => n % 3 === i),
  });
  const path = (i: number): string => join(folder, `m-0000${i + 1}-of-00003.gguf`);
  for (const i of [0, 1]) writeFileSync(path(i), writeGguf(part(i)));
  assert.throws(() => openCheckpoint(path(0)), { name: "UsageError", message: /m-00003-of-00003\.gguf is not there/ });
  writeFileSync(path(2), writeGguf(part(2)));
  assert.deepEqual(await logitsOf(path(0), "qwen2"), await logitsOf(write(t, { metadata, tensors }), "qwen2"));
  assert.throws(() => openCheckpoint(path(1)), { name: "UsageError", message: /is part 00002 of 3; give the first one/ });
  writeFileSync(path(0), writeGguf(part(0, 99)));
  assert.throws(() => openCheckpoint(path(0)), { name: "UsageError", message: /split\.tensors\.count is 99, but its parts have \d+ tensors/ });
  writeFileSync(path(2), writeGguf(part(1)));
  assert.throws(() => openCheckpoint(path(0)), { name: "UsageError", message: /is both in .*m-00002-of-00003\.gguf and in .*m-00003/ });
  assert.throws(() => openCheckpoint(write(t, part(0), "one.gguf")), { name: "UsageError", message: /split\.count is 3; the parts/ });
});

test("rows of a head lie interleaved: row r of the tensor is row fileRow(r) of the file", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 5, 6, 7].map(interleaved(4)), [0, 2, 1, 3, 4, 6, 5, 7]);
});

test("windows, caps and scales that no file need say are what llama.cpp takes for them", (t) => {
  const contents = convertToGguf(fixture("gemma2"));
  const without = Object.fromEntries(Object.entries(contents.metadata).filter(([key]) => !/softcapping|sliding_window/.test(key)));
  const read = (metadata: GgufContents["metadata"]): ReturnType<typeof openCheckpoint>["config"] => {
    const { config, source } = openCheckpoint(write(t, { ...contents, metadata }));
    source.close();
    return config;
  };
  const plain = read(without);
  assert.deepEqual([plain.attentionSoftCap, plain.finalSoftCap, plain.layers.map(({ window }) => window)], [50, 30, [4096, undefined, 4096]]);
  assert.deepEqual(read({ ...without, "gemma2.attention.sliding_window_pattern": ["u32", 3] }).layers.map(({ window }) => window), [4096, 4096, undefined]);
  assert.deepEqual(read({ ...without, "gemma2.attention.sliding_window_pattern": ["bool[]", [false, false, true]] }).layers.map(({ window }) => window), [undefined, undefined, 4096]);
  assert.deepEqual(read({ ...without, "gemma2.rope.scaling.factor": ["f32", 4] }).rope.scaling, { kind: "linear", factor: 4 });
  assert.deepEqual(read({ ...without, "gemma2.attention.head_count_kv": ["i32[]", [2, 2, 2]] }).numKvHeads, 2);
  assert.deepEqual(read({ ...without, "tokenizer.ggml.eot_token_id": ["u32", 7] }).eosTokenIds, [2, 7]);
});

test("readOwnAttention reads a GGUF file's windows", (t) => {
  assert.equal(new Set(readOwnAttention(write(t, convertToGguf(fixture("gemma2"))))).size, 2);
});

const refused: Readonly<Record<string, readonly [string, GgufContents["metadata"], RegExp]>> = {
  "an unknown architecture": ["llama", { "general.architecture": ["string", "mamba"] }, /model\.gguf: general\.architecture is "mamba"; supported: llama, mistral3, qwen2/],
  "an architecture named like a method of objects": ["llama", { "general.architecture": ["string", "toString"] }, /general\.architecture is "toString"/],
  "a file without an architecture": ["llama", { "general.architecture": ["u32", 1] }, /general\.architecture is 1/],
  "an adapter": ["llama", { "general.type": ["string", "adapter"] }, /general\.type is "adapter"; not supported here/],
  "an unknown key": ["llama", { "llama.residual_scale": ["f32", 2] }, /model\.gguf: llama\.residual_scale is 2; this field is not known here/],
  "yarn": ["llama", { "llama.rope.scaling.type": ["string", "yarn"], "llama.rope.scaling.factor": ["f32", 4] }, /llama\.rope\.scaling\.type is "yarn"; supported: none, linear/],
  "experts": ["qwen3", { "qwen3.expert_count": ["u32", 8] }, /qwen3\.expert_count is 8/],
  "an embedding model": ["qwen3", { "qwen3.pooling_type": ["u32", 3] }, /qwen3\.pooling_type is 3/],
  "an encoder": ["llama", { "llama.attention.causal": ["bool", false] }, /llama\.attention\.causal is false/],
  "partial rotation": ["llama", { "llama.rope.dimension_count": ["u32", 8] }, /llama\.rope\.dimension_count is 8; not supported here \(supported: 16\)/],
  "values of another size than keys": ["qwen3", { "qwen3.attention.value_length": ["u32", 64] }, /qwen3\.attention\.value_length is 64/],
  "layers of different sizes": ["llama", { "llama.feed_forward_length": ["i32[]", [128, 128, 64]] }, /llama\.feed_forward_length is \[128,128,64\]; layers of different sizes/],
  "a size that is text": ["llama", { "llama.embedding_length": ["string", "64"] }, /llama\.embedding_length is "64"; a whole number/],
  "a size beyond exact integers": ["llama", { "llama.block_count": ["u64", 2n ** 64n - 1n] }, /llama\.block_count is 18446744073709552000; a whole number/],
  "a number of layers that its tensors do not have": ["llama", { "llama.block_count": ["u32", 4] }, /the checkpoint lacks model\.layers\.3\.input_layernorm\.weight/],
  "an end token outside the vocabulary": ["llama", { "tokenizer.ggml.eos_token_id": ["u32", 320] }, /tokenizer\.ggml\.eos_token_id is 320; the vocabulary has 320 tokens/],
  "a pattern of windows for other layers": ["gemma2", { "gemma2.attention.sliding_window_pattern": ["bool[]", [true]] }, /sliding_window_pattern is \[1\]; a period, or true or false for each of 3 layers/],
};
for (const [what, [name, more, message]] of Object.entries(refused)) {
  test(`${what} is refused by name`, async (t) => {
    const path = write(t, convertToGguf(fixture(name), "BF16", more));
    await assert.rejects(() => logitsOf(path, name), { name: "UsageError", message });
  });
}

test("tensors that nobody reads, factors that do not fit, and a path without a file are refused by name", (t) => {
  const { metadata, tensors } = convertToGguf(fixture("llama3-rope"), "BF16");
  const factors = tensors.find(({ name }) => name === "rope_freqs.weight")!;
  const others = tensors.filter((tensor) => tensor !== factors);
  const refuse = (changed: GgufContents["tensors"], message: RegExp): void => assert.throws(() => openCheckpoint(write(t, { metadata, tensors: changed })), { name: "UsageError", message });
  refuse([...others, { ...factors, dims: [8], data: factors.data.subarray(0, 32) }], /rope_freqs\.weight has shape \[8\], but a factor for each of 16 pairs/);
  refuse([...others, { ...factors, data: new Uint8Array(64) }], /rope_freqs\.weight\[0\] is 0; a number over 0/);
  refuse([...tensors, { name: "model.norm.weight", dims: [1], type: 0, data: new Uint8Array(4) }], /output_norm\.weight and model\.norm\.weight are the same tensor/);
  assert.throws(() => openCheckpoint(join(temporaryFolder(t), "none.gguf")), { name: "UsageError", message: /none\.gguf: there is no such file/ });
});
