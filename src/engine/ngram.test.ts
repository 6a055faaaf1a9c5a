import assert from "node:assert/strict";
import test from "node:test";
import { stream } from "../core/random.ts";
import { followers } from "./ngram.ts";

/** Every earlier place, every length. */
function oracle(tokens: readonly number[], min: number, max: number): number {
  let best = -1, longest = 0;
  for (let end = 1; end < tokens.length; end++) {
    let length = 0;
    while (length < Math.min(max, end) && tokens[end - 1 - length] === tokens[tokens.length - 1 - length]) length++;
    if (length >= min && length > longest) [best, longest] = [end, length];
  }
  return best;
}

const find = (tokens: readonly number[], min: number, max: number) => followers(Int32Array.from(tokens), min, new Int32Array(max).fill(7));

test("the longest earlier run that the tokens end with, of equals the first", () => {
  assert.equal(find([1, 2, 3, 4, 2, 3], 2, 2), 3, "vLLM's example: 4, 2, 3 followed");
  assert.equal(find([2, 3, 9, 1, 2, 3, 8, 1, 2, 3], 1, 3), 6, "three beat two");
  assert.equal(find([2, 3, 9, 1, 2, 3, 8, 1, 2, 3], 1, 2), 2, "of two the first place");
  assert.equal(find([1, 2, 3], 1, 3), -1);
  assert.equal(find([1, 2, 1], 2, 3), -1, "too short a run");
  assert.equal(find([1, 1, 1, 1], 2, 3), 3, "a run may overlap the one that is looked for");
  assert.equal(find([5], 1, 1), -1);
});

test("random tokens of few kinds: the same place as by looking at all of them", () => {
  const random = stream(9);
  const int = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
  let found = 0, none = 0;
  for (let i = 0; i < 5000; i++) {
    const kinds = int(1, 4), min = int(1, 4), max = min + int(0, 4);
    const tokens = Array.from({ length: int(1, 40) }, () => int(1, kinds));
    const want = oracle(tokens, min, max);
    assert.equal(find(tokens, min, max), want, `${tokens} with ${min} to ${max}`);
    if (want < 0) none++;
    else found++;
  }
  assert.ok(found > 500 && none > 500, `${found} found, ${none} not`);
});
