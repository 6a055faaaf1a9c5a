/** Which neighbours become one command, and that each step runs every part once, in order; ops are real, the device only writes down what is launched. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Activation, BatchInputs, StepSize, Weight } from "../backend.ts";
import { fuse, type Recorded } from "./fuse.ts";
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

/** What a step launches of what `body` records, fused or not. */
function launched(body: (ops: ReturnType<typeof createOps>) => void, rows: number, options: { readonly apart?: true; readonly deterministic?: true } = {}): { readonly kernels: string; readonly commands: number } {
  const launches: string[] = [], commands: Recorded[] = [];
  const find: FindKernel = (name) => ({ name, registers: 0, localBytes: 0, handle: 0 });
  const context: OpsContext = {
    device: { numSms: 132, maxSharedBytes: 232448, alloc: () => take(16).address, launch: (f) => void launches.push(f.name.replace("_bf16", "")) }, blas: undefined, deterministic: options.deterministic ?? false,
    submit: (needs, command, part) => void commands.push({ needs: needs.map(moduleLabel), run: (size) => command(size, find), part }),
  };
  body(createOps(context));
  const program = options.apart ? commands : fuse(commands, moduleLabel, find);
  for (const { needs, run } of program) {
    const before = launches.length;
    run(step(rows));
    for (const name of launches.slice(before)) assert.ok(!/^linear.*(Norm|Gated)$/.test(name) || needs.includes("fused_bf16"), name);
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
