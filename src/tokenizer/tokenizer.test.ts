import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { awkward, mistralEntries, mistralJson, variants, type Entry } from "../../tests/fixtures/tokenizers/load.ts";
import { UsageError } from "../core/errors.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { loadTokenizer } from "./tokenizer.ts";

const mistral = loadTokenizer({ "tokenizer.json": mistralJson });

function same(tokenizer: Tokenizer, entry: Entry): void {
  const { text } = entry;
  const named = JSON.stringify(text);
  assert.deepEqual([...tokenizer.encode(text, { addSpecialTokens: false, allowSpecial: true })], entry.ids, named);
  assert.deepEqual([...tokenizer.encode(text, { allowSpecial: true })], entry.ids_special, `${named} with special tokens`);
  assert.equal(tokenizer.decode(entry.ids, { skipSpecialTokens: false }), entry.decode, `decoding ${named}`);
  if (entry.decode_skip !== undefined) assert.equal(tokenizer.decode(entry.ids), entry.decode_skip, `decoding ${named} without special tokens`);
}

test("Mistral's tokenizer gives Hugging Face's ids and texts", () => {
  assert.ok(mistralEntries.length > 40);
  for (const entry of mistralEntries) same(mistral, entry);
});

for (const { name, tokenizer, entries } of variants) {
  test(`a tokenizer of the kind "${name}" gives Hugging Face's ids and texts`, () => {
    assert.ok(entries.length > 40);
    const loaded = loadTokenizer({ "tokenizer.json": JSON.stringify(tokenizer) });
    for (const entry of entries) same(loaded, entry);
  });
}

for (const { name, json } of [{ name: "mistral", json: mistralJson }, ...variants.map(({ name, tokenizer }) => ({ name, json: JSON.stringify(tokenizer) }))]) {
  test(`text never becomes a special token of "${name}" unless asked, whatever stands around it`, () => {
    const tokenizer = loadTokenizer({ "tokenizer.json": json });
    const unknown = tokenizer.tokenToId("<unk>");
    const special = new Set(tokenizer.specialTokens.map((token) => tokenizer.tokenToId(token)).filter((id) => id !== unknown));
    assert.ok(tokenizer.encode("a<s>b", { allowSpecial: true }).includes(tokenizer.tokenToId("<s>")!), "asked for, it does");
    fc.assert(fc.property(fc.array(fc.constantFrom(...awkward, ...tokenizer.specialTokens.slice(0, 20)), { maxLength: 8 }), (parts) => {
      const ids = tokenizer.encode(parts.join(""), { addSpecialTokens: false });
      assert.deepEqual([...ids].filter((id) => special.has(id)), []);
    }), { numRuns: 100 });
  });
}

test("a special token with one untrusted character is text, and its neighbours still are tokens", () => {
  const text = "[INST]a[INST]";
  const untrusted = new Uint8Array(text.length);
  untrusted[text.length - 1] = 1;
  const ids = [...mistral.encode(text, { addSpecialTokens: false, allowSpecial: true, untrusted })];
  const inst = mistral.tokenToId("[INST]")!;
  assert.equal(ids.filter((id) => id === inst).length, 1);
  assert.equal(ids[0], inst);
  assert.equal(mistral.decode(ids, { skipSpecialTokens: false }), text);
});

test("plain text that looks special decodes to itself", () => {
  for (const text of ["<s>", "[INST] hi [/INST]", "a</s>b"]) assert.equal(mistral.decode(mistral.encode(text)), text);
});

test("tokens, ids and bytes lead to each other", () => {
  assert.equal(mistral.vocabSize, 32768);
  assert.equal(mistral.idToToken(mistral.tokenToId("[INST]")!), "[INST]");
  assert.deepEqual(mistral.idToBytes(mistral.tokenToId("<0xE2>")!), Uint8Array.of(0xe2));
  assert.deepEqual(mistral.idToBytes(mistral.tokenToId("▁the")!), new TextEncoder().encode(" the"));
  assert.equal(mistral.idToBytes(32768), undefined);
  assert.equal(mistral.tokenToId("no such token"), undefined);
});

test("end tokens are collected from every file that names one", () => {
  const { bosId, eosIds } = loadTokenizer({
    "tokenizer.json": mistralJson,
    "tokenizer_config.json": JSON.stringify({ bos_token: { content: "<s>" }, eos_token: "</s>" }),
    "generation_config.json": JSON.stringify({ eos_token_id: [2, 4] }),
  });
  assert.equal(bosId, 1);
  assert.deepEqual(eosIds, [2, 4]);
});

test("decoding leaves spaces before punctuation alone, whatever clean_up_tokenization_spaces says", () => {
  const tokenizer = loadTokenizer({ "tokenizer.json": mistralJson, "tokenizer_config.json": JSON.stringify({ clean_up_tokenization_spaces: true }) });
  assert.equal(tokenizer.decode(tokenizer.encode("a , b . do n't")), "a , b . do n't");
});

test("a missing, damaged or unknown tokenizer.json is a usage error that says what to do", () => {
  const broken = (json: unknown): unknown => ({ ...(JSON.parse(mistralJson) as object), ...(json as object) });
  const cases: readonly [Parameters<typeof loadTokenizer>[0], RegExp][] = [
    [{}, /tokenizer\.json is missing.*--skip-tokenizer-init/],
    [{ "tokenizer.json": "{" }, /tokenizer\.json is not JSON/],
    [{ "tokenizer.json": JSON.stringify(broken({ pre_tokenizer: { type: "Nonesuch" } })) }, /Nonesuch/],
    [{ "tokenizer.json": JSON.stringify(broken({ decoder: { type: "CTC" } })) }, /decoder CTC is not supported/],
    [{ "tokenizer.json": JSON.stringify(broken({ model: {} })) }, /model\.vocab is missing/],
  ];
  for (const [files, message] of cases) assert.throws(() => loadTokenizer(files), (error) => error instanceof UsageError && message.test(error.message), String(message));
});
