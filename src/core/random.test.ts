import assert from "node:assert/strict";
import { test } from "node:test";
import { philox, stream, uniform } from "./random.ts";

test("philox gives the known answers of its authors", () => {
  const hex = (words: readonly number[]): string => words.map((w) => w.toString(16).padStart(8, "0")).join(" ");
  assert.equal(hex(philox([0, 0, 0, 0], [0, 0])), "6627e8d5 e169c58d bc57ac4c 9b00dbd8");
  assert.equal(hex(philox([-1, -1, -1, -1], [-1, -1])), "408f276d 41c83b0e a20bc7c6 6d5451fd");
  assert.equal(hex(philox([0x243f6a88, 0x85a308d3 | 0, 0x13198a2e, 0x03707344], [0xa4093822 | 0, 0x299f31d0])), "d16cfe09 94fdcceb 5001e420 24126ea1");
});

test("a draw depends on seed and position alone, and on each of them", () => {
  const seen = new Set<number>();
  for (const seed of [0, 1, 2 ** 32, 2 ** 40 + 1, Number.MAX_SAFE_INTEGER]) for (const position of [0, 1, 4095]) {
    const x = uniform(seed, position);
    assert.ok(x >= 0 && x < 1);
    assert.equal(uniform(seed, position), x);
    seen.add(x);
  }
  assert.equal(seen.size, 5 * 3);
});

test("a stream is uniform: mean, variance and sixteen equal bins", () => {
  const random = stream(9);
  const draws = Array.from({ length: 40_000 }, random);
  const mean = draws.reduce((a, b) => a + b) / draws.length;
  assert.ok(Math.abs(mean - 0.5) < 0.006);
  assert.ok(Math.abs(draws.reduce((a, x) => a + (x - mean) ** 2, 0) / draws.length - 1 / 12) < 0.002);
  const bins = new Int32Array(16);
  for (const x of draws) bins[Math.floor(x * 16)]!++;
  const chiSquare = bins.reduce((a, n) => a + (n - 2500) ** 2 / 2500, 0);
  assert.ok(chiSquare < 37.7, `chi-square of 15 degrees is ${chiSquare}; 37.7 is passed once in a thousand seeds`);
});
