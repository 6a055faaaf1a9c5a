import assert from "node:assert/strict";
import { test } from "node:test";
import { type Field, ggufFields, type GgufContents, joinFields, u32, u64, writeGguf } from "../../tests/gguf-writer.ts";
import type { OpenFile } from "./files.ts";
import { readGguf } from "./gguf.ts";

const fileOf = (all: Uint8Array): OpenFile => ({ path: "m.gguf", bytes: all.length, read: (into, position) => into.set(all.subarray(position, position + into.length)), close() {} });
const zeros = (bytes: number): Uint8Array => new Uint8Array(bytes);

const good: GgufContents = {
  metadata: {
    "general.architecture": ["string", "llama"],
    u8: ["u8", 200], i8: ["i8", -3], u16: ["u16", 65535], i16: ["i16", -3], u32: ["u32", 4e9], i32: ["i32", -4], f32: ["f32", 0.5], yes: ["bool", true], no: ["bool", 0],
    u64: ["u64", 7], i64: ["i64", -7], huge: ["u64", 2n ** 63n], f64: ["f64", 0.1],
    texts: ["string[]", ["", "plain", "naïve ▁the", "\ufeffmark", "🦙🦙", "ascii"]], none: ["string[]", []], scores: ["f32[]", [1, -2.5]], flags: ["bool[]", [1, 0]], many: ["u64[]", [1, 2]],
  },
  tensors: [
    { name: "w", dims: [64, 3], type: 8, data: zeros(6 * 34) },
    { name: "v", dims: [5], type: 0, data: zeros(20) },
    { name: "k", dims: [256, 2, 2], type: 12, data: zeros(4 * 144) },
  ],
};

test("a list of texts that nobody needs is stepped over, and what follows is read as it stands", () => {
  const file = fileOf(writeGguf({ metadata: { "a.words": ["string[]", ["one", "two"]], "b.words": ["string[]", ["three"]], after: ["u32", 5] }, tensors: [] }));
  const { metadata } = readGguf(file, (key) => key.startsWith("a."));
  assert.deepEqual([...metadata], [["a.words", []], ["b.words", ["three"]], ["after", 5]]);
  assert.throws(() => readGguf(cut(file, 60), () => true), { name: "UsageError", message: /m\.gguf/ });
});

test("a header gives every kind of value, and each tensor's type, shape and place", () => {
  for (const version of [2, 3]) {
    const all = writeGguf({ ...good, version });
    const { metadata, tensors } = readGguf(fileOf(all));
    assert.deepEqual(Object.fromEntries(metadata), {
      "general.architecture": "llama", u8: 200, i8: -3, u16: 65535, i16: -3, u32: 4e9, i32: -4, f32: 0.5, yes: true, no: false, u64: 7, i64: -7, huge: 2n ** 63n, f64: 0.1,
      texts: ["", "plain", "naïve ▁the", "\ufeffmark", "🦙🦙", "ascii"], none: [], scores: Float32Array.of(1, -2.5), flags: Uint8Array.of(1, 0), many: BigUint64Array.of(1n, 2n),
    });
    const data = all.length - 224 - 32 - 576;
    assert.deepEqual(Object.fromEntries(tensors), {
      w: { dtype: "Q8_0", shape: [3, 64], begin: data, bytes: 204 },
      v: { dtype: "F32", shape: [5], begin: data + 224, bytes: 20 },
      k: { dtype: "Q4_K", shape: [2, 2, 256], begin: data + 256, bytes: 576 },
    });
  }
});

test("an alignment of its own moves the data", () => {
  const all = writeGguf({ metadata: { "general.alignment": ["u32", 8] }, tensors: [{ name: "a", dims: [1], type: 0, data: zeros(4) }, { name: "b", dims: [2], type: 1, data: zeros(4) }] });
  const { tensors } = readGguf(fileOf(all));
  assert.equal(tensors.get("b")!.begin - tensors.get("a")!.begin, 8);
  assert.equal(tensors.get("a")!.begin % 8, 0);
});

test("the text of a vocabulary that outgrows the first bytes read is whole", () => {
  const words = Array.from({ length: 30_000 }, (_, i) => `${i % 3 === 0 ? "▁" : ""}wörd${i}${i % 7 === 0 ? "🦙" : ""}`);
  const { metadata } = readGguf(fileOf(writeGguf({ metadata: { words: ["string[]", words], after: ["u32", 5] }, tensors: [] })));
  assert.deepEqual(metadata.get("words"), words);
  assert.equal(metadata.get("after"), 5);
});

test("a vocabulary of 256k tokens is read within 150 ms", () => {
  const words = Array.from({ length: 262_144 }, (_, i) => `▁tok${i}`);
  const file = fileOf(writeGguf({ metadata: { words: ["string[]", words] }, tensors: [] }));
  // Some 45 ms on a quiet core. The best of some, because other tests run beside this one.
  const took = Array.from({ length: 8 }, () => {
    const start = performance.now();
    readGguf(file);
    return performance.now() - start;
  });
  assert.ok(Math.min(...took) < 150, `took ${took.map(Math.round)} ms`);
});

/** The file with the fields of these names replaced. */
function altered(changes: Readonly<Record<string, Uint8Array>>, contents: GgufContents = good): OpenFile {
  const left = new Set(Object.keys(changes));
  const fields = ggufFields(contents).map((field): Field => (left.delete(field.name) ? { ...field, bytes: changes[field.name]! } : field));
  assert.deepEqual([...left], [], "every change names a field");
  return fileOf(joinFields(fields));
}
const bytes = (...x: number[]): Uint8Array => Uint8Array.from(x);
const tensors = (...list: GgufContents["tensors"]): OpenFile => fileOf(writeGguf({ metadata: {}, tensors: list }));
const withMetadata = (metadata: GgufContents["metadata"]): OpenFile => fileOf(writeGguf({ metadata, tensors: [] }));
const cut = (file: OpenFile, to: number): OpenFile => ({ ...file, bytes: to < 0 ? file.bytes + to : to });
const repeated = (what: "keys" | "tensors"): OpenFile => {
  const fields = ggufFields({ metadata: { ab: ["u32", 1], ac: ["u32", 2] }, tensors: [{ name: "ta", dims: [1], type: 0, data: zeros(32) }, { name: "tb", dims: [1], type: 0, data: zeros(32) }] });
  const name = what === "keys" ? "key ac" : "name of tb";
  return fileOf(joinFields(fields.map((field): Field => (field.name === name ? { ...field, bytes: new TextEncoder().encode(what === "keys" ? "ab" : "ta") } : field))));
};

const broken: Readonly<Record<string, readonly [OpenFile, RegExp]>> = {
  "an empty file": [fileOf(zeros(0)), /m\.gguf is not a usable GGUF file: at byte 0, the magic takes 4 bytes, but the file ends there/],
  "another format": [fileOf(new TextEncoder().encode("PK\u0003\u0004 and more bytes to read")), /at byte 0, it begins with 0x04034b50, but "GGUF" is expected/],
  "version 1": [altered({ version: u32(1) }), /at byte 4, the version is 1, but 2 or 3/],
  "a version to come": [altered({ version: u32(4) }), /the version is 4/],
  "a big-endian file": [altered({ version: u32(0x03000000) }), /big-endian/],
  "more tensors than the file has room for": [altered({ "number of tensors": u64(2n ** 60n) }), /at byte 8, the number of tensors is 1152921504606846976, but the \d+ bytes that follow have room for \d+/],
  "more keys than the file has room for": [altered({ "number of keys": u64(1_000_000) }), /at byte 16, the number of keys is 1000000, but/],
  "a key longer than the file": [altered({ "length of key u8": u64(2n ** 64n - 1n) }), /the length of a key is 18446744073709551615, but the \d+ bytes that follow/],
  "a key longer than keys are": [withMetadata({ ["x".repeat(65536)]: ["u8", 1] }), /the length of a key is 65536, but at most 65535/],
  "an empty key": [withMetadata({ "": ["u8", 1] }), /at byte 24, a key is empty/],
  "a key that is not UTF-8": [altered({ "key u8": bytes(0xc3, 0x28) }), /at byte \d+, a key is not UTF-8/],
  "a key twice": [repeated("keys"), /key ab is there a second time/],
  "a value of an unknown type": [altered({ "type of u8": u32(13) }), /u8 has type 13, but one from 0 to 12/],
  "a value longer than the file": [cut(withMetadata({ a: ["f64", 1] }), 41), /a takes 8 bytes, but only \d+ are left/],
  "a bool of 2": [withMetadata({ a: ["bool", 2] }), /at byte 37, a is a bool of 2, but 0 or 1/],
  "a bool of 255 in a list": [withMetadata({ a: ["bool[]", [1, 0, 255]] }), /a\[2\] is a bool of 255/],
  "a list of lists": [altered({ "element type of scores": u32(9) }), /scores is a list of lists/],
  "a list of an unknown type": [altered({ "element type of scores": u32(77) }), /scores has elements of type 77/],
  "a list longer than the file": [altered({ "count of scores": u64(2n ** 62n) }), /the length of scores is 4611686018427387904, but the/],
  "a list of texts longer than the file": [altered({ "count of texts": u64(2n ** 62n) }), /the length of texts is 4611686018427387904, but the/],
  "a text in a list longer than the file": [altered({ "length of value 1 of texts": u64(2n ** 40n) }), /the length of texts\[1\] is 1099511627776, but/],
  "a text in a list that is not UTF-8": [altered({ "value 1 of texts": bytes(0x61, 0xff, 0x61, 0x61, 0x61) }), /at byte \d+, texts\[1\] is not UTF-8/],
  "a character torn between two texts": [
    altered({ "value 1 of texts": bytes(0x61, 0x61, 0x61, 0x61, 0xe2), "value 2 of texts": bytes(0x96, 0x81, 0x61, 0x61, 0x61, 0x61, 0x61, 0x61, 0x61, 0x61, 0x61, 0x61, 0x61) }),
    /texts\[2\] is not UTF-8/,
  ],
  "a text that is not UTF-8": [altered({ "value 0 of general.architecture": bytes(0xed, 0xa0, 0x80, 0x61, 0x61) }), /general\.architecture is not UTF-8/],
  "an alignment of 0": [withMetadata({ "general.alignment": ["u32", 0] }), /general\.alignment is 0, but a power of two from 8/],
  "an alignment of 24": [withMetadata({ "general.alignment": ["u32", 24] }), /general\.alignment is 24/],
  "an alignment of 4": [withMetadata({ "general.alignment": ["u32", 4] }), /general\.alignment is 4/],
  "an alignment that is text": [withMetadata({ "general.alignment": ["string", "32"] }), /general\.alignment is "32"/],
  "a tensor without dims": [tensors({ name: "t", dims: [], type: 0, data: zeros(4) }), /tensor t has 0 dims/],
  "a tensor of five dims": [tensors({ name: "t", dims: [1, 1, 1, 1, 1], type: 0, data: zeros(4) }), /tensor t has 5 dims, but 1 to 4/],
  "a dim of 0": [tensors({ name: "t", dims: [4, 0], type: 0, data: zeros(0) }), /dim 1 of tensor t is 0/],
  "dims whose product overflows": [tensors({ name: "t", dims: [2 ** 40, 2 ** 40], type: 0, data: zeros(4) }), /dim 1 of tensor t is 1099511627776: more elements/],
  "dims whose product overflows to a small number": [altered({ "dim 0 of k": u64(2n ** 33n), "dim 1 of k": u64(2n ** 31n) }), /more elements than can be counted/],
  "bytes that overflow": [altered({ "dim 0 of v": u64(2n ** 53n - 1n) }), /tensor v .*takes \d+ bytes from byte \d+ on, but the file has/],
  "an unknown type": [tensors({ name: "t", dims: [1], type: 4, data: zeros(4) }), /tensor t is of type 4, but F32, F16/],
  "a type that exists but is not read": [tensors({ name: "t", dims: [256], type: 10, data: zeros(84) }), /tensor t is of type Q2_K, but F32, F16/],
  "rows that are not whole blocks": [tensors({ name: "t", dims: [33], type: 8, data: zeros(68) }), /tensor t has rows of 33 elements, but Q8_0 expects a multiple of 32/],
  "an offset that is not aligned": [altered({ "offset of v": u64(228) }), /tensor v begins at byte 228 of the data, but a multiple of 32/],
  "an offset past the end": [altered({ "offset of v": u64(2 ** 20) }), /tensor v \(F32 \[5\]\) takes 20 bytes from byte \d+ on, but the file has \d+; was it cut short/],
  "an offset that wraps around": [altered({ "offset of v": u64(2n ** 64n - 32n) }), /tensor v .* but the file has/],
  "a tensor cut short": [cut(fileOf(writeGguf(good)), -1), /tensor k .*takes 576 bytes/],
  "tensors that overlap": [altered({ "offset of v": u64(192) }), /tensor v begins at byte \d+, inside tensor w; \d+ is expected/],
  "two tensors at one place": [altered({ "offset of v": u64(0) }), /tensor (v|w) begins at byte \d+, inside tensor (v|w)/],
  "a hole between tensors": [tensors({ name: "a", dims: [1], type: 0, data: zeros(4) }, { name: "b", dims: [1], type: 0, data: zeros(40), offset: 64 }), /tensor b begins at byte \d+, with a hole after tensor a/],
  "a tensor twice": [repeated("tensors"), /tensor ta is there a second time/],
  "a name that is too long": [tensors({ name: "n".repeat(65), dims: [1], type: 0, data: zeros(4) }), /the length of a tensor's name is 65, but at most 64/],
  "an empty name": [tensors({ name: "", dims: [1], type: 0, data: zeros(4) }), /a tensor's name is empty/],
};
for (const [what, [source, message]] of Object.entries(broken)) {
  test(`${what} is refused by name and byte`, () => assert.throws(() => readGguf(source), { name: "UsageError", message }));
}

test("a file cut at any byte of its header is refused, never misread", () => {
  const all = writeGguf(good);
  for (let to = 0; to < all.length; to += to < 1100 ? 1 : 37) assert.throws(() => readGguf(cut(fileOf(all), to)), { name: "UsageError", message: /m\.gguf/ }, `cut at ${to}`);
});
