/** M1 to M21: the masks of FlexAttention's own collection. */
import { clamp, floorDiv, floorMod } from "../../../src/attention/language.ts";
import { and, maskMod, offset } from "../../../src/attention/mod.ts";
import { blockDiffusion } from "../../../src/attention/mods/block-diffusion.ts";
import { causal } from "../../../src/attention/mods/causal.ts";
import { dilatedCausal, dilatedWindow } from "../../../src/attention/mods/dilated.ts";
import { document } from "../../../src/attention/mods/document.ts";
import { longformer } from "../../../src/attention/mods/longformer.ts";
import { neighborhood1d, neighborhood2d, neighborhood3d } from "../../../src/attention/mods/neighborhood.ts";
import { packedDocuments, withinDocuments } from "../../../src/attention/mods/packed-documents.ts";
import { prefixLm, prefixLmThrough } from "../../../src/attention/mods/prefix-lm.ts";
import { sharedPrefix } from "../../../src/attention/mods/shared-prefix.ts";
import { slidingTile2d, slidingTile3d } from "../../../src/attention/mods/sliding-tile.ts";
import { slidingWindow, windowLeft } from "../../../src/attention/mods/sliding-window.ts";
import { tensor } from "../../../src/attention/tensor.ts";
import type { Case, Geometry } from "../case.ts";
import { documentsOf, evenBits, numbers } from "./tables.ts";

/** Parents of a draft tree with `n` nodes. */
const parentOf = (i: number): number => (i === 0 ? -1 : Math.floor((i - 1) / (i % 3 === 0 ? 1 : 2)));

/** [n, n] of 0 and 1: whether node j is node i or above it. */
function ancestors(n: number): ReturnType<typeof tensor> {
  const table = new Uint8Array(n * n);
  for (let i = 0; i < n; i++) for (let at = i; at >= 0; at = parentOf(at)) table[i * n + at] = 1;
  return tensor(table, [n, n]);
}

/** Per-batch lengths between a third and all of `most`. */
const lengths = (g: Geometry, most: number): Int32Array => numbers(g.batch, (b) => Math.max(1, Math.floor((most * (b + 1)) / (g.batch + 1))));

const moving = { by: 40 };
const growing: { documents: Int32Array } = { documents: new Int32Array(0) };

export const masksGym: readonly Case[] = [
  { id: "M1", title: "causal", tight: true, mods: () => ({ maskMod: causal }) },
  { id: "M1'", title: "causal after off[b] cached tokens", tight: true, mods: (g) => ({ maskMod: maskMod(({ off }) => (b, _h, q, kv) => q + off[b]! >= kv, { off: numbers(g.batch, (b) => 7 * b + 3) }) }) },
  { id: "M1'", title: "causal, aligned at the end", tight: true, mods: (g) => ({ maskMod: offset(causal, { query: g.keys - g.queries }) }) },
  { id: "M1'", title: "causal, its offset a number that changes", tight: true, mods: () => { moving.by = 40; return { maskMod: maskMod((c) => (_b, _h, q, kv) => q + c.by >= kv, moving) }; }, change: () => { moving.by = 5; } },
  { id: "M2", title: "window, at most W before (attention-gym, FlashAttention)", tight: true, mods: () => ({ maskMod: windowLeft(40) }) },
  { id: "M2", title: "window of W keys (Hugging Face, vLLM)", tight: true, mods: () => ({ maskMod: slidingWindow(40) }) },
  { id: "M2", title: "window on both sides, |q - kv| < W", tight: true, mods: () => ({ maskMod: maskMod(({ w }) => (_b, _h, q, kv) => Math.abs(q - kv) < w, { w: 40 }) }) },
  { id: "M3", title: "prefix-LM, kv < P[b]", tight: true, mods: (g) => ({ maskMod: prefixLm(lengths(g, 90)) }) },
  { id: "M3", title: "prefix-LM, (q < P and kv < P) or causal", tight: true, mods: () => ({ maskMod: maskMod(({ p }) => (_b, _h, q, kv) => (q < p && kv < p) || q >= kv, { p: 70 }) }) },
  { id: "M3", title: "prefix-LM, kv <= P[b]", tight: true, mods: (g) => ({ maskMod: prefixLmThrough(lengths(g, 90)) }) },
  { id: "M4", title: "documents", tight: true, mods: (g) => ({ maskMod: document(documentsOf(g.positions).documents) }) },
  { id: "M4", title: "documents, causal", tight: true, mods: (g) => ({ maskMod: and(document(documentsOf(g.positions).documents), causal) }) },
  { id: "M4", title: "documents, a window inside each", mods: (g) => { const { documents, starts } = documentsOf(g.positions); return { maskMod: withinDocuments(documents, starts, slidingWindow(20)) }; } },
  { id: "M4", title: "documents in any order, relabelled between calls", mods: (g) => { growing.documents = numbers(g.positions, (i) => (Math.floor(i / 23) * 7) % 5); return { maskMod: document(growing.documents) }; }, change: () => { growing.documents.forEach((x, i) => { growing.documents[i] = x === 2 ? 4 : x; }); } },
  { id: "M4'", title: "documents as intervals", tight: true, mods: (g) => ({ maskMod: packedDocuments(documentsOf(g.positions).starts) }) },
  { id: "M5", title: "batchify: a causal window in each stretch of n", mods: () => ({
    maskMod: maskMod(({ n, inner }) => (b, h, q, kv) => floorDiv(q, n) === floorDiv(kv, n) && inner(b, h, q % n, kv % n), { n: 48, inner: slidingWindow(30) }),
  }) },
  { id: "M6", title: "dilated window", mods: () => ({ maskMod: dilatedWindow(60, 4) }) },
  { id: "M6'", title: "dilated causal window", mods: () => ({ maskMod: dilatedCausal(60, 3) }) },
  { id: "M7", title: "Longformer", mods: (g) => ({ maskMod: longformer(30, Uint8Array.from({ length: g.positions }, (_, i) => Number(i < 3 || i === 77))) }) },
  { id: "M8", title: "Flamingo: queries between two images see one image's tokens", tight: true, mods: (g) => {
    const tokens = 16, images = Math.ceil(g.keys / tokens), text = Math.ceil(g.queries / images);
    return { maskMod: maskMod(({ images, intervals }) => (_b, _h, q, kv) => intervals[images[kv]!]![0]! <= q && q < intervals[images[kv]!]![1]!, {
      images: numbers(g.keys, (kv) => Math.floor(kv / tokens)), intervals: tensor(numbers(2 * images, (i) => text * ((i >> 1) + (i & 1))), [images, 2]),
    }) };
  } },
  { id: "M9", title: "block diffusion", tight: true, mods: (g) => ({ maskMod: blockDiffusion(16 * Math.max(1, Math.ceil(g.positions / 32)), 16) }) },
  { id: "M10", title: "draft tree after a prefix, by a matrix", mods: (g) => {
    const prefix = Math.floor(g.keys / 2), n = 24;
    return { maskMod: maskMod(({ prefix, n, anc }) => (_b, _h, q, kv) => kv < prefix || (prefix <= kv && kv < prefix + n && anc[clamp(q - prefix, 0, n - 1)]![clamp(kv - prefix, 0, n - 1)] === 1), { prefix, n, anc: ancestors(n) }) };
  } },
  { id: "M11", title: "draft blocks in training", tight: true, mods: () => ({
    maskMod: maskMod(({ p, c }) => (_b, _h, q, kv) => kv < p || (kv >= p && floorDiv(q, c) === floorDiv(kv - p, c) && (kv - p) % c <= q % c), { p: 64, c: 16 }),
  }) },
  { id: "M12", title: "neighbourhood on a plane, as published", mods: () => ({
    maskMod: maskMod(({ width, height, kw, kh }) => (_b, _h, q, kv) => {
      const cx = clamp(q % width, floorDiv(kw, 2), width - 1 - floorDiv(kw, 2)), cy = clamp(floorDiv(q, width), floorDiv(kh, 2), height - 1 - floorDiv(kh, 2));
      return Math.abs(cx - (kv % width)) <= floorDiv(kw, 2) && Math.abs(cy - floorDiv(kv, width)) <= floorDiv(kh, 2);
    }, { width: 16, height: 18, kw: 7, kh: 5 }),
  }) },
  { id: "M12", title: "neighbourhood on a plane", mods: (g) => ({ maskMod: neighborhood2d({ length: Math.max(5, Math.ceil(g.positions / 16)), size: 5 }, { length: 16, size: 7 }) }) },
  { id: "M13", title: "neighbourhood on a plane stored in tiles", mods: () => ({
    maskMod: maskMod(({ tw, th, tilesAcross, width, height, k }) => (_b, _h, q, kv) => {
      const x = (i: number): number => floorMod(floorDiv(i, tw * th), tilesAcross) * tw + (i % tw);
      const y = (i: number): number => floorDiv(floorDiv(i, tw * th), tilesAcross) * th + floorDiv(i % (tw * th), tw);
      const cx = clamp(x(q), floorDiv(k, 2), width - 1 - floorDiv(k, 2)), cy = clamp(y(q), floorDiv(k, 2), height - 1 - floorDiv(k, 2));
      return Math.abs(cx - x(kv)) <= floorDiv(k, 2) && Math.abs(cy - y(kv)) <= floorDiv(k, 2);
    }, { tw: 4, th: 4, tilesAcross: 4, width: 16, height: 20, k: 5 }),
  }) },
  { id: "M14", title: "neighbourhood on a plane in Morton order", mods: () => ({
    maskMod: maskMod(({ side, k }) => (_b, _h, q, kv) => {
      const even = (i: number): number => {
        let x = i & 0x5555;
        x = (x | (x >> 1)) & 0x3333;
        x = (x | (x >> 2)) & 0x0f0f;
        return (x | (x >> 4)) & 0x00ff;
      };
      const cx = clamp(even(q), k, side - 1 - k), cy = clamp(even(q >> 1), k, side - 1 - k);
      return Math.abs(cx - even(kv)) <= k && Math.abs(cy - even(kv >> 1)) <= k;
    }, { side: 32, k: 3 }),
  }) },
  { id: "M14", title: "the same with the order as a table", mods: (g) => ({
    maskMod: maskMod(({ xs, ys, k }) => (_b, _h, q, kv) => Math.abs(xs[q]! - xs[kv]!) <= k && Math.abs(ys[q]! - ys[kv]!) <= k, { xs: numbers(g.positions, evenBits), ys: numbers(g.positions, (i) => evenBits(i >> 1)), k: 3 }),
  }) },
  { id: "M15", title: "neighbourhood on a line", tight: true, mods: (g) => ({ maskMod: neighborhood1d({ length: Math.max(31, g.positions), size: 31 }) }) },
  { id: "M15", title: "neighbourhood on a line, causal", tight: true, mods: (g) => ({ maskMod: neighborhood1d({ length: g.positions, size: 31, causal: true }) }) },
  { id: "M15", title: "neighbourhood on a line, dilated", mods: (g) => ({ maskMod: neighborhood1d({ length: Math.max(64, g.positions), size: 7, dilation: 8 }) }) },
  { id: "M15", title: "neighbourhood on a line, causal and dilated", mods: (g) => ({ maskMod: neighborhood1d({ length: g.positions, size: 7, dilation: 8, causal: true }) }) },
  { id: "M15", title: "neighbourhood on a plane, causal down, dilated across", mods: () => ({ maskMod: neighborhood2d({ length: 18, size: 3, causal: true }, { length: 16, size: 4, dilation: 2 }) }) },
  { id: "M15", title: "neighbourhood in a video", mods: () => ({ maskMod: neighborhood3d({ length: 9, size: 3 }, { length: 6, size: 3 }, { length: 6, size: 3 }) }) },
  { id: "M15", title: "neighbourhood in a video, causal in time, dilated in space", mods: () => ({ maskMod: neighborhood3d({ length: 9, size: 4, causal: true }, { length: 6, size: 3, dilation: 2 }, { length: 6, size: 2, dilation: 3 }) }) },
  { id: "M16", title: "sliding tile on a plane, and text", mods: () => ({ maskMod: slidingTile2d(16, { tiles: 3, window: 1 }, { tiles: 4, window: 3 }, 20) }) },
  { id: "M16", title: "sliding tile in a video, even window, and text", mods: () => ({ maskMod: slidingTile3d(8, { tiles: 3, window: 3 }, { tiles: 2, window: 1 }, { tiles: 4, window: 2 }, 20) }) },
  { id: "M17", title: "sparse video, spatial head", tight: true, mods: () => ({
    maskMod: maskMod(({ p, f, w }) => (_b, _h, q, kv) => q < p || kv < p + f || Math.abs(q - kv) < w, { p: 20, f: 32, w: 48 }),
  }) },
  { id: "M18", title: "sparse video, temporal head", mods: () => ({
    maskMod: maskMod(({ p, f, w }) => (_b, _h, q, kv) => q < p || kv < p || Math.abs(floorMod(q - p, f) - floorMod(kv - p, f)) < w, { p: 20, f: 64, w: 8 }),
  }) },
  { id: "M19", title: "shared prefix", mods: (g) => {
    const { documents, starts } = documentsOf(g.positions), count = documents.at(-1)! + 1;
    const bounds = numbers(count + 1, (d) => (d < count ? starts[documents.indexOf(d)]! : documents.length));
    return { maskMod: sharedPrefix(documents, numbers(count, (d) => (d % 3 === 0 ? d : d - (d % 3))), bounds) };
  } },
  { id: "M20", title: "selected tiles of each query tile and head, the last part of each tile padding", mods: (g) => {
    const t = 16, rows = Math.ceil(g.queries / t), columns = Math.ceil(g.keys / t);
    const picks = Uint8Array.from({ length: g.heads * rows * columns }, (_, i) => Number((i * 2654435761) % 7 < 3));
    return { maskMod: maskMod(({ t, picks, sizes }) => (_b, h, q, kv) => picks[h]![floorDiv(q, t)]![floorDiv(kv, t)] === 1 && kv % t < sizes[floorDiv(kv, t)]!, {
      t, picks: tensor(picks, [g.heads, rows, columns]), sizes: numbers(columns, (i) => (i % 3 === 1 ? 11 : t)),
    }) };
  } },
  { id: "M21", title: "no mask", tight: true, mods: () => ({}) },
  { id: "M21", title: "a mask that is always true", tight: true, mods: () => ({ maskMod: maskMod(() => true) }) },
];
