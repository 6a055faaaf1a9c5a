/**
 * How encoding's time grows with texts that have broken tokenizers: runs of one character, emoji built from several, text without a break.
 * Twice the text may take two and a half times as long, at most; and nothing in it becomes a special token.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { stream } from "../../src/core/random.ts";
import { loadTokenizer, type Tokenizer } from "../../src/tokenizer/tokenizer.ts";
import { demoFiles, mistralJson, variants } from "../fixtures/tokenizers/load.ts";
import { long } from "./fuzz.ts";

const random = stream(3);
const noise = Buffer.from(Uint8Array.from({ length: 750_000 }, () => Math.floor(256 * random()))).toString("base64");
const repeated = (unit: string) => (length: number): string => unit.repeat(Math.ceil(length / unit.length));

/** Texts of a length, in UTF-16 units. */
const texts: Readonly<Record<string, (length: number) => string>> = {
  "a": repeated("a"), "_": repeated("_"), "spaces": repeated(" "), "line ends": repeated("\n"), "digits": repeated("1"), "ab ": repeated("ab "), "Chinese": repeated("日本"), "emoji": repeated("😀"), "families": repeated("👨‍👩‍👧‍👦"), "accents": repeated("e\u0301"),
  "apostrophes": repeated("'"), "special tokens": repeated("<s>[INST]<end_of_turn>"), "halves of them": repeated("<end_of_"), "random base64": (length) => noise.slice(0, length),
};

/** Every kind of model, pre-tokeniser and normaliser that a text passes. */
const small = ["gpt2", "llama3", "qwen2", "starcoder2", "falcon", "llama2", "gemma", "metaspace always, split", "word suffix", "unigram", "unigram with bytes", "wordpiece"];
const tokenizers: readonly (readonly [string, Tokenizer])[] = [
  ["the demo model's", loadTokenizer(demoFiles)], ["Mistral's", loadTokenizer({ "tokenizer.json": mistralJson })],
  ...variants.filter(({ name }) => small.includes(name)).map(({ name, tokenizer }) => [name, loadTokenizer({ "tokenizer.json": JSON.stringify(tokenizer) })] as const),
];

const most = 2.5;

/**
 * How many times as long a text takes that is twice as long, the mean of two doublings: four texts of n, two of 2n and one of 4n are encoded, again and
 * again until the growth is no more than `enough`. Other work on the machine makes times longer, never shorter, so the least are taken; and the same
 * amount of text brings the same work for the garbage collector.
 */
function growthOf(encode: (text: string) => unknown, make: (length: number) => string, n: number, enough: number, rounds = 40): number {
  const sizes = [1, 2, 4].map((times) => [make(times * n), 4 / times] as const);
  const least = sizes.map(() => Infinity);
  const growth = (): number => 2 * Math.sqrt(least[2]! / least[0]!);
  for (let round = 0; round < rounds && !(round > 0 && growth() < enough); round++) {
    sizes.forEach(([text, times], i) => {
      const begun = performance.now();
      for (let k = 0; k < times; k++) encode(text);
      least[i] = Math.min(least[i]!, performance.now() - begun);
    });
  }
  return growth();
}

test("a quadratic tokenizer is seen", () => {
  const quadratic = (text: string): void => {
    let equal = 0;
    for (let i = 0; i < text.length; i++) for (let j = 0; j < text.length; j++) if (text.charCodeAt(i) === text.charCodeAt(j)) equal++;
    assert.ok(equal > 0);
  };
  quadratic("ab".repeat(2000)); // Compiled by now.
  const growth = growthOf(quadratic, repeated("ab"), 400, 0, 20);
  assert.ok(growth > most, `${growth}`);
});

/** In a normal run the worst of texts where the vocabulary is a real one, all of them but shorter for some kinds of tokenizers; in a long one all, to 100,000 characters. */
const worst = ["a", "_", "families", "random base64"];
const some = ["llama3", "unigram with bytes", "wordpiece"];

for (const [i, [name, tokenizer]] of tokenizers.entries()) {
  const isReal = i < 2;
  if (!long && !isReal && !some.includes(name)) continue;
  const kinds = Object.entries(texts).filter(([kind]) => long || !isReal || worst.includes(kind));
  const n = long ? 25_000 : isReal ? 8000 : 1000;
  test(`encoding with ${name} tokenizer takes time in proportion, and makes no special token, of ${kinds.length} kinds of text`, () => {
    const special = new Set(tokenizer.specialTokens.filter((token) => !/unk/i.test(token)).map((token) => tokenizer.tokenToId(token)));
    for (const [kind, make] of kinds) {
      assert.ok(!tokenizer.encode(make(n), { addSpecialTokens: false }).some((id) => special.has(id)), kind);
      const growth = growthOf((text) => tokenizer.encode(text), make, n, most);
      assert.ok(growth < most, `${kind}: twice the text takes ${growth.toFixed(1)} times as long`);
    }
  });
}

const base64 = noise.slice(0, long ? 1_000_000 : 200_000);

test(`${base64.length} characters of base64 take the demo model's and Mistral's tokenizers a second or two of a processor a megabyte`, (t) => {
  for (const [name, tokenizer] of tokenizers.slice(0, 2)) {
    const start = process.cpuUsage();
    assert.ok(tokenizer.encode(base64).length > base64.length / 10);
    const { user, system } = process.cpuUsage(start), seconds = (user + system) / base64.length;
    t.diagnostic(`${name}: ${seconds.toFixed(2)} s a megabyte`);
    assert.ok(seconds < 4, `${name}: ${seconds.toFixed(2)} s a megabyte`);
  }
});
