import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Bpe } from "./bpe.ts";
import { mergeRanks, scoreRanks } from "./merge-ranks.ts";
import { PairTable } from "./pair-table.ts";

const vocabulary = (tokens: readonly string[]): ReadonlyMap<string, number> => new Map(tokens.map((token, id) => [token, id]));

test("a table of pairs tells what was set last, whatever the ids, up to its room and after it was emptied", () => {
  fc.assert(fc.property(fc.array(fc.tuple(fc.nat(2 ** 18), fc.nat(300_000), fc.integer({ min: -1, max: 2 ** 25 })), { maxLength: 200 }), (sets) => {
    const table = new PairTable(200), expected = new Map<string, number>();
    for (const [left, right, value] of sets) {
      table.set(left, right, value);
      expected.set(`${left} ${right}`, value);
    }
    assert.equal(table.size, expected.size);
    for (const [left, right] of sets) assert.equal(table.get(left, right), expected.get(`${left} ${right}`));
    assert.equal(table.get(300_001, 1), undefined);
    table.clear();
    assert.equal(table.size, 0);
    for (const [left, right] of sets) assert.equal(table.get(left, right), undefined);
  }));
});

test("merges are the same as strings, as pairs, and mixed; in pairs a token may hold a space", () => {
  const tokens = vocabulary(["a", "b", "ab", "c", "abc", "a b", " "]);
  for (const merges of [["a b", "ab c"], [["a", "b"], ["ab", "c"]], ["a b", ["ab", "c"]]] as const) {
    const { rankOf, merged } = mergeRanks({ merges }, tokens, new Set());
    assert.deepEqual([rankOf(0, 1), rankOf(2, 3), rankOf(1, 0)], [0, 1, -1]);
    assert.deepEqual([merged(0), merged(1)], [2, 4]);
  }
  const spaced = vocabulary(["a", " b", "a b", "a ", "b"]);
  const { rankOf } = mergeRanks({ merges: [["a", " b"]] }, spaced, new Set());
  assert.deepEqual([rankOf(0, 1), rankOf(3, 4)], [0, -1]);
});

test("a forbidden token is never merged, by merges or by scores", () => {
  const tokens = vocabulary(["a", "b", "ab"]);
  for (const forbidden of [new Set<number>(), new Set([2])]) {
    const ranks = [mergeRanks({ merges: ["a b"] }, tokens, forbidden), scoreRanks([-2, -3, -1], tokens, forbidden)];
    for (const { rankOf } of ranks) assert.equal(rankOf(0, 1) >= 0, forbidden.size === 0);
  }
});

test("by scores a word becomes what merging the best pair again and again makes of it", () => {
  const letters = ["a", "b", "c"];
  const words = fc.uniqueArray(fc.string({ unit: fc.constantFrom(...letters), minLength: 2, maxLength: 5 }), { minLength: 5, maxLength: 25 });
  fc.assert(fc.property(words, fc.string({ unit: fc.constantFrom(...letters), maxLength: 14 }), fc.infiniteStream(fc.integer({ min: -9, max: 0 })), (made, text, draws) => {
    const tokens = [...letters, ...made], vocab = vocabulary(tokens);
    const scores = tokens.map(() => draws.next().value as number);
    const out: number[] = [];
    new Bpe({ scores }, vocab, new Set()).encode(text, out);
    assert.deepEqual(out.map((id) => tokens[id]), slowly(text, vocab, scores));
  }), { numRuns: 200 });
});

/** One merge at a time, the best of all pairs: score, then the token's id, then the left side's id, then the place. */
function slowly(text: string, vocab: ReadonlyMap<string, number>, scores: readonly number[]): string[] {
  const parts = [...text];
  for (;;) {
    const pairs = parts.slice(1).flatMap((right, left) => {
      const to = vocab.get(parts[left]! + right);
      return to === undefined ? [] : [[-scores[to]!, to, vocab.get(parts[left]!)!, left]];
    });
    const best = pairs.sort((a, b) => a.map((x, i) => x - b[i]!).find((difference) => difference !== 0) ?? 0)[0];
    if (best === undefined) return parts;
    parts.splice(best[3]!, 2, parts[best[3]!]! + parts[best[3]! + 1]!);
  }
}
