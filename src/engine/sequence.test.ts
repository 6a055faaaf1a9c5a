import assert from "node:assert/strict";
import test from "node:test";
import { defaultSampling } from "../sampling/params.ts";
import { Sequence } from "./sequence.ts";

const params = { ...defaultSampling, maxTokens: 200 };

test("a sequence keeps its tokens in order past every growth of its array, and through a preemption", () => {
  const s = new Sequence("a", Int32Array.of(5, 6, 7), params, 0, 1000);
  assert.equal(s.capacity, 203);
  s.admit();
  s.advance(2, undefined);
  s.advance(1, 100);
  for (let i = 101; i < 250; i++) s.advance(1, i);
  s.preempt();
  assert.equal(s.state, "waiting");
  assert.equal(s.numComputed, 0);
  assert.equal(s.numUncomputed, 153);
  assert.equal(s.numGenerated, 150);
  s.admit();
  s.advance(153, 250);
  const out = new Int32Array(155);
  s.copyTokens(out, 1, 0, 154);
  assert.deepEqual([...out], [0, 5, 6, 7, ...Array.from({ length: 151 }, (_, i) => 100 + i)]);
});

test("the context caps the capacity", () => {
  assert.equal(new Sequence("a", new Int32Array(3), params, 0, 10).capacity, 10);
});

test("what no sequence may do is a broken invariant", () => {
  assert.throws(() => new Sequence("a", new Int32Array(0), params, 0, 10), /a prompt of 0 tokens/);
  assert.throws(() => new Sequence("a", new Int32Array(10), params, 0, 10), /a prompt of 10 tokens with room for 10/);
  const s = new Sequence("a", new Int32Array(4), { ...params, maxTokens: 1 }, 0, 10);
  assert.throws(() => s.advance(1, undefined), /advanced/);
  assert.throws(() => s.preempt(), /preempted/);
  s.admit();
  assert.throws(() => s.admit(), /admitted/);
  assert.throws(() => s.advance(5, 1), /advanced by 5 of 4/);
  assert.throws(() => s.advance(4, undefined), /a token belongs to the last known one/);
  assert.throws(() => s.advance(2, 1), /a token belongs to the last known one/);
  s.pages.push(1);
  assert.throws(() => s.finish(), /1 pages/);
  s.pages.pop();
  s.advance(4, 9);
  assert.throws(() => s.advance(1, 9), /is full/);
  s.finish();
  assert.throws(() => s.finish(), /finished/);
});
