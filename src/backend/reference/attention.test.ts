import assert from "node:assert/strict";
import { test } from "node:test";
import { fromFloat32, toFloat32 } from "../../core/dtype.ts";
import { binary, constant, index, load, score, select, unary, uniform } from "../../ir/expr.ts";
import type { AttentionPlan } from "../../ir/plan.ts";
import type { Backend, Buffer, CaptureValue } from "../backend.ts";
import { open } from "./open.ts";

/** Two query heads on one kv head of one element, pages of 2 tokens in the order 2, 0, and blocks of 2 keys. */
async function attend(mods: Pick<AttentionPlan, "scoreMod" | "maskMod" | "captures">, captures: (upload: (x: readonly number[]) => Buffer) => CaptureValue[], runs: readonly (readonly [number, number])[]): Promise<{ out: number[]; lse: number[] }> {
  const backend: Backend = await open();
  const upload = (values: readonly number[], dtype: "f32" | "i32" = "f32"): Buffer => {
    const buffer = backend.alloc(4 * values.length);
    backend.write(buffer, 0, fromFloat32(values, dtype));
    return buffer;
  };
  const plan: AttentionPlan = { key: "test", ...mods, headDimQk: 1, headDimV: 1, numQueryHeads: 2, numKvHeads: 1, scale: 0.5, queryTile: 4, kvTile: 2 };
  // Logical keys 1, 2, 3 and values 10, 20, 30; what no key holds is NaN.
  const page = { sequenceStride: 2, rowStride: 1, headStride: 1 };
  const packed = { sequenceStride: 0, rowStride: 2, headStride: 1 };
  const out = upload([7, 7, 7, 7]);
  const lse = upload([7, 7, 7, 7]);
  const items = [1, 16, 0, 0, 0, 0, 0, 0, /* sequence 0, row 1, one row at position 2 */ 0, 1, 1, 2, 0, runs.length, 3, 0];
  backend.ops.attention({
    kernel: await backend.compile(plan), captures: captures(upload), query: { data: upload([NaN, NaN, 2, -2]), ...packed }, out: { data: out, ...packed },
    key: { data: upload([3, NaN, NaN, NaN, 1, 2]), ...page }, value: { data: upload([30, NaN, NaN, NaN, 10, 20]), ...page },
    pageSize: 2, blockTable: upload([2, 0], "i32"), maxPagesPerSequence: 2, work: upload([...items, ...runs.flat()], "i32"), lse: { data: lse, sequenceStride: 0 },
  });
  const read = async (buffer: Buffer): Promise<number[]> => [...toFloat32(await backend.read(buffer, 0, 16), "f32")];
  return { out: await read(out), lse: await read(lse) };
}

const near = (actual: readonly number[], expected: readonly number[]): void =>
  actual.forEach((x, i) => assert.ok(x === expected[i] || Math.abs(x - expected[i]!) < 1e-5, `[${i}] is ${x}, expected ${expected[i]}`));
const softmax = (scores: readonly number[], values: readonly number[]): { out: number; lse: number } => {
  const sum = scores.reduce((total, s) => total + Math.exp(s), 0);
  return { out: scores.reduce((total, s, i) => total + Math.exp(s) * values[i]!, 0) / sum, lse: Math.log(sum) };
};

test("keys are found through the block table, and only the item's rows are written", async () => {
  const { out, lse } = await attend({ scoreMod: score, maskMod: undefined, captures: [] }, () => [], [[0, 2 << 1]]);
  const first = softmax([1, 2, 3], [10, 20, 30]), second = softmax([-1, -2, -3], [10, 20, 30]);
  near(out, [7, 7, first.out, second.out]);
  near(lse, [7, 7, first.lse, second.lse]);
});

test("the mask decides in partial blocks alone, and blocks in no run are not seen", async () => {
  const never = constant("bool", 0);
  const { out } = await attend({ scoreMod: score, maskMod: never, captures: [] }, () => [], [[0, (1 << 1) | 1], [1, 1 << 1]]);
  near(out, [7, 7, 30, 30]);
});

test("a row with no key is zero, and its log-sum-exp -Infinity", async () => {
  const { out, lse } = await attend({ scoreMod: constant("f32", -Infinity), maskMod: undefined, captures: [] }, () => [], [[0, 2 << 1]]);
  assert.deepEqual([out, lse], [[7, 7, 0, 0], [7, 7, -Infinity, -Infinity]]);
});

test("a score mod sees the scaled score, q, kv, h and its captures", async () => {
  const distance = unary("toF32", binary("sub", index("q"), index("kv")));
  const scoreMod = binary("add", binary("mul", score, uniform("f32", "gain")), binary("mul", load("f32", "slopes", [index("h")]), distance));
  const { out } = await attend(
    { scoreMod, maskMod: undefined, captures: [{ kind: "uniform", name: "gain", type: "f32" }, { kind: "table", name: "slopes", type: "f32", rank: 1 }] },
    (upload) => [{ kind: "uniform", value: 3 }, { kind: "table", data: upload([0.5, 2]), shape: [2] }],
    [[0, 2 << 1]],
  );
  near(out, [7, 7, softmax([3 + 1, 6 + 0.5, 9], [10, 20, 30]).out, softmax([-3 + 4, -6 + 2, -9], [10, 20, 30]).out]);
});

test("a live load outside its table fails the call by name", async () => {
  const scoreMod = select(binary("lt", index("h"), constant("i32", 1)), score, load("f32", "slopes", [index("h")]));
  await assert.rejects(
    attend({ scoreMod, maskMod: undefined, captures: [{ kind: "table", name: "slopes", type: "f32", rank: 1 }] }, (upload) => [{ kind: "table", data: upload([0.5]), shape: [1] }], [[0, 2 << 1]]),
    /index 1 .*'slopes'/,
  );
});
