import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { casesWith } from "../../tests/fixtures/tokenizers/gguf-cases.ts";
import { ggufMetadata } from "../../tests/fixtures/tokenizers/gguf-metadata.ts";
import { mistralEntries, variants } from "../../tests/fixtures/tokenizers/load.ts";
import { UsageError } from "../core/errors.ts";
import { loadChatTemplate } from "./chat-template.ts";
import { ggufTextFiles } from "./gguf.ts";
import { preRules } from "./gguf-pre.ts";
import { loadTokenizer } from "./tokenizer.ts";

interface Golden {
  readonly name: string;
  readonly entries: readonly { readonly text: string; readonly ids: readonly number[]; readonly llamaCpp?: readonly number[] }[];
}

const goldens = JSON.parse(gunzipSync(readFileSync(new URL("../../tests/fixtures/tokenizers/gguf.json.gz", import.meta.url))).toString()) as { readonly crossing: unknown; readonly cases: readonly Golden[] };
const cases = casesWith(goldens.crossing);
const load = (metadata: ReadonlyMap<string, unknown>) => loadTokenizer(ggufTextFiles(metadata, "x.gguf"));
const metadataOf = (name: string): Map<string, unknown> => {
  const { tokenizer, pre, addSpacePrefix } = cases.find((one) => one.name === name)!;
  return ggufMetadata(tokenizer, pre, addSpacePrefix);
};

for (const { name, entries } of goldens.cases) {
  test(`a GGUF file of the kind "${name}" gives Hugging Face's ids, and the text that its tokenizer.json gives back`, () => {
    const { tokenizer: json } = cases.find((one) => one.name === name)!;
    const tokenizer = load(metadataOf(name)), folder = loadTokenizer({ "tokenizer.json": JSON.stringify(json) });
    assert.ok(entries.length > 100);
    for (const { text, ids } of entries) {
      assert.deepEqual([...tokenizer.encode(text, { addSpecialTokens: false, allowSpecial: true })], ids, JSON.stringify(text));
      assert.equal(tokenizer.decode(ids), folder.decode(ids), JSON.stringify(text));
      assert.equal(tokenizer.decode(ids, { skipSpecialTokens: false }), folder.decode(ids, { skipSpecialTokens: false }), JSON.stringify(text));
    }
  });
}

test("llama.cpp gives the same ids, but where it does not normalise, sees no combining marks, or puts Mistral's space at more places", () => {
  const apart = new Map(goldens.cases.map(({ name, entries }) => [name, entries.filter(({ llamaCpp }) => llamaCpp !== undefined).map(({ text }) => text)]));
  assert.deepEqual([...apart].filter(([, texts]) => texts.length > 0).map(([name]) => name), ["Mistral 7B v0.3", "qwen2", "deepseek-r1-qwen", "tekken"]);
  for (const text of [...apart.get("qwen2")!, ...apart.get("deepseek-r1-qwen")!]) assert.notEqual(text.normalize("NFC"), text);
  for (const text of apart.get("tekken")!) assert.match(text.normalize("NFD"), /\p{M}/u);
  for (const text of apart.get("Mistral 7B v0.3")!) assert.match(text, /^[ ▁]|\[\/?INST\]|<\/?s>|\[TOOL_CALLS\]|<unk>/);
});

test("Mistral's awkward strings become Hugging Face's ids, special tokens around them too", () => {
  const tokenizer = load(metadataOf("Mistral 7B v0.3"));
  for (const { text, ids, ids_special } of mistralEntries) {
    assert.deepEqual([...tokenizer.encode(text, { addSpecialTokens: false, allowSpecial: true })], ids, JSON.stringify(text));
    assert.deepEqual([...tokenizer.encode(text, { allowSpecial: true })], ids_special, JSON.stringify(text));
  }
});

test("the file says whether begin and end tokens stand around a text; the kind does where it does not", () => {
  const around = (name: string, change: Readonly<Record<string, boolean | undefined>>): readonly number[] => {
    const metadata = metadataOf(name);
    for (const [key, value] of Object.entries(change)) {
      if (value === undefined) metadata.delete(`tokenizer.ggml.${key}`);
      else metadata.set(`tokenizer.ggml.${key}`, value);
    }
    return [...load(metadata).encode("")];
  };
  assert.deepEqual(around("llama 2", {}), [1]);
  assert.deepEqual(around("llama 2", { add_bos_token: undefined, add_eos_token: true }), [1, 2]);
  assert.deepEqual(around("llama-bpe", { add_bos_token: undefined }), [1]);
  assert.deepEqual(around("llama-bpe", { add_bos_token: false }), []);
  assert.deepEqual(around("qwen2", { add_bos_token: undefined }), []);
  assert.deepEqual(around("qwen2", { add_bos_token: true, add_eos_token: true }), [1, 2]);
});

/** A byte-level vocabulary with a few more tokens. */
function withTokens(more: readonly (readonly [text: string, type: number])[]): Map<string, unknown> {
  const metadata = metadataOf("llama-bpe");
  const tokens = metadata.get("tokenizer.ggml.tokens") as readonly string[], types = metadata.get("tokenizer.ggml.token_type") as Int32Array;
  metadata.set("tokenizer.ggml.tokens", [...tokens, ...more.map(([text]) => text)]);
  return metadata.set("tokenizer.ggml.token_type", Int32Array.from([...types, ...more.map(([, type]) => type)]));
}
const numTokens = (metadataOf("llama-bpe").get("tokenizer.ggml.tokens") as readonly string[]).length;

test("a turn ends with any token that the file names for it, or that is known to end one", () => {
  const metadata = withTokens([["<|my_end|>", 3], ["<|eot_id|>", 3], ["<|im_end|>", 1], ["<|python_tag|>", 3]]).set("tokenizer.ggml.eot_token_id", numTokens);
  const { eosIds, bosId, specialTokens } = load(metadata);
  assert.deepEqual([...eosIds].sort((a, b) => a - b), [2, numTokens, numTokens + 1, numTokens + 2]);
  assert.equal(bosId, 1);
  assert.ok(specialTokens.includes("<|im_end|>"), "though the file calls it a normal token");
});

test("control tokens are read where the caller allows it, user-defined ones always, unused ones never", () => {
  const tokenizer = load(withTokens([["<|control|>", 3], ["<think>", 4], ["<spare>", 5]]));
  const has = (text: string, id: number, allowSpecial: boolean): boolean => tokenizer.encode(text, { allowSpecial }).includes(id);
  assert.ok(has("a<|control|>b", numTokens, true));
  assert.ok(!has("a<|control|>b", numTokens, false));
  assert.ok(has("a<think>b", numTokens + 1, false));
  assert.ok(!has("a<spare>b", numTokens + 2, true));
  assert.equal(tokenizer.decode([numTokens, numTokens + 1]), "<think>");
});

test("a user-defined token's spaces match spaces and their sign alike, as Gemma's runs of spaces do", () => {
  const metadata = metadataOf("gemma");
  const tokens = metadata.get("tokenizer.ggml.tokens") as readonly string[], types = metadata.get("tokenizer.ggml.token_type") as Int32Array, scores = metadata.get("tokenizer.ggml.scores") as Float32Array;
  metadata.set("tokenizer.ggml.tokens", [...tokens, "  ", "   "]).set("tokenizer.ggml.token_type", Int32Array.from([...types, 4, 4])).set("tokenizer.ggml.scores", Float32Array.from([...scores, -1000, -1000]));
  const tokenizer = load(metadata);
  const a = tokenizer.tokenToId("a")!, b = tokenizer.tokenToId("b")!;
  assert.deepEqual([...tokenizer.encode("a     b", { addSpecialTokens: false })], [a, tokens.length + 1, tokens.length, b]);
  assert.deepEqual([...tokenizer.encode("a▁▁b", { addSpecialTokens: false })], [a, tokens.length, b]);
  assert.equal(tokenizer.decode([a, tokens.length + 1, b]), "a   b");
});

test("merges by scores are the same whether the vocabulary lies in the order of its scores or not", () => {
  const ordered = metadataOf("llama 2"), mixed = metadataOf("llama 2");
  const tokens = ordered.get("tokenizer.ggml.tokens") as readonly string[];
  // Backwards, except what must stay: special tokens are named by id.
  const order = tokens.map((_, id) => (id < 3 ? id : tokens.length + 2 - id));
  for (const key of ["tokens", "scores", "token_type"]) {
    const list = ordered.get(`tokenizer.ggml.${key}`) as ArrayLike<unknown>;
    const moved = order.map((id) => list[id]);
    mixed.set(`tokenizer.ggml.${key}`, key === "tokens" ? moved : key === "scores" ? Float32Array.from(moved as number[]) : Int32Array.from(moved as number[]));
  }
  const one = load(ordered), other = load(mixed);
  for (const { text } of variants[0]!.entries) assert.deepEqual([...other.encode(text)].map((id) => order[id]), [...one.encode(text)], JSON.stringify(text));
});

test("the chat template comes with the file, its variables filled from the named tokens; several are known by name", () => {
  const render = (metadata: Map<string, unknown>, tools: readonly unknown[] = []): string | undefined =>
    loadChatTemplate(ggufTextFiles(metadata, "x.gguf"), [])?.render([{ role: "user", content: "Hi" }], { tools }).text;
  const template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}";
  assert.equal(render(metadataOf("llama 2")), undefined);
  assert.equal(render(metadataOf("llama 2").set("tokenizer.chat_template", template)), "<s>Hi</s>");
  const two = metadataOf("llama 2").set("tokenizer.chat_template", template).set("tokenizer.chat_template.tool_use", "tools: {{ tools | length }}");
  assert.equal(render(two), "<s>Hi</s>");
  assert.equal(render(two, [{}]), "tools: 1");
});

test("sampling defaults in the file are those of a generation_config.json", () => {
  const { "generation_config.json": config } = ggufTextFiles(metadataOf("llama 2").set("general.sampling.temp", 0.5).set("general.sampling.top_k", 20), "x.gguf");
  assert.deepEqual(config, { eos_token_id: [2], temperature: 0.5, top_k: 20 });
});

test("a tokenizer that cannot be read is refused with the file's name, the key, what it holds and what to do", () => {
  const changed = (name: string, change: Readonly<Record<string, unknown>>): Map<string, unknown> => {
    const metadata = metadataOf(name);
    for (const [key, value] of Object.entries(change)) {
      if (value === undefined) metadata.delete(`tokenizer.ggml.${key}`);
      else metadata.set(`tokenizer.ggml.${key}`, value);
    }
    return metadata;
  };
  const refusals: readonly [Map<string, unknown>, RegExp][] = [
    [new Map(), /x\.gguf: has no tokenizer.*--skip-tokenizer-init/],
    [changed("llama 2", { model: "bert" }), /tokenizer\.ggml\.model is "bert", and llama and gpt2 are known/],
    [changed("llama 2", { model: "constructor" }), /"constructor"/],
    [changed("llama 2", { tokens: undefined }), /has no tokenizer\.ggml\.tokens/],
    [changed("llama 2", { scores: undefined }), /scores has no numbers/],
    [changed("llama 2", { scores: new Float32Array(7) }), /scores has 7 numbers/],
    [changed("llama 2", { token_type: new Int32Array(7) }), /token_type has 7 numbers/],
    [changed("llama 2", { tokens: new Int32Array(7) }), /tokens is not an array of strings/],
    [changed("llama 2", { add_bos_token: 1 }), /add_bos_token is not a boolean/],
    [changed("llama 2", { bos_token_id: "one" }), /bos_token_id is not a number/],
    [changed("llama-bpe", { pre: undefined }), /has no tokenizer\.ggml\.pre/],
    [changed("llama-bpe", { pre: "my-own" }), /x\.gguf: tokenizer\.ggml\.pre is "my-own".*deepseek-llm.*llama-bpe.*qwen2/],
    [changed("llama-bpe", { merges: undefined }), /has no tokenizer\.ggml\.merges/],
  ];
  for (const [metadata, message] of refusals) assert.throws(() => ggufTextFiles(metadata, "x.gguf"), (error) => error instanceof UsageError && message.test(error.message), String(message));
  assert.throws(() => load(changed("llama-bpe", { merges: ["q z"] })).encode("qz"), /merge 0 \("q z"\) makes a token that the vocabulary lacks/);
  assert.throws(() => preRules("toString", "x.gguf"), UsageError);
});

test("whatever stands under its keys, a tokenizer is made or refused as something that the user can mend", () => {
  const bases = ["llama 2", "gemma", "llama-bpe", "qwen2"].map((name) => metadataOf(name).set("tokenizer.chat_template", "{{ messages[0].content }}"));
  const value = fc.constantFrom<unknown>(
    undefined, 0, 1, -1, 1e12, 2n ** 60n, NaN, true, "", "llama", "gpt2", [], ["a"], ["", "", "a a", "▁"], new Int32Array(0), new Int32Array(500).fill(3),
    new Float32Array([NaN, 1]), new Float64Array(500).fill(NaN), new BigUint64Array([1n]), new Uint8Array(500).fill(4), "{% if %}",
  );
  const keys = [...bases[0]!.keys(), "tokenizer.ggml.merges", "tokenizer.ggml.eot_token_id", "tokenizer.chat_template.x", "general.sampling.temp"];
  let made = 0;
  fc.assert(fc.property(fc.constantFrom(...bases), fc.array(fc.tuple(fc.constantFrom(...keys), value), { minLength: 1, maxLength: 3 }), (base, changes) => {
    const metadata = new Map(base);
    for (const [key, changed] of changes) {
      if (changed === undefined) metadata.delete(key);
      else metadata.set(key, changed);
    }
    try {
      const files = ggufTextFiles(metadata, "x.gguf"), tokenizer = loadTokenizer(files);
      loadChatTemplate(files, tokenizer.specialTokens)?.render([{ role: "user", content: "hi" }]);
      tokenizer.decode(tokenizer.encode("Hello <s> wörld 123  日本 <0x41>", { allowSpecial: true }));
      made++;
    } catch (error) {
      assert.ok(error instanceof UsageError, String((error as Error).stack));
    }
  }), { numRuns: 400 });
  assert.ok(made > 20, `${made} of 400 were made`);
});

test("what a GGUF file gives can cross to another thread", () => {
  const files = ggufTextFiles(metadataOf("Mistral 7B v0.3"), "x.gguf");
  assert.deepEqual(structuredClone(files), files);
});
