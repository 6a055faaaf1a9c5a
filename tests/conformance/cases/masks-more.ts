/** M22 to M45: the common masks beyond that collection, and those that broke others. */
import { floorDiv, floorMod } from "../../../src/attention/language.ts";
import { and, maskMod, not, offset, or } from "../../../src/attention/mod.ts";
import { bigBird } from "../../../src/attention/mods/big-bird.ts";
import { blockCausal } from "../../../src/attention/mods/block-causal.ts";
import { causal } from "../../../src/attention/mods/causal.ts";
import { chunked } from "../../../src/attention/mods/chunked.ts";
import { document } from "../../../src/attention/mods/document.ts";
import { multiScale, scaleLevels } from "../../../src/attention/mods/multi-scale.ts";
import { prefixLm } from "../../../src/attention/mods/prefix-lm.ts";
import { shiftedWindow } from "../../../src/attention/mods/shifted-window.ts";
import { sinkWindow } from "../../../src/attention/mods/sink-window.ts";
import { slidingWindow } from "../../../src/attention/mods/sliding-window.ts";
import { strided } from "../../../src/attention/mods/strided.ts";
import { imageEnds, transfusion } from "../../../src/attention/mods/transfusion.ts";
import { ancestorBits, tree } from "../../../src/attention/mods/tree.ts";
import { windowPerHead, windowPerToken } from "../../../src/attention/mods/varying-window.ts";
import { tensor } from "../../../src/attention/tensor.ts";
import type { Case, Geometry } from "../case.ts";
import { documentsOf, numbers } from "./tables.ts";

/** Words of 32 bits, [batch, heads, queries, ceil(keys / 32)], from a formula. */
function bitTable(g: Geometry, bit: (b: number, h: number, q: number, kv: number) => boolean): ReturnType<typeof tensor> {
  const words = Math.ceil(g.keys / 32), data = new Int32Array(g.batch * g.heads * g.queries * words);
  for (let b = 0, at = 0; b < g.batch; b++) for (let h = 0; h < g.heads; h++) for (let q = 0; q < g.queries; q++, at += words) {
    for (let kv = 0; kv < g.keys; kv++) if (bit(b, h, q, kv)) data[at + (kv >> 5)]! |= 1 << (kv & 31);
  }
  return tensor(data, [g.batch, g.heads, g.queries, words]);
}

/** Images in a text of any length. */
const imageOf = (i: number): number => (i % 60 >= 12 && i % 60 < 41 ? Math.floor(i / 60) : -1);
const any = (b: number, h: number, q: number, kv: number): boolean => (q * 7 + kv * 13 + b * 3 + h * 5) % 11 < 4;
const later = maskMod((_b, _h, q, kv) => q <= kv);
const shifted = { by: 64 };
const sizes: { of: Int32Array } = { of: new Int32Array(0) };
const reused = maskMod(({ first, again }) => (_b, _h, _q, kv) => kv < first || kv >= again, { first: 40, again: 100 });

export const masksMore: readonly Case[] = [
  { id: "M22", title: "sinks and window", tight: true, mods: () => ({ maskMod: sinkWindow(4, 50) }) },
  { id: "M23", title: "chunked", tight: true, mods: () => ({ maskMod: chunked(48) }) },
  { id: "M24", title: "block-causal", tight: true, mods: () => ({ maskMod: blockCausal(24) }) },
  { id: "M25", title: "strided", mods: () => ({ maskMod: strided(32, 4) }) },
  { id: "M25", title: "strided, in blocks", tight: true, mods: () => ({ maskMod: maskMod((_b, _h, q, kv) => q >= kv && (q - kv < 64 || kv % 256 >= 192)) }) },
  { id: "M26", title: "BigBird", mods: (g) => { const n = Math.ceil(g.positions / 16); return { maskMod: bigBird(16, 1, 1, tensor(Uint8Array.from({ length: n * n }, (_, i) => Number((i * 40503) % 9 === 0)), [n, n])) }; } },
  { id: "M27", title: "block diagonal", tight: true, mods: () => ({ maskMod: maskMod(({ c }) => (_b, _h, q, kv) => floorDiv(q, c) === floorDiv(kv, c), { c: 40 }) }) },
  { id: "M28", title: "mini-causal", mods: () => ({ maskMod: maskMod(({ c }) => (_b, _h, q, kv) => q % c >= kv % c, { c: 24 }) }) },
  { id: "M29", title: "anti-causal", tight: true, mods: () => ({ maskMod: later }) },
  { id: "M29", title: "checker", mods: () => ({ maskMod: maskMod((_b, _h, q, kv) => (q + kv) % 2 === 0) }) },
  { id: "M30", title: "padding at the end, causal", tight: true, mods: (g) => ({ maskMod: maskMod(({ len }) => (b, _h, q, kv) => kv < len[b]! && q >= kv, { len: numbers(g.batch, (b) => Math.floor(g.keys / (b + 2)) + 1) }) }) },
  { id: "M30", title: "padding at the start, causal: rows and blocks that see nothing", tight: true, mods: (g) => ({ maskMod: maskMod(({ pad }) => (b, _h, q, kv) => kv >= pad[b]! && q >= kv, { pad: numbers(g.batch, (b) => 37 * (b + 1)) }) }) },
  { id: "M30", title: "every row sees nothing", tight: true, mods: () => ({ maskMod: maskMod((_b, _h, _q, kv) => kv < 0) }) },
  { id: "M30", title: "rows that see nothing among rows that see all", mods: () => ({ maskMod: maskMod((_b, _h, q) => q % 3 !== 1) }) },
  { id: "M30", title: "the first block is masked, the row is not empty", tight: true, mods: () => ({ maskMod: maskMod((_b, _h, _q, kv) => kv >= 70) }) },
  { id: "M31", title: "Transfusion, by each image's end", tight: true, mods: (g) => ({ maskMod: transfusion(imageEnds(numbers(g.positions, imageOf))) }) },
  { id: "M31", title: "Transfusion, by image numbers", mods: (g) => ({ maskMod: maskMod(({ img }) => (_b, _h, q, kv) => q >= kv || (img[q]! >= 0 && img[q] === img[kv]), { img: numbers(g.positions, imageOf) }) }) },
  { id: "M31'", title: "ranges of pictures, by a loop", mods: () => ({
    maskMod: maskMod(({ from, to }) => (_b, _h, q, kv) => {
      let inside = q >= kv;
      for (let r = 0; r < 4; r++) inside = inside || (from[r]! <= q && q <= to[r]! && from[r]! <= kv && kv <= to[r]!);
      return inside;
    }, { from: Int32Array.of(5, 40, 90, 1), to: Int32Array.of(31, 71, 119, 0) }),
  }) },
  { id: "M32", title: "several scales", tight: true, mods: (g) => { const levels = scaleLevels([1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 23, 32, 45]); return { maskMod: multiScale(levels.subarray(0, g.positions)) }; } },
  { id: "M33", title: "windows of an image", mods: () => ({ maskMod: shiftedWindow(16, 16, 4, 0) }) },
  { id: "M33", title: "shifted windows of an image", mods: () => ({ maskMod: shiftedWindow(16, 16, 4, 2) }) },
  { id: "M33", title: "shifted windows by tables of window and region", mods: (g) => ({
    maskMod: maskMod(({ win, reg }) => (_b, _h, q, kv) => win[q] === win[kv] && reg[q] === reg[kv], { win: numbers(g.positions, (i) => Math.floor(i / 64)), reg: numbers(g.positions, (i) => (i >> 3) & 1) }),
  }) },
  { id: "M34", title: "draft trees after prefixes, by bits", mods: (g) => {
    const parents = Array.from({ length: g.batch }, (_, b) => Array.from({ length: 40 }, (_, i) => (i === 0 ? -1 : Math.max(0, i - 1 - ((i * (b + 2)) % 5)))));
    return { maskMod: tree(numbers(g.batch, (b) => Math.max(0, g.keys - 40 - 9 * b)), ancestorBits(parents)) };
  } },
  ...[false, true].map((causalBlocks): Case => ({
    id: "M35", title: `draft blocks that see the context up to their anchor${causalBlocks ? ", causal inside" : ""}`, mods: (g) => {
      const s = Math.floor(g.keys / 2), c = 8;
      const anchor = numbers(Math.ceil(g.queries / c), (i) => Math.min(s, 5 + 11 * i));
      return { maskMod: maskMod(({ s, c, anchor, ordered }) => (_b, _h, q, kv) => {
        if (kv < s) return kv < anchor[floorDiv(q, c)]!;
        return floorDiv(q, c) === floorDiv(kv - s, c) && (!ordered || (kv - s) % c <= q % c);
      }, { s, c, anchor, ordered: causalBlocks }) };
    },
  })),
  { id: "M36", title: "window of each token", mods: (g) => ({ maskMod: windowPerToken(numbers(g.positions, (i) => (i * 17) % 70)) }) },
  { id: "M37", title: "window of each head, changed between calls", tight: true, mods: (g) => { sizes.of = numbers(g.heads, (h) => 10 + 45 * h); return { maskMod: windowPerHead(sizes.of) }; }, change: () => { sizes.of.forEach((_, h) => { sizes.of[h] = 25 * h + 3; }); } },
  { id: "M37", title: "heads of two kinds: causal and both sides", tight: true, mods: () => ({ maskMod: maskMod((_b, h, q, kv) => (h % 2 === 0 ? q >= kv : Math.abs(q - kv) < 33)) }) },
  { id: "M38", title: "a threshold loaded by the key", mods: (g) => ({ maskMod: maskMod(({ thr }) => (_b, _h, _q, kv) => kv >= thr[kv]!, { thr: numbers(g.keys, (kv) => (kv % 5 === 0 ? kv + 1 : kv >> 1)) }) }) },
  { id: "M39", title: "any matrix of each sequence and head, in bytes", mods: (g) => {
    const data = new Uint8Array(g.batch * g.heads * g.queries * g.keys);
    for (let b = 0, at = 0; b < g.batch; b++) for (let h = 0; h < g.heads; h++) for (let q = 0; q < g.queries; q++) for (let kv = 0; kv < g.keys; kv++, at++) data[at] = Number(any(b, h, q, kv) && kv - q < 60);
    return { maskMod: maskMod(({ m }) => (b, h, q, kv) => m[b]![h]![q]![kv] === 1, { m: tensor(data, [g.batch, g.heads, g.queries, g.keys]) }) };
  } },
  { id: "M39", title: "any matrix of each sequence and head, in bits", mods: (g) => ({
    maskMod: maskMod(({ bits }) => (b, h, q, kv) => ((bits[b]![h]![q]![kv >> 5]! >> (kv & 31)) & 1) === 1, { bits: bitTable(g, any) }),
  }) },
  { id: "M40", title: "union of causal in documents and a global prefix", tight: true, mods: (g) => ({ maskMod: or(and(causal, document(documentsOf(g.positions).documents)), maskMod((_b, _h, _q, kv) => kv < 16)) }) },
  { id: "M40", title: "complement of a window, within causal", mods: () => ({ maskMod: and(causal, not(slidingWindow(40))) }) },
  { id: "M40", title: "De Morgan's other side", tight: true, mods: (g) => ({ maskMod: not(or(not(causal), not(document(documentsOf(g.positions).documents)))) }) },
  { id: "M40", title: "causal and strictly anti-causal: nothing", mods: () => ({ maskMod: and(causal, not(causal)) }) },
  { id: "M40", title: "causal or strictly anti-causal: everything", mods: () => ({ maskMod: or(causal, not(causal)) }) },
  { id: "M40", title: "either but not both", mods: (g) => { const a = prefixLm(numbers(g.batch, () => 50)), c = slidingWindow(70); return { maskMod: and(or(a, c), not(and(a, c))) }; } },
  { id: "M41", title: "one rank's part of a ring: queries and keys from further on", tight: true, mods: () => ({ maskMod: offset(causal, { query: 96, kv: 64 }) }) },
  { id: "M41", title: "zig-zag order of a ring", tight: true, mods: (g) => {
    const part = Math.ceil(g.positions / 8), at = (i: number): number => { const p = Math.floor(i / part); return (p % 2 === 0 ? p / 2 : 7 - (p - 1) / 2) * part + (i % part); };
    return { maskMod: maskMod(({ p }) => (_b, _h, q, kv) => p[q]! >= p[kv]!, { p: numbers(g.positions, at) }) };
  } },
  { id: "M42", title: "selected blocks of each sequence and head, causal", mods: (g) => {
    const c = 32, rows = Math.ceil(g.queries / c), columns = Math.ceil(g.keys / c);
    const sel = Uint8Array.from({ length: g.batch * g.heads * rows * columns }, (_, i) => Number((i * 2654435761) % 5 < 2));
    return { maskMod: and(maskMod(({ sel, c }) => (b, h, q, kv) => sel[b]![h]![floorDiv(q, c)]![floorDiv(kv, c)] === 1, { sel: tensor(sel, [g.batch, g.heads, rows, columns]), c }), causal) };
  } },
  { id: "M43", title: "first and last keys, none between", tight: true, mods: () => ({ maskMod: reused }) },
  { id: "M43", title: "first and last keys, the same function object again under causal", tight: true, mods: () => ({ maskMod: and(reused, causal) }) },
  { id: "M44", title: "an offset that changes between calls", tight: true, mods: () => { shifted.by = 64; return { maskMod: maskMod((c) => (_b, _h, q, kv) => q + c.by >= kv && q - kv < 100, shifted) }; }, change: () => { shifted.by = -20; } },
  { id: "M45", title: "four regions with strides", mods: (g) => ({
    maskMod: maskMod(({ t, o, w }) => (_b, _h, q, kv) => {
      const first = q < t, second = t <= q && q < 2 * t;
      const group = (i: number): number => floorDiv(i - o - t, w);
      return (first && kv < t && q > kv - w)
        || (second && kv < t && (q - t) % w !== o && kv <= group(q) * w + o)
        || (second && t <= kv && kv < 2 * t && group(q) === group(kv) && (q - t) % w !== o && (kv - t) % w !== o)
        || (second && kv >= 2 * t && group(q) === floorDiv(kv - o - 2 * t, w));
    }, { t: Math.ceil(g.positions / 3), o: 1, w: 4 }),
  }) },
  { id: "M45", title: "four regions with strides, by modulo of negative numbers", mods: (g) => ({
    maskMod: maskMod(({ t }) => (_b, _h, q, kv) => floorMod(q - t, 6) >= floorMod(kv - t, 4) && floorDiv(q - t, 8) >= floorDiv(kv - t, 8), { t: Math.ceil(g.positions / 2) }),
  }) },
];

