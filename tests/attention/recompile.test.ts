/** What changes from call to call never asks for another kernel: captured numbers and tables, lengths, tensors, scale, page tables, page sizes. Counted. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { compileAttention, flexAttention, maskMod, openPagedKvCache, scoreMod, tensor } from "../../src/attention/index.ts";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/registry.ts";

/** A backend that counts how often it is asked for a kernel. */
function counting(backend: Backend): { readonly backend: Backend; kernels: number } {
  const counter = {
    kernels: 0,
    backend: new Proxy(backend, {
      get(target, key) {
        const value: unknown = Reflect.get(target, key, target);
        if (key === "compile") counter.kernels++;
        return typeof value === "function" ? value.bind(target) : value;
      },
    }),
  };
  return counter;
}

const captures = { size: 16, ids: new Int32Array(96) }, cap = { cap: 50 };
const mask = maskMod(({ size, ids }) => (_b, _h, q, kv) => q >= kv && q - kv < size && ids[q] === ids[kv], captures);
const score = scoreMod(({ cap }) => (s) => cap * Math.tanh(s / cap), cap);
/** Before call `i`: other numbers, a table changed in place, another table of another length. */
function change(i: number): void {
  captures.size = 1 + (i % 90);
  cap.cap = 10 + i / 7;
  if (i % 3 === 0) captures.ids[i % captures.ids.length]!++;
  if (i % 5 === 0) captures.ids = new Int32Array(96 + (i % 11));
}

test("1000 calls with other captures, lengths and scales compile one kernel", async () => {
  const backend = await openBackend("cpu", { threads: 1 });
  const counter = counting(backend);
  try {
    const results = new Set<number>();
    for (let i = 0; i < 1000; i++) {
      change(i);
      const queryLength = 1 + (i % 40), kvLength = queryLength + (i % 50);
      const x = (n: number) => tensor(Float32Array.from({ length: 2 * n * 8 }, (_, j) => Math.sin(i + j)), [1, 2, n, 8]);
      const out = await flexAttention(x(queryLength), x(kvLength), x(kvLength), { maskMod: mask, scoreMod: score, scale: 0.1 + i / 1000, backend: counter.backend });
      results.add(out.data.at(-1)!);
    }
    assert.equal(counter.kernels, 1);
    assert.ok(results.size > 500, "and the changes were seen");
    await flexAttention(tensor(new Float32Array(16), [1, 1, 1, 16]), tensor(new Float32Array(16), [1, 1, 1, 16]), tensor(new Float32Array(16), [1, 1, 1, 16]), { maskMod: mask, backend: counter.backend });
    assert.equal(counter.kernels, 2, "another head dim is another kernel, and the counter counts");
  } finally {
    await backend.close();
  }
});

test("a mod made anew for each of 1000 calls is the kernel that its text is", async () => {
  const backend = await openBackend("cpu", { threads: 1 });
  const counter = counting(backend);
  try {
    const shape = { numQueryHeads: 1, numKvHeads: 1, headDimQk: 8, headDimV: 8 };
    for (let i = 0; i < 1000; i++) await compileAttention(counter.backend, { ...shape, maskMod: maskMod(({ size }) => (_b, _h, q, kv) => q - kv < size, { size: i }) });
    assert.equal(counter.kernels, 1);
  } finally {
    await backend.close();
  }
});

test("pages that come and go, of any size, compile one kernel", async () => {
  const backend = await openBackend("cpu", { threads: 1 });
  const counter = counting(backend);
  try {
    for (const pageSize of [1, 8, 16, 30]) {
      const cache = await openPagedKvCache({ numPages: Math.ceil(360 / pageSize), pageSize, numKvHeads: 1, headDim: 8, maxSequences: 3, maxLength: 96, backend: counter.backend });
      for (let i = 0; i < 60; i++) {
        change(i);
        const sequence = i % 3, position = cache.length(sequence);
        const x = (n: number) => tensor(Float32Array.from({ length: n * 8 }, (_, j) => Math.sin(i + j)), [1, 1, n, 8]);
        const rows = 1 + (i % 7);
        await cache.assign(sequence, position, x(rows), x(rows));
        await cache.attention(x(rows), [{ sequence, rows }], { maskMod: mask, scoreMod: score });
        if (cache.length(sequence) > 60) cache.erase(sequence, i % 20);
      }
      cache.close();
    }
    assert.equal(counter.kernels, 1);
  } finally {
    await backend.close();
  }
});
