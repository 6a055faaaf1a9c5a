/** Which neighbours become one command, and that each step runs every part once, in order; ops are real, the device only writes down what is launched. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Activation, BatchInputs, KvCache, KvCacheFormat, Ops, StepSize, Weight } from "../backend.ts";
import { fuse, type Recorded } from "./fuse.ts";
import { mostRowsFused } from "./linear.ts";
import { CudaBuffer } from "./memory.ts";
import { type FindKernel, moduleLabel } from "./modules.ts";
import { createOps, type OpsContext } from "./ops.ts";

let top = 4096;
const take = (bytes: number): CudaBuffer => new CudaBuffer((top += 256 * Math.ceil(bytes / 256)) - 256 * Math.ceil(bytes / 256), bytes);
const maxRows = 64, dim = 256, ffn = 512;
const matrix = (columns: number, dtype?: "bf16"): Activation => ({ data: take(maxRows * columns * (dtype ? 2 : 4)), rows: "tokens", columns, stride: columns, ...(dtype && { dtype }) });
const weight = (rows: number, columns: number): Weight => ({ data: take(2 * rows * columns), dtype: "bf16", rows, columns });
const none = take(16);
const batch: BatchInputs = { header: none, tokens: none, positions: none, slots: none, blockTable: none, logitRows: none, maxPagesPerSequence: 1 };
const step = (rows: number): StepSize => ({ numTokens: rows, numSequences: rows, numLogits: rows });

interface Options {
  readonly apart?: true;
  readonly deterministic?: true;
  /** The most rows of a product that is turned. */
  readonly rope?: number;
  /** Called with what each launch is given. */
  readonly seen?: (kernel: string, params: DataView) => void;
}

/** What a step launches of what `body` records, fused or not. */
function launched(body: (ops: ReturnType<typeof createOps>) => void, rows: number, options: Options = {}): { readonly kernels: string; readonly commands: number } {
  const launches: string[] = [], commands: Recorded[] = [];
  const find: FindKernel = (name) => ({ name, registers: 0, localBytes: 0, handle: 0 });
  const context: OpsContext = {
    device: {
      numSms: 132, maxSharedBytes: 232448, alloc: () => take(16).address,
      launch(f, _shape, params) {
        launches.push(f.name.replace("_bf16", ""));
        options.seen?.(launches.at(-1)!, new DataView(params.buffer, params.byteOffset, params.byteLength));
      },
    },
    blas: undefined, deterministic: options.deterministic ?? false, ...(options.rope !== undefined && { mostRowsFused: { ...mostRowsFused, rope: options.rope } }),
    submit: (needs, command, part) => void commands.push({ needs: needs.map(moduleLabel), run: (size) => command(size, find), part }),
  };
  body(createOps(context));
  const program = options.apart ? commands : fuse(commands, moduleLabel, find);
  for (const { needs, run } of program) {
    const before = launches.length;
    run(step(rows));
    for (const name of launches.slice(before)) assert.ok(!/^linear.*(Norm|Gated|Rope)$/.test(name) || needs.includes("fused_bf16"), name);
  }
  return { kernels: launches.join(" "), commands: program.length };
}

const hidden = matrix(dim), normed = matrix(dim, "bf16"), other = matrix(dim, "bf16"), gateUp = matrix(2 * ffn, "bf16"), gated = matrix(ffn, "bf16");
const norm = take(4 * dim), up = weight(2 * ffn, dim), down = weight(dim, ffn);
type Body = (ops: ReturnType<typeof createOps>) => void;
const layer: Body = (ops) => {
  ops.rmsNorm({ out: normed, x: hidden, weight: norm, epsilon: 1e-5, batch });
  ops.linear({ out: gateUp, x: normed, weight: up, batch });
  ops.gatedActivation({ out: gated, gateUp, activation: "silu", batch });
  ops.linear({ out: hidden, x: gated, weight: down, residual: hidden, batch });
};

test("a norm, its product and the gate are one launch for few rows, and by themselves beyond", () => {
  for (const rows of [1, 2]) assert.deepEqual(launched(layer, rows), { kernels: "linear8NormGated linear8", commands: 2 });
  for (const rows of [3, 8]) assert.deepEqual(launched(layer, rows), { kernels: "rmsNorm linear8Gated linear8", commands: 2 });
  for (const rows of [9, 16, 17, 64]) assert.deepEqual(launched(layer, rows), { kernels: launched(layer, rows, { apart: true }).kernels, commands: 2 });
  assert.equal(launched(layer, 16).kernels, "rmsNorm linear16 gatedActivation linear16");
});

test("a norm alone, and a gate alone, go with their product; further products read what the first has written", () => {
  const products: Body = (ops) => {
    ops.rmsNorm({ out: normed, x: hidden, weight: norm, epsilon: 1e-5, batch });
    for (let i = 0; i < 2; i++) ops.linear({ out: { ...gateUp, data: gateUp.data.slice(i * ffn * 2, gateUp.data.bytes - i * ffn * 2), columns: ffn }, x: normed, weight: { ...up, rows: ffn }, batch });
    ops.gatedActivation({ out: gated, gateUp, activation: "silu", batch });
  };
  assert.deepEqual(launched(products, 1), { kernels: "linear8Norm linear8 gatedActivation", commands: 3 });
  const gate: Body = (ops) => {
    ops.linear({ out: gateUp, x: other, weight: up, batch });
    ops.gatedActivation({ out: gated, gateUp, activation: "silu", batch });
  };
  assert.deepEqual(launched(gate, 1), { kernels: "linear8Gated", commands: 1 });
});

test("what does not belong together stays apart", () => {
  const apart: readonly Body[] = [
    (ops) => { // another matrix is read
      ops.rmsNorm({ out: normed, x: hidden, weight: norm, epsilon: 1e-5, batch });
      ops.linear({ out: gateUp, x: other, weight: up, batch });
    },
    (ops) => { // the norm has a residual
      ops.rmsNorm({ out: normed, x: hidden, weight: norm, epsilon: 1e-5, residual: hidden, batch });
      ops.linear({ out: gateUp, x: normed, weight: up, batch });
    },
    (ops) => { // the gate is of something else
      ops.linear({ out: gateUp, x: other, weight: up, batch });
      ops.gatedActivation({ out: gated, gateUp: { ...gateUp, data: take(gateUp.data.bytes) }, activation: "silu", batch });
    },
    (ops) => { // what is normed is written by the product
      ops.rmsNorm({ out: normed, x: hidden, weight: norm, epsilon: 1e-5, batch });
      ops.linear({ out: hidden, x: normed, weight: weight(dim, dim), residual: hidden, batch });
    },
    (ops) => { // the gate writes what is multiplied
      ops.linear({ out: gateUp, x: gated, weight: weight(2 * ffn, ffn), batch });
      ops.gatedActivation({ out: gated, gateUp, activation: "silu", batch });
    },
    (ops) => { // something stands between
      ops.rmsNorm({ out: normed, x: hidden, weight: norm, epsilon: 1e-5, batch });
      ops.softCap({ x: hidden, cap: 30, batch });
      ops.linear({ out: gateUp, x: normed, weight: up, batch });
    },
    (ops) => ops.rmsNorm({ out: normed, x: hidden, weight: norm, epsilon: 1e-5, batch }), // nothing follows
  ];
  for (const body of apart) assert.deepEqual(launched(body, 1), launched(body, 1, { apart: true }));
});

test("deterministic products join nothing, as a few rows are computed as many are", () => {
  assert.equal(launched(layer, 1, { deterministic: true }).kernels, "rmsNorm linearTile64 gatedActivation linearTile64");
});

const headDim = 32, numQueryHeads = 4, numKvHeads = 2, pageSize = 16, qkv = matrix((numQueryHeads + 2 * numKvHeads) * headDim, "bf16");
const cacheOf = (dim = headDim, format: KvCacheFormat = "bf16"): KvCache => ({ data: take(4 * 8 * pageSize * numKvHeads * dim), format, pageSize, numHeads: numKvHeads, headDim: dim });
const turned: Parameters<Ops["ropeAndCache"]>[0] = {
  qkv, numQueryHeads, key: cacheOf(), value: cacheOf(), rotary: take(4 * 100 * headDim), rotaryDim: headDim, epsilon: 1e-5, batch: { ...batch, positions: take(4 * maxRows), slots: take(4 * maxRows) },
};
const qkvWeight = weight(qkv.columns, dim), bias = take(4 * qkv.columns);
const attention: Body = (ops) => {
  ops.rmsNorm({ out: normed, x: hidden, weight: norm, epsilon: 1e-5, batch });
  ops.linear({ out: qkv, x: normed, weight: qkvWeight, batch });
  ops.ropeAndCache(turned);
};

test("the product of q, k and v turns them and keeps k and v, where it may; else ropeAndCache does, after it", () => {
  for (const rows of [1, 2]) assert.deepEqual(launched(attention, rows, { rope: 8 }), { kernels: "linear8NormRope", commands: 1 });
  for (const rows of [3, 8]) assert.deepEqual(launched(attention, rows, { rope: 8 }), { kernels: "rmsNorm linear8Rope", commands: 1 });
  for (const rows of [9, 16, 17, 64]) assert.deepEqual(launched(attention, rows, { rope: 8 }), { kernels: launched(attention, rows, { apart: true }).kernels, commands: 1 });
  assert.equal(launched(attention, 2, { rope: 1 }).kernels, "linear8Norm ropeAndCache");
  for (const rows of [1, 2]) assert.equal(launched(attention, rows, { rope: 0 }).kernels, "linear8Norm ropeAndCache");
  for (const rows of [3, 8]) assert.equal(launched(attention, rows, { rope: 0 }).kernels, "rmsNorm linear8 ropeAndCache");
  assert.equal(launched(attention, 1, { rope: 8, deterministic: true }).kernels, "rmsNorm linearTile64 ropeAndCache");
});

test("a product that turns is given the op's addresses and sizes, its bias, and no more rows than have a position and a slot", () => {
  const few = { ...turned, batch: { ...turned.batch, slots: take(4 * 3) } }, pointer = (params: DataView, at: number): number => Number(params.getBigUint64(at, true));
  let seen = 0;
  const body: Body = (ops) => {
    ops.linear({ out: qkv, x: other, weight: qkvWeight, bias, batch });
    ops.ropeAndCache(few);
  };
  const { kernels } = launched(body, 8, { rope: 8, seen(kernel, params) {
    seen++;
    assert.equal(kernel, "linear8Rope");
    assert.equal(params.byteLength, 208); // as Params of linear-skinny.cu lies in C
    assert.deepEqual([1, 4, 8].map((i) => pointer(params, 8 * i)), [other, { data: bias }, qkv].map(({ data }) => (data as CudaBuffer).address)); // x, bias, product
    assert.deepEqual([5, 6].map((i) => params.getInt32(88 + 4 * i, true)), [qkv.stride, qkv.columns]); // productStride, n
    assert.equal(params.getInt32(88 + 4 * 10, true), 3); // launched
    const { positions, slots } = few.batch;
    assert.deepEqual([0, 1, 2, 3, 4].map((i) => pointer(params, 152 + 8 * i)), [positions, slots, few.rotary, few.key.data, few.value.data].map((buffer) => (buffer as CudaBuffer).address));
    assert.deepEqual([0, 1, 2, 3].map((i) => params.getInt32(192 + 4 * i, true)), [numQueryHeads, numKvHeads, headDim, pageSize]);
  } });
  assert.deepEqual([kernels, seen], ["linear8Rope", 1]);
});

test("heads that are normalised, turn in part, are no whole tiles, or are kept in another type or size, and rows of several products, are turned by ropeAndCache", () => {
  const rows = (dim: number, valueDim = dim): Activation => matrix((numQueryHeads + numKvHeads) * dim + numKvHeads * valueDim, "bf16");
  const behind = (change: Partial<typeof turned>): Body => (ops) => {
    const o = { ...turned, ...change };
    ops.linear({ out: o.qkv, x: other, weight: weight(o.qkv.columns, dim), batch });
    ops.ropeAndCache(o);
  };
  assert.equal(launched(behind({}), 1, { rope: 8 }).kernels, "linear8Rope"); // what the others differ from
  assert.equal(launched(behind({ qkv: rows(80), key: cacheOf(80), value: cacheOf(80), rotaryDim: 80 }), 1, { rope: 8 }).kernels, "linear8Rope");
  const parted: Readonly<Record<string, Body>> = {
    "q norm": behind({ qNorm: take(4 * headDim) }), "k norm": behind({ kNorm: take(4 * headDim) }), "half of a head": behind({ rotaryDim: 16 }), "heads of 24": behind({ qkv: rows(24), key: cacheOf(24), value: cacheOf(24), rotaryDim: 24 }),
    "values of 16": behind({ qkv: rows(32, 16), value: cacheOf(16) }), "keys of f16": behind({ key: cacheOf(headDim, "f16") }), "values of f32": behind({ value: cacheOf(headDim, "f32") }),
    "a cache where x is": behind({ key: { ...cacheOf(), data: other.data } }),
    "another row": (ops) => {
      ops.linear({ out: { ...qkv, data: take(qkv.data.bytes) }, x: other, weight: qkvWeight, batch });
      ops.ropeAndCache(turned);
    },
    "a residual": (ops) => {
      ops.linear({ out: qkv, x: other, weight: qkvWeight, residual: matrix(qkv.columns), batch });
      ops.ropeAndCache(turned);
    },
    "two products": (ops) => {
      const half = qkv.columns / 2;
      for (const i of [0, 1]) ops.linear({ out: { ...qkv, data: qkv.data.slice(2 * half * i, qkv.data.bytes - 2 * half * i), columns: half }, x: other, weight: { ...qkvWeight, rows: half }, batch });
      ops.ropeAndCache(turned);
    },
  };
  for (const [what, body] of Object.entries(parted)) assert.deepEqual(launched(body, 1, { rope: 8 }).kernels, launched(body, 1, { apart: true }).kernels, what);
});
