import assert from "node:assert/strict";
import { test } from "node:test";
import { Alone, difference } from "./alone.ts";
import { Module } from "./assembler.ts";
import { linear, linearArgs, linearPieceColumns } from "./matmul.ts";
import type { WeightType } from "./rows.ts";

const dtypes: readonly WeightType[] = ["f32", "bf16"];
const depths = [1, 3, 4, 5, 64, 127, 128, 129], widths = [1, 7, 8, 9, 64, 127];
const most = 64;

/** xorshift32, uniform in [-1, 1) */
function random(seed: number): () => number {
  return () => {
    seed ^= seed << 13; seed ^= seed >>> 17; seed ^= seed << 5;
    return seed / 2 ** 31;
  };
}
const filled = (count: number, next: () => number): Float32Array => Float32Array.from({ length: count }, next);
/** The weights as stored, and the values they stand for. */
function stored(dtype: WeightType, values: Float32Array): { data: Float32Array | Uint16Array; values: Float32Array } {
  if (dtype === "f32") return { data: values, values };
  const bits = new Uint32Array(values.buffer);
  const data = Uint16Array.from(bits, (b) => b >>> 16);
  return { data, values: new Float32Array(Uint32Array.from(data, (b) => b << 16).buffer) };
}

interface Case { readonly dtype: WeightType; readonly k: number; readonly n: number; readonly extras: "none" | "bias" | "both"; readonly pieceColumns?: number }

/** A problem with `most` rows placed in memory, and how to run some of them. */
class Problem {
  readonly c: Case;
  readonly bed: Alone;
  readonly x: Float32Array; readonly w: Float32Array; readonly bias: Float32Array; readonly residual: Float32Array;
  readonly xStride: number; readonly outStride: number;
  readonly #at: { readonly header: number; readonly x: number; readonly weight: number; readonly bias: number; readonly residual: number; readonly out: number };

  constructor(c: Case, bed: Alone) {
    this.c = c;
    this.bed = bed;
    const next = random(1 + c.k * 1000 + c.n);
    this.xStride = c.k + 3;
    this.outStride = c.n + 5;
    this.x = filled(most * this.xStride, next);
    const weight = stored(c.dtype, filled(c.n * c.k, next));
    this.w = weight.values;
    this.bias = filled(c.n, next);
    this.residual = filled(most * this.outStride, next);
    this.#at = {
      header: bed.place(Int32Array.of(-1, -1, 0, -1)), x: bed.place(this.x, 4), weight: bed.place(weight.data, c.dtype === "f32" ? 4 : 2),
      bias: bed.place(this.bias, 4), residual: bed.place(this.residual, 8), out: bed.placeEmpty(most * this.outStride),
    };
  }

  /** The bits of `out` after running `rows` rows from row `first`; out is poisoned before, unless it starts as the residual. */
  run(rows: number, first = 0, inPlace = false): Int32Array {
    const { c, bed } = this, at = this.#at;
    bed.words(at.header, 4)[2] = rows;
    const out = bed.words(at.out, most * this.outStride);
    out.fill(0x7fc0dead);
    if (inPlace) for (let r = 0; r < rows; r++) bed.floats(at.out, out.length).set(this.residual.subarray((first + r) * this.outStride, (first + r) * this.outStride + c.n), r * this.outStride);
    bed.run(`linear_${c.dtype}`, linearArgs, {
      header: at.header, rowsWord: 2, out: at.out, outStride: this.outStride, x: at.x + 4 * first * this.xStride, xStride: this.xStride,
      weight: at.weight, n: c.n, k: c.k, bias: c.extras === "none" ? 0 : at.bias,
      residual: c.extras !== "both" ? 0 : inPlace ? at.out : at.residual + 4 * first * this.outStride, residualStride: this.outStride,
      pieceColumns: c.pieceColumns ?? linearPieceColumns(c.k, c.dtype),
    });
    return out.slice();
  }
}

const modules = Object.fromEntries(dtypes.map((dtype) => {
  const m = new Module();
  linear(m, dtype);
  return [dtype, m];
})) as Record<WeightType, Module>;

for (const dtype of dtypes) {
  test(`rows 1 to 64 through every shape of linear_${dtype} have the bits of one row alone, and nothing around them is written`, () => {
    for (const k of depths) for (const n of widths) for (const extras of ["none", "both"] as const) {
      const p = new Problem({ dtype, k, n, extras }, new Alone(modules[dtype]));
      const alone = Array.from({ length: most }, (_, r) => p.run(1, r).slice(0, n));
      for (let rows = 0; rows <= most; rows++) {
        const wrong = difference(p.run(rows), alone, rows, n, p.outStride);
        assert.equal(wrong, undefined, `K ${k}, N ${n}, ${rows} rows, extras ${extras}: ${wrong} differs`);
      }
      if (extras === "both") assert.equal(difference(p.run(most, 0, true), alone, most, n, p.outStride), undefined, `K ${k}, N ${n}: residual in place differs`);
      assert.ok(p.bed.guardsIntact, `K ${k}, N ${n}: wrote outside its buffers`);
    }
  });

  test(`linear_${dtype} is within its roundings of a sum in double`, () => {
    for (const k of depths) for (const n of widths) for (const extras of ["none", "bias", "both"] as const) {
      const p = new Problem({ dtype, k, n, extras }, new Alone(modules[dtype]));
      const out = new Float32Array(p.run(9).buffer);
      // One rounding for each step of a lane, three for the lanes, two for bias and residual; each at most half an ulp of all magnitudes.
      const roundings = Math.floor(k / 4) + (k % 4) + 5;
      for (let r = 0; r < 9; r++) for (let j = 0; j < n; j++) {
        let sum = 0, magnitude = 0;
        const add = (term: number): void => { sum += term; magnitude += Math.abs(term); };
        for (let i = 0; i < k; i++) add(p.x[r * p.xStride + i]! * p.w[j * k + i]!);
        if (extras !== "none") add(p.bias[j]!);
        if (extras === "both") add(p.residual[r * p.outStride + j]!);
        const got = out[r * p.outStride + j]!;
        assert.ok(Math.abs(got - sum) <= roundings * 2 ** -24 * magnitude, `K ${k}, N ${n}, row ${r}, column ${j}: ${got}, ${sum} wanted`);
      }
    }
  });

  test(`the size of a piece changes no bit of linear_${dtype}, beyond the rows of one piece too`, () => {
    const bits = [1, 3, 8, 1000].map((pieceColumns) => {
      const p = new Problem({ dtype, k: 37, n: 61, extras: "both", pieceColumns }, new Alone(modules[dtype]));
      return p.run(most);
    });
    for (const b of bits) assert.deepEqual(b, bits[0]);
    const k = 12, n = 5, rows = 200;
    const bed = new Alone(modules[dtype]);
    const next = random(7);
    const x = filled(rows * k, next), w = stored(dtype, filled(n * k, next));
    const out = bed.placeEmpty(rows * n);
    bed.run(`linear_${dtype}`, linearArgs, {
      header: bed.place(Int32Array.of(rows)), rowsWord: 0, out, outStride: n, x: bed.place(x), xStride: k, weight: bed.place(w.data), n, k,
      bias: 0, residual: 0, residualStride: 0, pieceColumns: 8,
    });
    const got = bed.floats(out, rows * n);
    for (let i = 0; i < rows * n; i++) {
      let sum = 0;
      for (let j = 0; j < k; j++) sum += x[Math.floor(i / n) * k + j]! * w.values[(i % n) * k + j]!;
      assert.ok(Math.abs(got[i]! - sum) < 1e-5, `output ${i}: ${got[i]}, ${sum} wanted`);
    }
    assert.ok(bed.guardsIntact);
  });
}
