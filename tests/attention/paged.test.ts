import assert from "node:assert/strict";
import { after, test } from "node:test";
import { alibi, ancestorBits, and, causal, createBlockMask, maskMod, type MaskMod, openPagedKvCache, type PagedKvCache, type PagedRows, scoreMod, type ScoreMod, tensor, type Tensor, tree, windowPerToken } from "../../src/attention/index.ts";
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/registry.ts";
import { stream } from "../../src/core/random.ts";
import { type Env, evaluator } from "../../src/ir/interpret.ts";

const [H, G, D, Dv] = [4, 2, 12, 8];
const backends = { reference: await openBackend("reference"), cpu: await openBackend("cpu", { threads: 2 }) };
after(() => Promise.all(Object.values(backends).map((backend) => backend.close())));

function random(seed: number, ...shape: readonly number[]): Tensor {
  const next = stream(seed);
  return tensor(Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => next() * 2 - 1), shape);
}

/** Elements `from` .. `to - 1` of dimension 2. */
function cut(t: Tensor, from: number, to: number): Tensor {
  const [one, heads, n, d] = t.shape as [number, number, number, number], out = new Float32Array(one * heads * (to - from) * d);
  for (let h = 0; h < heads; h++) out.set((t.data as Float32Array).subarray((h * n + from) * d, (h * n + to) * d), h * (to - from) * d);
  return tensor(out, [one, heads, to - from, d]);
}

/** Along dimension 2. */
function join(parts: readonly Tensor[]): Tensor {
  const [, heads, , d] = parts[0]!.shape as [number, number, number, number], n = parts.reduce((sum, t) => sum + t.shape[2]!, 0), out = new Float32Array(heads * n * d);
  for (let h = 0, at = 0; h < heads; h++) for (const t of parts) {
    const rows = (t.data as Float32Array).subarray(h * t.shape[2]! * d, (h + 1) * t.shape[2]! * d);
    out.set(rows, at);
    at += rows.length;
  }
  return tensor(out, [1, heads, n, d]);
}

interface Mods { readonly scoreMod?: ScoreMod; readonly maskMod?: MaskMod }

/** Rows of sequence b at positions first .. by the formula in doubles: [H, rows, Dv]. */
function formula(b: number, first: number, query: Tensor, key: Tensor, value: Tensor, { scoreMod, maskMod }: Mods): Float64Array {
  const rows = query.shape[2]!, keys = key.shape[2]!, out = new Float64Array(H * rows * Dv);
  const none = { uniforms: {}, tables: {} }, score = scoreMod && evaluator(scoreMod.expr(), "double"), mask = maskMod && evaluator(maskMod.expr());
  for (let h = 0; h < H; h++) for (let i = 0; i < rows; i++) {
    const weights = new Float64Array(keys).fill(-Infinity), g = Math.floor(h / (H / G));
    for (let kv = 0; kv < keys; kv++) {
      const env: Env = { b, h, q: first + i, kv, score: 0, ...none };
      if (mask && !mask({ ...env, ...maskMod.values() })) continue;
      let dot = 0;
      for (let d = 0; d < D; d++) dot += query.data[(h * rows + i) * D + d]! * key.data[(g * keys + kv) * D + d]!;
      weights[kv] = score ? score({ ...env, ...scoreMod.values(), score: dot / Math.sqrt(D) }) : dot / Math.sqrt(D);
    }
    const most = Math.max(...weights), total = weights.reduce((sum, x) => sum + (most > -Infinity ? Math.exp(x - most) : 0), 0);
    if (total > 0) weights.forEach((x, kv) => { for (let d = 0; d < Dv; d++) out[(h * rows + i) * Dv + d]! += (Math.exp(x - most) / total) * value.data[(g * keys + kv) * Dv + d]!; });
  }
  return out;
}

function close(got: ArrayLike<number>, want: ArrayLike<number>, within: number, what: string): void {
  assert.equal(got.length, want.length);
  for (let i = 0; i < want.length; i++) assert.ok(Math.abs(got[i]! - want[i]!) <= within, `${what}: element ${i} is ${got[i]}, not ${want[i]}`);
}

/** A cache whose every slot holds NaN and whose free pages are in random order. */
async function poisoned(backend: Backend, pageSize: number, numPages: number, seed: number, format: "f32" | "bf16" = "f32"): Promise<PagedKvCache> {
  const cache = await openPagedKvCache({ numPages, pageSize, numKvHeads: G, headDim: D, headDimV: Dv, maxSequences: 6, maxLength: Math.max(numPages * pageSize, 100), format, backend });
  const nan = (d: number): Tensor => tensor(new Float32Array(G * numPages * pageSize * d).fill(NaN), [1, G, numPages * pageSize, d]);
  await cache.assign(0, 0, nan(D), nan(Dv));
  cache.erase(0);
  // Pages taken in turns and freed one sequence after another come back in another order.
  const next = stream(seed);
  const taken = new Map<number, number>();
  for (let i = 0; i < numPages; i++) {
    const s = Math.floor(next() * 6);
    taken.set(s, (taken.get(s) ?? 0) + 1);
    cache.reserve(s, taken.get(s)! * pageSize);
  }
  for (let s = 0; s < 6; s++) cache.erase(s);
  assert.equal(cache.numFreePages, numPages);
  return cache;
}

const windows = Int32Array.of(50, 7, 100, 3, 9, 11);
const mods: Readonly<Record<string, Mods>> = {
  "causal": { maskMod: causal },
  "captures of each request": {
    maskMod: maskMod(({ windows }) => (b, _h, q, kv) => q >= kv && q - kv < windows[b]!, { windows }),
    scoreMod: scoreMod(({ gain }) => (score, b, h, q, kv) => score * gain[b]! + (kv - q) * 0.01 * (h + 1), { gain: Float32Array.of(1, 0.5, 2, -1, 0.1, 3) }),
  },
  "alibi, and a window of each token": { scoreMod: alibi(Float32Array.of(0.5, 0.25, 0.1, 0.7)), maskMod: windowPerToken(Int32Array.from({ length: 64 }, (_, i) => (i * 7) % 23)) },
};

for (const [device, backend] of Object.entries(backends)) {
  for (const pageSize of [1, 3, 16, 128, 256]) {
    test(`${device}, pages of ${pageSize}: a prompt, a chunk, single tokens and a row with nothing to see, in one call over poisoned pages`, async () => {
      const cache = await poisoned(backend, pageSize, Math.ceil(240 / pageSize) + 6, pageSize);
      const lengths = [37, 20, 64, 1], keys = lengths.map((n, s) => random(s + 1, 1, G, n, D)), values = lengths.map((n, s) => random(s + 11, 1, G, n, Dv)), queries = lengths.map((n, s) => random(s + 21, 1, H, n, D));
      // Sequences grow in turns, so that their pages lie among each other.
      for (let from = 0; from < 64; from += 10) for (let s = 0; s < 4; s++) if (from < lengths[s]!) await cache.assign(s, from, cut(keys[s]!, from, Math.min(from + 10, lengths[s]!)), cut(values[s]!, from, Math.min(from + 10, lengths[s]!)));
      assert.deepEqual(lengths.map((_, s) => cache.length(s)), lengths);
      const rows: PagedRows[] = [{ sequence: 2, rows: 5 }, { sequence: 0, rows: 37 }, { sequence: 3, rows: 1 }, { sequence: 1, rows: 1, position: 12 }];
      const firsts = [59, 0, 0, 12];
      const query = join(rows.map(({ sequence, rows: n }, i) => cut(queries[sequence]!, firsts[i]!, firsts[i]! + n)));
      for (const [name, m] of Object.entries(mods)) {
        const { out, lse } = await cache.attention(query, rows, { ...m, aux: ["lse"] });
        assert.deepEqual([out.shape, lse.shape], [[1, H, 44, Dv], [1, H, 44]]);
        let at = 0;
        rows.forEach(({ sequence: s, rows: n }, i) => {
          const want = formula(s, firsts[i]!, cut(queries[s]!, firsts[i]!, firsts[i]! + n), keys[s]!, values[s]!, m);
          close(cut(out, at, at + n).data, want, 1e-5, `${name}, sequence ${s}`);
          at += n;
        });
        assert.ok(lse.data.every((x) => Number.isFinite(x)));
        if (m.maskMod) {
          const blockMask = createBlockMask(m.maskMod, { batch: 6, heads: 1, queryLength: 64, kvLength: 64, blockSize: [5, 24] });
          close((await cache.attention(query, rows, { ...(m.scoreMod && { scoreMod: m.scoreMod }), blockMask })).data, out.data, 1e-6, `${name}, by blocks known before`);
        }
      }
      cache.close();
    });
  }

  test(`${device}: sequences that share pages have the bits of sequences that do not, and give them back one by one`, async () => {
    const cache = await poisoned(backend, 8, 24, 5), whole = await poisoned(backend, 8, 24, 6);
    const prefix = [random(1, 1, G, 40, D), random(2, 1, G, 40, Dv)] as const, own = [random(3, 1, G, 9, D), random(4, 1, G, 9, Dv)] as const;
    await cache.assign(0, 0, ...prefix);
    cache.share(0, 1, 32);
    cache.share(0, 2, 40);
    assert.deepEqual([...cache.pages(1)], [...cache.pages(0)].slice(0, 4));
    assert.equal(cache.numFreePages, 24 - 5);
    await cache.assign(1, 32, ...own);
    await cache.assign(2, 40, ...own);
    for (const [s, n] of [[1, 32], [2, 40]] as const) {
      await whole.assign(s, 0, cut(prefix[0], 0, n), cut(prefix[1], 0, n));
      await whole.assign(s, n, ...own);
    }
    const query = random(7, 1, H, 4, D), rows = [{ sequence: 1, rows: 2 }, { sequence: 2, rows: 2 }];
    const got = await cache.attention(query, rows, mods["captures of each request"]!);
    assert.deepEqual(got.data, (await whole.attention(query, rows, mods["captures of each request"]!)).data);
    await assert.rejects(cache.assign(2, 30, ...own), /is shared; tokens can be written behind the shared pages only/);
    cache.erase(0);
    assert.equal(cache.numFreePages, 24 - 5 - 2 - 2);
    assert.deepEqual((await cache.attention(query, rows, mods["captures of each request"]!)).data, got.data);
    cache.erase(1);
    cache.erase(2);
    assert.equal(cache.numFreePages, 24);
    cache.close();
    whole.close();
  });

  test(`${device}: a tree of drafts in one call gives each branch what decoding it alone gives; rejected drafts are erased`, async () => {
    const parents = [[-1, 0, 1, 0, 3, 1], [-1, 0]], prefixes = Int32Array.of(21, 6), keys = [random(1, 1, G, 27, D), random(2, 1, G, 8, D)], values = [random(3, 1, G, 27, Dv), random(4, 1, G, 8, Dv)], queries = [random(5, 1, H, 6, D), random(6, 1, H, 2, D)];
    const cache = await poisoned(backend, 4, 30, 9);
    for (const s of [0, 1]) await cache.assign(s, 0, keys[s]!, values[s]!);
    const out = await cache.attention(join(queries), [{ sequence: 0, rows: 6 }, { sequence: 1, rows: 2 }], { maskMod: tree(prefixes, ancestorBits(parents)) });
    for (const s of [0, 1]) for (let node = 0; node < parents[s]!.length; node++) {
      const path: number[] = [];
      for (let i = node; i >= 0; i = parents[s]![i]!) path.unshift(prefixes[s]! + i);
      const along = (t: Tensor): Tensor => join([cut(t, 0, prefixes[s]!), ...path.map((p) => cut(t, p, p + 1))]);
      const want = formula(s, 0, cut(queries[s]!, node, node + 1), along(keys[s]!), along(values[s]!), {});
      close(cut(out, (s === 0 ? 0 : 6) + node, (s === 0 ? 0 : 6) + node + 1).data, want, 1e-5, `sequence ${s}, node ${node}`);
    }
    cache.erase(0, 23);
    assert.deepEqual([cache.length(0), cache.pages(0).length], [23, 6]);
    await cache.assign(0, 23, cut(keys[0]!, 25, 26), cut(values[0]!, 25, 26));
    const kept = (t: Tensor): Tensor => join([cut(t, 0, 23), cut(t, 25, 26)]);
    close((await cache.attention(cut(queries[0]!, 0, 1), [{ sequence: 0, rows: 1 }], { maskMod: causal })).data, formula(0, 23, cut(queries[0]!, 0, 1), kept(keys[0]!), kept(values[0]!), {}), 1e-5, "after the drafts");
    cache.close();
  });
}

test("captured tables and lengths change from call to call without a new kernel, and calls not waited for keep their order", async () => {
  let compiled = 0;
  const backend = backends.reference, { name, caps, description, ops } = backend;
  const counting: Backend = {
    name, caps, description, ops, alloc: (n) => backend.alloc(n), free: (b) => backend.free(b), view: (b) => backend.view(b), write: (...at) => backend.write(...at), writeRows: (...rows) => backend.writeRows(...rows), read: (...at) => backend.read(...at),
    compile: (plan) => (compiled++, backend.compile(plan)), record: (body) => backend.record(body), close: () => backend.close(),
  };
  const cache = await poisoned(counting, 16, 12, 3, "bf16");
  const keys = random(1, 1, G, 60, D), values = random(2, 1, G, 60, Dv), query = random(3, 1, H, 60, D), table = Int32Array.of(5, 0, 0, 0, 0, 0);
  const recent = and(causal, maskMod(({ table }) => (b, _h, q, kv) => q - kv < table[b]!, { table }));
  const pending: Promise<Tensor>[] = [];
  for (let n = 1; n <= 20; n++) {
    void cache.assign(0, n - 1, cut(keys, n - 1, n), cut(values, n - 1, n));
    pending.push(cache.attention(cut(query, n - 1, n), [{ sequence: 0, rows: 1 }], { maskMod: recent }));
  }
  const all = await Promise.all(pending);
  all.forEach((out, i) => close(out.data, formula(0, i, cut(query, i, i + 1), cut(keys, 0, i + 1), cut(values, 0, i + 1), { maskMod: recent }), 0.02, `token ${i}, in bf16`));
  table[0] = 3;
  close((await cache.attention(cut(query, 19, 20), [{ sequence: 0, rows: 1 }], { maskMod: recent })).data, formula(0, 19, cut(query, 19, 20), cut(keys, 0, 20), cut(values, 0, 20), { maskMod: recent }), 0.02, "another table");
  // A call stands on the pages of its moment, though they are given to another sequence before it is waited for.
  const one = (): Promise<Tensor> => cache.attention(cut(query, 19, 20), [{ sequence: 0, rows: 1 }], { maskMod: recent });
  const before = await one(), started = one();
  cache.erase(0);
  const other = cache.assign(1, 0, cut(keys, 30, 60), cut(values, 30, 60));
  assert.deepEqual((await started).data, before.data);
  await other;
  assert.equal(compiled, 1);
  cache.close();
});

test("what does not fit the cache is refused by name, and takes no page", async () => {
  const cache = await openPagedKvCache({ numPages: 3, pageSize: 4, numKvHeads: G, headDim: D, headDimV: Dv, maxSequences: 2, maxLength: 40, backend: backends.reference });
  const kv = (n: number): readonly [Tensor, Tensor] => [random(1, 1, G, n, D), random(2, 1, G, n, Dv)];
  assert.throws(() => cache.reserve(0, 13), /needs 4 more pages for 13 tokens, and 3 are free/);
  assert.throws(() => cache.reserve(2, 1), /sequence 2 is none of 0 to 1/);
  assert.throws(() => cache.reserve(0, 41), /maxLength 40/);
  await assert.rejects(cache.assign(0, 1, ...kv(2)), /position is 1; sequence 0 has 0 tokens/);
  await assert.rejects(cache.assign(0, 0, kv(2)[1], kv(2)[0]), /key has shape \[1, 2, 2, 8\]; it must be \[1, 2, tokens, 12\]/);
  assert.equal(cache.numFreePages, 3);
  await cache.assign(0, 0, ...kv(6));
  assert.throws(() => cache.share(0, 1, 6), /a multiple of the page size 4/);
  assert.throws(() => cache.share(0, 0, 4), /has tokens; erase it/);
  assert.throws(() => cache.erase(0, 7), /has 6 tokens, not 7/);
  const query = random(3, 1, H, 2, D);
  await assert.rejects(cache.attention(query, [{ sequence: 0, rows: 3 }]), /must be \[1, heads, 3, 12\]/);
  await assert.rejects(cache.attention(query, [{ sequence: 0, rows: 1 }, { sequence: 0, rows: 1 }]), /stands twice/);
  const blockMask = createBlockMask(causal, { batch: 1, heads: 1, queryLength: 5, kvLength: 9, blockSize: 4 });
  await assert.rejects(cache.attention(query, [{ sequence: 0, rows: 2 }], { blockMask }), /queries to position 5 and 6 keys, the block mask 5 queries and 9 keys/);
  await assert.rejects(openPagedKvCache({ ...cache.options, pageSize: 0 }), /pageSize is 0/);
  cache.close();
});
