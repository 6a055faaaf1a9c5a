import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { stream } from "../core/random.ts";
import { randomCaptures, randomExpr } from "../ir/generate.ts";
import { evaluator } from "../ir/interpret.ts";
import { analyse, type RangeAnalysis, verdict } from "../ir/range.ts";
import { blockMaskFromDense, blockMaskFromLists, blockMaskOf, toLists } from "./block-lists.ts";
import { BlockMask, type BlockMaskOptions, type BlockState, blockState, createBlockMask, sizesOf } from "./block-mask.ts";
import { DerivedBlocks } from "./block-source.ts";
import { flexAttention } from "./attention.ts";
import { and, type MaskMod, maskMod, not, or, xor } from "./mod.ts";
import { causal } from "./mods/causal.ts";
import { document } from "./mods/document.ts";
import { prefixLm } from "./mods/prefix-lm.ts";
import { slidingWindow } from "./mods/sliding-window.ts";
import { type Tensor, tensor } from "./tensor.ts";

type Allows = (b: number, h: number, q: number, kv: number) => boolean;

/** Every element by `allows`, and every block by its elements: what is called full or empty must be. Returns how many blocks are partial without need. */
function check(blocks: BlockMask, allows: Allows, what = ""): number {
  const { batch, heads, queryLength, kvLength } = blocks.options, [queries, keys] = blocks.blockSize;
  const elements = blocks.toElements().data, states = blocks.toDense().data, evaluate = evaluator(blocks.mask.expr()), values = blocks.mask.values();
  let at = 0, avoidable = 0;
  const yes = new Int32Array(states.length), all = new Int32Array(states.length);
  for (let b = 0; b < batch; b++) for (let h = 0; h < heads; h++) for (let q = 0; q < queryLength; q++) for (let kv = 0; kv < kvLength; kv++, at++) {
    const want = allows(b, h, q, kv), block = ((b * heads + h) * blocks.numRows + Math.floor(q / queries)) * blocks.numColumns + Math.floor(kv / keys);
    assert.equal(elements[at], Number(want), `${what} element [${b}, ${h}, ${q}, ${kv}] in a block of state ${states[block]}`);
    assert.equal(evaluate({ b, h, q, kv, score: 0, ...values }), Number(want), `${what} the mask itself at [${b}, ${h}, ${q}, ${kv}]`);
    yes[block]! += Number(want);
    all[block]!++;
  }
  states.forEach((state, i) => {
    const truth = yes[i] === 0 ? blockState.empty : yes[i] === all[i] ? blockState.full : blockState.partial;
    if (state === blockState.partial) avoidable += Number(truth !== state);
    else assert.equal(state, truth, `${what} block ${i}`);
  });
  return avoidable;
}

const options = { batch: 1, heads: 1, queryLength: 60, kvLength: 70, blockSize: [7, 9] } as const;
const ids = Int32Array.from({ length: 80 }, (_, i) => Math.floor(i / 23));

test("and, or, xor and not of block masks are those of the masks, block by block", () => {
  const pairs: readonly (readonly [MaskMod, MaskMod])[] = [[causal, slidingWindow(20)], [slidingWindow(5), document(ids)], [prefixLm(Int32Array.of(30, 11)), causal]];
  for (const [one, two] of pairs) {
    const sizes = { ...options, batch: 2, heads: 1 };
    const a = createBlockMask(one, sizes), b = createBlockMask(two, sizes);
    check(a.and(b), (...at) => Boolean(one(...at)) && Boolean(two(...at)), "and");
    check(a.or(b), (...at) => Boolean(one(...at)) || Boolean(two(...at)), "or");
    check(a.xor(b), (...at) => Boolean(one(...at)) !== Boolean(two(...at)), "xor");
    assert.equal(check(a.not(), (...at) => !one(...at), "not"), 0);
    check(a.and(b.not()).or(b.and(a.not())), (...at) => Boolean(one(...at)) !== Boolean(two(...at)), "xor by the others");
    assert.deepEqual(a.and(b).toDense(), createBlockMask(and(one, two), sizes).toDense(), "a conjunction of these loses nothing by blocks");
  }
});

test("mods have xor too", () => {
  const mask = xor(causal, slidingWindow(4), not(document(ids)));
  check(createBlockMask(mask, options), (_b, _h, q, kv) => (Number(q >= kv) + Number(q >= kv && q - kv < 4) + Number(ids[q] !== ids[kv])) % 2 === 1);
  assert.equal(mask(0, 0, 10, 3), true);
  assert.throws(() => xor(), /needs at least one mask/);
});

test("causal and anti-causal leave no block at all, whole against its inverse neither", () => {
  const a = createBlockMask(maskMod((_b, _h, q, kv) => q > kv), options);
  assert.equal(a.and(a.not()).counts().full, 0);
  assert.deepEqual(createBlockMask(document(ids), { ...options, blockSize: 23 }).xor(createBlockMask(document(ids), { ...options, blockSize: 23 })).counts().full, 0);
  assert.throws(() => a.and(createBlockMask(causal, { ...options, blockSize: 8 })), /queries is 7 and 8/);
  assert.throws(() => createBlockMask(prefixLm(Int32Array.of(3)), options).or(createBlockMask(causal, { ...options, batch: 2 })), /batch is 1 and 2, and the mask of fewer reads b/);
});

test("lists there and back are the same blocks, and FlexAttention's names hold", () => {
  const mask = and(slidingWindow(20), document(ids)), blocks = createBlockMask(mask, options), lists = toLists(blocks);
  assert.deepEqual(lists.kvNumBlocks.shape, [1, 1, 9]);
  const row = (t: Tensor, n: Tensor, r: number): number[] => [...t.data.subarray(r * t.shape[3]!, r * t.shape[3]! + n.data[r]!)];
  const states = blocks.toDense().data;
  for (let r = 0; r < 9; r++) {
    for (const [state, indices, count] of [[1, lists.kvIndices, lists.kvNumBlocks], [2, lists.fullKvIndices, lists.fullKvNumBlocks]] as const) {
      assert.deepEqual(row(indices, count, r), [...states.subarray(r * 8, r * 8 + 8).keys()].filter((c) => states[r * 8 + c] === state));
    }
  }
  const again = blockMaskFromLists(lists, { ...options, mask });
  assert.deepEqual(again.toDense(), blocks.toDense());
  check(again, mask as Allows);
});

test("lists decide, whatever the mask says of blocks that are not in them", () => {
  const lists = { kvNumBlocks: tensor(Int32Array.of(2, 1, 0), [1, 1, 3]), kvIndices: tensor(Int32Array.of(2, 0, 1, 99, -1, -1), [1, 1, 3, 2]), fullKvNumBlocks: tensor(Int32Array.of(1, 0, 1), [1, 1, 3]), fullKvIndices: tensor(Int32Array.of(3, 0, 2), [1, 1, 3, 1]) };
  const sizes = { batch: 2, heads: 3, queryLength: 30, kvLength: 40, blockSize: 10 };
  const partial = [[0, 0], [0, 2], [1, 1]], full = [[0, 3], [2, 2]];
  const has = (list: readonly (readonly number[])[], q: number, kv: number): boolean => list.some(([r, c]) => r === Math.floor(q / 10) && c === Math.floor(kv / 10));
  const blocks = blockMaskFromLists(lists, { ...sizes, mask: causal });
  assert.equal(check(blocks, (_b, _h, q, kv) => has(full, q, kv) || (has(partial, q, kv) && q >= kv)), 0);
  check(blockMaskFromLists(lists, sizes), (_b, _h, q, kv) => has(full, q, kv) || has(partial, q, kv));
  lists.kvIndices.data[0] = 1;
  assert.ok(blocks.isStale());
  assert.equal(blocks.current().get(0, 0, 0, 2), blockState.empty);
  lists.kvIndices.data[0] = 4;
  for (let i = 0; i < 2; i++) assert.throws(() => blocks.current(), /kvIndices\[0\]\[0\]\[0\]\[0\] is 4; there are 4 blocks/);
  lists.kvIndices.data[0] = 3;
  assert.throws(() => blocks.current(), /block 3 of that row is listed already/);
  assert.throws(() => blockMaskFromLists(lists, { ...sizes, queryLength: 31 }), /kvNumBlocks has shape \[1, 1, 3\]/);
});

test("a dense mask is kept element by element, exact in every block, and seen when it changes", () => {
  for (const [batch, heads] of [[1, 1], [2, 1], [1, 3], [2, 2]] as const) {
    const random = stream(batch * 10 + heads), dense = tensor(Uint8Array.from({ length: batch * heads * 40 * 45 }, (_, i) => (i % 45 < 9 ? 1 : i % 45 > 30 ? 0 : Number(random() < 0.5))), [batch, heads, 40, 45]);
    const allows: Allows = (b, h, q, kv) => dense.data[((b * heads + h) * 40 + q) * 45 + kv]! !== 0;
    for (const blockSize of [1, 9, [13, 4], 127] as const) {
      const blocks = blockMaskFromDense(dense, { blockSize });
      assert.equal(check(blocks, allows, `blocks of ${blockSize}`), 0);
    }
    const blocks = blockMaskFromDense(dense, { blockSize: 9 });
    dense.data.fill(0, 0, 45 * 9);
    assert.equal(check(blocks.current(), allows), 0);
    assert.throws(() => blocks.append({ keys: 1 }), /has its 40 queries and 45 keys/);
  }
});

test("random masks: growing, changed tables, states set by hand and slices are what building anew gives", () => {
  fc.assert(fc.property(fc.integer(), fc.integer({ min: 1, max: 4 }), (seed, depth) => {
    const random = stream(seed), below = (n: number): number => Math.floor(random() * n);
    const table = Int32Array.from({ length: 600 }, () => below(3)), plain = randomExpr(random, "bool", depth, { score: false });
    const inner = evaluator(plain), env = randomCaptures(random);
    // What a random expression over 600 positions is, as a mask: a table of its bits, beside a table that changes.
    const bits = tensor(Uint8Array.from({ length: 50 * 50 }, (_, i) => inner({ b: 0, h: 1, q: Math.floor(i / 50), kv: i % 50, score: 0, ...env })), [50, 50]);
    const captures = { table, bits, size: 5 + below(40) };
    const mask = maskMod(({ table, bits, size }) => (_b, _h, q, kv) => (q >= kv && q - kv < size && table[q + 500] === table[kv + 500]) || (bits[q % 50]![kv % 50] === 1 && table[kv] === 1), captures);
    const sizes = { batch: 1, heads: 1, blockSize: [1 + below(12), 1 + below(12)] as const, exact: below(2) === 1 };
    let [queryLength, kvLength] = [below(30), below(30)];
    const blocks = createBlockMask(mask, { ...sizes, queryLength, kvLength });
    const set = new Map<string, BlockState>();
    for (let step = 0; step < 6; step++) {
      const what = below(5);
      if (what === 0) {
        const queries = below(9), keys = below(9);
        if (below(2)) table.fill(below(3), 500 + kvLength, 500 + kvLength + keys);
        blocks.append({ queries, keys });
        queryLength += queries;
        kvLength += keys;
      } else if (what === 1) {
        const at = below(600);
        table.fill(below(3), at, at + below(20));
      } else if (what === 2 && blocks.numRows * blocks.numColumns > 0) {
        const r = below(blocks.numRows), c = below(blocks.numColumns), state = below(3) as BlockState;
        blocks.set(0, 0, r, c, state);
        set.set(`${r},${c}`, state);
      } else if (what === 3) captures.size = 5 + below(40);
      else if (what === 4) {
        const at = below(2500);
        bits.data.fill(below(2), at, at + below(60));
      }
      blocks.current();
      assert.ok(!blocks.isStale());
      const plainMask: Allows = (b, h, q, kv) => Boolean(mask(b, h, q, kv));
      const allows: Allows = (b, h, q, kv) => {
        const state = set.get(`${Math.floor(q / sizes.blockSize[0])},${Math.floor(kv / sizes.blockSize[1])}`) ?? blockState.partial;
        return state === blockState.partial ? plainMask(b, h, q, kv) : state === blockState.full;
      };
      check(blocks, allows, `seed ${seed}, step ${step}:`);
      if (set.size === 0) assert.deepEqual(blocks.toDense(), createBlockMask(mask, { ...sizes, queryLength, kvLength }).toDense(), `seed ${seed}, step ${step}`);
      const from = below(queryLength + 1), to = from + below(queryLength - from + 1);
      check(blocks.slice(from, to), (b, h, q, kv) => allows(b, h, q + from, kv), `slice(${from}, ${to}):`);
    }
  }), { numRuns: process.env["TESSERA_LONG"] ? 2000 : 60 });
});

test("what is made of a block mask follows it: grown, changed and set", () => {
  const captures = { size: 6 };
  const a = createBlockMask(maskMod(({ size }) => (_b, _h, q, kv) => q >= kv && q - kv < size, captures), { ...options, queryLength: 20, kvLength: 20 }), b = createBlockMask(document(ids), { ...options, queryLength: 20, kvLength: 20 });
  const both = a.and(b), tail = a.slice(8, 20);
  captures.size = 15;
  assert.ok(both.isStale() && tail.isStale());
  check(both.current(), (_b, _h, q, kv) => q >= kv && q - kv < 15 && ids[q] === ids[kv]);
  both.append({ queries: 13, keys: 11 });
  assert.deepEqual([a.options.queryLength, b.options.kvLength, both.options.queryLength], [33, 31, 33]);
  check(both, (_b, _h, q, kv) => q >= kv && q - kv < 15 && ids[q] === ids[kv]);
  a.set(0, 0, 1, 2, blockState.full);
  check(both.current(), (_b, _h, q, kv) => ((q >= kv && q - kv < 15) || (Math.floor(q / 7) === 1 && Math.floor(kv / 9) === 2)) && ids[q] === ids[kv]);
  check(tail.current(), (_b, _h, q, kv) => (q + 8 >= kv && q + 8 - kv < 15) || (Math.floor((q + 8) / 7) === 1 && Math.floor(kv / 9) === 2));
  assert.throws(() => tail.append({ queries: 1 }), /a slice keeps its queries/);
  assert.throws(() => a.set(0, 0, 5, 0, blockState.full), /row is 5; the block mask has 0 to 4/);
  assert.throws(() => a.append({ keys: -1 }), /keys is -1/);
});

/** A block mask that counts the boxes asked about, and how many `body` asks. */
function counted(mask: MaskMod, sizes: BlockMaskOptions): { readonly blocks: BlockMask; questions(body: () => void): number } {
  let count = 0;
  const source = new DerivedBlocks(mask, sizesOf(sizes), (e) => {
    const analysis = analyse(e);
    const counting: RangeAnalysis = {
      ...analysis, bind: (captures) => (analysis.bind(captures), counting),
      classify: (...box) => (count++, analysis.classify(...box)), ranges: (box) => (count++, analysis.ranges(box)),
    };
    return counting;
  });
  return {
    blocks: new BlockMask(source, sizesOf(sizes)),
    questions(body) {
      const before = count;
      body();
      return count - before;
    },
  };
}

test("appending a token costs a few questions, however long the cache; a changed document id asks only what may read it", () => {
  const length = 8192, documents = tensor(Int32Array.from({ length }, (_, i) => (i < 4096 ? Math.floor(i / 500) : -1)), [length]);
  const sizes = { batch: 1, heads: 1, queryLength: 4096, kvLength: 4096, blockSize: 64 }, longer = { ...sizes, queryLength: 4230, kvLength: 4230 };
  const packed = counted(maskMod(({ documents }) => (_b, _h, q, kv) => q >= kv && documents[q] === documents[kv], { documents }), sizes);
  const window = counted(slidingWindow(300), sizes);
  let [most, mostPacked] = [0, 0];
  for (let t = 4096; t < 4230; t++) {
    most = Math.max(most, window.questions(() => window.blocks.append({ queries: 1, keys: 1 })));
    documents.data[t] = 8;
    mostPacked = Math.max(mostPacked, packed.questions(() => packed.blocks.append({ queries: 1, keys: 1 })));
  }
  assert.ok(most < 100, `${most} questions for a token under a window`);
  assert.ok(mostPacked < 600, `${mostPacked} for a token of packed documents`);
  assert.deepEqual(packed.blocks.toDense(), createBlockMask(packed.blocks.mask, longer).toDense());
  assert.deepEqual(window.blocks.toDense(), createBlockMask(slidingWindow(300), longer).toDense());
  documents.data[2000] = 77;
  const changed = packed.questions(() => packed.blocks.current());
  assert.ok(changed > 0 && changed < 2000, `${changed} for one element changed`);
  assert.deepEqual(packed.blocks.toDense(), createBlockMask(packed.blocks.mask, packed.blocks.options).toDense());
});

test("a table replaced by one of another shape is read as it is then: longer, wider, or the same elements in other rows", () => {
  const sizes = { batch: 1, heads: 1, queryLength: 24, kvLength: 24, blockSize: 4 }, data = Int32Array.from({ length: 24 * 24 }, (_, i) => Number((i * 7) % 24 < 12));
  const captures: { line: Int32Array; plane: Tensor } = { line: new Int32Array(300).fill(1), plane: { ...tensor(data, [24, 24]), version: 3 } as Tensor };
  const mask = maskMod(({ line, plane }) => (_b, _h, q, kv) => (kv + line.length < 317 && line[kv] === 1) || plane[q % plane.length]![kv % 12] === 1, captures);
  const blocks = createBlockMask(mask, sizes);
  const steps: readonly (() => void)[] = [() => { captures.line = new Int32Array(311).fill(1); }, () => { captures.plane = { ...tensor(data, [48, 12]), version: 3 } as Tensor; }, () => { captures.line = new Int32Array(302); }];
  for (const change of steps) {
    check(blocks, mask as Allows);
    change();
    assert.ok(blocks.isStale());
    assert.deepEqual(blocks.current().toDense(), createBlockMask(mask, sizes).toDense());
  }
  check(blocks, mask as Allows);
});

test("a version bumped by the writer stands for the content of a table", () => {
  const documents = { ...tensor(new Int32Array(64), [64]), version: 1 };
  const blocks = createBlockMask(maskMod(({ documents }) => (_b, _h, q, kv) => documents[q] === documents[kv], { documents }), { batch: 1, heads: 1, queryLength: 64, kvLength: 64, blockSize: 16 });
  documents.data.fill(1, 32);
  assert.ok(!blocks.isStale(), "not looked at");
  documents.version++;
  assert.ok(blocks.isStale());
  assert.equal(blocks.current().counts().full, 8);
});

test("a table changed in place between two calls never meets a stale block mask, hidden in views as well", async () => {
  const table = new Int32Array(48), noise = (seed: number): Tensor => tensor(Float32Array.from({ length: 48 * 8 }, (_, i) => Math.sin(i * seed)), [1, 1, 48, 8]);
  const mask = maskMod(({ table }) => (_b, _h, q, kv) => table[q] === table[kv], { table });
  const blocks = createBlockMask(mask, { batch: 1, heads: 1, queryLength: 48, kvLength: 48, blockSize: 8 });
  const views = { blocks, inverted: blocks.not().not(), joined: blocks.and(createBlockMask(maskMod(() => true), blocks.options)), cut: blocks.slice(0, 48) };
  const [q, k, v] = [noise(1.1), noise(1.7), noise(2.3)];
  for (let round = 0; round < 3; round++) {
    table.fill(round, 10 * round, 10 * round + 25);
    const want = await flexAttention(q, k, v, { maskMod: mask, device: "reference" });
    for (const [name, blockMask] of Object.entries(views)) assert.deepEqual((await flexAttention(q, k, v, { blockMask, device: "reference" })).data, want.data, `${name}, round ${round}`);
  }
});

test("kernels follow states set by hand, in blocks that tiles do not meet", async () => {
  const noise = (seed: number): Tensor => tensor(Float32Array.from({ length: 2 * 90 * 8 }, (_, i) => Math.sin(i * seed)), [1, 2, 90, 8]);
  const [q, k, v] = [noise(1.1), noise(1.7), noise(2.3)];
  const blocks = createBlockMask(slidingWindow(17), { batch: 1, heads: 2, queryLength: 90, kvLength: 90, blockSize: [11, 7] });
  for (const [h, r, c, state] of [[0, 0, 3, 2], [1, 8, 0, 2], [0, 4, 6, 0], [1, 4, 5, 0], [0, 8, 12, 2]] as const) blocks.set(0, h, r, c, state);
  const dense = blocks.toElements(), want = maskMod(({ dense }) => (_b, h, q, kv) => dense[0]![h]![q]![kv] === 1, { dense });
  const out = await flexAttention(q, k, v, { blockMask: blocks, device: "reference" }), check = await flexAttention(q, k, v, { maskMod: want, device: "reference" });
  assert.deepEqual(out.data, check.data);
  const cpu = await flexAttention(q, k, v, { blockMask: blocks });
  cpu.data.forEach((x, i) => assert.ok(Math.abs(x - check.data[i]!) < 1e-5));
});

test("block sizes of 1, 127 and unequal ones hold, with lengths that they do not divide", () => {
  for (const blockSize of [1, 127, [1, 127], [127, 2], [64, 128]] as const) {
    const mask = or(slidingWindow(40), document(ids));
    assert.ok(check(createBlockMask(mask, { ...options, blockSize, exact: true }), mask as Allows, `blocks of ${blockSize}:`) === 0);
  }
  const nothing = createBlockMask(causal, { ...options, queryLength: 0, kvLength: 0 });
  assert.deepEqual([nothing.sparsity(), nothing.toDense().shape, nothing.toElements().data.length], [0, [1, 1, 0, 0], 0]);
  check(nothing.append({ queries: 5, keys: 5 }), causal as Allows);
  assert.equal(nothing.classify(0, 0, 0, 0, 0, 4, 0, 4), verdict.sometimes);
});

test("states of blocks given in another way than 0, 1 and 2 are refused by name", () => {
  assert.throws(() => blockMaskOf(tensor(Uint8Array.of(0, 3), [1, 1, 1, 2]), { batch: 1, heads: 1, queryLength: 4, kvLength: 8, blockSize: 4 }), /block \[0, 0, 0, 1\] is 3/);
});

test("random states of several sequences and heads, joined, cut, grown and set, are element by element what they say", () => {
  fc.assert(fc.property(fc.integer(), (seed) => {
    const random = stream(seed), below = (n: number): number => Math.floor(random() * n), pick = <T>(...list: readonly T[]): T => list[below(list.length)]!;
    const sizes = { batch: 2, heads: 3, queryLength: 10 + below(20), kvLength: 10 + below(20), blockSize: [1 + below(9), 1 + below(9)] as const };
    const rows = Math.ceil(sizes.queryLength / sizes.blockSize[0]), columns = Math.ceil(sizes.kvLength / sizes.blockSize[1]);
    const one = (mask: MaskMod): { readonly blocks: BlockMask; readonly allows: Allows; readonly states: Map<string, BlockState> } => {
      const shape = [pick(1, 2), pick(1, 3), rows, columns] as const, given = tensor(Uint8Array.from({ length: shape[0] * shape[1] * rows * columns }, () => below(3)), shape);
      const states = new Map<string, BlockState>();
      for (let b = 0; b < 2; b++) for (let h = 0; h < 3; h++) for (let i = 0; i < rows * columns; i++) {
        states.set([b, h, Math.floor(i / columns), i % columns].join(), given.data[(Math.min(b, shape[0] - 1) * shape[1] + Math.min(h, shape[1] - 1)) * rows * columns + i]! as BlockState);
      }
      const allows: Allows = (b, h, q, kv) => {
        const state = states.get([b, h, Math.floor(q / sizes.blockSize[0]), Math.floor(kv / sizes.blockSize[1])].join()) ?? blockState.empty;
        return state === blockState.partial ? Boolean(mask(b, h, q, kv)) : state === blockState.full;
      };
      const blocks = blockMaskOf(given, { ...sizes, mask });
      if (shape[0] === 2 && shape[1] === 3 && rows * columns > 0) {
        const at = [below(2), below(3), below(rows), below(columns)] as const, state = below(3) as BlockState;
        blocks.set(...at, state);
        states.set(at.join(), state);
      }
      return { blocks, allows, states };
    };
    const a = one(slidingWindow(1 + below(12))), b = one(pick(causal, document(ids), prefixLm(Int32Array.of(9, 3))));
    check(a.blocks, a.allows);
    const [name, joined, allows] = pick<readonly [string, BlockMask, Allows]>(
      ["and", a.blocks.and(b.blocks), (...at) => a.allows(...at) && b.allows(...at)], ["or", a.blocks.or(b.blocks), (...at) => a.allows(...at) || b.allows(...at)],
      ["xor", a.blocks.xor(b.blocks), (...at) => a.allows(...at) !== b.allows(...at)], ["not", a.blocks.not(), (...at) => !a.allows(...at)],
    );
    check(joined, allows, name);
    // Blocks of later growth are in no list: empty. Rows and columns that were cut short keep their state.
    joined.append({ queries: below(6), keys: below(6) });
    check(joined, allows, `${name}, grown`);
    const from = below(joined.options.queryLength), to = from + below(joined.options.queryLength - from + 1), part = joined.slice(from, to);
    check(part, (b, h, q, kv) => allows(b, h, q + from, kv), `${name}, grown, queries ${from} to ${to}`);
    const again = blockMaskFromLists(toLists(joined), { ...joined.options, mask: joined.mask });
    check(again, allows, `${name}, through lists`);
    // What is partial may be found full or empty, as here the mask of both is looked at and not two lists of blocks.
    const states = joined.toDense().data;
    again.toDense().data.forEach((state, i) => assert.ok(state === states[i] || states[i] === blockState.partial));
  }), { numRuns: process.env["TESSERA_LONG"] ? 1000 : 50 });
});

test("no value changes unseen: infinities, the smallest fractions of plain arrays, a table that lost its end", () => {
  const sizes = { batch: 1, heads: 1, queryLength: 600, kvLength: 60, blockSize: 20 };
  const follows = <C extends object>(captures: C, make: (captures: C) => MaskMod, change: (captures: C) => void): void => {
    const blocks = createBlockMask(make(captures), sizes), inverted = blocks.not().slice(3, 600);
    change(captures);
    assert.ok(blocks.isStale() && inverted.isStale());
    assert.deepEqual(blocks.current().toDense(), createBlockMask(make(captures), sizes).toDense());
    assert.deepEqual(inverted.current().toDense(), createBlockMask(make(captures), sizes).not().slice(3, 600).toDense());
  };
  follows({ size: Infinity }, (c) => maskMod(({ size }) => (_b, _h, q, kv) => q - kv < size, c), (c) => void (c.size = -Infinity));
  follows({ weights: new Array<number>(600).fill(1e-6) }, (c) => maskMod(({ weights }) => (_b, _h, q) => weights[q]! > 1.5e-6, c), (c) => void c.weights.fill(2e-6));
  follows({ weights: new Array<number>(600).fill(0) }, (c) => maskMod(({ weights }) => (_b, _h, q) => weights[q]! > 1, c), (c) => void c.weights.fill(Infinity));
  follows({ ids: new Int32Array(600).fill(1) }, (c) => maskMod(({ ids }) => (_b, _h, q) => ids[q] === 1, c), (c) => void (c.ids = c.ids.slice(0, 256)));
});
