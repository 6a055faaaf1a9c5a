import assert from "node:assert/strict";
import { test } from "node:test";
import { fromFloat32 } from "../core/dtype.ts";
import { typeOf } from "./captures.ts";
import { alibiSlopes } from "./mods/alibi.ts";
import { slidingWindow, windowLeft } from "./mods/sliding-window.ts";
import { operandOf } from "./operand.ts";
import { contiguous, floats, nested, tensor } from "./tensor.ts";

test("a tensor keeps the caller's memory and takes its dtype from the array", () => {
  const data = new Float32Array(6);
  assert.equal(tensor(data, [2, 3]).data, data);
  assert.deepEqual([tensor(data, [6]).dtype, tensor(new Uint8Array(2), [2]).dtype, tensor(new Uint16Array(2), [2]).dtype, tensor(new Uint16Array(2), [2], "bf16").dtype], ["f32", "u8", "u16", "bf16"]);
});

test("shapes and dtypes that do not fit are refused with both numbers", () => {
  assert.throws(() => tensor(new Float32Array(6), [2, 2]), /shape \[2, 2\] has 4 elements, the Float32Array has 6/);
  assert.throws(() => tensor(new Float32Array(1), [0.5, 2]), /must hold whole numbers/);
  assert.throws(() => tensor(new Float32Array(1), [1], "f16"), /cannot be read as f16; put the bits in a Uint16Array/);
  assert.throws(() => tensor(new BigInt64Array(1) as never, [1]), /does not take a BigInt64Array/);
});

test("16-bit floats are widened, and nested views share memory", () => {
  const half = tensor(new Uint16Array(fromFloat32([1.5, -2, 0.25], "f16").buffer), [3], "f16");
  assert.deepEqual([...floats(half)], [1.5, -2, 0.25]);
  const t = tensor(Int32Array.from({ length: 12 }, (_, i) => i), [2, 3, 2]);
  const rows = nested(t) as Int32Array[][];
  assert.deepEqual(rows.map((row) => row.map((pair) => [...pair])), [[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], [10, 11]]]);
  t.data[9] = 99;
  assert.equal(rows[1]![1]![1], 99);
});

test("a view reads its array through strides, and contiguous copies what it shows", () => {
  const data = Int16Array.from({ length: 24 }, (_, i) => i);
  const transposed = tensor(data, [3, 2], { strides: [1, 12], offset: 4 }), plain = tensor(data, [2, 12]);
  assert.deepEqual([...contiguous(transposed).data], [4, 16, 5, 17, 6, 18]);
  assert.equal(contiguous(transposed).data.constructor, Int16Array);
  assert.equal(contiguous(plain), plain);
  assert.deepEqual([...floats(tensor(data, [2, 3], { strides: [-3, 1], offset: 3 }))], [3, 4, 5, 0, 1, 2]);
  assert.deepEqual([...floats(tensor(data, [2, 2], { strides: [0, 5] }))], [0, 5, 0, 5]);
  assert.equal(tensor(data, [4, 0], { offset: 99 }).data, data, "a view of nothing may start anywhere");
  assert.deepEqual([...floats(tensor(Uint8Array.of(0x38, 0xb8, 0x7e), [3], "fp8"))], [1, -1, 448]);
});

test("an operand is its tensor's own memory where that may be read by stride, else a copy", () => {
  const data = new Uint16Array(2 * 3 * 5 * 4), own = (bytes: Uint8Array): boolean => bytes.buffer === data.buffer;
  const swapped = operandOf(tensor(data, [2, 5, 3, 4], { dtype: "bf16", strides: [60, 4, 20, 1] }));
  assert.deepEqual([own(swapped.bytes), swapped.bytes.length, swapped.sequenceStride, swapped.headStride, swapped.rowStride], [true, 240, 60, 4, 20]);
  const part = operandOf(tensor(data, [1, 2, 5, 4], { dtype: "f16", strides: [60, 20, 4, 1], offset: 20 }));
  assert.deepEqual([own(part.bytes), part.bytes.byteOffset, part.bytes.length], [true, 40, 80]);
  const scattered = operandOf(tensor(data, [1, 1, 5, 2], { dtype: "f16", strides: [60, 20, 4, 2] })), sparse = operandOf(tensor(data, [2, 1, 1, 4], { dtype: "f16", strides: [60, 20, 4, 1] }));
  assert.deepEqual([own(scattered.bytes), scattered.bytes.length, scattered.rowStride], [false, 20, 2]);
  assert.deepEqual([own(sparse.bytes), sparse.bytes.length, sparse.sequenceStride], [false, 16, 4]);
});

const typed: readonly (readonly [name: string, value: unknown, type: object])[] = [
  ["a whole number", 1024, { kind: "uniform", type: "i32", boolean: false }],
  ["a fraction", 0.5, { kind: "uniform", type: "f32", boolean: false }],
  ["a whole number beyond 32 bits", 2 ** 31, { kind: "uniform", type: "f32", boolean: false }],
  ["-0", -0, { kind: "uniform", type: "f32", boolean: false }],
  ["a boolean", true, { kind: "uniform", type: "i32", boolean: true }],
  ["a Uint8Array", new Uint8Array(1), { kind: "table", type: "i32", rank: 1 }],
  ["a Float64Array", new Float64Array(1), { kind: "table", type: "f32", rank: 1 }],
  ["an array of fractions", [1, 0.5], { kind: "table", type: "f32", rank: 1 }],
  ["a tensor of two dimensions", tensor(new Int32Array(4), [2, 2]), { kind: "table", type: "i32", rank: 2 }],
  ["a Uint32Array", new Uint32Array(1), { kind: "refused", found: "a Uint32Array", remedy: "use an Int32Array" }],
];
for (const [name, value, type] of typed) test(`captured, ${name} is ${JSON.stringify(type)}`, () => assert.deepEqual(typeOf(value), type));

test("ALiBi's slopes are the paper's, for powers of two and others", () => {
  assert.deepEqual([...alibiSlopes(8)], [1, 2, 3, 4, 5, 6, 7, 8].map((i) => 2 ** -i));
  assert.deepEqual([...alibiSlopes(6)].map(Math.log2), [-2, -4, -6, -8, -1, -3]);
});

test("the two widths of a window differ by one key", () => {
  const keys = (mask: ReturnType<typeof slidingWindow>): number => Array.from({ length: 100 }, (_, kv) => mask(0, 0, 50, kv)).filter(Boolean).length;
  assert.deepEqual([keys(slidingWindow(8)), keys(windowLeft(8))], [8, 9]);
});
