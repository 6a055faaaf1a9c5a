import assert from "node:assert/strict";
import { test } from "node:test";
import { fromFloat32 } from "../../core/dtype.ts";
import { Alone } from "./alone.ts";
import { Module } from "./assembler.ts";
import { kvFormatNumber, ropeAndCache, ropeArgs } from "./rope.ts";

const m = new Module();
ropeAndCache(m);

/** xorshift32, uniform in [-1, 1) */
function random(seed: number): () => number {
  return () => {
    seed ^= seed << 13; seed ^= seed >>> 17; seed ^= seed << 5;
    return seed / 2 ** 31;
  };
}
const filled = (count: number, next: () => number): Float32Array => Float32Array.from({ length: count }, next);

interface Shape {
  readonly numQ: number; readonly numKv: number; readonly headDim: number; readonly valueHeadDim: number; readonly rotaryDim: number; readonly norms: "none" | "q" | "both"; readonly rows: number;
}
const slotCount = 40, pageSize = 8, positionCount = 50, epsilon = 1e-3;

function check(shape: Shape): void {
  const { numQ, numKv, headDim, valueHeadDim, rotaryDim, norms, rows } = shape;
  const what = JSON.stringify(shape);
  const columns = (numQ + numKv) * headDim + numKv * valueHeadDim, stride = columns + 3;
  const next = random(1 + columns + rotaryDim);
  const before = filled(rows * stride, next);
  const rotary = filled(positionCount * rotaryDim, next);
  const weights = { q: filled(headDim, next), k: filled(headDim, next) };
  const positions = Int32Array.from({ length: rows }, (_, t) => (t * 17 + 3) % positionCount);
  const slots = Int32Array.from({ length: rows }, (_, t) => (t * 7 + 31) % slotCount);
  const bed = new Alone(m);
  const qkv = bed.place(before, 4), key = bed.placeEmpty(slotCount * numKv * headDim), value = bed.placeEmpty(slotCount * numKv * valueHeadDim);
  bed.run("ropeAndCache", ropeArgs, {
    header: bed.place(Int32Array.of(rows)), rowsWord: 0, qkv, qkvStride: stride, numQueryHeads: numQ, numKvHeads: numKv, headDim, valueHeadDim, key, value,
    positions: bed.place(positions), slots: bed.place(slots), rotary: bed.place(rotary, 4), rotaryDim,
    qNorm: norms === "none" ? 0 : bed.place(weights.q, 4), kNorm: norms === "both" ? bed.place(weights.k, 4) : 0, epsilon,
    pageSize, format: kvFormatNumber.f32,
  }, ["epsilon"]);

  /** Where element `i` of head `h` of a token's slot stands, heads of `dim` elements. */
  const placeOf = (slot: number, h: number, dim: number, i: number): number => ((Math.floor(slot / pageSize) * numKv + h) * pageSize + (slot % pageSize)) * dim + i;
  const want = Float64Array.from(before);
  const wantKey = new Map<number, number>(), wantValue = new Map<number, number>();
  for (let t = 0; t < rows; t++) {
    for (let h = 0; h < numQ + numKv; h++) {
      const head = want.subarray(t * stride + h * headDim, t * stride + (h + 1) * headDim);
      const norm = h < numQ ? norms !== "none" && weights.q : norms === "both" && weights.k;
      if (norm) {
        const factor = 1 / Math.sqrt(head.reduce((a, x) => a + x * x, 0) / headDim + epsilon);
        head.forEach((x, i) => { head[i] = x * factor * norm[i]!; });
      }
      const half = rotaryDim / 2;
      for (let i = 0; i < half; i++) {
        const a = head[i]!, b = head[i + half]!, [cos, sin] = rotary.subarray(positions[t]! * rotaryDim + 2 * i) as unknown as [number, number];
        head[i] = a * cos - b * sin;
        head[i + half] = b * cos + a * sin;
      }
      if (h >= numQ) head.forEach((x, i) => wantKey.set(placeOf(slots[t]!, h - numQ, headDim, i), x));
    }
    for (let i = 0; i < numKv * valueHeadDim; i++) wantValue.set(placeOf(slots[t]!, Math.floor(i / valueHeadDim), valueHeadDim, i % valueHeadDim), want[t * stride + (numQ + numKv) * headDim + i]!);
  }
  const close = (got: number, wanted: number): boolean => Math.abs(got - wanted) <= 3e-6 * (1 + Math.abs(wanted));
  bed.floats(qkv, rows * stride).forEach((got, i) => {
    const unchanged = i % stride >= (numQ + numKv) * headDim;
    assert.ok(unchanged ? got === before[i] : close(got, want[i]!), `${what}: element ${i % stride} of row ${Math.floor(i / stride)} is ${got}, ${want[i]} wanted`);
  });
  for (const [name, at, size, expected] of [["key", key, slotCount * numKv * headDim, wantKey], ["value", value, slotCount * numKv * valueHeadDim, wantValue]] as const) {
    const bits = bed.words(at, size);
    bed.floats(at, size).forEach((got, i) => {
      const wanted = expected.get(i);
      assert.ok(wanted === undefined ? Alone.untouched(bits[i]!) : close(got, wanted), `${what}: element ${i} of the ${name} cache is ${got}, ${wanted} wanted`);
    });
  }
  assert.ok(bed.guardsIntact, what);
}

const plain = { numQ: 4, numKv: 2, headDim: 16, valueHeadDim: 16, rotaryDim: 16, norms: "none", rows: 3 } as const;

test("queries and keys rotate by their positions, and K and V reach their slots and no other", () => check(plain));

test("only the first rotaryDim elements of a head rotate, for any even rotaryDim and any headDim", () => {
  for (const [headDim, rotaryDim] of [[2, 2], [5, 4], [7, 2], [16, 6], [20, 10], [64, 32], [80, 80], [33, 0], [128, 128]] as const) check({ ...plain, headDim, valueHeadDim: headDim, rotaryDim });
});

test("q and k heads are normalised before they rotate, each by its own weight or not at all", () => {
  for (const norms of ["q", "both"] as const) for (const headDim of [6, 16, 31]) check({ ...plain, norms, headDim, valueHeadDim: headDim, rotaryDim: 6 });
});

test("values may have a head size of their own, and heads come in any numbers", () => {
  check({ ...plain, valueHeadDim: 9 });
  for (const [numQ, numKv] of [[1, 1], [3, 1], [7, 2], [8, 8], [32, 8]] as const) check({ ...plain, numQ, numKv });
});

test("a step without tokens writes nothing; one with many writes all", () => {
  check({ ...plain, rows: 0 });
  check({ ...plain, rows: 37 });
});

test("K and V are rounded to bf16 and f16 to the nearest, ties to even, whatever they are", () => {
  const edges = [0, -0, 1, -1, 1e-3, 65504, 65519.9, 65520, -65520, 1e9, 3e38, Infinity, -Infinity, NaN, 2 ** -14, 2 ** -14 - 2 ** -26, 2 ** -24, 2 ** -25, 1.5 * 2 ** -25, -3 * 2 ** -25, 1e-30, 1e-42];
  const next = random(99), word = new DataView(new ArrayBuffer(4));
  const anyBits = (): number => (word.setInt32(0, next() * 2 ** 31), word.getFloat32(0));
  const numKv = 2, headDim = 131, rows = 3;
  const kv = Float32Array.from({ length: rows * 2 * numKv * headDim }, (_, i) => {
    const ties = 1 + (2 * (i % 61) + 1) * 2 ** (i % 2 ? -9 : -12); // halfway between two of bf16's numbers, or two of f16's
    return edges[i] ?? [next(), ties, next() * 2 ** -15, anyBits()][i % 4]!;
  });
  for (const format of ["bf16", "f16"] as const) {
    const bed = new Alone(m);
    const cacheFloats = (slotCount * numKv * headDim) / 2, key = bed.placeEmpty(cacheFloats), value = bed.placeEmpty(cacheFloats), slots = [5, 39, 16];
    bed.run("ropeAndCache", ropeArgs, {
      header: bed.place(Int32Array.of(rows)), rowsWord: 0, qkv: bed.place(kv), qkvStride: 2 * numKv * headDim, numQueryHeads: 0, numKvHeads: numKv, headDim, valueHeadDim: headDim, key, value,
      positions: bed.place(Int32Array.of(0, 1, 2)), slots: bed.place(Int32Array.from(slots)), rotary: bed.place(Int32Array.of(0)), rotaryDim: 0, qNorm: 0, kNorm: 0, epsilon,
      pageSize, format: kvFormatNumber[format],
    }, ["epsilon"]);
    slots.forEach((slot, t) => [key, value].forEach((cache, of) => {
      for (let h = 0; h < numKv; h++) {
        const want = fromFloat32(kv.subarray(((t * 2 + of) * numKv + h) * headDim, ((t * 2 + of) * numKv + h + 1) * headDim), format);
        const got = bed.bytes(cache + 2 * headDim * ((Math.floor(slot / pageSize) * numKv + h) * pageSize + (slot % pageSize)), want.length);
        assert.deepEqual([...new Uint16Array(got.slice().buffer)], [...new Uint16Array(want.buffer)], `${format}, token ${t}, head ${h}`);
      }
    }));
    assert.ok(bed.guardsIntact);
  }
});
