import assert from "node:assert/strict";
import { test } from "node:test";
import type { AttentionPlan } from "../../src/ir/plan.ts";
import type { AttentionKernel, Backend } from "../../src/backend/backend.ts";
import { open } from "../../src/backend/reference/open.ts";
import { fromFloat32 } from "../../src/core/dtype.ts";
import { stream } from "../../src/core/random.ts";
import { flexAttention } from "../../src/attention/attention.ts";
import { createBlockMask } from "../../src/attention/block-mask.ts";
import { compileAttention, planAttention } from "../../src/attention/compile.ts";
import { explain } from "../../src/attention/explain.ts";
import { and, type MaskMod, maskMod, outputMod, type ScoreMod, scoreMod, weightMod } from "../../src/attention/mod.ts";
import { alibi, alibiSlopes } from "../../src/attention/mods/alibi.ts";
import { causal } from "../../src/attention/mods/causal.ts";
import { document } from "../../src/attention/mods/document.ts";
import { prefixLm } from "../../src/attention/mods/prefix-lm.ts";
import { slidingWindow } from "../../src/attention/mods/sliding-window.ts";
import { softCap } from "../../src/attention/mods/soft-cap.ts";
import { floats, type Tensor, tensor } from "../../src/attention/tensor.ts";
import { gold } from "./gold.ts";

function random(seed: number, ...shape: readonly number[]): Tensor {
  const next = stream(seed);
  return tensor(Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => next() * 2 - 1), shape);
}

function close(got: ArrayLike<number>, want: ArrayLike<number>, within: number): void {
  assert.equal(got.length, want.length);
  for (let i = 0; i < want.length; i++) assert.ok(got[i] === want[i] || Math.abs(got[i]! - want[i]!) <= within * (1 + Math.abs(want[i]!)), `element ${i} is ${got[i]}, not ${want[i]}`);
}

const docs = Int32Array.from({ length: 80 }, (_, i) => Math.floor(i / 17));
const cases: Readonly<Record<string, { readonly scoreMod?: ScoreMod; readonly maskMod?: MaskMod; readonly scale?: number }>> = {
  "no mods": {},
  "a scale of its own": { scale: 0.3 },
  "causal": { maskMod: causal },
  "sliding window and soft cap": { maskMod: slidingWindow(9), scoreMod: softCap(2) },
  "alibi": { maskMod: causal, scoreMod: alibi(alibiSlopes(6)) },
  "prefix-LM of each sequence": { maskMod: prefixLm(Int32Array.of(7, 40)) },
  "documents": { maskMod: and(causal, document(docs)) },
  "rows with nothing to attend": { maskMod: maskMod((_b, _h, q, kv) => kv < q - 20) },
  "one name captured by both mods": {
    maskMod: maskMod(({ size }) => (_b, _h, q, kv) => Math.abs(q - kv) < size, { size: 12 }), scoreMod: scoreMod(({ size }) => (score, _b, _h, q, kv) => score * size + (q - kv) * 0.01, { size: 0.75 }),
  },
};

for (const device of ["reference", "cpu"] as const) {
  for (const [name, mods] of Object.entries(cases)) {
    test(`${device}: ${name}, with grouped heads, unequal lengths and head dims, as the formula says`, async () => {
      const query = random(1, 2, 6, 45, 20), key = random(2, 2, 2, 80, 20), value = random(3, 2, 2, 80, 12);
      const { out, lse } = await flexAttention(query, key, value, { ...mods, device, aux: ["lse"] });
      const want = gold(query, key, value, mods);
      assert.deepEqual([out.shape, out.dtype, lse.shape], [[2, 6, 45, 12], "f32", [2, 6, 45]]);
      close(out.data, want.out, 2e-5);
      close(lse.data, want.lse, 2e-5);
    });
  }
}

test("rows with nothing to attend are 0 and their log-sum-exp is -Infinity", async () => {
  const x = random(4, 1, 1, 8, 4);
  const { out, lse } = await flexAttention(x, x, x, { maskMod: maskMod((_b, _h, q, kv) => kv < q), device: "reference", aux: ["lse"] });
  assert.deepEqual([...out.data.subarray(0, 4)], [0, 0, 0, 0]);
  assert.equal(lse.data[0], -Infinity);
  assert.ok(Number.isFinite(lse.data[1]));
});

test("one batch of keys serves all sequences, and the dtype of the query is the dtype of the result", async () => {
  const query = random(5, 3, 2, 10, 8), key = random(6, 1, 2, 12, 8), value = random(7, 1, 2, 12, 8);
  const out = await flexAttention(query, key, value, { device: "reference" });
  close(out.data, gold(query, key, value, {}).out, 1e-5);
  const half = (t: Tensor): Tensor => tensor(new Uint16Array(fromFloat32(t.data, "bf16").buffer), t.shape, "bf16");
  const inHalf = await flexAttention(half(query), half(key), half(value), { device: "reference" });
  assert.deepEqual([inHalf.dtype, inHalf.data.constructor], ["bf16", Uint16Array]);
  close(floats(inHalf), out.data, 0.02);
});

test("a block mask gives the same bits as its mask, and one that went stale is derived anew", async () => {
  const query = random(8, 2, 4, 70, 16), key = random(9, 2, 4, 90, 16);
  const captures = { size: 30 };
  const mask = maskMod(({ size }) => (_b, _h, q, kv) => q >= kv && q - kv < size, captures);
  const blockMask = createBlockMask(mask, { batch: 1, heads: 1, queryLength: 70, kvLength: 90, blockSize: 24 });
  const call = (options: Parameters<typeof flexAttention>[3]): Promise<Tensor> => flexAttention(query, key, key, { ...options, device: "reference" } as const);
  assert.deepEqual((await call({ blockMask })).data, (await call({ maskMod: mask })).data);
  captures.size = 60;
  assert.deepEqual((await call({ blockMask })).data, (await call({ maskMod: mask })).data);
  await assert.rejects(call({ blockMask, maskMod: mask }), /not both/);
  await assert.rejects(flexAttention(key, key, key, { blockMask, device: "reference" }), /for 70 queries and 90 keys, the tensors have 90 and 90/);
});

test("calls at the same time do not meet", async () => {
  const tensors = Array.from({ length: 6 }, (_, i) => random(20 + i, 1, 2, 20 + i, 8));
  const alone = [];
  for (const t of tensors) alone.push((await flexAttention(t, t, t, { maskMod: causal, device: "cpu" })).data);
  const together = await Promise.all(tensors.map((t) => flexAttention(t, t, t, { maskMod: causal, device: "cpu" })));
  assert.deepEqual(together.map((t) => t.data), alone);
});

test("a live load out of range fails the call by name, and the next call works", async () => {
  const x = random(30, 1, 1, 40, 8);
  for (const device of ["reference", "cpu"] as const) {
    await assert.rejects(flexAttention(x, x, x, { maskMod: document(new Int32Array(10)), device }), /'documents'/);
    await flexAttention(x, x, x, { maskMod: document(new Int32Array(40)), device });
  }
});

test("shapes that do not fit are refused with all three shapes", async () => {
  const t = (...shape: number[]): Tensor => random(1, ...shape);
  const call = (query: Tensor, key: Tensor, value: Tensor): Promise<Tensor> => flexAttention(query, key, value, { device: "reference" });
  await assert.rejects(call(t(1, 3, 4, 8), t(1, 2, 4, 8), t(1, 2, 4, 8)), /3 query heads do not divide among 2 key heads \(query \[1, 3, 4, 8\]/);
  await assert.rejects(call(t(1, 2, 4, 8), t(1, 2, 4, 6), t(1, 2, 4, 8)), /same head dim, not 8 and 6/);
  await assert.rejects(call(t(2, 2, 4, 8), t(3, 2, 4, 8), t(3, 2, 4, 8)), /batch 3; it must be the query's 2, or 1/);
  await assert.rejects(call(t(2, 4, 8), t(2, 4, 8), t(2, 4, 8)), /must be \[batch, heads, length, dim\]/);
  await assert.rejects(call(tensor(new Int32Array(8), [1, 1, 1, 8]), t(1, 1, 1, 8), t(1, 1, 1, 8)), /query is i32/);
});

/** A backend that only counts what it is asked to compile. */
function counting(backend: Backend): { readonly backend: Backend; readonly plans: AttentionPlan[] } {
  const plans: AttentionPlan[] = [];
  const compile = (plan: AttentionPlan): Promise<AttentionKernel> => (plans.push(plan), backend.compile(plan));
  const get = (target: Backend, key: string | symbol): unknown => {
    const own: unknown = Reflect.get(target, key, target);
    return key === "compile" ? compile : typeof own === "function" ? own.bind(target) : own;
  };
  return { backend: new Proxy(backend, { get }), plans };
}

test("a kernel is compiled once for what the mods say: new closures, lengths, numbers and tables are no new kernel", async () => {
  const { backend, plans } = counting(await open());
  const call = async (length: number, size: number, ids: Int32Array): Promise<void> => {
    const x = random(1, 1, 2, length, 8);
    const mask = maskMod(({ size, ids }) => (_b, _h, q, kv) => q - kv < size && ids[q] === ids[kv], { size, ids });
    await flexAttention(x, x, x, { maskMod: mask, scoreMod: softCap(size + 0.5), backend });
  };
  for (let i = 0; i < 8; i++) await call(10 + i, 3 + i, new Int32Array(20 + i));
  assert.equal(plans.length, 1);
  const x = random(1, 1, 2, 8, 8);
  await flexAttention(x, x, x, { maskMod: causal, backend });
  assert.equal(plans.length, 2);
  await compileAttention(backend, { maskMod: maskMod((_batch, _head, query, key) => query >= key), numQueryHeads: 2, numKvHeads: 2, headDimQk: 8, headDimV: 8 });
  assert.equal(plans.length, 2);
});

test("captures of the two mods do not meet under one name, and one thing captured by both has one slot", () => {
  const shape = { numQueryHeads: 1, numKvHeads: 1, headDimQk: 8, headDimV: 8 };
  const { plan, bindings } = planAttention({ ...shape, ...cases["one name captured by both mods"] });
  assert.deepEqual(plan.captures, [{ kind: "uniform", name: "size", type: "f32" }, { kind: "uniform", name: "size2", type: "i32" }]);
  assert.deepEqual(bindings.map((b) => b.owner[b.key]), [0.75, 12]);
  const captures = { table: docs };
  const both = planAttention({
    ...shape, maskMod: maskMod(({ table }) => (_b, _h, q, kv) => table[q] === table[kv], captures), scoreMod: scoreMod(({ table }) => (score, _b, _h, q) => score + table[q]!, captures),
  });
  assert.deepEqual(both.plan.captures, [{ kind: "table", name: "table", type: "i32", rank: 1 }]);
});

test("what a kernel depends on stands in its key, and what it does not stays out", () => {
  const shape = { numQueryHeads: 2, numKvHeads: 2, headDimQk: 8, headDimV: 8 };
  const itself = weightMod((score) => score), gate = outputMod((out) => out * 2);
  const specs = [
    {}, { denominator: "one" }, { denominator: "sink" }, { weightMod: itself }, { outputMod: gate }, { weightMod: itself, outputMod: gate }, { scoreMod: scoreMod((score) => score * 2) },
    { keyFormat: "bf16" }, { valueFormat: "bf16" }, { keyFormat: "int8" }, { keyFormat: "fp8", valueFormat: "int8" }, { scale: 0.3 }, { scaleMayChange: true }, { headDimV: 9 },
  ] as const;
  const keys = specs.map((spec) => planAttention({ ...shape, ...spec }).plan.key);
  assert.equal(new Set(keys).size, specs.length);
  assert.equal(planAttention({ ...shape, scaleMayChange: true, scale: 0.7 }).plan.key, keys[12]);
  assert.equal(planAttention({ ...shape, keyFormat: "f32" }).plan.key, keys[0]);
  assert.throws(() => planAttention({ ...shape, weightMod: itself, denominator: "sink" }), /a weightMod replaces softmax, so there is no denominator/);
});

test("plans refuse head counts and sizes that are none", () => {
  const shape = { numQueryHeads: 6, numKvHeads: 2, headDimQk: 8, headDimV: 8 };
  assert.throws(() => planAttention({ ...shape, numKvHeads: 4 }), /6 query heads do not divide among 4/);
  assert.throws(() => planAttention({ ...shape, headDimQk: 0 }), /headDimQk is 0/);
  assert.throws(() => planAttention({ ...shape, maskMod: softCap(1) as never }), /made with maskMod/);
  assert.equal(planAttention({ ...shape, maskMod: maskMod(() => true) }).plan.maskMod, undefined);
});

test("explain notes where 32-bit arithmetic and JavaScript part", async () => {
  const mask = maskMod(({ stride }) => (_b, _h, q, kv) => q * stride > kv * 0.5, { stride: 100_000 });
  assert.deepEqual((await explain(mask, { queryLength: 1024 })).notes, ["q * stride:i32 may exceed 2^24, beyond which f32 does not hold every whole number"]);
  assert.deepEqual((await explain(mask, { queryLength: 22_000, kvLength: 64 })).notes, ["q * stride:i32 may leave 32 bits and wrap, where JavaScript's numbers would not"]);
  assert.deepEqual((await explain(slidingWindow(200))).notes, []);
});

test("explain shows source, expression, captures, blocks, cost and the generated code", async () => {
  const text = String(await explain(slidingWindow(200), { device: "cpu" }));
  for (const part of [/^MASK MOD: which keys/, /source\n  \(\{ size \}\) => /, /expression .*\n  \(q >= kv\) && \(\(q - kv\) < size:i32\)/, /captures .*\n  size: i32 = 200\n/, /full +29 .*\n.*partial +41 /, /cost .*\n  \d+\.\d MFLOP in the tiles that are visited, \d+% of the 268 MFLOP/, /code .*\n  .+/]) assert.match(text, part);
});

test("what explain costs does not follow the area: a mask of which nothing can be proved, at 65,536 positions", async () => {
  const scattered = maskMod((_b, _h, q, kv) => (q * 7919 + kv * 104729) % 13 === 3);
  const large = await explain(scattered, { queryLength: 65536 });
  assert.equal(large.flops, large.denseFlops, "open boxes count whole");
  assert.ok(large.blocks!.numRows <= 256 && large.blocks!.numColumns <= 256);
  const edge = await explain(causal, { queryLength: 1000, kvLength: 1500, heads: 3, headDim: 8 });
  let pairs = 0;
  for (let q = 0; q < 1000; q += 16) for (let kv = 0; kv < 1500; kv += 32) if (Math.min(q + 16, 1000) > kv) pairs += (Math.min(q + 16, 1000) - q) * (Math.min(kv + 32, 1500) - kv);
  assert.equal(edge.flops, 4 * 8 * 3 * pairs, "and where a mask is proved, its tiles are counted one by one");
});

test("a call goes by what was captured when it was made, whatever is written before its turn", async () => {
  const [q, kv] = [random(1, 1, 2, 40, 8), random(2, 1, 2, 40, 8)], captures = { size: 3, ids: new Int32Array(40) };
  const mask = maskMod(({ size, ids }) => (_b, _h, q, kv) => q - kv < size && ids[q] === ids[kv], captures);
  const blocks = createBlockMask(mask, { batch: 1, heads: 1, queryLength: 40, kvLength: 40, blockSize: 8 });
  const calls = (): Promise<Tensor>[] => [flexAttention(q, kv, kv, { maskMod: mask }), flexAttention(q, kv, kv, { blockMask: blocks })];
  const steps = [
    () => {},
    () => void (captures.size = 20),
    () => void captures.ids.fill(1, 10),
    () => void (captures.size = 2.5),
    () => void (captures.ids = Int32Array.from({ length: 40 }, (_, i) => i >> 2)),
  ];
  const reset = (): void => void Object.assign(captures, { size: 3, ids: new Int32Array(40) });
  const together = steps.flatMap((step) => (step(), calls()));
  reset();
  const flight = await Promise.all(together);
  for (const [i, step] of steps.entries()) {
    step();
    for (const [j, call] of calls().entries()) assert.deepEqual((await call).data, flight[2 * i + j]!.data, `step ${i}, call ${j}`);
  }
});
