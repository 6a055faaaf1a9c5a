/**
 * Hostile tokenizer.json, of every kind of model, pre-tokeniser, normaliser and decoder: one to three places of a good one changed.
 *
 * It is refused by a UsageError, or it is a tokenizer: ids within its vocabulary, no special token out of plain text, decoding that is the same
 * in pieces and as a whole, each id one token. What takes a pattern without end costs its own request only.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { BadRequest, UsageError } from "../../src/core/errors.ts";
import { loadTokenizer } from "../../src/tokenizer/tokenizer.ts";
import { startText } from "../../src/tokenizer/text.ts";
import { variants } from "../fixtures/tokenizers/load.ts";
import { fuzz, pick, takeAllocated, watchAllocations } from "./fuzz.ts";
import { mutated, treeOf } from "./json.ts";
import { checkTokenizer } from "./tokenizer-rules.ts";

watchAllocations();

test("tokenizers with one to three places changed are tokenizers, or refused", (t) => {
  const trees = variants.map(({ tokenizer }) => treeOf(tokenizer));
  return fuzz(t, { inputs: [400, 50_000], floors: { loaded: 0.3, refused: 0.1 } }, ({ random, did }) => {
    const text = mutated(pick(random, trees), random, did);
    takeAllocated();
    let outcome = "refused";
    try {
      const tokenizer = loadTokenizer({ "tokenizer.json": text });
      outcome = "refused later";
      checkTokenizer(tokenizer, random);
      outcome = "loaded";
    } catch (error) {
      assert.ok((error instanceof UsageError && /tokenizer/.test(error.message)) || (error instanceof BadRequest && error.param === "text" && outcome === "refused later"), String((error as Error).stack));
      assert.ok(error.message.length < 2000, `a message of ${error.message.length} characters`);
    }
    assert.ok(takeAllocated() < 64 * text.length + 2 ** 23, "memory");
    return outcome;
  });
});

/** A good tokenizer with one place set, by its path. */
function changed(name: string, path: string, value: unknown): string {
  const whole = structuredClone(variants.find((one) => one.name === name)!.tokenizer) as Record<string, unknown>;
  const steps = path.split("."), last = steps.pop()!;
  const parent = steps.reduce<Record<string, unknown>>((object, step) => object[step] as Record<string, unknown>, whole);
  parent[last] = value;
  return JSON.stringify(whole);
}

const found: readonly [name: string, path: string, value: unknown, message: RegExp][] = [
  ["gpt2", "pre_tokenizer.type", "toString", /toString/],
  ["gpt2", "decoder.type", "constructor", /decoder constructor is not supported/],
  ["split on e, removed", "pre_tokenizer.pretokenizers.0.behavior", "valueOf", /unknown behavior/],
  ["gpt2", "model.vocab.a", 1e9, /"a" has the id 1000000000; whole numbers/],
  ["gpt2", "model.vocab.a", -1, /"a" has the id -1/],
  ["gpt2", "model.vocab.a", 0.5, /"a" has the id 0\.5/],
  ["gpt2", "model.vocab.a", 12, /has the id 12 twice/],
  ["word suffix", "model.end_of_word_suffix", ["x"], /model\.end_of_word_suffix is \["x"\]/],
  ["gpt2", "model.merges.0", ["a", 7], /model\.merges\[0\] is \["a",7\], and no pair/],
  ["gpt2", "model.merges.0", ["a", "b", "c"], /and no pair/],
  ["unigram", "model.vocab.3", ["a", "-1"], /model\.vocab\[3\] is \["a","-1"\], and no token with its score/],
  ["unigram", "model.unk_id", 1e6, /model\.unk_id is 1000000/],
  ["gpt2", "added_tokens.0.id", 1, /added_tokens has the id 1 twice, for "<unk>" and "<s>"/],
  ["gpt2", "added_tokens.0", { id: 2 ** 40, content: "x" }, /added_tokens has a row without id/],
  ["llama2", "decoder", { type: "Replace", pattern: { Regex: "(a+)+$" }, content: "" }, /decoder Replace has no String/],
];
for (const [name, path, value, message] of found) {
  test(`what the fuzzer found: ${path} of "${name}" as ${JSON.stringify(value)} is refused by name`, () =>
    assert.throws(() => loadTokenizer({ "tokenizer.json": changed(name, path, value) }).encode("a hello"), { name: "UsageError", message }));
}

test("what the fuzzer found: rows nested without end are refused in a short message", () => {
  const text = changed("gpt2", "added_tokens.0", "HERE").replace('"HERE"', "[".repeat(20_000) + "]".repeat(20_000));
  assert.throws(() => loadTokenizer({ "tokenizer.json": text }), (error) => error instanceof UsageError && error.message.length < 500);
});

test("what the fuzzer found: a normaliser's content nested without end, and none that is a text, is refused by name", () => {
  const deep = changed("gpt2", "normalizer", { type: "Replace", pattern: { String: "e" }, content: "HERE" }).replace('"HERE"', "[".repeat(5000) + "]".repeat(5000));
  const within = changed("gpt2", "normalizer", { type: "Sequence", normalizers: [{ type: "Replace", pattern: { String: "e" }, content: 5 }] });
  for (const text of [deep, within]) assert.throws(() => loadTokenizer({ "tokenizer.json": text }), { name: "UsageError", message: /normalizer Replace has a content that is no text/ });
  const fine = loadTokenizer({ "tokenizer.json": changed("gpt2", "normalizer", { type: "Replace", pattern: { String: "e" }, content: "a" }) });
  assert.deepEqual(fine.encode("hello"), fine.encode("hallo"));
});

test("what the fuzzer found: a special token's text that stands in a Unigram vocabulary under another id is plain text", () => {
  const tokenizer = loadTokenizer({ "tokenizer.json": changed("unigram with bytes", "model.vocab.5", ["<s>", 0]) });
  const ids = [...tokenizer.encode("a<s>b", { addSpecialTokens: false })];
  assert.ok(!ids.includes(5) && ids.length > 3, String(ids));
});

test("what the fuzzer found: a text that a Unigram vocabulary cannot say is the client's mistake, and names its field", async () => {
  const service = await startText({ "tokenizer.json": changed("unigram", "model.unk_id", null), "chat_template.jinja": "{{ messages[0].content }}" }, { inProcess: true });
  await assert.rejects(service.encode("a ☃"), (error) => error instanceof BadRequest && error.param === "prompt" && /^prompt: ".*☃" is in no token/.test(error.message));
  await assert.rejects(service.encodeChat([{ role: "user", content: "☃" }]), (error) => error instanceof BadRequest && error.param === "messages");
});

test("a pattern without end in the model's files costs the request that meets it, not the server and not the requests behind it", async () => {
  const evil = changed("llama3", "pre_tokenizer.pretokenizers.0.pattern.Regex", "(?:a+)+$|[^a]+|a");
  const service = await startText({ "tokenizer.json": evil }, { limitMs: 500 });
  try {
    const [before, stuck, after] = await Promise.allSettled([service.encode("hello"), service.encode(`${"a".repeat(60)}b`), service.encode("hello")]);
    assert.ok(before.status === "fulfilled" && after.status === "fulfilled");
    assert.deepEqual(after.value, before.value);
    assert.ok(stuck.status === "rejected" && stuck.reason instanceof BadRequest && /longer than 0\.5 s/.test(stuck.reason.message), String(stuck.status));
  } finally {
    service.close();
  }
  // Loading runs no pattern at all.
  const begun = performance.now();
  loadTokenizer({ "tokenizer.json": changed("gpt2", "normalizer", { type: "Replace", pattern: { Regex: "(a+)+$" }, content: "" }).replace('"added_tokens":[', `"added_tokens":[{"id":600,"content":"${"a".repeat(60)}b","normalized":true},`) });
  assert.ok(performance.now() - begun < 1000);
});
