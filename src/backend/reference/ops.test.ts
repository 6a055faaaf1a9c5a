import assert from "node:assert/strict";
import { test } from "node:test";
import { fromFloat32, toFloat32 } from "../../core/dtype.ts";
import type { Activation, Backend, BatchInputs, Buffer, KvCache, RowCount } from "../backend.ts";
import { open } from "./open.ts";
import { activationFunctions } from "./ops.ts";

const f32 = (backend: Backend, values: readonly number[]): Buffer => upload(backend, fromFloat32(values, "f32"));
const i32 = (backend: Backend, values: readonly number[]): Buffer => upload(backend, fromFloat32(values, "i32"));

function upload(backend: Backend, bytes: Uint8Array): Buffer {
  const buffer = backend.alloc(bytes.byteLength);
  backend.write(buffer, 0, bytes);
  return buffer;
}

function batchOf(backend: Backend, step: { tokens: readonly number[]; positions?: readonly number[]; slots?: readonly number[]; logitRows?: readonly number[] }): BatchInputs {
  const zeros = step.tokens.map(() => 0);
  const logitRows = step.logitRows ?? [];
  return {
    header: i32(backend, [step.tokens.length, 1, logitRows.length, 0]), tokens: i32(backend, step.tokens), positions: i32(backend, step.positions ?? zeros),
    slots: i32(backend, step.slots ?? zeros), blockTable: i32(backend, [0]), logitRows: i32(backend, [...logitRows, 0]), maxPagesPerSequence: 1,
  };
}

const matrix = (backend: Backend, columns: number, values: readonly number[], rows: RowCount = "tokens"): Activation => ({ data: f32(backend, values), rows, columns, stride: columns });
const read = async (backend: Backend, buffer: Buffer): Promise<number[]> => [...toFloat32(await backend.read(buffer, 0, buffer.bytes), "f32")];
const near = (actual: readonly number[], expected: readonly number[]): void => {
  assert.equal(actual.length, expected.length);
  actual.forEach((x, i) => assert.ok(Math.abs(x - expected[i]!) < 1e-6, `[${i}] is ${x}, expected ${expected[i]}`));
};

test("embed takes the scaled rows of a bf16 table, and touches no row past the step's tokens", async () => {
  const backend = await open();
  const out = matrix(backend, 2, [9, 9, 9, 9, 9, 9]);
  const table = { data: upload(backend, fromFloat32([1, 2, 3, 4, 5, 6], "bf16")), dtype: "bf16", rows: 3, columns: 2 } as const;
  backend.ops.embed({ out, table, batch: batchOf(backend, { tokens: [2, 0] }), scale: 2 });
  assert.deepEqual(await read(backend, out.data), [10, 12, 2, 4, 9, 9]);
});

test("rmsNorm divides by the root of the mean square, and adds the residual in place", async () => {
  const backend = await open();
  const x = matrix(backend, 2, [3, 4]);
  const out = matrix(backend, 2, [100, 200]);
  backend.ops.rmsNorm({ out, x, weight: f32(backend, [1, 2]), epsilon: 0.5, residual: out, batch: batchOf(backend, { tokens: [0] }) });
  const root = Math.sqrt(12.5 + 0.5);
  near((await read(backend, out.data)).map((v) => v / 100), [(100 + 3 / root) / 100, (200 + 8 / root) / 100]);
});

test("linear multiplies by the rows of the weight and adds bias and residual", async () => {
  const backend = await open();
  const out = matrix(backend, 2, [1000, 2000]);
  const weight = { data: f32(backend, [1, 2, 3, 4, 5, 6]), dtype: "f32", rows: 2, columns: 3 } as const;
  backend.ops.linear({ out, x: matrix(backend, 3, [1, 10, 100]), weight, bias: f32(backend, [0.5, 0.25]), residual: out, batch: batchOf(backend, { tokens: [0] }) });
  assert.deepEqual(await read(backend, out.data), [1321.5, 2654.25]);
});

test("ropeAndCache normalises heads, turns pairs by the position's angle and stores K and V at the slot", async () => {
  const backend = await open();
  const kv = (): KvCache => ({ format: "f32", data: f32(backend, [0, 0, 0, 0, 0, 0]), pageSize: 1, numHeads: 1, headDim: 2 });
  const key = kv(), value = kv();
  const qkv = matrix(backend, 6, [3, 4, 6, 8, 7, 5]);
  const angle = 0.3;
  backend.ops.ropeAndCache({
    qkv, numQueryHeads: 1, key, value, rotary: f32(backend, [1, 0, Math.cos(angle), Math.sin(angle)]), rotaryDim: 2, kNorm: f32(backend, [1, 2]), epsilon: 0,
    batch: batchOf(backend, { tokens: [0], positions: [1], slots: [2] }),
  });
  const turn = (a: number, b: number): number[] => [a * Math.cos(angle) - b * Math.sin(angle), b * Math.cos(angle) + a * Math.sin(angle)];
  const k = turn(6 / Math.sqrt(50), 16 / Math.sqrt(50));
  near(await read(backend, qkv.data), [...turn(3, 4), ...k, 7, 5]);
  near(await read(backend, key.data), [0, 0, 0, 0, ...k]);
  near(await read(backend, value.data), [0, 0, 0, 0, 7, 5]);
});

test("gatherRows, gatedActivation and softCap", async () => {
  const backend = await open();
  const batch = batchOf(backend, { tokens: [0, 0], logitRows: [1] });
  const gated = matrix(backend, 1, [0, 0]);
  backend.ops.gatedActivation({ out: gated, gateUp: matrix(backend, 2, [-1, 3, 2, 5]), activation: "relu", batch });
  assert.deepEqual(await read(backend, gated.data), [0, 10]);
  const gathered = matrix(backend, 1, [0], "logits");
  backend.ops.gatherRows({ out: gathered, x: gated, batch });
  assert.deepEqual(await read(backend, gathered.data), [10]);
  backend.ops.softCap({ x: gathered, cap: 4, batch });
  near(await read(backend, gathered.data), [4 * Math.tanh(2.5)]);
});

test("the activation functions have the values of their definitions", () => {
  near([activationFunctions.silu(1), activationFunctions.gelu(1), activationFunctions.gelu(-3), activationFunctions.gelu(9), activationFunctions.geluTanh(1)], [
    0.7310585786300049, 0.8413447460685429, -0.00404969409489031, 9, 0.8411919906082768,
  ]);
});

test("a Program replays with what its inputs hold at each run, and its failure is thrown by the next read", async () => {
  const backend = await open();
  const out = matrix(backend, 1, [0]);
  const batch = batchOf(backend, { tokens: [0] });
  const table = { data: f32(backend, [5, 7]), dtype: "f32", rows: 2, columns: 1 } as const;
  const one = { numTokens: 1, numSequences: 1, numLogits: 0 };
  const program = backend.record(() => backend.ops.embed({ out, table, batch, scale: 1 }));
  assert.deepEqual(await read(backend, out.data), [0]);
  backend.write(batch.tokens, 0, fromFloat32([1], "i32"));
  program.run(one);
  assert.deepEqual(await read(backend, out.data), [7]);
  backend.write(batch.tokens, 0, fromFloat32([2], "i32"));
  program.run(one);
  await assert.rejects(read(backend, out.data), /row 2 of a weight with 2 rows/);
});
