/**
 * Where the rows of a block mask come from: range analysis of a mask, the elements of a dense one, two block masks joined, or some
 * queries of another one. Each brings its rows up to date when what it stands on changed, or the lengths grew, at the cost of the change.
 *
 * It knows nothing of states set by hand (block-states.ts), which lie over these rows.
 */
import { UsageError } from "../core/errors.ts";
import type { Expr } from "../ir/expr.ts";
import { evaluator } from "../ir/interpret.ts";
import { analyse, indicesOf, type RangeAnalysis, verdict } from "../ir/range.ts";
import { contentHash } from "../ir/table-stats.ts";
import { boxOf, CaptureWatch, mayRead, type Stretches } from "./capture-watch.ts";
import { type BlockRegion, classifyBlocks } from "./classify.ts";
import { and, type MaskMod, maskMod, not, offset, or, xor } from "./mod.ts";
import { joinRuns, pushRun, RowRuns, spliceRuns, type StateTable } from "./row-runs.ts";
import { type Tensor, tensor } from "./tensor.ts";

/** Lengths and blocks of a mask at some moment. */
export interface Sizes {
  readonly batch: number;
  readonly heads: number;
  readonly queryLength: number;
  readonly kvLength: number;
  /** Queries and keys of a block. */
  readonly queries: number;
  readonly keys: number;
  readonly numRows: number;
  readonly numColumns: number;
  /** Whether open blocks are evaluated. */
  readonly exact: boolean;
}

/** Rows of each sequence and head that differ: [b * heads + h], where batch (heads) is 1 if b (h) makes no difference. */
export interface BlockRows {
  readonly batch: number;
  readonly heads: number;
  readonly rows: readonly RowRuns[];
}

/** Rows that an update touched, or all of them. */
export type Touched = readonly number[] | "all";

export interface BlockSource {
  readonly mask: MaskMod;
  readonly found: BlockRows;
  isStale(): boolean;
  /** Brings the rows to the values and lengths of now. @throws UsageError when it cannot grow. */
  update(sizes: Sizes): Touched;
}

/** Rows derived by range analysis. */
export class DerivedBlocks implements BlockSource {
  readonly mask: MaskMod;
  readonly #analyser: (e: Expr) => RangeAnalysis;
  readonly #watch: CaptureWatch;
  #analysis!: RangeAnalysis;
  #sizes: Sizes;
  found!: BlockRows;

  /** `analyser` is range analysis; a test may count what it is asked. */
  constructor(mask: MaskMod, sizes: Sizes, analyser: (e: Expr) => RangeAnalysis = analyse) {
    this.mask = mask;
    this.#analyser = analyser;
    this.#watch = new CaptureWatch(mask);
    this.#sizes = sizes;
    this.#derive();
  }

  isStale(): boolean {
    return this.#watch.change() !== "none";
  }

  update(sizes: Sizes): Touched {
    const change = this.#watch.change(), old = this.#sizes;
    this.#sizes = sizes;
    if (change === "all") {
      this.#derive();
      this.#watch.renew();
      return "all";
    }
    if (change === "none" && sizes.queryLength === old.queryLength && sizes.kvLength === old.kvLength) return [];
    if (change !== "none") this.#analysis.bind(this.mask.values());
    // Blocks that had all their queries and keys before; the others are rows ra.. and, above them, columns ca.. .
    const ra = sizes.queryLength > old.queryLength ? Math.floor(old.queryLength / sizes.queries) : sizes.numRows;
    const ca = sizes.kvLength > old.kvLength ? Math.floor(old.kvLength / sizes.keys) : sizes.numColumns;
    const touched = new Set<number>();
    this.found.rows.forEach((rows, i) => {
      const b = Math.floor(i / this.found.heads), h = i % this.found.heads;
      if (change !== "none") this.#again(rows, b, h, { r0: 0, r1: ra, c0: 0, c1: ca }, change, touched);
      this.#classify(rows, b, h, { r0: 0, r1: ra, c0: ca, c1: sizes.numColumns }, touched);
      this.#classify(rows, b, h, { r0: ra, r1: sizes.numRows, c0: 0, c1: sizes.numColumns }, touched);
    });
    if (change !== "none") this.#watch.renew();
    return [...touched];
  }

  #derive(): void {
    const { batch, heads, numRows, numColumns } = this.#sizes;
    const reads = indicesOf(this.mask.expr());
    this.#analysis = this.#analyser(this.mask.expr()).bind(this.mask.values());
    const found = { batch: reads.has("b") ? batch : 1, heads: reads.has("h") ? heads : 1 };
    this.found = { ...found, rows: Array.from({ length: found.batch * found.heads }, (_, i) => {
      const rows = new RowRuns(numRows), b = Math.floor(i / found.heads), h = i % found.heads;
      classifyBlocks(this.#analysis, b, h, this.#sizes, { r0: 0, r1: numRows, c0: 0, c1: numColumns }, rows, this.#point(b, h));
      return rows.pack();
    }) };
  }

  #point(b: number, h: number): ((q: number, kv: number) => boolean) | undefined {
    if (!this.#sizes.exact) return undefined;
    const evaluate = evaluator(this.mask.expr()), captures = this.mask.values();
    return (q, kv) => evaluate({ b, h, q, kv, score: 0, ...captures }) === 1;
  }

  /** Classifies a region and puts it into the rows. */
  #classify(rows: RowRuns, b: number, h: number, region: BlockRegion, touched: Set<number>): void {
    const { r0, r1, c0, c1 } = region;
    if (r0 >= r1 || c0 >= c1) return;
    const fresh = new Map<number, number[]>();
    const add = (row: number, first: number, count: number, partial: 0 | 1): void => {
      const runs = fresh.get(row) ?? [];
      fresh.set(row, runs);
      pushRun(runs, first, count, partial ? 1 : 2);
    };
    classifyBlocks(this.#analysis, b, h, this.#sizes, region, { add }, this.#point(b, h));
    for (let r = r0; r < r1; r++) {
      const runs = fresh.get(r);
      if (!runs && rows.end(r) <= c0) continue;
      const old = rows.row(r);
      const next = spliceRuns(old, c0, c1, runs ?? []);
      if (next === old) continue;
      rows.set(r, next);
      touched.add(r);
    }
  }

  /** Of a region that stood, classifies anew what may read a changed element, by cutting it in four as the first time. */
  #again(rows: RowRuns, b: number, h: number, region: BlockRegion, change: Stretches, touched: Set<number>): void {
    const { r0, r1, c0, c1 } = region, { queries, keys, queryLength, kvLength } = this.#sizes;
    if (r0 >= r1 || c0 >= c1) return;
    const q0 = r0 * queries, q1 = Math.min(r1 * queries, queryLength) - 1, kv0 = c0 * keys, kv1 = Math.min(c1 * keys, kvLength) - 1;
    if (!mayRead(this.#analysis.ranges(boxOf(b, h, q0, q1, kv0, kv1)), this.mask.values().tables, change)) return;
    const one = r1 - r0 === 1 && c1 - c0 === 1;
    if (one || this.#analysis.classify(b, b, h, h, q0, q1, kv0, kv1) !== verdict.sometimes) return this.#classify(rows, b, h, region, touched);
    const r = r1 - r0 > 1 ? (r0 + r1) >>> 1 : r1, c = c1 - c0 > 1 ? (c0 + c1) >>> 1 : c1;
    for (const part of [{ r0, r1: r, c0, c1: c }, { r0, r1: r, c0: c, c1 }, { r0: r, r1, c0, c1: c }, { r0: r, r1, c0: c, c1 }]) this.#again(rows, b, h, part, change, touched);
  }
}

/** Rows counted from a dense mask, whose elements are kept as bits for the kernel. */
export class DenseBlocks implements BlockSource {
  readonly mask: MaskMod;
  readonly #dense: Tensor;
  readonly #bits: Int32Array;
  readonly #sizes: Sizes;
  #stamp = NaN;
  found!: BlockRows;

  /** `dense` is [batch, heads, queries, keys]; not 0 allows. */
  constructor(dense: Tensor, sizes: Sizes) {
    const [batch, heads, queries, keys] = dense.shape as [number, number, number, number];
    this.#dense = dense;
    this.#sizes = sizes;
    this.#bits = new Int32Array(batch * heads * queries * Math.ceil(keys / 32));
    const bits = tensor(this.#bits, [batch, heads, queries, Math.ceil(keys / 32)]);
    this.mask = batch > 1 && heads > 1 ? maskMod(({ bits }) => (b, h, q, kv) => ((bits[b]![h]![q]![kv >> 5]! >> (kv & 31)) & 1) === 1, { bits })
      : batch > 1 ? maskMod(({ bits }) => (b, _h, q, kv) => ((bits[b]![0]![q]![kv >> 5]! >> (kv & 31)) & 1) === 1, { bits })
        : heads > 1 ? maskMod(({ bits }) => (_b, h, q, kv) => ((bits[0]![h]![q]![kv >> 5]! >> (kv & 31)) & 1) === 1, { bits })
          : maskMod(({ bits }) => (_b, _h, q, kv) => ((bits[0]![0]![q]![kv >> 5]! >> (kv & 31)) & 1) === 1, { bits });
    this.update(sizes);
  }

  isStale(): boolean {
    return stampOf(this.#dense) !== this.#stamp;
  }

  update(sizes: Sizes): Touched {
    const [batch, heads, queryLength, kvLength] = this.#dense.shape as [number, number, number, number];
    if (sizes.queryLength !== queryLength || sizes.kvLength !== kvLength) throw new UsageError(`a block mask made of a dense mask has its ${queryLength} queries and ${kvLength} keys; make one of a larger mask, or use a mask that is a function`);
    if (!this.isStale()) return [];
    this.#stamp = stampOf(this.#dense);
    const { data } = this.#dense, { queries, keys, numRows, numColumns } = this.#sizes, words = Math.ceil(kvLength / 32);
    this.#bits.fill(0);
    const counts = new Int32Array(numColumns);
    const rows = Array.from({ length: batch * heads }, (_, i) => {
      const runs = new RowRuns(numRows);
      for (let r = 0; r < numRows; r++) {
        const end = Math.min((r + 1) * queries, queryLength);
        counts.fill(0);
        for (let q = r * queries; q < end; q++) {
          const row = (i * queryLength + q) * kvLength, bits = (i * queryLength + q) * words;
          for (let kv = 0; kv < kvLength; kv++) {
            if (!data[row + kv]) continue;
            this.#bits[bits + (kv >> 5)]! |= 1 << (kv & 31);
            counts[Math.floor(kv / keys)]!++;
          }
        }
        for (let c = 0; c < numColumns; c++) {
          const whole = (end - r * queries) * (Math.min((c + 1) * keys, kvLength) - c * keys);
          if (counts[c]! > 0) runs.add(r, c, 1, counts[c] === whole ? 0 : 1);
        }
      }
      return runs.pack();
    });
    this.found = { batch, heads, rows };
    return "all";
  }
}

/** The content of a tensor, in a number: its `version`, where its writer keeps one. */
export function stampOf(t: Tensor): number {
  return (t as { readonly version?: number }).version ?? contentHash(t.data);
}

/** A block mask as another one stands on it. */
export interface BlockPart {
  readonly mask: MaskMod;
  readonly found: BlockRows;
  readonly numRows: number;
  readonly numColumns: number;
  /** Counts up whenever the blocks or the mask change. */
  readonly version: number;
  row(b: number, h: number, row: number): Int32Array;
  isStale(): boolean;
  current(): BlockPart;
  growTo(queryLength: number, kvLength: number): void;
}

export type JoinOp = "and" | "or" | "xor";

const joins: Readonly<Record<JoinOp, StateTable>> = {
  and: [0, 0, 0, 0, 1, 1, 0, 1, 2],
  or: [0, 1, 2, 1, 1, 2, 2, 2, 2],
  xor: [0, 1, 2, 1, 1, 1, 2, 1, 0],
};
/** What two blocks are as one. */
const together: StateTable = [0, 1, 1, 1, 1, 1, 1, 1, 2];

/** What stands on other block masks: rows made of theirs, again whenever theirs changed. */
abstract class ViewedBlocks implements BlockSource {
  readonly parts: readonly BlockPart[];
  #seen: readonly number[] = [];
  #mask: { readonly of: readonly MaskMod[]; readonly mask: MaskMod } | undefined;
  found!: BlockRows;

  constructor(parts: readonly BlockPart[]) {
    this.parts = parts;
  }

  abstract makeMask(): MaskMod;
  abstract grow(sizes: Sizes): void;
  abstract makeRow(b: number, h: number, row: number, sizes: Sizes): Int32Array;

  get mask(): MaskMod {
    const of = this.parts.map((part) => part.mask);
    if (!this.#mask || this.#mask.of.some((mask, i) => mask !== of[i])) this.#mask = { of, mask: this.makeMask() };
    return this.#mask.mask;
  }

  isStale(): boolean {
    return this.parts.some((part, i) => part.isStale() || part.version !== this.#seen[i]);
  }

  update(sizes: Sizes): Touched {
    this.grow(sizes);
    for (const part of this.parts) part.current();
    if (this.#seen.length > 0 && this.parts.every((part, i) => part.version === this.#seen[i])) return [];
    this.#seen = this.parts.map((part) => part.version);
    const batch = Math.max(...this.parts.map((part) => part.found.batch)), heads = Math.max(...this.parts.map((part) => part.found.heads));
    this.found = { batch, heads, rows: Array.from({ length: batch * heads }, (_, i) => {
      const rows = new RowRuns(sizes.numRows);
      for (let r = 0; r < sizes.numRows; r++) {
        const runs = this.makeRow(Math.floor(i / heads), i % heads, r, sizes);
        for (let at = 0; at < runs.length; at += 2) rows.add(r, runs[at]!, runs[at + 1]! >> 1, (runs[at + 1]! & 1) as 0 | 1);
      }
      return rows.pack();
    }) };
    return "all";
  }
}

/** Two block masks, block by block. */
export class JoinedBlocks extends ViewedBlocks {
  readonly #op: JoinOp;

  constructor(op: JoinOp, a: BlockPart, b: BlockPart, sizes: Sizes) {
    super([a, b]);
    this.#op = op;
    this.update(sizes);
  }

  makeMask(): MaskMod {
    const [a, b] = this.parts as readonly [BlockPart, BlockPart];
    return { and, or, xor }[this.#op](a.mask, b.mask);
  }

  grow({ queryLength, kvLength }: Sizes): void {
    for (const part of this.parts) part.growTo(queryLength, kvLength);
  }

  makeRow(b: number, h: number, row: number, { numColumns }: Sizes): Int32Array {
    return joinRuns(this.parts[0]!.row(b, h, row), this.parts[1]!.row(b, h, row), numColumns, joins[this.#op]);
  }
}

/** The blocks that a block mask leaves out, whole or in part. */
export class InvertedBlocks extends ViewedBlocks {
  constructor(of: BlockPart, sizes: Sizes) {
    super([of]);
    this.update(sizes);
  }

  makeMask(): MaskMod {
    return not(this.parts[0]!.mask);
  }

  grow({ queryLength, kvLength }: Sizes): void {
    this.parts[0]!.growTo(queryLength, kvLength);
  }

  makeRow(b: number, h: number, row: number, { numColumns }: Sizes): Int32Array {
    return joinRuns(this.parts[0]!.row(b, h, row), Int32Array.of(0, numColumns << 1), numColumns, joins.xor);
  }
}

/** Queries `from` .. of a block mask, as the queries 0 .. of another; its mask goes on seeing where they stand. */
export class SlicedBlocks extends ViewedBlocks {
  readonly #from: number;
  readonly #length: number;

  constructor(of: BlockPart, from: number, sizes: Sizes) {
    super([of]);
    this.#from = from;
    this.#length = sizes.queryLength;
    this.update(sizes);
  }

  makeMask(): MaskMod {
    return this.#from === 0 ? this.parts[0]!.mask : offset(this.parts[0]!.mask, { query: this.#from });
  }

  grow({ queryLength }: Sizes): void {
    if (queryLength !== this.#length) throw new UsageError("a slice keeps its queries; append to the block mask it was taken from, and slice that");
  }

  /** A block of the slice lies in one row of blocks or in two, if the cut is not at the edge of one. */
  makeRow(b: number, h: number, i: number, { queries, numColumns, queryLength }: Sizes): Int32Array {
    const of = this.parts[0]!, first = Math.floor((this.#from + i * queries) / queries);
    const last = Math.floor((this.#from + Math.min((i + 1) * queries, queryLength) - 1) / queries);
    const row = of.row(b, h, first);
    // What the slice was taken from may have grown since.
    if (first === last) return spliceRuns(row, numColumns, Infinity, []);
    return joinRuns(row, of.row(b, h, last), numColumns, together);
  }
}
