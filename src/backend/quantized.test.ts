import assert from "node:assert/strict";
import { test } from "node:test";
import { fromF16, toF16 } from "../core/dtype.ts";
import { stream } from "../core/random.ts";
import {
  activationBlock, activationRowBytes, activationValues, blocksOf, dequantizeRow, packedRowBytes, quantizeActivations, quantizedBytes, type QuantizedDType, quantizedFormats, quantizeRows, roundEven,
} from "./quantized.ts";

const dtypes = Object.keys(quantizedFormats) as readonly QuantizedDType[];
const widths = [1, 31, 32, 33, 100];

test("a row of weights is within half a step of its numbers, the steps being those that the format says", () => {
  const random = stream(3), noise = Float32Array.from({ length: 300 }, () => random() - 0.5);
  for (const dtype of dtypes) for (const columns of widths) for (const offset of [0, 0.7, -0.7]) {
    const values = noise.subarray(0, 3 * columns).map((x) => x + offset), rowBytes = packedRowBytes(dtype, columns);
    const packed = quantizeRows(values, dtype, columns);
    assert.equal(packed.length, 3 * rowBytes);
    for (let row = 0; row < 3; row++) {
      const actual = dequantizeRow(packed.subarray(row * rowBytes, (row + 1) * rowBytes), dtype, columns);
      let least = 0, greatest = 0, largest = 0;
      for (let i = 0; i < columns; i++) {
        if (i % 32 === 0) {
          const block = [0, ...values.subarray(row * columns + i, row * columns + Math.min(i + 32, columns))];
          [least, greatest] = [Math.min(...block), Math.max(...block)];
          largest = Math.max(greatest, -least);
        }
        const step = { int8: largest / 127, uint8: (greatest - least) / 255, int4: largest / 8, uint4: (greatest - least) / 15 }[dtype];
        // int4 has no code for 8 steps on the shorter side, and an end of uint4 may be 4% of 15 steps away; the f16 of scale and minimum may be off by 2^-11 of themselves.
        const longer = greatest > -least ? 1 : -1, short = dtype === "int4" && -longer * values[row * columns + i]! > 7.5 * step;
        const error = Math.abs(actual[i]! - values[row * columns + i]!), rounding = 2 * largest * 2 ** -10;
        assert.ok(error <= (short ? 1 : dtype === "uint4" ? 0.6 : 0.5) * step + rounding, `${dtype}, element ${i} of ${columns}: ${actual[i]} for ${values[row * columns + i]}, step ${step}`);
      }
    }
  }
});

test("drawing uint4's extremes in makes no block's squared error larger, and most smaller", () => {
  const random = stream(5);
  let smaller = 0;
  for (let block = 0; block < 200; block++) {
    const x = Float32Array.from({ length: 32 }, () => random() + random() + random() - 1.5), packed = quantizeRows(x, "uint4", 32);
    const min = fromF16(toF16(Math.min(...x))), scale = fromF16(toF16((Math.max(...x) - Math.min(...x)) / 15));
    const errorOf = (y: ArrayLike<number>): number => x.reduce((sum, value, i) => sum + (y[i]! - value) ** 2, 0);
    const plain = errorOf(Array.from(x, (value) => Math.max(0, Math.min(15, Math.round((value - min) / scale))) * scale + min)), found = errorOf(dequantizeRow(packed, "uint4", 32));
    assert.ok(found <= plain * (1 + 1e-5), `block ${block}: ${found}, between the extremes ${plain}`);
    if (found < 0.99 * plain) smaller++;
  }
  assert.ok(smaller > 100, `${smaller} of 200`);
});

test("numbers that a format can hold come back as they are; a block of zeros is zeros", () => {
  const whole = Float32Array.from({ length: 32 }, (_, i) => i - 8); // -8 .. 23
  for (const [dtype, values] of [["int8", whole.map((x) => (x === 23 ? 127 : x))], ["uint8", whole.map((x) => (x === 23 ? 247 : x))], ["int4", whole.map((x) => Math.min(x, 7))], ["uint4", whole.map((x) => Math.min(x, 7))]] as const) {
    assert.deepEqual(dequantizeRow(quantizeRows(values, dtype, 32), dtype, 32), values, dtype);
    assert.deepEqual(dequantizeRow(quantizeRows(new Float32Array(32), dtype, 32), dtype, 32).map((x) => x + 0), new Float32Array(32), dtype);
  }
});

test("a number that is not finite, or a block that reaches too far, is refused wherever in the block it stands", () => {
  for (const dtype of dtypes) for (const bad of [NaN, Infinity, -Infinity, 70000]) for (const at of [0, 7, 31, 40]) {
    const values = Float32Array.from({ length: 64 }, (_, i) => (i === at ? bad : i / 64 - 0.4));
    assert.throws(() => quantizeRows(values, dtype, 64), { name: "RangeError", message: /a block of weights reaches from/ }, `${dtype}, ${bad} at ${at}`);
  }
});

test("panels take whole ones of 16 rows", () => {
  assert.equal(quantizedBytes("int8", 17, 33), 32 * 2 * 34);
  assert.equal(quantizedBytes("uint4", 16, 32), 16 * 20);
});

test("activations are codes to 127 and the three numbers that kernels need, and stand for what they were made of", () => {
  const random = stream(9);
  for (const columns of widths) {
    const x = Float32Array.from({ length: columns }, () => 20 * (random() - 0.5)), row = quantizeActivations(x), values = activationValues(row, columns);
    assert.equal(row.length, activationRowBytes(columns));
    const view = new DataView(row.buffer);
    for (let block = 0; block < blocksOf(columns); block++) {
      const at = block * activationBlock.bytes, part = x.subarray(32 * block, 32 * block + 32), largest = Math.max(...part.map(Math.abs));
      const codes = Array.from({ length: 32 }, (_, i) => view.getInt8(at + i)), sum = codes.reduce((a, b) => a + b, 0);
      assert.equal(Math.max(...codes.map(Math.abs)), 127);
      assert.ok(codes.slice(part.length).every((code) => code === 0));
      assert.equal(view.getFloat32(at + activationBlock.scale, true), Math.fround(largest / 127));
      assert.equal(view.getInt32(at + activationBlock.offset, true), -128 * sum);
      assert.equal(view.getFloat32(at + activationBlock.sum, true), Math.fround(Math.fround(largest / 127) * sum));
      part.forEach((want, i) => assert.ok(Math.abs(values[32 * block + i]! - want) <= (0.5001 * largest) / 127));
    }
  }
});

test("roundEven goes to the nearest, a tie to the even one", () => {
  assert.deepEqual([-1.5, -0.5, 0.49999997, 0.5, 1.5, 2.5, -2.5, 126.5, 7].map(roundEven), [-2, 0, 0, 0, 2, 2, -2, 126, 7]);
});

test("scales are f16: what is in the block is what was rounded with", () => {
  const values = Float32Array.from({ length: 32 }, (_, i) => (i + 1) / 300);
  const packed = quantizeRows(values, "int8", 32);
  assert.equal(fromF16(packed[0]! | (packed[1]! << 8)), fromF16(toF16(Math.fround(32 / 300) / 127)));
});
