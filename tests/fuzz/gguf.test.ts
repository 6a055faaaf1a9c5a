/**
 * Hostile GGUF files: good ones taken apart into fields, one to three changed, and put together again.
 *
 * Whatever comes of it is read or refused with a UsageError that names the file: never anything else, never with more memory than
 * a few times the file, and what is read is true: each tensor inside the file, aligned, apart from the others. Then the config is made of it, by the same rule.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { UsageError } from "../../src/core/errors.ts";
import { generationDefaults } from "../../src/llm/generation-defaults.ts";
import { readConfig } from "../../src/model/config.ts";
import { readGgufConfig } from "../../src/model/gguf-config.ts";
import { families } from "../../src/model/registry.ts";
import { loadChatTemplate } from "../../src/tokenizer/chat-template.ts";
import { ggufTextFiles } from "../../src/tokenizer/gguf.ts";
import { loadTokenizer } from "../../src/tokenizer/tokenizer.ts";
import { blockFormats, type BlockType } from "../../src/weights/block-formats.ts";
import type { OpenFile } from "../../src/weights/files.ts";
import { type GgufHeader, readGguf } from "../../src/weights/gguf.ts";
import { convertToGguf } from "../gguf-model.ts";
import { casesWith } from "../fixtures/tokenizers/gguf-cases.ts";
import { ggufEntries, ggufMetadata } from "../fixtures/tokenizers/gguf-metadata.ts";
import { type Field, ggufFields, type GgufContents, joinFields, u32, u64 } from "../gguf-writer.ts";
import { fixture } from "../models/checkpoints.ts";
import { checkTokenizer } from "./tokenizer-rules.ts";
import { below, fuzz, pick, type Random, takeAllocated, watchAllocations } from "./fuzz.ts";

watchAllocations();

/** Every kind of value and type of tensor; and files that pass for models, with data too short to be one but sizes that agree. */
function seeds(): readonly (readonly Field[])[] {
  const everything: GgufContents = {
    metadata: {
      "general.architecture": ["string", "llama"], "general.alignment": ["u32", 16], bytes: ["u8", 1], negative: ["i64", -5], big: ["u64", 2n ** 60n], half: ["f64", 0.5], flag: ["bool", true],
      "tokenizer.ggml.tokens": ["string[]", ["a", "▁b", "", "🦙", "<0x0A>"]], scores: ["f32[]", [1, 2, 3]], flags: ["bool[]", [1, 0, 1]], ids: ["i32[]", [-1, 0]], small: ["u16[]", [1, 2, 3]],
    },
    tensors: (Object.keys(blockFormats) as BlockType[]).map((name, i) => {
      const { id, blockElements, blockBytes } = blockFormats[name];
      return { name: `blk.${i}.w`, dims: [blockElements, 2, 1, 1].slice(0, 1 + (i % 4)), type: id, data: new Uint8Array(blockBytes * (i % 4 === 0 ? 1 : 2)) };
    }),
  };
  const models = ["llama3-rope", "gemma2", "qwen3"].map((name): GgufContents => {
    const { metadata, tensors } = convertToGguf(fixture(name));
    return { metadata: { ...metadata, [`${metadata["general.architecture"]![1] as string}.block_count`]: ["u32", 1] }, tensors: tensors.slice(0, 5).map(({ name: tensor, type }) => ({ name: tensor, type, dims: [4, 8], data: new Uint8Array(128) })) };
  });
  return [everything, { ...everything, version: 2 }, { metadata: {}, tensors: [] }, ...models].map(ggufFields);
}

const edges = [0n, 1n, 2n, 3n, 4n, 5n, 7n, 8n, 9n, 13n, 16n, 31n, 32n, 33n, 64n, 65n, 255n, 256n, 65535n, 65536n, ...[24n, 31n, 32n, 40n, 53n, 60n, 61n, 62n, 63n, 64n].flatMap((bits) => [2n ** bits - 1n, 2n ** bits, 2n ** bits + 1n])];

/** One change of a list of fields. */
type Mutation = (fields: Field[], random: Random) => void;

function change(kinds: readonly Field["kind"][], to: (bytes: Uint8Array, random: Random, fields: readonly Field[]) => Uint8Array): Mutation {
  return (fields, random) => {
    const of = fields.flatMap((field, i) => (kinds.includes(field.kind) ? [i] : []));
    if (of.length === 0) return;
    const i = pick(random, of);
    fields[i] = { ...fields[i]!, bytes: to(fields[i]!.bytes, random, fields) };
  };
}
const valueOf = (bytes: Uint8Array): bigint => bytes.reduceRight((x, byte) => (x << 8n) | BigInt(byte), 0n);
const integer = (size: number, x: bigint): Uint8Array => (size === 4 ? u32(Number(BigInt.asUintN(32, x))) : u64(x));

const mutations: Readonly<Record<string, Mutation>> = {
  "an integer at an edge": change(["u32", "u64"], (bytes, random) => integer(bytes.length, pick(random, edges))),
  "an integer off by a little, doubled, or negative": change(["u32", "u64"], (bytes, random) => integer(bytes.length, pick(random, [(x: bigint) => x + 1n, (x: bigint) => x - 1n, (x: bigint) => 2n * x, (x: bigint) => -x, (x: bigint) => x + 32n])(valueOf(bytes)))),
  "an integer from elsewhere": change(["u32", "u64"], (bytes, random, fields) => pick(random, fields.filter((field) => field.bytes.length === bytes.length)).bytes),
  "a bit of anything": change(["u32", "u64", "text", "numbers", "padding"], (bytes, random) => {
    const copy = bytes.slice();
    if (copy.length > 0) copy[below(random, copy.length)]! ^= 1 << below(random, 8);
    return copy;
  }),
  "a text from elsewhere": change(["text"], (_, random, fields) => pick(random, fields.filter(({ kind }) => kind === "text")).bytes),
  "a text of random bytes, as long as before": change(["text"], (bytes, random) => bytes.map(() => below(random, 256))),
  "a text cut short": change(["text"], (bytes, random) => bytes.subarray(0, below(random, bytes.length + 1))),
  "numbers of random bytes": change(["numbers"], (bytes, random) => bytes.map(() => below(random, 256))),
  "a field left out": (fields, random) => void fields.splice(below(random, fields.length), 1),
  "a field twice": (fields, random) => {
    const i = below(random, fields.length);
    fields.splice(i, 0, fields[i]!);
  },
  "two fields swapped": (fields, random) => {
    const i = below(random, fields.length), j = below(random, fields.length);
    [fields[i], fields[j]] = [fields[j]!, fields[i]!];
  },
  "the file cut": (fields, random) => void fields.splice(below(random, fields.length)),
  "bytes appended": (fields, random) => void fields.push({ name: "appended", kind: "data", bytes: new Uint8Array(below(random, 200)).fill(below(random, 256)) }),
};

const names = Object.keys(mutations);

/** The file of fields of which one to three are changed. The lengths of changed texts agree with them in one half, so that what is behind them is reached. */
function hostile(good: readonly Field[], random: Random, did: (what: string) => void): OpenFile {
  const fields = [...good];
  for (let left = 1 + below(random, 3); left > 0 && fields.length > 0; left--) {
    const name = pick(random, names);
    mutations[name]!(fields, random);
    did(name);
  }
  if (random() < 0.5) {
    fields.forEach((field, i) => {
      const text = fields[i + 1];
      if (field.name === `length of ${text?.name}`) fields[i] = { ...field, bytes: u64(text!.bytes.length) };
    });
    did("lengths agree");
  }
  const all = joinFields(fields);
  return { path: "hostile.gguf", bytes: all.length, read: (into, position) => into.set(all.subarray(position, position + into.length)), close() {} };
}

/** What was read must be true of a file of `size` bytes. */
function checkHeader({ tensors, metadata }: GgufHeader, size: number): void {
  let end = 0;
  for (const { dtype, shape, begin, bytes } of [...tensors.values()].sort((a, b) => a.begin - b.begin)) {
    const { blockElements, blockBytes } = blockFormats[dtype];
    assert.equal(bytes, (shape.reduce((a, b) => a * b) / blockElements) * blockBytes);
    assert.ok(Number.isSafeInteger(bytes) && bytes > 0 && begin >= end && begin % 8 === 0 && begin + bytes <= size, `[${shape}] at ${begin} in ${size}`);
    end = begin + bytes;
  }
  for (const [key, value] of metadata) assert.ok(key !== "" && value !== undefined && value !== null);
}

test("files with one to three fields changed are read truly or refused, with no more memory than they are worth", async (t) => {
  const good = seeds();
  const used = new Map(names.map((name) => [name, 0]));
  await fuzz(t, { inputs: [10_000, 1_000_000], floors: { "config read": 0.02, read: 0.04, refused: 0.5 } }, ({ random, did }) => {
    const file = hostile(pick(random, good), random, (name) => {
      if (used.has(name)) used.set(name, used.get(name)! + 1);
      did(name);
    });
    takeAllocated();
    let outcome = "refused";
    try {
      const header = readGguf(file);
      checkHeader(header, file.bytes);
      assert.deepEqual(readGguf(file, () => true).tensors, header.tensors, "without its texts a file is the same");
      outcome = "read";
      readConfig({ config: readGgufConfig({ path: file.path, ...header }).json, weightDType: "f32" }, families);
      outcome = "config read";
    } catch (error) {
      // A config that was refused by the families names config.json, which this is to them.
      assert.ok(error instanceof UsageError && (outcome === "refused" ? /^hostile\.gguf .* at byte \d+, / : /^(hostile\.gguf|config\.json|eos_token_id)/).test(error.message), `after ${outcome}: ${String((error as Error).stack)}`);
    }
    const bytes = takeAllocated();
    assert.ok(bytes <= 12 * file.bytes + 4096, `${bytes} bytes for a file of ${file.bytes}`);
    return outcome;
  });
  for (const [name, times] of used) assert.ok(times > 80, `${name}: only ${times} times`);
});

test("tokenizers in files with one to three fields changed are tokenizers, or refused", (t) => {
  const good = casesWith(undefined).filter(({ name, rulesOf }) => name !== "Mistral 7B v0.3" && rulesOf === undefined).map(({ tokenizer, pre, addSpacePrefix }) => ggufFields({
    metadata: { ...ggufEntries(ggufMetadata(tokenizer, pre, addSpacePrefix)), "general.sampling.temp": ["f32", 0.5], "tokenizer.chat_template": ["string", "{% for m in messages %}{{ m.content }}{% endfor %}"] }, tensors: [],
  }));
  return fuzz(t, { inputs: [400, 60_000], floors: { loaded: 0.2, refused: 0.2 } }, ({ random, did }) => {
    const file = hostile(pick(random, good), random, did);
    try {
      const texts = ggufTextFiles(readGguf(file).metadata, file.path);
      const tokenizer = loadTokenizer(texts);
      loadChatTemplate(texts, tokenizer.specialTokens);
      generationDefaults(texts["generation_config.json"]);
      checkTokenizer(tokenizer, random);
      return "loaded";
    } catch (error) {
      assert.ok(error instanceof UsageError && /^(hostile\.gguf|tokenizer|generation_config|the (chat template|model's tokenizer))/.test(error.message) && error.message.length < 2000, String((error as Error).stack));
      return "refused";
    }
  });
});

test("the fuzzer sees a reader that asks for too much memory", () => {
  takeAllocated();
  assert.equal(new Uint32Array(10).length + new Array(5).length, 15);
  assert.equal(takeAllocated(), 80);
  assert.equal(Array.from({ length: 3 }, () => 0).length, 3);
  assert.equal(new ArrayBuffer(16).slice(4).byteLength, 12);
  assert.equal(takeAllocated(), 36);
  assert.throws(() => new Array(2 ** 30), /were asked for/);
  takeAllocated();
});
