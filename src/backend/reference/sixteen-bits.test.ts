/** Each operation in bf16 and f16 is what it is in f32 on the same numbers, rounded once where it is written. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { planAttention } from "../../attention/compile.ts";
import { planWork } from "../../attention/work-list.ts";
import { bytesPerElement, fromFloat32, toFloat32 } from "../../core/dtype.ts";
import { stream } from "../../core/random.ts";
import type { Activation, Backend, BatchInputs, Buffer, KvCache, KvCacheFormat, Ops, RowCount, Weight } from "../backend.ts";
import { open } from "./open.ts";

type Type = "f32" | "bf16" | "f16";
const tokens = 3;

/** The same operands in a type of its own, from one stream of numbers that every type holds. */
class Bench {
  readonly backend: Backend;
  readonly type: Type;
  readonly batch: BatchInputs;
  readonly #random = stream(5);

  constructor(backend: Backend, type: Type) {
    this.backend = backend;
    this.type = type;
    const i32 = (...values: readonly number[]): Buffer => this.upload(fromFloat32(values, "i32"));
    this.batch = { header: i32(tokens, 1, 2, 0), tokens: i32(2, 0, 1), positions: i32(0, 1, 2), slots: i32(0, 1, 2), blockTable: i32(0), logitRows: i32(2, 0), maxPagesPerSequence: 1 };
  }

  upload(bytes: Uint8Array): Buffer {
    const buffer = this.backend.alloc(bytes.length);
    this.backend.write(buffer, 0, bytes);
    return buffer;
  }

  /** Multiples of 2^-6 within 1: of 7 bits, so bf16 has them. */
  numbers(count: number): Float32Array {
    return Float32Array.from({ length: count }, () => Math.round((this.#random() * 2 - 1) * 64) / 64);
  }

  floats(count: number): Buffer {
    return this.upload(fromFloat32(this.numbers(count), "f32"));
  }

  /** In `type`; `stride` leaves a gap. */
  matrix(columns: number, type: Type = this.type, rows: RowCount = "tokens"): Activation {
    const stride = columns + 3;
    return { data: this.upload(fromFloat32(this.numbers(tokens * stride), type)), ...(type !== "f32" && { dtype: type }), rows, columns, stride };
  }

  weight(rows: number, columns: number, dtype: Type = this.type): Weight {
    return { data: this.upload(fromFloat32(this.numbers(rows * columns), dtype)), dtype, rows, columns };
  }

  cache(format: KvCacheFormat): KvCache {
    return { data: this.upload(new Uint8Array(bytesPerElement[format] * 4 * 4)), format, pageSize: 4, numHeads: 1, headDim: 4 };
  }

  async read(buffer: Buffer, type: Type = this.type): Promise<Float32Array> {
    return toFloat32((await this.backend.read(buffer, 0, buffer.bytes)).slice(), type);
  }
}

type Run = (b: Bench, ops: Ops) => readonly (readonly [Buffer, type: "own" | "f32"])[];
const runs: Readonly<Record<string, Run>> = {
  "embed to f32, of a table of 16 bits": (b, ops) => {
    const out = b.matrix(8, "f32");
    ops.embed({ out, table: b.weight(3, 8), batch: b.batch, scale: 3 });
    return [[out.data, "f32"]];
  },
  "rmsNorm from f32": (b, ops) => {
    const out = b.matrix(8);
    ops.rmsNorm({ out, x: b.matrix(8, "f32"), weight: b.floats(8), epsilon: 1e-5, batch: b.batch });
    return [[out.data, "own"]];
  },
  "linear between 16 bits, with bias": (b, ops) => {
    const out = b.matrix(5);
    ops.linear({ out, x: b.matrix(8), weight: b.weight(5, 8), bias: b.floats(5), batch: b.batch });
    return [[out.data, "own"]];
  },
  "linear to f32, with the residual in place": (b, ops) => {
    const out = b.matrix(5, "f32");
    ops.linear({ out, x: b.matrix(8), weight: b.weight(5, 8), residual: out, batch: b.batch });
    return [[out.data, "f32"]];
  },
  "ropeAndCache in place, with norms": (b, ops) => {
    const qkv = b.matrix(2 * 4 + 4 + 4), key = b.cache("f32"), value = b.cache("f32");
    ops.ropeAndCache({ qkv, numQueryHeads: 2, key, value, rotary: b.floats(3 * 4), rotaryDim: 4, qNorm: b.floats(4), kNorm: b.floats(4), epsilon: 1e-5, batch: b.batch });
    return [[qkv.data, "own"], [key.data, "f32"], [value.data, "f32"]];
  },
  gatedActivation: (b, ops) => {
    const out = b.matrix(4);
    ops.gatedActivation({ out, gateUp: b.matrix(8), activation: "silu", batch: b.batch });
    return [[out.data, "own"]];
  },
  "gatherRows and softCap": (b, ops) => {
    const out = b.matrix(8, b.type, "logits");
    ops.gatherRows({ out, x: b.matrix(8), batch: b.batch });
    ops.softCap({ x: out, cap: 0.5, batch: b.batch });
    return [[out.data, "own"]];
  },
};

for (const [name, run] of Object.entries(runs)) for (const type of ["bf16", "f16"] as const) {
  test(`${name}: ${type}`, async () => {
    const plain = new Bench(await open(), "f32"), half = new Bench(await open(), type);
    const wanted = run(plain, plain.backend.ops), got = run(half, half.backend.ops);
    for (const [i, [buffer, as]] of got.entries()) {
      const exact = await plain.read(wanted[i]![0], "f32");
      assert.deepEqual(await half.read(buffer, as === "own" ? type : "f32"), as === "own" ? toFloat32(fromFloat32(exact, type), type) : exact);
    }
  });
}

for (const type of ["bf16", "f16"] as const) {
  test(`attention of ${type} queries gives ${type}`, async () => {
    const results: Float32Array[] = [];
    for (const own of ["f32", type] as const) {
      const b = new Bench(await open(), own), heads = 2, dim = 4;
      const { plan } = planAttention({ numQueryHeads: heads, numKvHeads: 1, headDimQk: dim, headDimV: dim, queryTile: 2, kvTile: 2, queryFormat: own === "f32" ? undefined : own, keyFormat: own, valueFormat: own });
      const rows = (): AttentionRows => ({ data: b.upload(fromFloat32(b.numbers(tokens * heads * dim), own)), sequenceStride: 0, rowStride: heads * dim, headStride: dim });
      const page = (): AttentionRows => ({ data: b.upload(fromFloat32(b.numbers(4 * dim), own)), sequenceStride: 4 * dim, rowStride: dim, headStride: 4 * dim });
      const work = planWork(undefined, { numSequences: 1, firstRow: Int32Array.of(0), numRows: Int32Array.of(tokens), firstPosition: Int32Array.of(0), kvLength: Int32Array.of(4) }, plan);
      const out = rows();
      b.backend.ops.attention({
        kernel: await b.backend.compile(plan), captures: [], query: rows(), out, key: page(), value: page(), pageSize: 4, blockTable: b.batch.blockTable, maxPagesPerSequence: 1,
        work: b.upload(new Uint8Array(work.slice().buffer)),
      });
      results.push(await b.read(out.data, own));
    }
    assert.deepEqual(results[1], toFloat32(fromFloat32(results[0]!, type), type));
    assert.notDeepEqual(results[1], results[0]);
  });
}
type AttentionRows = Parameters<Ops["attention"]>[0]["query"];
