import assert from "node:assert/strict";
import { test } from "node:test";
import { Alone } from "./alone.ts";
import { Module } from "./assembler.ts";
import {
  embed, embedArgs, gatedActivation, gatedActivationArgs, gatedActivations, gatherRows, gatherRowsArgs, rmsNorm, rmsNormArgs, softCap, softCapArgs, type GatedActivation,
} from "./elementwise.ts";
import { MathLibrary } from "./math.ts";

const m = new Module();
const math = new MathLibrary(m);
embed(m, "f32");
embed(m, "bf16");
rmsNorm(m, "f32");
for (const activation of gatedActivations) gatedActivation(m, math, activation, "f32");
gatherRows(m);
softCap(m);

const widths = [1, 2, 3, 4, 5, 8, 31, 128, 511, 513, 1030];
const rowCounts = [0, 1, 3, 7];
const most = 7;

/** xorshift32, uniform in [-1, 1) */
function random(seed: number): () => number {
  return () => {
    seed ^= seed << 13; seed ^= seed >>> 17; seed ^= seed << 5;
    return seed / 2 ** 31;
  };
}
const filled = (count: number, next: () => number): Float32Array => Float32Array.from({ length: count }, next);

/** Every element of `out` [most, stride] is within `tolerance` of `want`, relative to 1 + |want|; those outside the matrix are untouched. */
function compare(bed: Alone, out: number, rows: number, columns: number, stride: number, what: string, want: (r: number, i: number) => number, tolerance: number): void {
  const values = bed.floats(out, most * stride), bits = bed.words(out, most * stride);
  for (let r = 0; r < most; r++) for (let i = 0; i < stride; i++) {
    const at = r * stride + i;
    if (r >= rows || i >= columns) assert.ok(Alone.untouched(bits[at]!), `${what}: element ${i} of row ${r} was written`);
    else assert.ok(Math.abs(values[at]! - want(r, i)) <= tolerance * (1 + Math.abs(want(r, i))), `${what}: element ${i} of row ${r} is ${values[at]}, ${want(r, i)} wanted`);
  }
  assert.ok(bed.guardsIntact, `${what}: wrote outside its buffers`);
}
/** Runs `body` for every width and row count, with strides that leave gaps. */
function everySize(body: (s: { bed: Alone; header: number; rows: number; columns: number; stride: number; next: () => number; what: string }) => void): void {
  for (const columns of widths) for (const rows of rowCounts) {
    const bed = new Alone(m);
    body({ bed, header: bed.place(Int32Array.of(-1, rows, -1, -1)), rows, columns, stride: columns + 3, next: random(columns * 31 + rows + 1), what: `${rows} rows of ${columns}` });
  }
}

for (const dtype of ["f32", "bf16"] as const) {
  test(`embed looks up rows of a ${dtype} table and scales them exactly`, () => everySize(({ bed, header, rows, columns, stride, next, what }) => {
    const vocabulary = 11;
    const values = filled(vocabulary * columns, next);
    const halves = Uint16Array.from(new Uint32Array(values.buffer), (b) => b >>> 16);
    const table = dtype === "f32" ? values : new Float32Array(Uint32Array.from(halves, (b) => b << 16).buffer);
    const tokens = Int32Array.from({ length: most }, (_, t) => (t * 5 + 10) % vocabulary);
    const out = bed.placeEmpty(most * stride);
    bed.run(`embed_${dtype}`, embedArgs, {
      header, rowsWord: 1, out, outStride: stride, table: dtype === "f32" ? bed.place(values, 4) : bed.place(halves, 2), tokens: bed.place(tokens), columns, scale: 1.7,
    }, ["scale"]);
    compare(bed, out, rows, columns, stride, what, (t, i) => Math.fround(table[tokens[t]! * columns + i]! * Math.fround(1.7)), 0);
  }));
}

test("rmsNorm is x * weight / sqrt(mean(x^2) + epsilon), plus the residual where one is given", () => everySize(({ bed, header, rows, columns, stride, next, what }) => {
  const x = filled(most * stride, next), weight = filled(columns, next), residual = filled(most * (columns + 1), next);
  const at = { x: bed.place(x, 4), weight: bed.place(weight, 4), residual: bed.place(residual, 4) };
  for (const added of [false, true]) {
    const out = bed.placeEmpty(most * stride);
    bed.run("rmsNorm", rmsNormArgs, {
      header, rowsWord: 1, out, outStride: stride, x: at.x, xStride: stride, columns, weight: at.weight, epsilon: 1e-3, residual: added ? at.residual : 0, residualStride: columns + 1,
    }, ["epsilon"]);
    const factors = Array.from({ length: most }, (_, r) => {
      let squares = 0;
      for (let i = 0; i < columns; i++) squares += x[r * stride + i]! ** 2;
      return 1 / Math.sqrt(squares / columns + 1e-3);
    });
    compare(bed, out, rows, columns, stride, what, (r, i) => x[r * stride + i]! * factors[r]! * weight[i]! + (added ? residual[r * (columns + 1) + i]! : 0), 2e-6);
  }
}));

test("rmsNorm may add to a residual in place", () => {
  const columns = 37;
  const next = random(5);
  const x = filled(columns, next), residual = filled(columns, next), ones = new Float32Array(columns).fill(1);
  const bed = new Alone(m);
  const at = { header: bed.place(Int32Array.of(1)), x: bed.place(x), weight: bed.place(ones), residual: bed.place(residual), out: bed.placeEmpty(columns) };
  const run = (out: number): number[] => {
    bed.run("rmsNorm", rmsNormArgs, {
      header: at.header, rowsWord: 0, out, outStride: columns, x: at.x, xStride: columns, columns, weight: at.weight, epsilon: 0, residual: at.residual, residualStride: columns,
    }, ["epsilon"]);
    return [...bed.floats(out, columns)];
  };
  const apart = run(at.out);
  assert.deepEqual(run(at.residual), apart);
});

/** In double; gelu by the series of erf, whose terms have one sign. */
const definitions: Readonly<Record<GatedActivation, (x: number) => number>> = {
  silu: (x) => x / (1 + Math.exp(-x)),
  geluTanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  gelu: (x) => {
    const z = x / Math.SQRT2;
    let term = z, sum = z;
    for (let n = 1; Math.abs(term) > 1e-18; n++) sum += term *= (2 * z * z) / (2 * n + 1);
    return 0.5 * x * (1 + (2 / Math.sqrt(Math.PI)) * Math.exp(-z * z) * sum);
  },
  relu: (x) => Math.max(x, 0),
};
for (const activation of gatedActivations) {
  test(`gated ${activation} is f(gate) * up, with every tail and stride`, () => everySize(({ bed, header, rows, columns, stride, next, what }) => {
    const gateUpStride = 2 * columns + 5;
    const gateUp = filled(most * gateUpStride, () => 6 * next());
    const out = bed.placeEmpty(most * stride);
    bed.run(`gated_${activation}`, gatedActivationArgs, { header, rowsWord: 1, out, outStride: stride, gateUp: bed.place(gateUp, 4), gateUpStride, columns });
    compare(bed, out, rows, columns, stride, what, (r, i) => definitions[activation](gateUp[r * gateUpStride + i]!) * gateUp[r * gateUpStride + columns + i]!, 1e-6);
  }));
}

test("an activation far from zero is the identity or zero, never NaN", () => {
  const gate = [-1000, -100, -90, 90, 100, 1000], columns = gate.length;
  for (const activation of gatedActivations) {
    const bed = new Alone(m);
    const out = bed.placeEmpty(columns);
    bed.run(`gated_${activation}`, gatedActivationArgs, {
      header: bed.place(Int32Array.of(1)), rowsWord: 0, out, outStride: columns, gateUp: bed.place(Float32Array.from([...gate, 1, 1, 1, 1, 1, 1])), gateUpStride: 2 * columns, columns,
    });
    bed.floats(out, columns).forEach((y, i) => assert.ok(Math.abs(y - Math.max(gate[i]!, 0)) < 1e-30, `${activation}(${gate[i]}) is ${y}`));
  }
});

test("gatherRows copies the wanted rows, in their order, bit by bit", () => everySize(({ bed, header, rows, columns, stride, next, what }) => {
  const x = filled(20 * stride, next);
  const wanted = Int32Array.from({ length: most }, (_, r) => (r * 13 + 19) % 20);
  const out = bed.placeEmpty(most * stride);
  bed.run("gatherRows", gatherRowsArgs, { header, rowsWord: 1, out, outStride: stride, x: bed.place(x, 4), xStride: stride, columns, logitRows: bed.place(wanted) });
  compare(bed, out, rows, columns, stride, what, (r, i) => x[wanted[r]! * stride + i]!, 0);
}));

test("softCap is cap * tanh(x / cap) in place, within the cap", () => everySize(({ bed, header, rows, columns, stride, next, what }) => {
  const x = filled(most * stride, () => 100 * next());
  const at = bed.place(x, 4);
  bed.run("softCap", softCapArgs, { header, rowsWord: 1, x: at, xStride: stride, columns, cap: 30 }, ["cap"]);
  const got = bed.floats(at, most * stride);
  got.forEach((y, k) => {
    const inside = Math.floor(k / stride) < rows && k % stride < columns;
    const want = inside ? 30 * Math.tanh(x[k]! / 30) : x[k]!;
    assert.ok(Math.abs(y - want) <= (inside ? 1e-5 : 0) && (!inside || Math.abs(y) <= 30), `${what}: element ${k} is ${y}, ${want} wanted`);
  });
  assert.ok(bed.guardsIntact, what);
}));
