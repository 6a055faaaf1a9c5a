/** Commands of the wasm backend run in the order given, also while a kernel is being delivered; their errors name the right call; nothing is left behind. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { AttentionKernel, Backend, BatchInputs, Buffer, CaptureValue } from "../../src/backend/backend.ts";
import { open } from "../../src/backend/wasm/open.ts";
import { planWork } from "../../src/attention/work-list.ts";
import { binary, type Expr, index, load, score } from "../../src/ir/expr.ts";
import type { AttentionPlan } from "../../src/ir/plan.ts";

const bytesOf = (data: Float32Array | Int32Array): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
const upload = (backend: Backend, data: Float32Array | Int32Array): Buffer => {
  const buffer = backend.alloc(data.byteLength);
  backend.write(buffer, 0, bytesOf(data));
  return buffer;
};
/** Where the next small allocation stands: the same again when all that came between was freed. */
const nextAddress = (backend: Backend, bytes = 64): number => {
  const probe = backend.alloc(bytes);
  backend.free(probe);
  return (probe as unknown as { address: number }).address;
};

const planOf = (table: string, numKeys: number): AttentionPlan => {
  const scoreMod: Expr = binary("add", score, load("f32", table, [index("kv")]));
  return {
    key: `${table} ${numKeys}`, scoreMod, maskMod: undefined, captures: [{ kind: "table", name: table, type: "f32", rank: 1 }],
    headDimQk: 4, headDimV: 4, numQueryHeads: 1, numKvHeads: 1, scale: 1, queryTile: 4, kvTile: numKeys,
  };
};
const step = { numTokens: 1, numSequences: 1, numLogits: 0 };

/** One row over 8 keys. */
function attendWith(backend: Backend, kernel: AttentionKernel, table: CaptureValue): () => void {
  const one = (x: number): Int32Array => Int32Array.of(x);
  const work = planWork(undefined, { numSequences: 1, firstRow: one(0), numRows: one(1), firstPosition: one(7), kvLength: one(8) }, kernel.plan);
  const rows = { sequenceStride: 32, rowStride: 4, headStride: 4 };
  const data = upload(backend, new Float32Array(32)), blockTable = upload(backend, one(0)), list = upload(backend, Int32Array.from(work)), out = upload(backend, new Float32Array(4));
  return () => backend.ops.attention({
    kernel, captures: [table], query: { data, ...rows }, out: { data: out, ...rows }, key: { data, ...rows }, value: { data, ...rows }, pageSize: 8, blockTable, maxPagesPerSequence: 1, work: list,
  });
}

/** A copy of 4 floats from row `logitRows[0]` of x. */
function copier(backend: Backend): { readonly batch: BatchInputs; readonly x: Buffer; copy(out: Buffer): void } {
  const int = (...words: readonly number[]): Buffer => upload(backend, Int32Array.from(words));
  const batch: BatchInputs = { header: int(1, 1, 1, 0), tokens: int(0), positions: int(0), slots: int(0), blockTable: int(0), logitRows: int(0), maxPagesPerSequence: 1 };
  const x = backend.alloc(32);
  return {
    batch, x,
    copy: (out) => backend.ops.gatherRows({ batch, x: { data: x, rows: "tokens", columns: 4, stride: 4 }, out: { data: out, rows: "logits", columns: 4, stride: 4 } }),
  };
}

test("writes, ops, programs and frees given while kernels are delivered run in the order given", async () => {
  const backend = await open({ threads: 2 });
  try {
    const { x, copy } = copier(backend);
    const outs = Array.from({ length: 4 }, () => backend.alloc(16));
    const program = backend.record(() => copy(outs[3]!));
    await backend.read(x, 0, 4);
    const compiling = [planOf("a", 4), planOf("b", 8), planOf("c", 12)].map((plan) => backend.compile(plan));
    const source = Float32Array.of(1, 1, 1, 1);
    for (let n = 0; n < 3; n++) {
      source.fill(n + 1);
      backend.write(x, 0, bytesOf(source));
      copy(outs[n]!);
    }
    program.run(step);
    backend.free(upload(backend, new Float32Array(4).fill(9)));
    source.fill(7);
    backend.write(x, 0, bytesOf(source));
    for (const [n, want] of [1, 2, 3, 3].entries()) {
      const got = (await backend.read(outs[n]!, 0, 16)).slice();
      assert.deepEqual([...new Float32Array(got.buffer)], Array(4).fill(want), `output ${n}`);
    }
    const kernels = await Promise.all(compiling);
    assert.equal(new Set(kernels.map((k) => k.plan.key)).size, 3);
    for (const kernel of kernels) {
      // Each kernel is its own: it reads its own table, and says so.
      const short: CaptureValue = { kind: "table", data: backend.alloc(8), shape: [2] };
      attendWith(backend, kernel, short)();
      await assert.rejects(backend.read(x, 0, 4), new RegExp(`index 2 is outside dimension 0 of the captured table '${kernel.plan.captures[0]!.name}'`));
    }
  } finally {
    await backend.close();
  }
});

test("a load out of range is told of the call that made it, whatever ran after", async () => {
  const backend = await open({ threads: 1 });
  try {
    const [first, second] = [await backend.compile(planOf("first", 8)), await backend.compile(planOf("second", 8))];
    const short: CaptureValue = { kind: "table", data: backend.alloc(12), shape: [3] }, long: CaptureValue = { kind: "table", data: backend.alloc(32), shape: [8] };
    const bad = attendWith(backend, first, short), good = attendWith(backend, second, long);
    bad();
    good();
    await assert.rejects(backend.read(short.data, 0, 4), /index 3 is outside dimension 0 of the captured table 'first', which has 3 elements/);
    good();
    await backend.read(short.data, 0, 4);
  } finally {
    await backend.close();
  }
});

test("kernels, programs and errors work where everything lies above 2 GiB", async () => {
  const backend = await open({ threads: 2 });
  try {
    backend.alloc(2 ** 31); // never touched, so it takes addresses only
    const kernel = await backend.compile(planOf("high", 8));
    const short: CaptureValue = { kind: "table", data: backend.alloc(12), shape: [3] }, long: CaptureValue = { kind: "table", data: backend.alloc(32), shape: [8] };
    while (nextAddress(backend) < 2 ** 31) backend.alloc(1 << 12);
    await backend.compile(planOf("higher", 12));
    const bad = attendWith(backend, kernel, short), good = attendWith(backend, kernel, long);
    const failing = backend.record(bad), passing = backend.record(good);
    passing.run(step);
    await backend.read(short.data, 0, 4);
    failing.run(step);
    await assert.rejects(backend.read(short.data, 0, 4), /index 3 is outside dimension 0 of the captured table 'high'/);
    const { x, copy } = copier(backend), out = backend.alloc(16);
    backend.write(x, 0, bytesOf(Float32Array.of(1, 2, 3, 4)));
    copy(out);
    assert.deepEqual([...new Float32Array((await backend.read(out, 0, 16)).slice().buffer)], [1, 2, 3, 4]);
  } finally {
    await backend.close();
  }
});

test("ops outside a recording, kernels delivered meanwhile, and a recording that throws leave no memory behind", async () => {
  const backend = await open({ threads: 2 });
  try {
    const { x, copy } = copier(backend), out = backend.alloc(16);
    await backend.compile(planOf("a", 16)); // takes scratch
    const before = nextAddress(backend);
    for (let n = 0; n < 2000; n++) copy(out);
    for (let n = 0; n < 5; n++) {
      const compiling = backend.compile(planOf("a", 8));
      for (let k = 0; k < 20; k++) copy(out);
      await compiling;
      await backend.read(x, 0, 4);
    }
    assert.throws(() => backend.record(() => { for (let n = 0; n < 10; n++) copy(out); throw new Error("halfway"); }), /halfway/);
    await backend.read(x, 0, 4);
    assert.equal(nextAddress(backend), before);
  } finally {
    await backend.close();
  }
});
