import assert from "node:assert/strict";
import test from "node:test";
import { defaultSampling } from "../sampling/params.ts";
import { Sequence } from "./sequence.ts";

/** One step alone: started and ended. */
const advance = (s: Sequence, count: number, next?: number) => {
  s.compute(count, next === undefined ? undefined : 0);
  s.settle(count, next === undefined ? [] : [next]);
};
const params = { ...defaultSampling, maxTokens: 200 };

test("a sequence keeps its tokens in order past every growth of its array, and through a preemption", () => {
  const s = new Sequence("a", Int32Array.of(5, 6, 7), params, 0, 1000);
  assert.equal(s.capacity, 203);
  s.admit();
  advance(s, 2);
  advance(s, 1, 100);
  for (let i = 101; i < 250; i++) advance(s, 1, i);
  s.preempt();
  assert.equal(s.state, "waiting");
  assert.equal(s.numComputed, 0);
  assert.equal(s.numUncomputed, 153);
  assert.equal(s.numGenerated, 150);
  s.admit();
  advance(s, 153, 250);
  const out = new Int32Array(155);
  s.copyTokens(out, 1, 0, 154);
  assert.deepEqual([...out], [0, 5, 6, 7, ...Array.from({ length: 151 }, (_, i) => 100 + i)]);
});

test("the context caps the capacity", () => {
  assert.equal(new Sequence("a", new Int32Array(3), params, 0, 10).capacity, 10);
});

test("steps are started one ahead of what is known, and end in their order, or were never started", () => {
  const s = new Sequence("a", Int32Array.of(5, 6, 7), params, 0, 1000);
  const counts = () => [s.numSettled, s.numComputed, s.numKnown, s.numTokens];
  const tokens = () => Array.from({ length: s.numTokens }, (_, i) => s.token(i));
  s.admit();
  s.compute(2, undefined);
  s.compute(1, 4);
  assert.deepEqual([tokens(), counts(), s.numUncomputed, s.numGenerated], [[5, 6, 7, -5], [0, 3, 3, 4], 1, 0]);
  s.settle(2, []);
  s.compute(1, 0);
  assert.deepEqual([tokens(), counts()], [[5, 6, 7, -5, -1], [2, 4, 3, 5]]);
  s.settle(1, [8]);
  assert.deepEqual([tokens(), counts(), s.numGenerated], [[5, 6, 7, 8, -1], [3, 4, 4, 5], 1]);
  s.undo();
  assert.deepEqual([tokens(), counts()], [[5, 6, 7, 8], [3, 3, 4, 4]]);
  advance(s, 1, 9);
  assert.deepEqual(tokens(), [5, 6, 7, 8, 9]);
});

test("what no sequence may do is a broken invariant", () => {
  assert.throws(() => new Sequence("a", new Int32Array(0), params, 0, 10), /a prompt of 0 tokens/);
  assert.throws(() => new Sequence("a", new Int32Array(10), params, 0, 10), /a prompt of 10 tokens with room for 10/);
  const s = new Sequence("a", new Int32Array(4), { ...params, maxTokens: 1 }, 0, 10);
  assert.throws(() => s.compute(1, undefined), /computes 1 of 4/);
  assert.throws(() => s.preempt(), /preempted/);
  s.admit();
  assert.throws(() => s.admit(), /admitted/);
  assert.throws(() => s.compute(5, 1), /computes 5 of 4/);
  assert.throws(() => s.compute(4, undefined), /logits belong to the last token/);
  assert.throws(() => s.compute(2, 1), /logits belong to the last token/);
  assert.throws(() => s.settle(1, []), /settles 1 of 0/);
  s.pages.push(1);
  assert.throws(() => s.finish(), /1 pages/);
  s.pages.pop();
  s.compute(4, 9);
  assert.ok(s.isFull);
  assert.throws(() => s.compute(1, 9), /is full/);
  assert.throws(() => s.settle(4, []), /a token belongs to the last one computed/);
  assert.throws(() => s.preempt(), /preempted/);
  s.settle(4, [9]);
  s.finish();
  assert.throws(() => s.finish(), /finished/);
});

test("drafts stand behind the known tokens until a step has decided: those it agrees with are known, the rest was never there", () => {
  const s = new Sequence("a", Int32Array.of(5, 6), { ...params, maxTokens: 8 }, 0, 1000);
  const counts = () => [s.numSettled, s.numComputed, s.numKnown, s.numTokens, s.numDrafts];
  const tokens = () => Array.from({ length: s.numTokens }, (_, i) => s.token(i));
  s.admit();
  advance(s, 2, 7);
  s.propose([1, 2, 3]);
  assert.deepEqual([tokens(), counts(), s.numUncomputed, [...s.known()]], [[5, 6, 7, 1, 2, 3], [2, 2, 3, 6, 3], 4, [5, 6, 7]]);
  s.compute(4, 3);
  assert.deepEqual([tokens(), counts()], [[5, 6, 7, 1, 2, 3, -4], [2, 6, 3, 7, 3]]);
  assert.throws(() => s.settle(4, []), /a token belongs to the last one computed/);
  assert.throws(() => new Sequence("b", Int32Array.of(1), params, 0, 9).propose([1]), /takes 1 drafts/);
  s.settle(4, [1, 9]);
  assert.deepEqual([tokens(), counts()], [[5, 6, 7, 1, 9], [4, 4, 5, 5, 0]]);
  s.propose([2, 3]);
  s.compute(3, 0);
  assert.throws(() => s.settle(3, [3, 3]), /3,3 for 2 drafts/);
});

test("drafts are forgotten when their step fails, and never reach a sequence's end", () => {
  const s = new Sequence("a", Int32Array.of(5, 6), { ...params, maxTokens: 4 }, 0, 1000);
  s.admit();
  advance(s, 2, 7);
  assert.throws(() => s.propose([1, 2, 3]), /takes 3 drafts with 3 of 6/);
  s.propose([1, 2]);
  s.compute(3, 0);
  assert.ok(s.isFull);
  s.undo();
  assert.deepEqual([s.numSettled, s.numComputed, s.numKnown, s.numTokens, s.numDrafts], [2, 2, 3, 3, 0]);
  advance(s, 1, 8);
  assert.equal(s.token(3), 8);
});

test("who guesses all wrong again and again is asked ever more rarely, until something is right", () => {
  const s = new Sequence("a", Int32Array.of(5), params, 0, 1000);
  s.admit();
  advance(s, 1, 0);
  const rests: number[] = [];
  const guess = (right: boolean) => {
    let rest = 0;
    for (; !s.wantsDrafts(); rest++) advance(s, 1, 0);
    rests.push(rest);
    s.propose([1, 1]);
    s.compute(3, 0);
    s.settle(3, right ? [1, 0] : [0]);
  };
  for (const right of [false, false, false, false, false, false, true, false, false]) guess(right);
  assert.deepEqual(rests, [0, 0, 2, 6, 14, 14, 14, 0, 0]);
});
