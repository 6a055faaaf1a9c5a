import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { stream } from "../core/random.ts";
import { randomCaptures, randomExpr } from "../ir/generate.ts";
import { evaluator } from "../ir/interpret.ts";
import { runWords, workHeaderWords, workItem } from "../ir/plan.ts";
import { analyse, type RangeAnalysis, verdict } from "../ir/range.ts";
import { simplify } from "../ir/simplify.ts";
import { createBlockMask } from "./block-mask.ts";
import { and, type MaskMod, maskMod } from "./mod.ts";
import { causal } from "./mods/causal.ts";
import { slidingWindow } from "./mods/sliding-window.ts";
import { maxWorkWords, planWork, type WorkBatch } from "./work-list.ts";

const shape = { queryTile: 16, kvTile: 32, numQueryHeads: 4 };

interface Rows { readonly rows: number; readonly position: number; readonly keys: number }

function batchOf(sequences: readonly Rows[]): WorkBatch {
  let row = 0;
  return {
    numSequences: sequences.length,
    firstRow: Int32Array.from(sequences, (s) => (row += s.rows) - s.rows), numRows: Int32Array.from(sequences, (s) => s.rows),
    firstPosition: Int32Array.from(sequences, (s) => s.position), kvLength: Int32Array.from(sequences, (s) => s.keys),
  };
}

interface Item { readonly sequence: number; readonly firstRow: number; readonly numRows: number; readonly firstPosition: number; readonly kvLength: number; readonly firstPartial: number; readonly runs: readonly (readonly [first: number, count: number, partial: number])[] }

function read(list: Int32Array): Item[] {
  return Array.from({ length: list[0]! }, (_, i) => {
    const at = workHeaderWords + i * workItem.words;
    const word = (field: Exclude<keyof typeof workItem, "words">): number => list[at + workItem[field]]!;
    const runs = Array.from({ length: word("numRuns") }, (_, r) => {
      const run = list[1]! + (word("firstRun") + r) * runWords;
      return [list[run]!, list[run + 1]! >> 1, list[run + 1]! & 1] as const;
    });
    return { sequence: word("sequence"), firstRow: word("firstRow"), numRows: word("numRows"), firstPosition: word("firstPosition"), kvLength: word("kvLength"), firstPartial: word("firstPartial"), runs };
  });
}

const bound = (mask: MaskMod): RangeAnalysis => analyse(mask.expr()).bind(mask.values());
const decode = (keys: number): Rows => ({ rows: 1, position: keys - 1, keys });

test("one token under causal attention is one full run, whatever the length", () => {
  for (const keys of [1, 31, 32, 33, 100_000]) {
    const [item] = read(planWork(bound(causal), batchOf([decode(keys)]), shape));
    assert.deepEqual(item!.runs, [[0, Math.ceil(keys / 32), 0]]);
  }
});

test("one token costs a logarithmic number of questions under a window", () => {
  const analysis = bound(slidingWindow(1000));
  let questions = 0;
  const counted = { classify: (...box: Parameters<RangeAnalysis["classify"]>) => (questions++, analysis.classify(...box)) };
  const [item] = read(planWork(counted, batchOf([decode(2 ** 20)]), shape));
  assert.deepEqual(item!.runs, [[(2 ** 20 - 1024) / 32, 1, 1], [(2 ** 20 - 1024) / 32 + 1, 31, 0]]);
  assert.ok(questions <= 4 * Math.log2(2 ** 15), `${questions} questions`);
});

test("every key that the mask allows is in a run, and every key of a full run is allowed, on random masks and batches", () => {
  fc.assert(fc.property(fc.integer(), fc.integer({ min: 1, max: 4 }), fc.constantFrom(undefined, 1, 2), (seed, depth, maxRuns) => {
    const random = stream(seed);
    const below = (n: number): number => Math.floor(random() * n);
    const mask = simplify(randomExpr(random, "bool", depth, { score: false }));
    const captures = randomCaptures(random), evaluate = evaluator(mask);
    const sequences = Array.from({ length: 1 + below(4) }, (): Rows => ({ rows: below(12), position: below(60), keys: below(70) }));
    const batch = batchOf(sequences), small = { queryTile: 1 + below(5), kvTile: 1 + below(9), numQueryHeads: 2, ...(maxRuns && { maxRuns }) };
    const items = read(planWork(analyse(mask).bind(captures), batch, small));
    const rows = new Set<number>();
    for (const item of items) {
      assert.ok(!maxRuns || item.runs.length <= maxRuns);
      for (let r = 0; r < item.numRows; r++) {
        assert.ok(!rows.has(item.firstRow + r));
        rows.add(item.firstRow + r);
        assert.equal(item.firstPosition + r, batch.firstPosition[item.sequence]! + item.firstRow + r - batch.firstRow[item.sequence]!);
        for (let kv = 0; kv < item.kvLength; kv++) {
          const block = Math.floor(kv / small.kvTile), run = item.runs.find(([first, count]) => block >= first && block < first + count);
          for (let h = 0; h < 2; h++) {
            const allowed = evaluate({ b: item.sequence, h, q: item.firstPosition + r, kv, score: 0, ...captures });
            if (!run) assert.equal(allowed, 0, `key ${kv} is in no run`);
            else if (!run[2]) assert.equal(allowed, 1, `key ${kv} is in a full run`);
          }
        }
      }
      item.runs.forEach(([first], i) => assert.ok(i === 0 || first >= item.runs[i - 1]![0] + item.runs[i - 1]![1], "runs ascend"));
    }
    assert.equal(rows.size, sequences.reduce((n, s) => n + s.rows, 0));
  }), { numRuns: 300 });
});

/** As the list's order counts it: a partial block is two. */
const cost = ({ numRows, runs }: Item): number => numRows * runs.reduce((sum, [, count, partial]) => sum + count * (1 + partial), 0);
const numPartial = ({ runs }: Item): number => runs.reduce((sum, [, count, partial]) => sum + count * partial, 0);

test("positions that f32 does not hold exactly are refused", () => {
  const most = 2 ** 24;
  assert.equal(read(planWork(bound(causal), batchOf([decode(most)]), shape))[0]!.kvLength, most);
  assert.throws(() => planWork(bound(causal), batchOf([decode(7), decode(most + 1)]), shape), (e: Error) => e.name === "UsageError" && /sequence 1 has 16777217 positions; attention is for 16777216 at most/.test(e.message));
  assert.throws(() => planWork(undefined, batchOf([{ rows: 2, position: most - 1, keys: 5 }]), shape), /sequence 0 has 16777217 positions/);
});

test("blocks of partial runs are numbered item by item, in the list's order", () => {
  const list = planWork(bound(and(causal, slidingWindow(40))), batchOf([decode(50), { rows: 40, position: 0, keys: 40 }, decode(3000), { rows: 16, position: 100, keys: 116 }]), shape), items = read(list);
  assert.ok(items.some((item) => numPartial(item) > 1));
  assert.equal(items.reduce((before, item) => (assert.equal(item.firstPartial, before), before + numPartial(item)), 0), list[2]);
});

test("items come longest first, and the order does not depend on anything else", () => {
  const batch = batchOf([decode(50), { rows: 40, position: 0, keys: 40 }, decode(3000), decode(50), { rows: 16, position: 100, keys: 116 }]);
  const list = planWork(bound(causal), batch, shape), items = read(list);
  for (let i = 1; i < items.length; i++) {
    const a = items[i - 1]!, b = items[i]!;
    assert.ok(cost(a) > cost(b) || (cost(a) === cost(b) && (a.sequence < b.sequence || (a.sequence === b.sequence && a.firstRow < b.firstRow))));
  }
  assert.deepEqual([...planWork(bound(causal), batch, shape)], [...list]);
});

test("without a mask all blocks are one full run; without keys there is none, but the rows are there", () => {
  const items = read(planWork(undefined, batchOf([{ rows: 3, position: 0, keys: 70 }, { rows: 2, position: 0, keys: 0 }]), shape));
  assert.deepEqual(items.map((i) => [i.numRows, i.runs]), [[3, [[0, 3, 0]]], [2, []]]);
});

test("a block is full or empty only if it is for every head", () => {
  const mask = maskMod(({ w }) => (_b, h, q, kv) => q - kv < w[h]!, { w: Int32Array.of(64, 64, 64, 1000) });
  const [item] = read(planWork(bound(mask), batchOf([decode(320)]), shape));
  assert.deepEqual(item!.runs, [[0, 8, 1], [8, 2, 0]]);
});

test("a list fits the bound, and is written where it is told to be", () => {
  const limits = { maxRows: 64, maxSequences: 8, maxKvLength: 512 };
  const striped = maskMod((_b, _h, _q, kv) => kv % 64 < 32);
  for (const rows of [[8, 8, 8, 8, 8, 8, 8, 8], [57, 1, 1, 1, 1, 1, 1, 1], [64], [17, 17, 17, 13]]) {
    const out = new Int32Array(maxWorkWords(limits, shape));
    const list = planWork(bound(striped), batchOf(rows.map((n) => ({ rows: n, position: 512 - n, keys: 512 }))), shape, out);
    assert.equal(list.buffer, out.buffer);
    assert.ok(read(list).every((item) => item.runs.length === 8));
  }
  assert.throws(() => planWork(bound(striped), batchOf([decode(512)]), shape, new Int32Array(20)), /maxWorkWords/);
});

test("a block mask of other block sizes plans the same keys as the mask", () => {
  const mask = and(causal, slidingWindow(100));
  const blocks = createBlockMask(mask, { batch: 1, heads: 1, queryLength: 200, kvLength: 200, blockSize: [24, 40] });
  const batch = batchOf([{ rows: 200, position: 0, keys: 200 }]);
  const keys = (list: Int32Array): boolean[][] => read(list).sort((a, b) => a.firstRow - b.firstRow).map((item) => Array.from({ length: 7 }, (_, c) => item.runs.some(([f, n]) => c >= f && c < f + n)));
  const fine = keys(planWork(bound(mask), batch, shape)), coarse = keys(planWork(blocks, batch, shape));
  fine.forEach((row, i) => row.forEach((has, c) => assert.ok(!has || coarse[i]![c], `block ${c} of tile ${i} is missing`)));
  assert.equal(blocks.classify(0, 0, 0, 0, 190, 199, 120, 159), verdict.always);
  assert.equal(blocks.classify(0, 0, 0, 0, 0, 23, 40, 199), verdict.never);
});
