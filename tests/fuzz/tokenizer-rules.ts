/** What must be true of any tokenizer, whatever file it came of. */
import assert from "node:assert/strict";
import type { Tokenizer } from "../../src/tokenizer/tokenizer.ts";
import { awkward } from "../fixtures/tokenizers/load.ts";
import { pick, type Random } from "./fuzz.ts";

/** A text of plain words, awkward pieces and this tokenizer's special tokens. */
function someText(random: Random, { specialTokens }: Tokenizer): string {
  return Array.from({ length: 6 }, () => (random() < 0.2 && specialTokens.length > 0 ? pick(random, specialTokens) : pick(random, awkward))).join("");
}

/** Encodes a random text and decodes what came of it. */
export function checkTokenizer(tokenizer: Tokenizer, random: Random): void {
  const { vocabSize } = tokenizer;
  assert.ok(Number.isSafeInteger(vocabSize) && vocabSize >= 0, `a vocabulary of ${vocabSize}`);
  const said = someText(random, tokenizer);
  const ids = tokenizer.encode(said, { addSpecialTokens: false });
  for (const id of ids) {
    assert.ok(id >= 0 && id < vocabSize, `id ${id} of ${vocabSize}`);
    const token = tokenizer.idToToken(id);
    assert.equal(typeof token, "string", `id ${id} is ${JSON.stringify(token)}`);
    // A vocabulary that is a list may have a text twice.
    assert.equal(tokenizer.idToToken(tokenizer.tokenToId(token!)!), token);
  }
  const special = new Set(tokenizer.specialTokens.filter((token) => !/unk/i.test(token)).map((token) => tokenizer.tokenToId(token)));
  assert.deepEqual([...ids].filter((id) => special.has(id)), [], `special tokens from ${JSON.stringify(said)}`);
  for (const id of [...tokenizer.encode(said, { allowSpecial: true })]) assert.ok(id >= 0 && id < vocabSize, `id ${id} of ${vocabSize}, special ones allowed`);
  const whole = tokenizer.decode(ids), stream = tokenizer.decoder();
  assert.equal([...ids].map((id) => stream.push([id])).join("") + stream.flush(), whole);
  assert.equal(typeof tokenizer.decode([0, -1, 1.5, vocabSize, 2 ** 31, NaN]), "string");
}
