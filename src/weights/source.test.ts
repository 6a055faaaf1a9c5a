import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { openWeights } from "./source.ts";

function folder(t: TestContext, contents: Readonly<Record<string, Uint8Array | string>>): string {
  const path = mkdtempSync(join(tmpdir(), "tessera-weights-"));
  t.after(() => rmSync(path, { recursive: true }));
  for (const [name, data] of Object.entries(contents)) writeFileSync(join(path, name), data);
  return path;
}

/** A safetensors file with one F32 tensor for each entry. */
function safetensors(tensors: Readonly<Record<string, readonly number[]>>): Uint8Array {
  let end = 0;
  const header = JSON.stringify(Object.fromEntries(Object.entries(tensors).map(([name, v]) => [name, { dtype: "F32", shape: [v.length], data_offsets: [end, (end += 4 * v.length)] }])));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, Buffer.from(header), Buffer.from(Float32Array.from(Object.values(tensors).flat()).buffer)]);
}

test("a tensor is read in slices, straight into shared memory", (t) => {
  const source = openWeights(folder(t, { "model.safetensors": safetensors({ a: [1, 2, 3], b: [4, 5] }) }));
  const memory = new Float32Array(new SharedArrayBuffer(16));
  source.read("b", new Uint8Array(memory.buffer, 0, 8));
  source.read("a", new Uint8Array(memory.buffer, 8, 8), 4);
  source.close();
  assert.deepEqual([...memory], [4, 5, 2, 3]);
});

test("shards named by an index read as one", (t) => {
  const source = openWeights(folder(t, {
    "one.safetensors": safetensors({ a: [1] }),
    "two.safetensors": safetensors({ b: [2] }),
    "model.safetensors.index.json": JSON.stringify({ metadata: {}, weight_map: { a: "one.safetensors", b: "two.safetensors" } }),
  }));
  const b = new Float32Array(1);
  source.read("b", new Uint8Array(b.buffer));
  assert.deepEqual([...source.names()], ["a", "b"]);
  assert.equal(b[0], 2);
  source.close();
});

const index = (map: unknown): string => JSON.stringify({ weight_map: map });
const broken: Readonly<Record<string, readonly [Readonly<Record<string, Uint8Array | string>>, RegExp]>> = {
  "a folder without safetensors": [{ "pytorch_model.bin": "" }, /only pytorch_model\.bin.*safe_serialization/],
  "an index that names a file that is not there": [{ "model.safetensors.index.json": index({ a: "x.safetensors" }) }, /names x\.safetensors, which is not there/],
  "an index that names a file outside the folder": [{ "model.safetensors.index.json": index({ a: "../x.safetensors" }) }, /not a \.safetensors file of this folder/],
  "an index whose entry is no text": [{ "model.safetensors.index.json": index({ a: 3 }) }, /weight_map\["a"\] is 3/],
  "an index without a map": [{ "model.safetensors.index.json": "null" }, /has no weight_map/],
  "an index that is not JSON": [{ "model.safetensors.index.json": "{" }, /is not JSON/],
  "a tensor that is not in the shard the index names": [
    { "model.safetensors.index.json": index({ a: "x.safetensors" }), "x.safetensors": safetensors({ b: [1] }) }, /says that a is in x\.safetensors, but it is not/,
  ],
  "a tensor in two shards": [
    { "model.safetensors.index.json": index({ a: "x.safetensors", b: "y.safetensors" }), "x.safetensors": safetensors({ a: [1] }), "y.safetensors": safetensors({ a: [1], b: [2] }) },
    /a is both in .*x\.safetensors and in .*y\.safetensors/,
  ],
};
for (const [what, [contents, message]] of Object.entries(broken)) {
  test(`${what} is refused by name`, (t) => assert.throws(() => openWeights(folder(t, contents)), { name: "UsageError", message }));
}
