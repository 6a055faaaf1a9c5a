import assert from "node:assert/strict";
import { test } from "node:test";
import { frequencies, rotaryTable } from "./rotary.ts";

const near = (actual: number, expected: number): void => assert.ok(Math.abs(actual - expected) <= 2e-7 * Math.abs(expected) + 1e-12, `${actual}, expected ${expected}`);

test("frequencies fall from 1 by theta's power", () => {
  const f = frequencies({ theta: 10000, rotaryDim: 8, scaling: { kind: "none" } });
  [1, 0.1, 0.01, 0.001].forEach((expected, i) => near(f[i]!, expected));
});

test("linear scaling divides every frequency", () => {
  near(frequencies({ theta: 10000, rotaryDim: 8, scaling: { kind: "linear", factor: 4 } })[1]!, 0.025);
});

test("llama3 scaling keeps short waves, divides long ones and blends between", () => {
  // Wavelengths 6.28, 62.8, 628, 6283: short of 64 / 4 = 16, between, and beyond 64.
  const f = frequencies({ theta: 10000, rotaryDim: 8, scaling: { kind: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 64 } });
  const smooth = (64 / (20 * Math.PI) - 1) / 3;
  [1, 0.1 * ((1 - smooth) / 8 + smooth), 0.01 / 8, 0.001 / 8].forEach((expected, i) => near(f[i]!, expected));
});

test("the table holds cos and sin of position times frequency", () => {
  const table = rotaryTable({ theta: 100, rotaryDim: 4, scaling: { kind: "none" } }, 4);
  assert.equal(table.length, 4 * 2 * 2);
  assert.deepEqual([...table.subarray(0, 4)], [1, 0, 1, 0]);
  [Math.cos(3), Math.sin(3), Math.cos(0.3), Math.sin(0.3)].forEach((expected, i) => near(table[12 + i]!, expected));
});
