import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { awkward, mistralJson, variants } from "../../tests/fixtures/tokenizers/load.ts";
import { loadTokenizer } from "./tokenizer.ts";

const tokenizers = [{ name: "mistral-7b", json: mistralJson }, ...variants.map(({ name, tokenizer }) => ({ name, json: JSON.stringify(tokenizer) }))]
  .map(({ name, json }) => ({ name, tokenizer: loadTokenizer({ "tokenizer.json": json }) }));
const mistral = tokenizers[0]!.tokenizer;

/** `ids` cut after each index where `cuts` says so. */
function pieces(ids: readonly number[], cuts: readonly boolean[]): number[][] {
  const out: number[][] = [[]];
  ids.forEach((id, i) => {
    out.at(-1)!.push(id);
    if (cuts[i % cuts.length]) out.push([]);
  });
  return out;
}

for (const { name, tokenizer } of tokenizers) {
  test(`streamed pieces of "${name}" make up the text decoded at once, for every split`, () => {
    const text = fc.array(fc.constantFrom(...awkward), { maxLength: 6 }).map((parts) => tokenizer.encode(parts.join(""), { allowSpecial: true }));
    const anyIds = fc.array(fc.nat(tokenizer.vocabSize + 3), { maxLength: 30 });
    fc.assert(fc.property(fc.oneof(text, anyIds), fc.array(fc.boolean(), { minLength: 1, maxLength: 20 }), fc.boolean(), (ids, cuts, skipSpecialTokens) => {
      const stream = tokenizer.decoder({ skipSpecialTokens });
      const whole = tokenizer.decode(ids, { skipSpecialTokens });
      let streamed = "";
      for (const piece of pieces([...ids], cuts)) {
        streamed += stream.push(piece);
        assert.ok(whole.startsWith(streamed), `${JSON.stringify(streamed)} was given too early; the text is ${JSON.stringify(whole)}`);
      }
      assert.equal(streamed + stream.flush(), whole);
    }), { numRuns: 100 });
  });
}

test("a character is given with its last byte, and nothing before", () => {
  const bytes = [0xf0, 0x9f, 0x98, 0x80].map((byte) => mistral.tokenToId(`<0x${byte.toString(16).toUpperCase()}>`)!);
  const stream = mistral.decoder();
  assert.deepEqual(bytes.map((id) => stream.push([id])), ["", "", "", "😀"]);
  assert.equal(stream.flush(), "");
});

test("a character that is never finished becomes one U+FFFD, when that is certain", () => {
  const [e2, a] = [mistral.tokenToId("<0xE2>")!, mistral.tokenToId("a")!];
  const cut = mistral.decoder();
  assert.deepEqual([cut.push([e2]), cut.flush()], ["", "\ufffd"]);
  const followed = mistral.decoder();
  assert.deepEqual([followed.push([e2]), followed.push([a]), followed.flush()], ["", "\ufffda", ""]);
});

test("the space of the first token is dropped at the start of a text, and kept after other text", () => {
  const ids = mistral.encode("Hello world", { addSpecialTokens: false });
  assert.equal(mistral.decode(ids), "Hello world");
  assert.equal(mistral.decode(ids, { continues: true }), " Hello world");
});

test("special tokens are left out, or kept where asked", () => {
  const ids = [...mistral.encode("[INST]hi</s>", { allowSpecial: true })];
  assert.equal(mistral.decode(ids), "hi");
  assert.equal(mistral.decode(ids, { skipSpecialTokens: false }), "<s>[INST]hi</s>");
});

test("the suffix of a last word is held back until another word comes", () => {
  const { tokenizer } = tokenizers.find(({ name }) => name === "word suffix")!;
  const [first, second] = ["hello", "world"].map((word) => tokenizer.encode(word));
  const stream = tokenizer.decoder();
  assert.deepEqual([stream.push(first!), stream.push(second!), stream.flush()], ["hello", " world", ""]);
});

test("the ten-thousandth push costs no more than the first hundred", () => {
  const id = [mistral.tokenToId("▁the")!];
  const stream = mistral.decoder();
  const timed = (pushes: number): number => {
    const start = performance.now();
    for (let i = 0; i < pushes; i++) stream.push(id);
    return (performance.now() - start) / pushes;
  };
  timed(1000);
  const early = Math.min(timed(1000), timed(1000), timed(1000));
  timed(50_000);
  const late = Math.min(timed(1000), timed(1000), timed(1000));
  assert.ok(late < 5 * early + 0.002, `${early} ms, then ${late} ms a push`);
});
