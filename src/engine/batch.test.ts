import assert from "node:assert/strict";
import test from "node:test";
import { defaultSampling } from "../sampling/params.ts";
import { Batch } from "./batch.ts";
import { noPage } from "./page-index.ts";
import { Sequence } from "./sequence.ts";

const running = (id: string, tokens: number[], pages: number[], numComputed: number) => {
  const sequence = new Sequence(id, Int32Array.from(tokens), defaultSampling, 0, 12);
  sequence.admit();
  sequence.pages.push(...pages);
  if (numComputed > 0) sequence.compute(numComputed, undefined);
  return sequence;
};

test("a chunk, a decode and a whole prompt are packed with their slots, block table, lengths and wanted logits", () => {
  const batch = new Batch({ maxNumBatchedTokens: 10, maxNumSeqs: 3, pageSize: 4 }, 12);
  const chunk = running("a", [10, 11, 12, 13, 14, 15, 16, 17], [7, 2], 3);
  const decode = running("b", [20, 21, 22, 23, 24], [0, 5], 4);
  const prompt = running("c", [30, 31], [9], 0);
  batch.fill([{ sequence: chunk, numTokens: 3, numLogits: 0 }, { sequence: decode, numTokens: 1, numLogits: 1 }, { sequence: prompt, numTokens: 2, numLogits: 1 }]);
  assert.equal(batch.numTokens, 6);
  assert.equal(batch.numSequences, 3);
  assert.equal(batch.numLogits, 2);
  assert.deepEqual([...batch.tokens.subarray(0, 6)], [13, 14, 15, 24, 30, 31]);
  assert.deepEqual([...batch.positions.subarray(0, 6)], [3, 4, 5, 4, 0, 1]);
  assert.deepEqual([...batch.slots.subarray(0, 6)], [31, 8, 9, 20, 36, 37]);
  assert.deepEqual([...batch.firstRow], [0, 3, 4]);
  assert.deepEqual([...batch.numRows], [3, 1, 2]);
  assert.deepEqual([...batch.firstPosition], [3, 4, 0]);
  assert.deepEqual([...batch.kvLength], [6, 5, 2]);
  assert.deepEqual([...batch.logitRows.subarray(0, 2)], [3, 5], "the chunk's last row is not its last known token");
  assert.deepEqual([...batch.blockTable], [7, 2, 0, 0, 5, 0, 9, 0, 0]);
});

test("a token that the step under way will give stands in the next batch as the row it is sampled from", () => {
  const batch = new Batch({ maxNumBatchedTokens: 10, maxNumSeqs: 3, pageSize: 4 }, 12);
  const [a, b] = [running("a", [10, 11], [7], 0), running("b", [20, 21, 22], [0], 2)];
  a.compute(2, 0);
  b.compute(1, 1);
  batch.fill([{ sequence: b, numTokens: 1, numLogits: 1 }, { sequence: a, numTokens: 1, numLogits: 1 }]);
  assert.deepEqual([...batch.tokens.subarray(0, 2)], [-2, -1]);
  assert.deepEqual([...batch.positions.subarray(0, 2)], [3, 2]);
  assert.deepEqual([...batch.kvLength.subarray(0, 2)], [4, 3]);
});

test("in place of a page that has expired stands the next one of the sequence", () => {
  const batch = new Batch({ maxNumBatchedTokens: 10, maxNumSeqs: 1, pageSize: 2 }, 12);
  batch.fill([{ sequence: running("a", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [noPage, 3, noPage, noPage, 8], 8), numTokens: 2, numLogits: 1 }]);
  assert.deepEqual([...batch.blockTable], [3, 3, 8, 8, 8, 0]);
  assert.deepEqual([...batch.slots.subarray(0, 2)], [16, 17]);
  assert.throws(() => batch.fill([{ sequence: running("a", [1, 2, 3, 4], [3, noPage], 2), numTokens: 2, numLogits: 1 }]), /none behind it is there/);
});

test("work without enough pages is a broken invariant", () => {
  const batch = new Batch({ maxNumBatchedTokens: 10, maxNumSeqs: 3, pageSize: 4 }, 12);
  assert.throws(() => batch.fill([{ sequence: running("a", [1, 2, 3, 4, 5], [3], 0), numTokens: 5, numLogits: 1 }]), /computes token 4 with 1 pages/);
});

test("a sequence may want the logits of several of its last rows, also in a chunk, and all together no more than there is room for", () => {
  const work = (numLogits: number) => [
    { sequence: running("a", [10, 11, 12, 13, 14], [7, 2], 0), numTokens: 4, numLogits: 3 }, { sequence: running("b", [20, 21, 22], [0], 1), numTokens: 2, numLogits },
  ];
  const batch = new Batch({ maxNumBatchedTokens: 10, maxNumSeqs: 2, maxNumLogits: 4, pageSize: 4 }, 12);
  batch.fill(work(1));
  assert.deepEqual([batch.numLogits, ...batch.logitRows], [4, 1, 2, 3, 5]);
  assert.throws(() => batch.fill(work(2)), /5 rows of logits with room for 4/);
});
