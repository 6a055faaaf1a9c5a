import assert from "node:assert/strict";
import test from "node:test";
import { choiceWord, ruleWord } from "../backend/backend.ts";
import { defaultSampling, type SamplingParams } from "./params.ts";
import { Records } from "./records.ts";
import { LogitRules } from "./rules.ts";
import { SamplingBatch } from "./sampling-batch.ts";

const rulesOf = (params: Partial<SamplingParams>) => LogitRules.of({ ...defaultSampling, ...params }, Int32Array.of(1), new Set([2]))!;

test("rules that have nothing to say leave the choice as it is; those that do, and allowed ids, have a record", () => {
  const wanted = new SamplingBatch(4), skipped = (row: number) => wanted.choices.words[row * choiceWord.words + choiceWord.skip];
  wanted.choose(0, defaultSampling, 1, 9, rulesOf({ minTokens: 3 }), 3);
  wanted.choose(1, defaultSampling, 1, 9, rulesOf({ minTokens: 3 }), 2);
  wanted.choose(2, defaultSampling, 1, 9, rulesOf({ badWords: [[5, 6]] }), 0);
  wanted.choose(3, defaultSampling, 1, 9, rulesOf({ allowedTokenIds: [4] }), 0);
  assert.deepEqual([0, 1, 2, 3].map(skipped), [0, 1, 0, 1]);
  const rows = Array.from({ length: wanted.rules.length / ruleWord.words }, (_, i) => [...wanted.rules.subarray(i * ruleWord.words, i * ruleWord.words + 4)]);
  assert.deepEqual(rows, [[1, 0, 1, 0], [3, 1, 1, 1]]);
  wanted.clear();
  wanted.choose(1, defaultSampling, 1, 9);
  assert.deepEqual([skipped(1), wanted.rules.length, wanted.edits.length], [0, 0, 0], "another step's records are gone");
});

test("records grow with what is in them, and let go of what was once needed", () => {
  const records = new Records(4);
  const put = (value: number) => {
    const at = records.add();
    records.ints[at] = value;
  };
  for (let i = 0; i < 1000; i++) put(i);
  const first = records.add(5);
  records.doubles[(first + 2) / 2] = 0.5;
  assert.deepEqual([records.count, records.words.length, first, Array.from({ length: 1000 }, (_, i) => records.words[4 * i]).every((x, i) => x === i), new Float64Array(records.words.buffer)[(first + 2) / 2]], [1005, 4020, 4000, true, 0.5]);
  records.add(2 ** 20);
  records.clear();
  assert.ok(records.ints.length >= 2 ** 22, "it may be wanted again");
  records.add(10);
  records.clear();
  assert.equal(records.ints.length, 0);
  put(7);
  assert.deepEqual([...records.words.subarray(0, 1)], [7]);
});
