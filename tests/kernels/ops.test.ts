/** Every fixed op of the wasm backend against the reference's loops: random data, odd sizes, strides wider than the rows, poisoned outputs, symbolic row counts. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Activation, ActivationFunction, Backend, BatchInputs, Buffer, RowCount, Weight } from "../../src/backend/backend.ts";
import { open as openReference } from "../../src/backend/reference/open.ts";
import { open as openWasm } from "../../src/backend/wasm/open.ts";
import { activationBlock, activationRowBytes, activationValues, type QuantizedDType, quantizedBytes, quantizedFormats, quantizeRows } from "../../src/backend/quantized.ts";
import { fromFloat32, toFloat32 } from "../../src/core/dtype.ts";
import { stream } from "../../src/core/random.ts";

const backends: Backend[] = [];
before(async () => void backends.push(await openReference(), await openWasm({ threads: 2 })));
after(() => Promise.all(backends.map((b) => b.close())));

const sizes = [1, 2, 3, 4, 5, 7, 64, 66, 127, 128, 129];
const rowCounts = [0, 1, 2, 5, 9];
const maxRows = 9;
const poison = -12345.678;

/** The same random data on any backend: everything follows from the seed. */
class Bench {
  readonly backend: Backend;
  readonly #random: () => number;
  constructor(backend: Backend, seed: number) {
    this.backend = backend;
    this.#random = stream(seed);
  }
  normal = (): number => this.#random() + this.#random() + this.#random() - 1.5;
  below = (n: number): number => Math.floor(this.#random() * n);
  put(bytes: Uint8Array): Buffer {
    const buffer = this.backend.alloc(Math.max(4, bytes.length));
    this.backend.write(buffer, 0, bytes);
    return buffer;
  }
  floats = (count: number, of = this.normal): Buffer => this.put(fromFloat32(Float32Array.from({ length: count }, of), "f32"));
  ints = (...values: readonly number[]): Buffer => this.put(fromFloat32(values, "i32"));
  matrix(rows: RowCount, columns: number, of = this.normal, extra = 3): Activation {
    return { data: this.floats(maxRows * (columns + extra), of), rows, columns, stride: columns + extra };
  }
  weight = (rows: number, columns: number, dtype: "f32" | "bf16"): Weight =>
    ({ data: this.put(fromFloat32(Float32Array.from({ length: rows * columns }, this.normal), dtype)), dtype, rows, columns });
  /** A quantised weight, written in two parts of rows: the first packed, the second as numbers. */
  async quantized(rows: number, columns: number, dtype: QuantizedDType): Promise<Weight> {
    const values = Float32Array.from({ length: rows * columns }, this.normal), first = Math.floor(rows / 3);
    const weight: Weight = { data: this.backend.alloc(quantizedBytes(dtype, rows, columns), "weights"), dtype, rows, columns };
    await this.backend.writeRows(weight, 0, quantizeRows(values.subarray(0, first * columns), dtype, columns));
    await this.backend.writeRows(weight, first, fromFloat32(values.subarray(first * columns), "f32"), "F32");
    return weight;
  }
  /** Rows of int8 blocks, every byte 0x55 until they are written. */
  blocks(rows: RowCount, columns: number): Activation {
    const stride = activationRowBytes(columns) + 16;
    return { data: this.put(new Uint8Array(maxRows * stride).fill(0x55)), dtype: "int8", rows, columns, stride };
  }
  batch(numTokens: number, numLogits = numTokens, vocabulary = 1): BatchInputs {
    return {
      header: this.ints(numTokens, 1, numLogits, 0), tokens: this.ints(...Array.from({ length: maxRows }, () => this.below(vocabulary))),
      positions: this.ints(...Array.from({ length: maxRows }, () => this.below(20))), slots: this.ints(...Array.from({ length: maxRows }, (_, i) => (i * 7 + 3) % 32)),
      blockTable: this.ints(0), logitRows: this.ints(...Array.from({ length: maxRows }, () => this.below(Math.max(1, numTokens)))), maxPagesPerSequence: 1,
    };
  }
  async read(buffer: Buffer): Promise<Float32Array> {
    return toFloat32((await this.backend.read(buffer, 0, buffer.bytes)).slice(), "f32");
  }
}

/** Runs `op` on both backends from equal data; what it returns must be equal within the tolerance, the untouched poison included. */
async function agree(what: string, seed: number, op: (bench: Bench) => readonly Buffer[] | Promise<readonly Buffer[]>): Promise<void> {
  const [expected, actual] = await Promise.all(backends.map(async (backend) => {
    const bench = new Bench(backend, seed);
    const results: Float32Array[] = [];
    for (const buffer of await op(bench)) results.push(await bench.read(buffer));
    return results;
  }));
  expected!.forEach((want, n) => want.forEach((w, i) => {
    const got = actual![n]![i]!;
    assert.ok(Math.abs(got - w) <= 3e-5 + 1e-5 * Math.abs(w), `${what}: element ${i} of result ${n} is ${got}, the reference ${w}`);
  }));
}

test("embed", async () => {
  for (const dtype of ["f32", "bf16"] as const) for (const columns of sizes) for (const rows of rowCounts) {
    await agree(`embed ${dtype} ${rows} x ${columns}`, columns, (b) => {
      const out = b.matrix("tokens", columns, () => poison);
      b.backend.ops.embed({ out, table: b.weight(11, columns, dtype), batch: b.batch(rows, rows, 11), scale: 1.75 });
      return [out.data];
    });
  }
});

test("rmsNorm, with and without a residual, onto itself too", async () => {
  for (const columns of sizes) for (const rows of rowCounts) for (const residual of ["none", "other", "out"]) {
    await agree(`rmsNorm ${rows} x ${columns}, residual ${residual}`, columns, (b) => {
      const x = b.matrix("logits", columns), out = b.matrix("logits", columns, residual === "out" ? b.normal : () => poison), other = b.matrix("logits", columns);
      b.backend.ops.rmsNorm({ out, x, weight: b.floats(columns), epsilon: 1e-6, batch: b.batch(1, rows), ...(residual === "none" ? {} : { residual: residual === "out" ? out : other }) });
      return [out.data];
    });
  }
});

test("linear, f32 and bf16, with and without bias and residual", async () => {
  for (const dtype of ["f32", "bf16"] as const) for (const k of [1, 3, 64, 66, 129]) for (const n of [1, 7, 64, 127]) for (const rows of rowCounts) {
    await agree(`linear ${dtype} ${rows} x ${k} x ${n}`, k * n, (b) => {
      const x = b.matrix("tokens", k), out = b.matrix("tokens", n, rows % 2 ? b.normal : () => poison);
      b.backend.ops.linear({ out, x, weight: b.weight(n, k, dtype), batch: b.batch(rows), ...(rows > 2 ? { bias: b.floats(n) } : {}), ...(rows % 2 ? { residual: out } : {}) });
      return [out.data];
    });
  }
});

for (const dtype of Object.keys(quantizedFormats) as QuantizedDType[]) {
  test(`embed and linear of ${dtype}, with and without bias and residual`, async () => {
    for (const k of [1, 31, 64, 129]) for (const n of [1, 15, 17, 64, 130]) for (const rows of rowCounts) {
      await agree(`${dtype}, ${rows} x ${k} x ${n}`, k * n, async (b) => {
        const x = b.matrix("tokens", k), out = b.matrix("tokens", n, rows % 2 ? b.normal : () => poison), rounded = b.blocks("tokens", k), batch = b.batch(rows, rows, n);
        const embedded = b.matrix("tokens", k, () => poison), weight = await b.quantized(n, k, dtype);
        b.backend.ops.quantize({ out: rounded, x, batch });
        b.backend.ops.linear({ out, x: rounded, weight, batch, ...(rows > 2 ? { bias: b.floats(n) } : {}), ...(rows % 2 ? { residual: out } : {}) });
        b.backend.ops.embed({ out: embedded, table: weight, batch, scale: 1.75 });
        return [out.data, embedded.data];
      });
    }
  });
}

/** What a block's last bytes hold is nobody's business. */
function withoutPadding(rows: Uint8Array, stride: number): Uint8Array {
  return rows.map((byte, i) => ((i % stride) % activationBlock.bytes < activationBlock.sum + 4 ? byte : 0));
}

test("rows of int8 blocks by quantize, rmsNorm and gatedActivation: equal or a rounding apart, and nothing behind them is written", async () => {
  for (const columns of [1, 31, 33, 129, 600]) for (const rows of rowCounts) {
    const written = await Promise.all(backends.map(async (backend) => {
      const b = new Bench(backend, columns), batch = b.batch(rows), outs = Array.from({ length: 3 }, () => b.blocks("tokens", columns));
      b.backend.ops.quantize({ out: outs[0]!, x: b.matrix("tokens", columns), batch });
      b.backend.ops.rmsNorm({ out: outs[1]!, x: b.matrix("tokens", columns), weight: b.floats(columns), epsilon: 1e-6, batch });
      b.backend.ops.gatedActivation({ out: outs[2]!, gateUp: b.matrix("tokens", 2 * columns), activation: "silu", batch });
      const bytes: Uint8Array[] = [];
      for (const { data } of outs) bytes.push((await backend.read(data, 0, data.bytes)).slice());
      return { bytes, stride: outs[0]!.stride };
    }));
    const [expected, actual] = written as [(typeof written)[0], (typeof written)[0]], { stride } = expected;
    ["quantize", "rmsNorm", "gatedActivation"].forEach((op, i) => {
      const what = `${op}, ${rows} rows of ${columns}`, [want, got] = [expected.bytes[i]!, actual.bytes[i]!];
      // From equal numbers come equal bits; the others' numbers are summed in another order.
      if (op === "quantize") assert.deepEqual(withoutPadding(got, stride), withoutPadding(want, stride), what);
      for (let row = 0; row < rows; row++) {
        const [w, g] = [want, got].map((bytes) => activationValues(bytes.subarray(row * stride, (row + 1) * stride), columns)) as [Float64Array, Float64Array];
        const step = Math.max(...w.map(Math.abs)) / 127;
        w.forEach((x, k) => assert.ok(Math.abs(g[k]! - x) <= 1.01 * step, `${what}: element ${k} of row ${row} is ${g[k]}, the reference ${x}`));
        assert.ok(got.subarray(row * stride + activationRowBytes(columns), (row + 1) * stride).every((byte) => byte === 0x55), `${what}: wrote behind row ${row}`);
      }
      assert.ok(got.subarray(rows * stride).every((byte) => byte === 0x55), `${what}: wrote further rows`);
    });
  }
});

test("ropeAndCache, with and without norms of the heads, whole and partial rotation", async () => {
  for (const [headDim, rotaryDim] of [[2, 2], [6, 4], [16, 16], [22, 22], [64, 32], [80, 80]] as const) for (const normed of [false, true]) for (const rows of rowCounts) {
    await agree(`rope of ${headDim}, ${rotaryDim} rotating, norms ${normed}, ${rows} rows`, headDim, (b) => {
      const numQueryHeads = 3, numHeads = 2, pageSize = 4;
      const qkv = b.matrix("tokens", (numQueryHeads + 2 * numHeads) * headDim);
      const cache = () => ({ data: b.floats(32 * numHeads * headDim, () => poison), format: "f32" as const, pageSize, numHeads, headDim });
      const key = cache(), value = cache();
      b.backend.ops.ropeAndCache({
        qkv, numQueryHeads, key, value, rotary: b.floats(20 * rotaryDim), rotaryDim, epsilon: 1e-6, batch: b.batch(rows),
        ...(normed ? { qNorm: b.floats(headDim), kNorm: b.floats(headDim) } : {}),
      });
      return [qkv.data, key.data, value.data];
    });
  }
});

test("gatedActivation, every function", async () => {
  for (const activation of ["silu", "geluTanh", "gelu", "relu"] as const satisfies readonly ActivationFunction[]) for (const columns of sizes) for (const rows of rowCounts) {
    await agree(`${activation} ${rows} x ${columns}`, columns, (b) => {
      const out = b.matrix("tokens", columns, () => poison);
      b.backend.ops.gatedActivation({ out, gateUp: b.matrix("tokens", 2 * columns, () => 4 * b.normal()), activation, batch: b.batch(rows) });
      return [out.data];
    });
  }
});

test("gatherRows and softCap", async () => {
  for (const columns of sizes) for (const rows of rowCounts) {
    await agree(`gather and cap ${rows} x ${columns}`, columns, (b) => {
      const out = b.matrix("logits", columns, () => poison), batch = b.batch(7, rows);
      b.backend.ops.gatherRows({ out, x: b.matrix("tokens", columns, () => 30 * b.normal()), batch });
      b.backend.ops.softCap({ x: out, cap: 12.5, batch });
      return [out.data];
    });
  }
});

test("a recorded program is what its ops are, run after run, whatever the header says", async () => {
  for (const backend of backends) {
    const b = new Bench(backend, 5);
    const x = b.matrix("tokens", 33), y = b.matrix("tokens", 33, () => poison), weight = b.weight(33, 33, "f32"), norm = b.floats(33), batch = b.batch(maxRows);
    const program = backend.record(() => {
      backend.ops.rmsNorm({ out: y, x, weight: norm, epsilon: 1e-6, batch });
      backend.ops.linear({ out: x, x: y, weight, residual: x, batch });
    });
    const untouched = await b.read(y.data);
    assert.ok(untouched.every((v) => Math.fround(poison) === v), "recording computes nothing");
    const start = (await b.read(x.data)).slice();
    for (const rows of [maxRows, 1, 0, 4]) {
      backend.write(batch.header, 0, fromFloat32([rows, 1, rows, 0], "i32"));
      backend.write(x.data, 0, fromFloat32(start, "f32"));
      program.run({ numTokens: rows, numSequences: 1, numLogits: rows });
      const once = await b.read(x.data);
      backend.write(x.data, 0, fromFloat32(start, "f32"));
      backend.ops.rmsNorm({ out: y, x, weight: norm, epsilon: 1e-6, batch });
      backend.ops.linear({ out: x, x: y, weight, residual: x, batch });
      assert.deepEqual(once, await b.read(x.data));
      assert.deepEqual(once.subarray(rows * 36), start.subarray(rows * 36), "rows beyond the count are untouched");
    }
  }
});
