import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { blockFormats, type BlockType } from "./block-formats.ts";

/** Blocks and what the gguf package reads from them; tests/fixtures/make-gguf-blocks.py made it. */
const goldens = JSON.parse(readFileSync(new URL("../../tests/fixtures/gguf/blocks.json", import.meta.url), "utf8")) as Record<string, { readonly bytes: string; readonly f32: string }>;

const decode = (text: string): Uint8Array<ArrayBuffer> => new Uint8Array(Buffer.from(text, "base64"));

for (const [name, golden] of Object.entries(goldens)) {
  test(`${name}: blocks, random bits and extreme scales among them, are the gguf package's numbers, bit for bit`, () => {
    const format = blockFormats[name as BlockType];
    const bytes = decode(golden.bytes);
    const expected = new Float32Array(decode(golden.f32).buffer);
    assert.equal(expected.length, (bytes.length / format.blockBytes) * format.blockElements);
    assert.ok(expected.length >= 6 * format.blockElements);
    const shifted = new Uint8Array(bytes.length + 1);
    shifted.set(bytes, 1);
    for (const input of [bytes, shifted.subarray(1)]) {
      const found = format.toFloat32(input);
      const wrong = found.findIndex((x, i) => !Object.is(x, expected[i]));
      assert.ok(wrong < 0, `element ${wrong} is ${found[wrong]}, expected ${expected[wrong]}`);
    }
  });
}

test("there is a golden for every type but F32, and F32 is read as it stands", () => {
  assert.deepEqual(new Set([...Object.keys(goldens), "F32"]), new Set(Object.keys(blockFormats)));
  const values = Float32Array.of(1.5, -0, Infinity, 1e-45);
  assert.deepEqual(blockFormats.F32.toFloat32(new Uint8Array(values.buffer)), values);
});
