import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { stream } from "../core/random.ts";
import { evaluator } from "../ir/interpret.ts";
import { randomCaptures, randomExpr } from "../ir/generate.ts";
import { analyse, indicesOf, verdict } from "../ir/range.ts";
import { simplify } from "../ir/simplify.ts";
import { type BlockMask, type BlockMaskOptions, blockState, createBlockMask } from "./block-mask.ts";
import { blockMaskOf } from "./block-lists.ts";
import { clamp, floorDiv } from "./language.ts";
import { and, type MaskMod, maskMod, not, offset, or } from "./mod.ts";
import { causal } from "./mods/causal.ts";
import { document } from "./mods/document.ts";
import { prefixLm } from "./mods/prefix-lm.ts";
import { slidingWindow, windowLeft } from "./mods/sliding-window.ts";
import { tensor } from "./tensor.ts";

const length = 300;
const documents = Int32Array.from({ length }, (_, i) => [0, 1, 1, 2, 5, 5, 3][Math.floor(i / 43)]!);
const sorted = documents.toSorted();
const starts = Int32Array.from({ length }, (_, i) => documents.indexOf(documents[i]!));

/** Masks, and whether range analysis should leave no block open that it could decide (a standard mask), or may. */
const masks: Readonly<Record<string, readonly [MaskMod, "tight" | "loose"]>> = {
  "causal": [causal, "tight"],
  "anti-causal": [maskMod((_b, _h, q, kv) => q <= kv), "tight"],
  "sliding window": [slidingWindow(50), "tight"],
  "window as FlashAttention counts": [windowLeft(50), "tight"],
  "window on both sides": [maskMod(({ w }) => (_b, _h, q, kv) => Math.abs(q - kv) <= w, { w: 40 }), "tight"],
  "prefix-LM": [prefixLm(Int32Array.of(77, 130)), "tight"],
  "documents": [document(sorted), "tight"],
  "documents in any order": [document(documents), "loose"],
  "documents and causal": [and(causal, document(sorted)), "tight"],
  "documents by their starts": [maskMod(({ starts }) => (_b, _h, q, kv) => kv >= starts[q]! && q >= kv, { starts }), "tight"],
  "attention sink and window": [maskMod(({ k0, w }) => (_b, _h, q, kv) => q >= kv && (kv < k0 || q - kv < w), { k0: 20, w: 60 }), "tight"],
  "chunks": [maskMod(({ c }) => (_b, _h, q, kv) => floorDiv(q, c) === floorDiv(kv, c) && q >= kv, { c: 64 }), "tight"],
  "chunks that blocks do not meet": [maskMod(({ c }) => (_b, _h, q, kv) => floorDiv(q, c) === floorDiv(kv, c), { c: 48 }), "tight"],
  "block-causal": [maskMod((_b, _h, q, kv) => floorDiv(q, 32) >= floorDiv(kv, 32)), "tight"],
  "mini-causal": [maskMod((_b, _h, q, kv) => q % 64 >= kv % 64), "tight"],
  "block diffusion": [maskMod(({ n, c }) => (_b, _h, q, kv) => {
    const qn = q < n, kn = kv < n, qb = floorDiv(q % n, c), kb = floorDiv(kv % n, c);
    return (qb === kb && qn === kn) || (qb > kb && qn && !kn) || (qb >= kb && !qn && !kn);
  }, { n: 128, c: 32 }), "tight"],
  "window of each head": [maskMod(({ w }) => (_b, h, q, kv) => q >= kv && q - kv < w[h]!, { w: Int32Array.of(10, 200, 64) }), "tight"],
  "padding": [maskMod(({ lengths }) => (b, _h, q, kv) => kv < lengths[b]! && q >= kv, { lengths: Int32Array.of(100, 290) }), "tight"],
  "shifted causal": [offset(causal, { query: 60 }), "tight"],
  "not causal": [not(causal), "tight"],
  "slope": [maskMod(({ a }) => (_b, _h, q, kv) => q * a >= kv, { a: 0.5 }), "tight"],
  "neighbourhood on a plane": [maskMod(({ w }) => (_b, _h, q, kv) => {
    const x = q % w, y = floorDiv(q, w), cx = clamp(x, 3, w - 4), cy = clamp(y, 3, 15);
    return Math.abs(cx - (kv % w)) <= 3 && Math.abs(cy - floorDiv(kv, w)) <= 3;
  }, { w: 16 }), "loose"],
  "dilated window": [maskMod((_b, _h, q, kv) => q >= kv && q - kv < 60 && (q - kv) % 4 === 0), "loose"],
  "checker": [maskMod((_b, _h, q, kv) => (q + kv) % 2 === 0), "loose"],
  "Morton order": [maskMod((_b, _h, q, kv) => (q & 0x5555) >= (kv & 0x5555) && ((q >> 1) & 0x5555) >= ((kv >> 1) & 0x5555)), "loose"],
  "a table of all pairs": [maskMod(({ t }) => (_b, _h, q, kv) => t[q]![kv]! !== 0, { t: tensor(Uint8Array.from({ length: length * length }, (_, i) => Number((i % length) % 90 < 40)), [length, length]) }), "tight"],
  "causal and anti-causal, strictly": [and(maskMod((_b, _h, q, kv) => q > kv), maskMod((_b, _h, q, kv) => q < kv)), "loose"],
  "everything": [maskMod(() => true), "tight"],
  "nothing": [maskMod(() => false), "tight"],
  "local or global": [or(slidingWindow(30), maskMod(({ g }) => (_b, _h, q, kv) => Boolean(g[q]! | g[kv]!), { g: Uint8Array.from({ length }, (_, i) => Number(i < 16 || i === 200)) })), "loose"],
};

/** The states of all blocks by evaluating the plain function at every point: the slow definition. */
function bruteForce(mask: MaskMod, { batch, heads, queryLength, kvLength }: BlockMaskOptions, [queries, keys]: readonly [number, number]): Uint8Array {
  const evaluate = evaluator(mask.expr()), captures = mask.values();
  const rows = Math.ceil(queryLength / queries), columns = Math.ceil(kvLength / keys);
  const out = new Uint8Array(batch * heads * rows * columns);
  for (let b = 0, at = 0; b < batch; b++) for (let h = 0; h < heads; h++) for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++, at++) {
    let yes = 0, total = 0;
    for (let q = r * queries; q < Math.min((r + 1) * queries, queryLength); q++) for (let kv = c * keys; kv < Math.min((c + 1) * keys, kvLength); kv++) {
      yes += evaluate({ b, h, q, kv, score: 0, ...captures });
      total++;
    }
    out[at] = yes === total ? blockState.full : yes === 0 ? blockState.empty : blockState.partial;
  }
  return out;
}

/** What is proved must be so; returns how many blocks were left open though they are not mixed. */
function compare(blocks: BlockMask): number {
  const found = blocks.toDense().data, truth = bruteForce(blocks.mask, blocks.options, blocks.blockSize);
  let avoidable = 0;
  found.forEach((state, i) => {
    if (state === blockState.partial) avoidable += Number(truth[i] !== blockState.partial);
    else assert.equal(state, truth[i], `block ${i} is called ${state} and is ${truth[i]}`);
  });
  return avoidable;
}

for (const [name, [mask, expected]] of Object.entries(masks)) {
  test(`${name}: full blocks are full and empty ones empty${expected === "tight" ? ", and none is left open without need" : ""}`, () => {
    const reads = indicesOf(mask.expr());
    const sizes = { batch: reads.has("b") ? 2 : 1, heads: reads.has("h") ? 3 : 1, queryLength: length - 60, kvLength: length };
    const avoidable = compare(createBlockMask(mask, { ...sizes, blockSize: 32 }));
    if (expected === "tight") assert.equal(avoidable, 0);
    compare(createBlockMask(mask, { ...sizes, batch: 1, heads: 1, blockSize: [20, 50] }));
  });
}

test("with exact, every block left open is mixed", () => {
  for (const name of ["neighbourhood on a plane", "dilated window", "checker", "causal and anti-causal, strictly", "local or global"]) {
    assert.equal(compare(createBlockMask(masks[name]![0], { batch: 1, heads: 1, queryLength: 240, kvLength: length, blockSize: 32, exact: true })), 0, name);
  }
});

test("random masks are classified soundly over random boxes", () => {
  fc.assert(fc.property(fc.integer(), fc.integer({ min: 1, max: 5 }), (seed, depth) => {
    const random = stream(seed);
    const mask = simplify(randomExpr(random, "bool", depth, { score: false }));
    const captures = randomCaptures(random);
    const analysis = analyse(mask).bind(captures), evaluate = evaluator(mask);
    for (let r = 0; r < 4; r++) for (let c = 0; c < 4; c++) {
      const is = analysis.classify(0, 0, 1, 1, r * 8, r * 8 + 7, c * 8, c * 8 + 7);
      if (is === verdict.sometimes) continue;
      for (let q = r * 8; q < r * 8 + 8; q++) for (let kv = c * 8; kv < c * 8 + 8; kv++) {
        assert.equal(evaluate({ b: 0, h: 1, q, kv, score: 0, ...captures }), is === verdict.always ? 1 : 0);
      }
    }
  }), { numRuns: 400 });
});

test("rows keep runs: a window is three of them, and a million tokens are a few megabytes", () => {
  const blocks = createBlockMask(slidingWindow(1000), { batch: 4, heads: 8, queryLength: 2 ** 20, kvLength: 2 ** 20 });
  assert.deepEqual([...blocks.row(3, 7, 5000)], [4992, (2 << 1) | 1, 4994, 6 << 1, 5000, (1 << 1) | 1]);
  assert.equal(blocks.counts().partial, 32 * (3 * 8192 - 7 - 8));
});

test("a changed table or number makes a block mask stale, and current() brings it up to date", () => {
  const ids = new Int32Array(256), captures = { size: 40, ids };
  const mask = maskMod(({ size, ids }) => (_b, _h, q, kv) => q - kv < size && ids[q] === ids[kv], captures);
  const blocks = createBlockMask(mask, { batch: 1, heads: 1, queryLength: 256, kvLength: 256, blockSize: 32 });
  assert.equal(blocks.current(), blocks);
  captures.size = 300;
  assert.ok(blocks.isStale());
  assert.equal(blocks.current().counts().full, 64);
  captures.size = 40;
  assert.ok(blocks.isStale());
  assert.ok(!blocks.current().isStale());
  ids.fill(1, 128);
  assert.ok(blocks.isStale());
  assert.equal(compare(blocks.current()), 0);
});

test("a block mask made of given states keeps them, head by head, and sees them change", () => {
  const states = tensor(Uint8Array.from({ length: 2 * 3 * 4 }, (_, i) => (i * 5) % 3), [1, 2, 3, 4]);
  const options = { batch: 2, heads: 2, queryLength: 90, kvLength: 120, blockSize: [32, 30] } as const;
  const blocks = blockMaskOf(states, { ...options, mask: causal });
  for (let h = 0; h < 2; h++) for (let q = 0; q < 90; q += 7) for (let kv = 0; kv < 120; kv += 7) {
    const state = states.data[(h * 3 + Math.floor(q / 32)) * 4 + Math.floor(kv / 30)];
    assert.equal(blocks.mask(1, h, q, kv), state === 2 || (state === 1 && q >= kv));
  }
  assert.equal(compare(blocks), 0);
  states.data.fill(blockState.full);
  assert.deepEqual(blocks.current().counts(), { empty: 0, partial: 0, full: 48 });
  assert.throws(() => blockMaskOf(states, { ...options, heads: 4 }), /shape \[1, 2, 3, 4\]; they must be \[2 or 1, 4 or 1, 3, 4\]/);
});

test("slice(from, to) is the same mask from its row `from` on", () => {
  const blocks = createBlockMask(causal, { batch: 1, heads: 1, queryLength: 256, kvLength: 256, blockSize: 32 });
  const part = blocks.slice(96, 160);
  assert.equal(part.numRows, 2);
  for (const row of [0, 1]) assert.deepEqual([...part.row(0, 0, row)], [...blocks.row(0, 0, row + 3)]);
  assert.throws(() => blocks.slice(100, 300), /not within the 256 queries/);
});

test("the drawings show full, partial and empty blocks", () => {
  const blocks = createBlockMask(and(causal, slidingWindow(64)), { batch: 1, heads: 1, queryLength: 128, kvLength: 128, blockSize: 32 });
  assert.equal(String(blocks), "BlockMask [1, 1, 128, 128], blocks of 32 x 32: 3 full, 6 partial, 7 empty (43.8% skipped)\n░···\n█░··\n░█░·\n·░█░");
  assert.equal(blocks.sparsity(), 7 / 16);
});

test("sizes that are none are refused by name", () => {
  const options = { batch: 1, heads: 1, queryLength: 8, kvLength: 8 };
  assert.throws(() => createBlockMask(causal, { ...options, batch: 0 }), /batch is 0/);
  assert.throws(() => createBlockMask(causal, { ...options, blockSize: 0 }), /blockSize is 0/);
  assert.throws(() => createBlockMask(causal, { ...options, kvLength: 1.5 }), /kvLength is 1.5/);
  assert.throws(() => createBlockMask((() => true) as never, options), /made with maskMod/);
});
