import assert from "node:assert/strict";
import { test } from "node:test";
import { activationBlock, activationRowBytes, quantizeActivations } from "../quantized.ts";
import { Alone } from "./alone.ts";
import { Module } from "./assembler.ts";
import { gatedActivation, gatedActivationArgs, gatedActivations, rmsNorm, rmsNormArgs } from "./elementwise.ts";
import { MathLibrary } from "./math.ts";
import { quantize, quantizeArgs } from "./quantize.ts";

const m = new Module();
const math = new MathLibrary(m);
quantize(m);
for (const type of ["f32", "int8"] as const) {
  rmsNorm(m, type);
  for (const activation of gatedActivations) gatedActivation(m, math, activation, type);
}
const bed = new Alone(m);

const widths = [1, 31, 32, 33, 127, 513, 1030];

/** xorshift32, uniform in [-1, 1) */
function random(seed: number): () => number {
  return () => {
    seed ^= seed << 13; seed ^= seed >>> 17; seed ^= seed << 5;
    return seed / 2 ** 31;
  };
}

/** What a row may hold, by how its element i is made. */
const contents: Readonly<Record<string, (i: number, next: () => number) => number>> = {
  "numbers around 1": (_, next) => next(),
  "blocks of zeros beside others": (i, next) => (Math.floor(i / 32) % 2 ? next() : i % 3 ? 0 : -0),
  "ties": (i) => (i % 32 === 0 ? 127 : (i % 64) - 31.5),
  "huge numbers": (_, next) => 3.4e38 * next(),
  "the largest of all": (i) => (i % 2 ? -1 : 1) * (2 - 2 ** -23) * 2 ** 127,
  "tiny numbers": (_, next) => 1e-37 * next(),
  "subnormal numbers": (_, next) => 1e-40 * next(),
  "the smallest of all": (i) => (i % 3 ? 2 ** -149 : -0),
  "one outlier in a block": (i, next) => (i % 32 === 9 ? 1e4 : 1) * next(),
  "Infinity": (i, next) => (i % 40 === 3 ? Infinity : next()),
  "-Infinity": (i, next) => (i % 40 === 39 ? -Infinity : next()),
  "NaN": (i, next) => (i % 70 === 7 ? NaN : next()),
};

/** Rows of blocks: equal bytes, the floats as numbers (a NaN's bits are nobody's). What is between rows must be untouched. */
function sameBlocks(out: number, stride: number, rows: readonly Uint8Array[], columns: number, what: string): void {
  const bytes = bed.bytes(out, stride * rows.length);
  rows.forEach((want, r) => {
    const got = bytes.slice(r * stride, r * stride + want.length), [a, b] = [want, got].map(({ buffer }) => new DataView(buffer));
    for (let at = 0; at < want.length; at += activationBlock.bytes) {
      const where = `${what}, ${columns} columns: row ${r}, block ${at / activationBlock.bytes}`;
      assert.deepEqual(got.subarray(at, at + activationBlock.scale), want.subarray(at, at + activationBlock.scale), `${where}: codes`);
      assert.equal(b!.getInt32(at + activationBlock.offset, true), a!.getInt32(at + activationBlock.offset, true), `${where}: offset`);
      for (const name of ["scale", "sum"] as const) assert.ok(Object.is(b!.getFloat32(at + activationBlock[name], true), a!.getFloat32(at + activationBlock[name], true)), `${where}: ${name}`);
    }
    const gap = bed.words(out + r * stride + want.length, (stride - want.length) / 4);
    assert.ok(gap.every((word) => Alone.untouched(word)), `${what}, ${columns} columns: wrote behind row ${r}`);
  });
  assert.ok(bed.guardsIntact, `${what}, ${columns} columns: wrote outside its buffers`);
}
const gapBytes = 12;

for (const [what, make] of Object.entries(contents)) {
  test(`the kernel quantises ${what} as the definition does, bit by bit`, () => {
    for (const columns of widths) {
      const next = random(columns), rows = 3, stride = columns + 1;
      const x = Float32Array.from({ length: rows * stride }, (_, at) => make(at % stride, next));
      const outStride = activationRowBytes(columns) + gapBytes, out = bed.placeEmpty((outStride * (rows + 1)) / 4);
      bed.run("quantize", quantizeArgs, { header: bed.place(Int32Array.of(7, rows)), rowsWord: 1, out, outStride, x: bed.place(x, 4), xStride: stride, columns });
      sameBlocks(out, outStride, Array.from({ length: rows }, (_, r) => quantizeActivations(x.subarray(r * stride, r * stride + columns))), columns, what);
      assert.ok(Alone.untouched(bed.words(out + rows * outStride, 1)[0]!), "a row beyond the count was written");
    }
  });
}

test("rmsNorm_int8 writes the blocks of what rmsNorm writes", () => {
  for (const columns of widths) {
    const next = random(columns + 7), rows = 3, stride = columns + 2;
    const shared = {
      header: bed.place(Int32Array.of(rows)), rowsWord: 0, x: bed.place(Float32Array.from({ length: rows * stride }, next), 4), xStride: stride, columns,
      weight: bed.place(Float32Array.from({ length: columns }, next), 4), epsilon: 1e-5, residual: 0, residualStride: 0,
    };
    const plain = bed.placeEmpty(rows * stride), outStride = activationRowBytes(columns) + gapBytes, out = bed.placeEmpty((rows * outStride) / 4);
    bed.run("rmsNorm", rmsNormArgs, { ...shared, out: plain, outStride: stride }, ["epsilon"]);
    bed.run("rmsNorm_int8", rmsNormArgs, { ...shared, out, outStride }, ["epsilon"]);
    const normed = bed.floats(plain, rows * stride);
    sameBlocks(out, outStride, Array.from({ length: rows }, (_, r) => quantizeActivations(normed.subarray(r * stride, r * stride + columns))), columns, "rmsNorm");
  }
});

for (const activation of gatedActivations) {
  test(`gated_${activation}_int8 writes the blocks of what gated_${activation} writes`, () => {
    for (const columns of widths) {
      const next = random(columns + 13), rows = 3, stride = columns + 2, gateUpStride = 2 * columns + 5;
      const shared = { header: bed.place(Int32Array.of(rows)), rowsWord: 0, gateUp: bed.place(Float32Array.from({ length: rows * gateUpStride }, () => 6 * next()), 4), gateUpStride, columns };
      const plain = bed.placeEmpty(rows * stride), outStride = activationRowBytes(columns) + gapBytes, out = bed.placeEmpty((rows * outStride) / 4);
      bed.run(`gated_${activation}`, gatedActivationArgs, { ...shared, out: plain, outStride: stride });
      bed.run(`gated_${activation}_int8`, gatedActivationArgs, { ...shared, out, outStride });
      const gated = bed.floats(plain, rows * stride);
      sameBlocks(out, outStride, Array.from({ length: rows }, (_, r) => quantizeActivations(gated.subarray(r * stride, r * stride + columns))), columns, activation);
    }
  });
}
