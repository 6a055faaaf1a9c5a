import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { print } from "../ir/print.ts";
import { planAttention } from "./compile.ts";
import { and, type MaskMod, maskMod, type ScoreMod, scoreMod } from "./mod.ts";
import { deserialiseMod, serialiseMod } from "./mod-data.ts";
import { causal } from "./mods/causal.ts";
import { tensor } from "./tensor.ts";

const shared = new Int32Array(new SharedArrayBuffer(4 * 16));
shared.set(Array.from(shared, (_, i) => i % 3));
const captures = { size: 5, gain: 0.5, table: tensor(new Float32Array(12).map((_, i) => i / 4), [3, 4]), ids: shared };
const mask = maskMod(({ size, ids }) => (_b, _h, q, kv) => q - kv < size || ids[q] === ids[kv], captures);
const score = scoreMod(({ gain, table }) => (s, b, h, q, kv) => (q > kv ? Math.tanh(s * gain) : s) + table[h]![kv % 4]! - b, captures);

test("a mod that crossed a thread boundary is the same function, and the same kernel", () => {
  const maskBack = deserialiseMod(structuredClone(serialiseMod(mask))) as MaskMod, scoreBack = deserialiseMod(structuredClone(serialiseMod(score))) as ScoreMod;
  const i = fc.integer({ min: 0, max: 15 }), head = fc.integer({ min: 0, max: 2 });
  fc.assert(fc.property(i, head, i, i, fc.integer({ min: -50, max: 50 }), (b, h, q, kv, s) => {
    assert.equal(maskBack(b, h, q, kv), mask(b, h, q, kv));
    assert.ok(Math.abs(scoreBack(s / 8, b, h, q, kv) - score(s / 8, b, h, q, kv)) < 1e-5);
  }));
  const shape = { numQueryHeads: 3, numKvHeads: 3, headDimQk: 16, headDimV: 16 };
  assert.equal(planAttention({ maskMod: maskBack, scoreMod: scoreBack, ...shape }).plan.key, planAttention({ maskMod: mask, scoreMod: score, ...shape }).plan.key);
});

test("numbers and ordinary arrays are copied as they are; a shared array stays the same memory", () => {
  const own = { n: 3, list: [1, 2, 3], big: new Int32Array(1000).subarray(4, 8), ids: shared };
  const data = serialiseMod(maskMod(({ n, list, big, ids }) => (_b, _h, q, kv) => list[q]! < n && big[kv] === 0 && ids[q]! > 0, own));
  const values = Object.fromEntries(data.captures.map(({ slot, value }) => [slot.name, typeof value === "number" ? value : value.data]));
  assert.equal(values["n"], 3);
  assert.deepEqual(values["list"], Int32Array.of(1, 2, 3));
  assert.equal((values["big"] as Int32Array).buffer.byteLength, 16, "only its own part of the buffer");
  const clone = structuredClone(data);
  const ids = clone.captures.find(({ slot }) => slot.name === "ids")!.value;
  assert.ok(typeof ids !== "number");
  shared[3] = 7;
  assert.equal(ids.data[3], 7, "what is written on one side is read on the other");
  shared[3] = 0;
});

test("a mod that came back combines with others like any other", () => {
  const back = deserialiseMod(structuredClone(serialiseMod(mask))) as MaskMod;
  const both = and(back, maskMod(({ size, inner }) => (b, h, q, kv) => inner(b, h, q + 1, kv) && kv > size, { size: 2, inner: back }), causal);
  for (let q = 0; q < 12; q++) for (let kv = 0; kv < 12; kv++) assert.equal(both(0, 0, q, kv), mask(0, 0, q, kv) && mask(0, 0, q + 1, kv) && kv > 2 && q >= kv);
  const { expr, bindings } = both.lower();
  assert.deepEqual(bindings.map((b) => b.slot.name), ["size", "ids", "size2"]);
  assert.match(print(expr), /kv > size2:i32/);
});
