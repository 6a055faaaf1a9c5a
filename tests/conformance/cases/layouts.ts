/** W1 to W6, and the edges of the list: launches that lie differently and must answer alike. */
import { and, maskMod, offset, or, scoreMod } from "../../../src/attention/mod.ts";
import { alibi, alibiSlopes } from "../../../src/attention/mods/alibi.ts";
import { causal } from "../../../src/attention/mods/causal.ts";
import { document } from "../../../src/attention/mods/document.ts";
import { packedDocuments, withinDocuments } from "../../../src/attention/mods/packed-documents.ts";
import { slidingWindow } from "../../../src/attention/mods/sliding-window.ts";
import { softCap } from "../../../src/attention/mods/soft-cap.ts";
import { type Agreement, denseSequences, type Form, geometryOf, type Mods, type Sequence, sequence, type Shape } from "../case.ts";
import { floats, numbers } from "./tables.ts";

const shape = (sequences: readonly Sequence[], heads = 4, kvHeads = 2): Shape => ({ heads, kvHeads, dim: 24, valueDim: 20, sequences });
const dense: Form = { kind: "dense" };
const paged = (pageSize: number, more: { readonly queryTile?: number; readonly kvTile?: number } = {}): Form => ({ kind: "paged", pageSize, ...more });

/** Documents of these lengths, each a sequence of its own. */
const lengths = [37, 1, 40, 12];
const apart = lengths.map((n, of) => sequence(of, n, n));
const cu = lengths.map((_, i) => lengths.slice(0, i).reduce((a, b) => a + b, 0));
const total = lengths.reduce((a, b) => a + b, 0);
const documents = Int32Array.from(lengths.flatMap((n, d) => new Array<number>(n).fill(d)));
const starts = Int32Array.from(documents, (d) => cu[d]!);
const seedAt = (i: number): number => apart[documents[i]!]!.key(i - starts[i]!);
/** The same tokens side by side in one sequence. */
const together: Sequence = { rows: total, firstPosition: 0, kvLength: total, query: seedAt, key: seedAt };
const byKey = floats(total, (i) => Math.sin(i));

const whole = [sequence(0, 80, 80), sequence(1, 40, 40)];
const chunks = [sequence(0, 17, 80), sequence(1, 5, 40)];
/** The same rows, counted from 0. */
const recounted = chunks.map((s): Sequence => ({ ...s, firstPosition: 0 }));
const mods: Mods = { scoreMod: softCap(5), maskMod: and(causal, slidingWindow(50)) };
const edgeLess = (s: Shape): Mods => ({ scoreMod: alibi(alibiSlopes(geometryOf(s).heads)), maskMod: causal });

export const layouts: readonly Agreement[] = [
  ...[1, 8, 16, 32, 64, 128, 256, 7].map((pageSize): Agreement => ({
    id: "W1", title: `pages of ${pageSize} tokens and one tensor`, bits: true,
    sides: [{ mods, shape: shape(denseSequences(2, 40, 70)), form: dense }, { mods, shape: shape(denseSequences(2, 40, 70)), form: paged(pageSize) }],
  })),
  { id: "W1", title: "one page in two sequences, and pages of their own", bits: true, sides: [
    { mods, shape: shape([sequence(0, 40, 100), { ...sequence(1, 20, 90), key: (t) => (t < 64 ? sequence(0, 0, 100).key(t) : sequence(1, 0, 90).key(t)) }]), form: paged(16) },
    { mods, shape: shape([sequence(0, 40, 100), { ...sequence(1, 20, 90), key: (t) => (t < 64 ? sequence(0, 0, 100).key(t) : sequence(1, 0, 90).key(t)) }]), form: paged(128) },
  ] },
  { id: "W2", title: "the last rows of a prompt and the whole prompt", bits: "one kernel", sides: [{ mods, shape: shape(whole), form: paged(16) }, { mods, shape: shape(chunks), form: paged(16) }] },
  { id: "W2", title: "rows counted from 0 under a mask moved by off[b]", bits: true, sides: [
    { mods: { maskMod: and(causal, slidingWindow(50)) }, shape: shape(chunks), form: paged(16) },
    { mods: { maskMod: maskMod(({ off, inner }) => (b, h, q, kv) => inner(b, h, q + off[b]!, kv), { off: Int32Array.from(chunks, (s) => s.firstPosition), inner: and(causal, slidingWindow(50)) }) }, shape: shape(recounted), form: paged(16) },
  ] },
  { id: "W2", title: "one decoded row, and its row in the prompt", bits: "one kernel", sides: [{ mods, shape: shape([sequence(0, 80, 80)]), form: dense }, { mods, shape: shape([sequence(0, 1, 80)]), form: paged(32) }] },
  { id: "W3", title: "sequences of any length and the same packed: a bias by the global index", bits: false, sides: [
    { mods: { maskMod: causal, scoreMod: scoreMod(({ cu, t }) => (score, b, _h, q, kv) => score + t[cu[b]! + kv]! - 0.5 * t[cu[b]! + q]!, { cu: Int32Array.from(cu), t: byKey }) }, shape: shape(apart), form: paged(16) },
    { mods: { maskMod: packedDocuments(starts), scoreMod: scoreMod(({ t }) => (score, _b, _h, q, kv) => score + t[kv]! - 0.5 * t[q]!, { t: byKey }) }, shape: shape([together]), form: dense },
  ] },
  { id: "W4", title: "packed, with positions from each document's start", bits: false, sides: [
    { mods: { maskMod: slidingWindow(20), scoreMod: scoreMod((score, _b, _h, q, kv) => score + 0.1 * (q % 5) * (kv % 3)) }, shape: shape(apart), form: paged(8) },
    { mods: { maskMod: withinDocuments(documents, starts, slidingWindow(20)), scoreMod: scoreMod(({ st }) => (score, _b, _h, q, kv) => score + 0.1 * ((q - st[q]!) % 5) * ((kv - st[kv]!) % 3), { st: starts }) }, shape: shape([together]), form: paged(8) },
  ] },
  { id: "W5", title: "8 query heads over 2 key heads, and over 8 copies", bits: true, sides: [
    { mods: edgeLess(shape([], 8, 2)), shape: shape(whole, 8, 2), form: paged(16) },
    { mods: edgeLess(shape([], 8, 2)), shape: { ...shape(whole, 8, 8), kvSource: (head) => Math.floor(head / 4) }, form: paged(16) },
  ] },
  { id: "W6", title: "the same launch twice", bits: true, sides: [{ mods, shape: shape(whole), form: paged(16) }, { mods, shape: shape(whole), form: paged(16) }] },
  { id: "W6", title: "tiles of 16 rows and of 1", bits: "one kernel", sides: [{ mods, shape: shape(whole), form: paged(16) }, { mods, shape: shape(whole), form: paged(16, { queryTile: 1 }) }] },
  { id: "W6", title: "blocks of 32 keys and of 64", bits: false, sides: [{ mods, shape: shape(whole), form: paged(16) }, { mods, shape: shape(whole), form: paged(16, { kvTile: 64 }) }] },
  { id: "M4'", title: "documents with causal, and as intervals", bits: true, sides: [
    { mods: { maskMod: and(document(documents), causal) }, shape: shape([together]), form: dense }, { mods: { maskMod: packedDocuments(starts) }, shape: shape([together]), form: dense },
  ] },
  { id: "M40", title: "and, or and not, and their other side", bits: true, sides: [
    { mods: { maskMod: or(slidingWindow(20), and(document(documents), causal)) }, shape: shape([together]), form: dense },
    { mods: { maskMod: maskMod(({ documents }) => (_b, _h, q, kv) => q >= kv && (q - kv < 20 || documents[q] === documents[kv]), { documents }) }, shape: shape([together]), form: dense },
  ] },
  { id: "M41", title: "half of the keys, counted from where they begin", bits: true, sides: [
    { mods: { maskMod: offset(causal, { query: 64 }) }, shape: shape(denseSequences(1, 40, 100)), form: dense }, { mods: { maskMod: maskMod((_b, _h, q, kv) => q + 64 >= kv) }, shape: shape(denseSequences(1, 40, 100)), form: dense },
  ] },
  { id: "S23", title: "a score of -Infinity and a mask", bits: "one kernel", sides: [
    { mods: { scoreMod: scoreMod((score, _b, _h, q, kv) => (q % 4 === 2 || kv > q + 9 ? -Infinity : score)) }, shape: shape(whole), form: paged(16) },
    { mods: { maskMod: maskMod((_b, _h, q, kv) => q % 4 !== 2 && kv <= q + 9) }, shape: shape(whole), form: paged(16) },
  ] },
  { id: "6", title: "one batch of keys for all sequences, and a copy for each", bits: true, sides: [
    { mods, shape: shape([0, 1, 2].map((of): Sequence => ({ ...sequence(of, 40, 60, 0), key: sequence(9, 0, 60).key }))), form: { kind: "dense", kvBatch: 1 } },
    { mods, shape: shape([0, 1, 2].map((of): Sequence => ({ ...sequence(of, 40, 60, 0), key: sequence(9, 0, 60).key }))), form: dense },
  ] },
  { id: "6", title: "tensors stored [B, L, H, D], as views, and row-major", bits: true, sides: [
    { mods, shape: shape(denseSequences(2, 40, 60)), form: { kind: "dense", transposed: true } }, { mods, shape: shape(denseSequences(2, 40, 60)), form: dense },
  ] },
  { id: "6", title: "a table longer than the positions, and one as long", bits: true, sides: [
    { mods: { maskMod: document(numbers(500, (i) => i >> 4)) }, shape: shape(denseSequences(1, 60, 60)), form: dense }, { mods: { maskMod: document(numbers(60, (i) => i >> 4)) }, shape: shape(denseSequences(1, 60, 60)), form: dense },
  ] },
];
