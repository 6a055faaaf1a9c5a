import assert from "node:assert/strict";
import { test } from "node:test";
import { evaluator } from "../../ir/interpret.ts";
import type { MaskMod, ScoreMod } from "../mod.ts";
import { tensor } from "../tensor.ts";
import { bigBird } from "./big-bird.ts";
import { blockCausal } from "./block-causal.ts";
import { blockDiffusion } from "./block-diffusion.ts";
import { chunked } from "./chunked.ts";
import { dilatedCausal, dilatedWindow } from "./dilated.ts";
import { kerpleLog, kerplePower } from "./kerple.ts";
import { longformer } from "./longformer.ts";
import { multiScale, scaleLevels } from "./multi-scale.ts";
import { neighborhood1d, neighborhood2d, neighborhood3d } from "./neighborhood.ts";
import { packedDocuments, packing, withinDocuments } from "./packed-documents.ts";
import { prefixLm, prefixLmThrough } from "./prefix-lm.ts";
import { relativeBias } from "./relative-bias.ts";
import { sandwich, sandwichTable } from "./sandwich.ts";
import { sharedPrefix } from "./shared-prefix.ts";
import { shiftedWindow } from "./shifted-window.ts";
import { sinkWindow } from "./sink-window.ts";
import { slidingTile2d, slidingTile3d } from "./sliding-tile.ts";
import { slidingWindow, windowLeft } from "./sliding-window.ts";
import { strided } from "./strided.ts";
import { t5Bias, t5Buckets } from "./t5-bias.ts";
import { imageEnds, transfusion } from "./transfusion.ts";
import { ancestorBits, tree } from "./tree.ts";
import { windowPerHead, windowPerToken } from "./varying-window.ts";

const n = 48;
const range = (from: number, end: number): number[] => Array.from({ length: Math.max(0, end - from) }, (_, i) => from + i);
/** The `size` positions around x that a line of `length` has, moved inwards at its ends: by sorting, not by clamping. */
const nearest = (x: number, length: number, size: number): number[] => {
  const starts = range(0, length - size + 1);
  const middle = (s: number): number => Math.abs(s + Math.floor(size / 2) - x);
  const first = starts.toSorted((a, b) => middle(a) - middle(b) || a - b)[0]!;
  return range(first, first + size);
};
/** As `nearest`, among the positions with x's remainder. */
const nearestDilated = (x: number, length: number, size: number, d: number): number[] => {
  const line = range(0, length).filter((i) => i % d === x % d);
  return nearest(line.indexOf(x), line.length, size).map((i) => line[i]!);
};
const { documents, starts } = packing([10, 1, 20, 17]);
const images = Int32Array.from({ length: n }, (_, i) => (i >= 5 && i < 12 ? 0 : i >= 30 && i < 40 ? 1 : -1));
const globals = Uint8Array.from({ length: n }, (_, i) => Number(i === 0 || i === 31));
const picks = tensor(Uint8Array.from({ length: 144 }, (_, i) => Number(i % 5 === 2)), [12, 12]);
const parents = [[-1, 0, 0, 1, 2, 2, -1, 6], Array.from({ length: 40 }, (_, i) => i - 1)];
const prefixes = Int32Array.of(20, 5);
/** Whether node j is node i or above it. */
const above = (b: number, j: number, i: number): boolean => i >= 0 && i < parents[b]!.length && (i === j || above(b, j, parents[b]![i]!));
const seen = (b: number, q: number, kv: number): boolean => kv < prefixes[b]! || above(b, kv - prefixes[b]!, q - prefixes[b]!);
const lefts = Int32Array.from({ length: n }, (_, i) => (i * 7) % 11), sizes = Int32Array.of(1, 5, 100);
const levels = scaleLevels([1, 2, 3, 4, 5]);
const continues = Int32Array.of(0, 0, 0, 3), bounds = Int32Array.of(0, 10, 11, 31, 48);
const floor = Math.floor;
/** Vision tiles of 2 positions, 3 x 4 of them; then 6 of text. */
const tileOf = (i: number): readonly [y: number, x: number] => [floor(floor(i / 2) / 4), floor(i / 2) % 4];
const tile3Of = (i: number): readonly [t: number, y: number, x: number] => [floor(i / 12), floor((i % 12) / 4), i % 4];
const tileNear = (q: number, kv: number, tiles: number, w: number): boolean => nearest(q, tiles, w).includes(kv);

/** Each mask and what it means, said in another way: by listing, searching and sorting. */
const masks: Readonly<Record<string, readonly [MaskMod, (b: number, h: number, q: number, kv: number) => boolean]>> = {
  "sliding window counts its own key": [slidingWindow(5), (_b, _h, q, kv) => range(q - 4, q + 1).includes(kv)],
  "window left counts keys besides its own": [windowLeft(5), (_b, _h, q, kv) => range(q - 5, q + 1).includes(kv)],
  "packed documents": [packedDocuments(starts), (_b, _h, q, kv) => kv <= q && documents[q] === documents[kv]],
  "a mask within documents": [withinDocuments(documents, starts, prefixLm(Int32Array.of(3, 3))), (_b, _h, q, kv) => documents[q] === documents[kv] && (kv <= q || kv < documents.indexOf(documents[kv]!) + 3)],
  "prefix-LM": [prefixLm(Int32Array.of(7, 20)), (b, _h, q, kv) => { const p = [7, 20][b]!; return (q < p && kv < p) || q >= kv; }],
  "prefix-LM through its last position": [prefixLmThrough(Int32Array.of(6, 19)), (b, _h, q, kv) => [7, 20][b]! > kv || q >= kv],
  "sinks and window": [sinkWindow(2, 4), (_b, _h, q, kv) => [...range(0, Math.min(2, q + 1)), ...range(q - 3, q + 1)].includes(kv)],
  "chunked": [chunked(7), (_b, _h, q, kv) => range(q - (q % 7), q + 1).includes(kv)],
  "block-causal": [blockCausal(8), (_b, _h, q, kv) => kv < 8 * (floor(q / 8) + 1)],
  "dilated window": [dilatedWindow(9, 3), (_b, _h, q, kv) => [-9, -6, -3, 0, 3, 6, 9].includes(q - kv)],
  "dilated causal window": [dilatedCausal(9, 3), (_b, _h, q, kv) => [0, 3, 6].includes(q - kv)],
  "Longformer": [longformer(3, globals), (_b, _h, q, kv) => [0, 31].includes(q) || [0, 31].includes(kv) || range(q - 3, q + 4).includes(kv)],
  "BigBird": [bigBird(4, 1, 2, picks), (_b, _h, q, kv) => { const a = q >> 2, c = kv >> 2; return [a - 1, a, a + 1, 0, 1].includes(c) || a < 2 || (12 * a + c) % 5 === 2; }],
  "strided": [strided(8, 2), (_b, _h, q, kv) => kv <= q && (kv > q - 8 || [6, 7].includes(kv % 8))],
  "neighbourhood on a line": [neighborhood1d({ length: n, size: 7 }), (_b, _h, q, kv) => nearest(q, n, 7).includes(kv)],
  "neighbourhood on a line, even size": [neighborhood1d({ length: n, size: 6 }), (_b, _h, q, kv) => nearest(q, n, 6).includes(kv)],
  "neighbourhood on a line, dilated": [neighborhood1d({ length: n, size: 5, dilation: 5 }), (_b, _h, q, kv) => nearestDilated(q, n, 5, 5).includes(kv)],
  "neighbourhood on a line, causal": [neighborhood1d({ length: n, size: 5, causal: true }), (_b, _h, q, kv) => range(q - 4, q + 1).includes(kv)],
  "neighbourhood on a line, causal and dilated": [neighborhood1d({ length: n, size: 3, dilation: 4, causal: true }), (_b, _h, q, kv) => [q, q - 4, q - 8].includes(kv)],
  "neighbourhood on a plane": [neighborhood2d({ length: 6, size: 3 }, { length: 8, size: 5 }), (_b, _h, q, kv) => nearest(floor(q / 8), 6, 3).includes(floor(kv / 8)) && nearest(q % 8, 8, 5).includes(kv % 8)],
  "neighbourhood on a plane, causal down and dilated across": [
    neighborhood2d({ length: 6, size: 2, causal: true }, { length: 8, size: 3, dilation: 2 }),
    (_b, _h, q, kv) => [0, 1].includes(floor(q / 8) - floor(kv / 8)) && nearestDilated(q % 8, 8, 3, 2).includes(kv % 8),
  ],
  "neighbourhood in a video": [
    neighborhood3d({ length: 4, size: 3, causal: true }, { length: 3, size: 3 }, { length: 4, size: 2 }),
    (_b, _h, q, kv) => [0, 1, 2].includes(floor(q / 12) - floor(kv / 12)) && nearest(q % 4, 4, 2).includes(kv % 4),
  ],
  "sliding tile on a plane, with text": [slidingTile2d(2, { tiles: 3, window: 1 }, { tiles: 4, window: 3 }, 6), (_b, _h, q, kv) => {
    if (q >= 24 || kv >= 24) return kv < 30;
    const [y, x] = tileOf(q), [ky, kx] = tileOf(kv);
    return tileNear(y, ky, 3, 1) && tileNear(x, kx, 4, 3);
  }],
  "sliding tile in a video": [slidingTile3d(1, { tiles: 4, window: 3 }, { tiles: 3, window: 1 }, { tiles: 4, window: 3 }), (_b, _h, q, kv) => {
    const [t, y, x] = tile3Of(q), [kt, ky, kx] = tile3Of(kv);
    return tileNear(t, kt, 4, 3) && y === ky && tileNear(x, kx, 4, 3);
  }],
  "block diffusion": [blockDiffusion(24, 4), (_b, _h, q, kv) => {
    const clean = range(24, 48), block = (i: number): number => floor((i % 24) / 4);
    if (clean.includes(q)) return clean.includes(kv) && block(kv) <= block(q);
    return clean.includes(kv) ? block(kv) < block(q) : block(kv) === block(q);
  }],
  "transfusion": [transfusion(imageEnds(images)), (_b, _h, q, kv) => kv <= q || (range(5, 12).includes(q) && kv < 12) || (range(30, 40).includes(q) && kv < 40)],
  "tree": [tree(prefixes, ancestorBits(parents)), (b, _h, q, kv) => (kv < prefixes[b]! && q < prefixes[b]! ? kv <= q : q < prefixes[b]! ? false : seen(b, q, kv))],
  "shared prefix": [sharedPrefix(documents, continues, bounds), (_b, _h, q, kv) => (kv <= q && documents[q] === documents[kv]) || (documents[kv] === 0 && [1, 2].includes(documents[q]!))],
  "window of each head": [windowPerHead(sizes), (_b, h, q, kv) => range(q - [1, 5, 100][h]! + 1, q + 1).includes(kv)],
  "window of each token": [windowPerToken(lefts), (_b, _h, q, kv) => range(q - lefts[q]!, q + 1).includes(kv)],
  "several scales": [multiScale(levels), (_b, _h, q, kv) => kv < [1, 5, 14, 30, 55].find((end) => q < end)!],
  "plain windows of an image": [shiftedWindow(6, 8, 2, 0), (_b, _h, q, kv) => q >> 4 === kv >> 4 && (q % 8) >> 1 === (kv % 8) >> 1],
  "shifted windows of an image": [shiftedWindow(6, 8, 2, 1), (_b, _h, q, kv) => {
    // Rows 1..2, 3..4 are windows of two, rows 0 and 5 are left alone; columns alike.
    const line = (i: number): number => floor((i + 1) / 2);
    return line(floor(q / 8)) === line(floor(kv / 8)) && line(q % 8) === line(kv % 8);
  }],
};

for (const [name, [mask, means]] of Object.entries(masks)) {
  test(`${name}: the function, and what the compiler reads in it, say what the name says`, () => {
    const evaluate = evaluator(mask.expr()), captures = mask.values();
    let allowed = 0;
    for (const b of [0, 1]) for (const h of [0, 1, 2]) for (let q = 0; q < n; q++) for (let kv = 0; kv < n; kv++) {
      const want = means(b, h, q, kv);
      if (want) allowed++;
      assert.equal(Boolean(mask(b, h, q, kv)), want, `the function at b ${b}, h ${h}, q ${q}, kv ${kv}`);
      assert.equal(evaluate({ b, h, q, kv, score: 0, ...captures }) === 1, want, `the expression at b ${b}, h ${h}, q ${q}, kv ${kv}`);
    }
    assert.ok(allowed > 0 && allowed < 6 * n * n, "a test that sees both answers");
  });
}

test("packing numbers the documents and says where each begins", () => {
  assert.deepEqual([...documents.subarray(9, 12)], [0, 1, 2]);
  assert.deepEqual([...starts.subarray(9, 13)], [0, 10, 11, 11]);
});

test("a tree of more than 32 nodes has its bits in more words", () => {
  assert.deepEqual(ancestorBits(parents).shape, [2, 40, 2]);
  assert.equal(tree(prefixes, ancestorBits(parents))(1, 0, 5 + 39, 5 + 31), true);
});

/** Each score mod and its formula. */
const bias = tensor(Float32Array.from({ length: 3 * 11 }, (_, i) => Math.fround(Math.sin(i))), [3, 11]);
const buckets = tensor(Float32Array.from({ length: 3 * 32 }, (_, i) => i), [3, 32]);
const cosines = sandwichTable(n, 8), scales = Float32Array.of(0.5, 1, 2), rates = Float32Array.of(0.25, 1, 3);
const cosineSum = (d: number): number => [1, 10, 100, 1000].reduce((sum, base) => sum + Math.cos(d / base), 0);
const scores: Readonly<Record<string, readonly [ScoreMod, (score: number, b: number, h: number, q: number, kv: number) => number]>> = {
  "relative bias": [relativeBias(bias), (s, _b, h, q, kv) => s + bias.data[h * 11 + [-5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5].indexOf(Math.sign(q - kv) * Math.min(5, Math.abs(q - kv)))]!],
  "Sandwich": [sandwich(cosines, 3), (s, _b, h, q, kv) => s + (cosineSum(Math.abs(q - kv)) * 3) / (8 * (h + 1))],
  "Kerple, logarithmic": [kerpleLog(scales, rates), (s, _b, h, q, kv) => s - scales[h]! * Math.log(1 + rates[h]! * Math.abs(q - kv))],
  "Kerple, power": [kerplePower(scales, rates), (s, _b, h, q, kv) => s - scales[h]! * Math.abs(q - kv) ** rates[h]!],
  "T5, encoder": [t5Bias(buckets, { bidirectional: true }), (s, _b, h, q, kv) => {
    const d = Math.abs(kv - q), far = [8, 12, 16, 23, 32, 46, 64, 91].findLastIndex((from) => d >= from);
    return s + 32 * h + (kv > q ? 16 : 0) + (d < 8 ? d : 8 + far);
  }],
  "T5, decoder": [t5Bias(buckets, { bidirectional: false }), (s, _b, h, q, kv) => {
    const d = Math.max(0, q - kv), far = [16, 19, 21, 24, 27, 31, 35, 40, 46].findLastIndex((from) => d >= from);
    return s + 32 * h + (d < 16 ? d : 16 + far);
  }],
};

for (const [name, [mod, means]] of Object.entries(scores)) {
  test(`${name}: the function, and what the compiler reads in it, are the formula`, () => {
    const evaluate = evaluator(mod.expr(), "double"), captures = mod.values();
    for (const h of [0, 1, 2]) for (let q = 0; q < n; q++) for (let kv = 0; kv < n; kv++) {
      const want = means(1.5, 0, h, q, kv);
      for (const got of [mod(1.5, 0, h, q, kv), evaluate({ b: 0, h, q, kv, score: 1.5, ...captures })]) {
        assert.ok(Math.abs(got - want) <= 2e-5 * (1 + Math.abs(want)), `${got}, not ${want}, at h ${h}, q ${q}, kv ${kv}`);
      }
    }
  });
}

test("T5's buckets all serve, but for a distance of 0 after the query, and the last one takes every distance beyond", () => {
  const both = t5Buckets(32, { bidirectional: true }), before = t5Buckets(32, { bidirectional: false });
  assert.deepEqual(range(0, 32).filter((bucket) => !both.includes(bucket)), [16]);
  assert.deepEqual(range(0, 32).filter((bucket) => !before.includes(bucket)), []);
  assert.deepEqual([both[0], both[128], both[256], before[0], before[256]], [15, 0, 31, 31, 0]);
});
