import assert from "node:assert/strict";
import { test } from "node:test";
import type { OpenFile } from "./files.ts";
import { maxHeaderBytes, readHeader } from "./safetensors.ts";

/** A file of `header` (text, or an object as JSON) and `dataBytes` bytes of data. */
function file(header: object | string, dataBytes: number, claimed?: number): OpenFile {
  const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const all = new Uint8Array(8 + text.length + dataBytes);
  new DataView(all.buffer).setBigUint64(0, BigInt(claimed ?? text.length), true);
  all.set(text, 8);
  return { path: "m.safetensors", bytes: all.length, read: (into, position) => into.set(all.subarray(position, position + into.length)), close() {} };
}
const tensor = (dtype: string, shape: unknown, begin: number, end: number): object => ({ dtype, shape, data_offsets: [begin, end] });

test("a header gives each tensor's dtype, shape and place in the file", () => {
  const source = file({ __metadata__: { format: "pt" }, b: tensor("F32", [], 12, 16), a: tensor("BF16", [2, 3], 0, 12), empty: tensor("F32", [0, 7], 12, 12) }, 16);
  const data = source.bytes - 16;
  assert.deepEqual(Object.fromEntries(readHeader(source)), {
    a: { dtype: "BF16", shape: [2, 3], begin: data, bytes: 12 },
    b: { dtype: "F32", shape: [], begin: data + 12, bytes: 4 },
    empty: { dtype: "F32", shape: [0, 7], begin: data + 12, bytes: 0 },
  });
});

const broken: Readonly<Record<string, readonly [OpenFile, RegExp]>> = {
  "a header that is not JSON": [file("{", 0), /m\.safetensors.*not JSON/],
  "a header that is a list": [file("[]", 0), /not a JSON object/],
  "a header longer than the file": [file("{}", 0, 50), /claims 50 bytes, but the file has 10/],
  "a header longer than the limit": [file("{}", 0, maxHeaderBytes + 1), /over the limit/],
  "a header length beyond exact integers": [file("{}", 0, 2 ** 60), /over the limit/],
  "an unknown dtype": [file({ w: tensor("F3", [1], 0, 4) }, 4), /tensor w has dtype "F3"/],
  "a dtype named like a method of objects": [file({ w: tensor("toString", [1], 0, 4) }, 4), /tensor w has dtype "toString"/],
  "a negative size": [file({ w: tensor("F32", [-1], 0, 4) }, 4), /tensor w has shape \[-1\]/],
  "an entry that is null": [file({ w: null }, 4), /tensor w has dtype/],
  "a shape that overflows": [file({ w: tensor("F32", [2 ** 40, 2 ** 40], 0, 4) }, 4), /tensor w \(F32/],
  "offsets that are not numbers": [file({ w: { dtype: "F32", shape: [1], data_offsets: ["0", "4"] } }, 4), /data_offsets \["0","4"\]/],
  "dtype times shape that is not the bytes": [file({ w: tensor("F32", [2], 0, 4) }, 4), /tensor w .*needs 8 bytes.*hold 4/],
  "a tensor past the end": [file({ w: tensor("F32", [2], 0, 8) }, 4), /tensor w ends at byte/],
  "tensors that overlap": [file({ a: tensor("F32", [2], 0, 8), b: tensor("F32", [1], 4, 8) }, 8), /tensor b begins at byte .*inside/],
  "a hole between tensors": [file({ a: tensor("F32", [1], 0, 4), b: tensor("F32", [1], 8, 12) }, 12), /before tensor b, belong to no tensor/],
  "bytes after the last tensor": [file({ a: tensor("F32", [1], 0, 4) }, 5), /at its end, belong to no tensor/],
  "a file of three bytes": [{ ...file("{}", 0), bytes: 3 }, /fewer than the 8/],
};
for (const [what, [source, message]] of Object.entries(broken)) {
  test(`${what} is refused by name`, () => assert.throws(() => readHeader(source), { name: "UsageError", message }));
}
