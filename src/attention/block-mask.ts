/**
 * Which blocks of a (query, key) grid a mask leaves empty, full or partial: found by range analysis, never by evaluating the mask.
 *
 * A block called full is full and one called empty is empty; a partial one is not proved either way, and there the kernel asks the
 * mask. Rows keep runs of equal blocks, so memory follows the answer. Blocks follow the values a mask captured, grow with a cache, and
 * can be set by hand; where rows come from, and how they keep up, is block-source.ts.
 */
import { UsageError } from "../core/errors.ts";
import { evaluator } from "../ir/interpret.ts";
import { type Classifier, indicesOf, verdict, type Verdict } from "../ir/range.ts";
import { drawSvg, drawText, type SvgOptions } from "./block-drawing.ts";
import { type BlockPart, type BlockRows, type BlockSource, DerivedBlocks, InvertedBlocks, type JoinOp, JoinedBlocks, type Sizes, SlicedBlocks, type Touched } from "./block-source.ts";
import { BlockStates, stateCode } from "./block-states.ts";
import { type MaskMod } from "./mod.ts";
import { joinRuns, RowRuns, type StateTable } from "./row-runs.ts";
import { type Tensor, tensor } from "./tensor.ts";

export interface BlockMaskOptions {
  /** Sequences and query heads; 1 where the mask does not depend on them. */
  readonly batch: number;
  readonly heads: number;
  readonly queryLength: number;
  readonly kvLength: number;
  /** Queries and keys of a block: one number, or [queries, keys]. Any number from 1; 128 when left out. */
  readonly blockSize?: number | readonly [query: number, kv: number];
  /** Evaluates the mask in blocks that range analysis leaves open. */
  readonly exact?: boolean;
}

/** Block states in `toDense`, and for `set`. */
export const blockState = { empty: 0, partial: 1, full: 2 } as const;
export type BlockState = (typeof blockState)[keyof typeof blockState];

/** Classifies every block. @throws UsageError for sizes that are no whole numbers from 1 (lengths: from 0). */
export function createBlockMask(mask: MaskMod, options: BlockMaskOptions): BlockMask {
  if (mask?.kind !== "mask") throw new UsageError("createBlockMask() takes a mask made with maskMod()");
  const sizes = sizesOf(options);
  return new BlockMask(new DerivedBlocks(mask, sizes), sizes);
}

/** @throws UsageError for sizes that are none, by name. */
export function sizesOf(options: BlockMaskOptions): Sizes {
  const { batch, heads, queryLength, kvLength, blockSize = 128, exact = false } = options;
  const [queries, keys] = typeof blockSize === "number" ? [blockSize, blockSize] as const : blockSize;
  const given = { batch: [batch, 1], heads: [heads, 1], queryLength: [queryLength, 0], kvLength: [kvLength, 0], blockSize: [queries, 1], "blockSize[1]": [keys, 1] } as const;
  for (const [name, [value, least]] of Object.entries(given)) {
    if (!Number.isInteger(value) || value < least) throw new UsageError(`${name} is ${value}; it must be a whole number from ${least}`);
  }
  return { batch, heads, queryLength, kvLength, queries, keys, exact, numRows: Math.ceil(queryLength / queries), numColumns: Math.ceil(kvLength / keys) };
}

/** States that come with the mask, and may change where they come from. */
export interface GivenStates {
  readonly states: BlockStates;
  isStale(): boolean;
  /** Writes them into `states` again. */
  fill(): void;
}

/** What the source says of a block, unless it is set: index 3 found + (0 not set, 1 empty, 2 full). */
const overlay: StateTable = [0, 0, 2, 1, 0, 2, 2, 0, 2];

/** The blocks of a mask at some lengths. Calls bring it up to date; what reads it otherwise finds it as it was last brought, see `current`. */
export class BlockMask implements Classifier, BlockPart {
  readonly #source: BlockSource;
  #sizes: Sizes;
  readonly #given: GivenStates | undefined;
  #states: BlockStates | undefined;
  #masked: { readonly of: MaskMod; readonly mask: MaskMod } | undefined;
  #found: BlockRows;
  #version = 0;

  /** Made by createBlockMask and its sisters. */
  constructor(source: BlockSource, sizes: Sizes, given?: GivenStates) {
    this.#source = source;
    this.#sizes = sizes;
    this.#given = given;
    this.#states = given?.states;
    this.#found = source.found;
    if (given) {
      given.fill();
      this.#layOver("all");
    }
  }

  /** What says which keys of a partial block are allowed; also which keys of any block, so that it is the mask. */
  get mask(): MaskMod {
    const of = this.#source.mask;
    if (!this.#states) return of;
    if (this.#masked?.of !== of) this.#masked = { of, mask: this.#states.over(of, this.blockSize) };
    return this.#masked.mask;
  }

  get options(): BlockMaskOptions {
    const { batch, heads, queryLength, kvLength, exact } = this.#sizes;
    return { batch, heads, queryLength, kvLength, blockSize: this.blockSize, exact };
  }

  get blockSize(): readonly [query: number, kv: number] {
    return [this.#sizes.queries, this.#sizes.keys];
  }

  /** Rows and columns of blocks. */
  get numRows(): number {
    return this.#sizes.numRows;
  }

  get numColumns(): number {
    return this.#sizes.numColumns;
  }

  /** Counts up whenever the blocks or the mask changed. */
  get version(): number {
    return this.#version;
  }

  /** The rows as they are kept. */
  get found(): BlockRows {
    return this.#found;
  }

  /** Runs of one row of blocks, ascending: pairs of (first block, (number of blocks << 1) | partial). What is in no run is empty. */
  row(b: number, h: number, row: number): Int32Array {
    const { batch, heads, rows } = this.#found;
    return rows[Math.min(b, batch - 1) * heads + Math.min(h, heads - 1)]!.row(row);
  }

  /** The state of one block. */
  get(b: number, h: number, row: number, column: number): BlockState {
    return { [verdict.never]: blockState.empty, [verdict.always]: blockState.full, [verdict.sometimes]: blockState.partial }[stretch(this.row(b, h, row), column, column)];
  }

  // ---- Following what it stands on ----

  /** Whether a captured value, a given state or a block mask it was made of changed since the blocks were found. */
  isStale(): boolean {
    return this.#source.isStale() || (this.#given?.isStale() ?? false);
  }

  /** Itself, brought up to date in place. Of a table that changed, only blocks that may read the changed stretch are classified again. */
  current(): this {
    this.#follow(this.#sizes);
    return this;
  }

  #follow(sizes: Sizes): void {
    const touched = this.#source.update(sizes), grown = sizes !== this.#sizes, refilled = this.#given?.isStale() ?? false;
    this.#sizes = sizes;
    if (touched.length === 0 && !grown && !refilled) return;
    this.#version++;
    this.#states?.grow(sizes.numRows, sizes.numColumns);
    if (refilled) this.#given!.fill();
    this.#layOver(refilled || grown ? "all" : touched);
  }

  /** Puts the states that were set over the source's rows. */
  #layOver(touched: Touched): void {
    const states = this.#states, under = this.#source.found, { numRows, numColumns } = this.#sizes;
    if (!states) {
      this.#found = under;
      return;
    }
    const batch = Math.max(under.batch, states.batch), heads = Math.max(under.heads, states.heads);
    const whole = touched === "all" || batch !== this.#found.batch || heads !== this.#found.heads || this.#found === under;
    const rows = whole ? Array.from({ length: batch * heads }, () => new RowRuns(0).pack()) : this.#found.rows;
    const which = touched === "all" || whole ? Array.from({ length: numRows }, (_, r) => r) : touched;
    rows.forEach((to, i) => {
      const b = Math.floor(i / heads), h = i % heads, from = under.rows[Math.min(b, under.batch - 1) * under.heads + Math.min(h, under.heads - 1)]!;
      for (const r of which) {
        const set = states.row(b, h, r);
        to.set(r, set.length === 0 ? from.row(r) : joinRuns(from.row(r), Int32Array.from(set), numColumns, overlay));
      }
    });
    this.#found = { batch, heads, rows };
  }

  // ---- Changing it ----

  /** As many queries and keys more, while decoding: classifies the new blocks and those that were cut short, no others. Returns itself. */
  append(by: { readonly queries?: number; readonly keys?: number }): this {
    const { queries = 0, keys = 0 } = by;
    for (const [name, n] of Object.entries({ queries, keys })) if (!Number.isInteger(n) || n < 0) throw new UsageError(`append() takes whole numbers from 0, and ${name} is ${n}`);
    this.growTo(this.#sizes.queryLength + queries, this.#sizes.kvLength + keys);
    return this;
  }

  /** As `append`, to lengths; does nothing where it is as long already. */
  growTo(queryLength: number, kvLength: number): void {
    const now = this.#sizes;
    if (queryLength <= now.queryLength && kvLength <= now.kvLength) return;
    this.#follow(sizesOf({ ...this.options, queryLength: Math.max(queryLength, now.queryLength), kvLength: Math.max(kvLength, now.kvLength) }));
  }

  /**
   * Sets a block: full is attended whole, empty not at all, partial where the mask says so. It stays so when the block mask is brought
   * up to date. The cost is one row; the first `set` makes a table of two bits for each block, and a kernel that reads it.
   */
  set(b: number, h: number, row: number, column: number, state: BlockState): this {
    const { batch, heads, numRows, numColumns } = this.#sizes;
    for (const [name, value, end] of [["b", b, batch], ["h", h, heads], ["row", row, numRows], ["column", column, numColumns]] as const) {
      if (!(Number.isInteger(value) && value >= 0 && value < end)) throw new UsageError(`set(): ${name} is ${value}; the block mask has 0 to ${end - 1}`);
    }
    const states = (this.#states ??= new BlockStates(batch, heads, numRows, numColumns, stateCode.ask));
    if (b >= states.batch || h >= states.heads) throw new UsageError(`set(): the states given with this block mask are for batch ${states.batch} and ${states.heads} heads; give them for each one`);
    states.set(b, h, row, column, state === blockState.full ? stateCode.full : state === blockState.empty ? stateCode.empty : stateCode.ask);
    this.#version++;
    this.#layOver([row]);
    return this;
  }

  // ---- Others made of it. They follow it: when it changes, they are stale ----

  /** Keys that both allow: block by block, from the blocks alone. Lengths and block sizes must agree. */
  and(other: BlockMask): BlockMask {
    return this.#join("and", other);
  }

  /** Keys that either allows. */
  or(other: BlockMask): BlockMask {
    return this.#join("or", other);
  }

  /** Keys that one allows and the other does not. */
  xor(other: BlockMask): BlockMask {
    return this.#join("xor", other);
  }

  /** Keys that it forbids. */
  not(): BlockMask {
    return new BlockMask(new InvertedBlocks(this, this.#sizes), this.#sizes);
  }

  #join(op: JoinOp, other: BlockMask): BlockMask {
    if (!(other instanceof BlockMask)) throw new UsageError(`${op}() joins block masks; make one with createBlockMask()`);
    const a = this.#sizes, b = other.#sizes;
    for (const name of ["queryLength", "kvLength", "queries", "keys"] as const) {
      if (a[name] !== b[name]) throw new UsageError(`${op}() joins block masks of the same lengths and block sizes; ${name} is ${a[name]} and ${b[name]}`);
    }
    for (const [name, index] of [["batch", "b"], ["heads", "h"]] as const) {
      const fewer = a[name] < b[name] ? this : other;
      if (a[name] !== b[name] && indicesOf(fewer.mask.expr()).has(index)) throw new UsageError(`${op}(): ${name} is ${a[name]} and ${b[name]}, and the mask of fewer reads ${index}`);
    }
    const sizes = { ...a, batch: Math.max(a.batch, b.batch), heads: Math.max(a.heads, b.heads), exact: false };
    return new BlockMask(new JoinedBlocks(op, this, other, sizes), sizes);
  }

  /**
   * Queries from .. to-1 as a block mask of their own, whose first query is 0 to the kernel and `from` to the mask: for decoding, one row
   * of blocks of a mask made once. The cost is the rows it takes. Brings this one up to date first.
   */
  slice(from: number, to: number): BlockMask {
    const { queryLength, kvLength } = this.#sizes;
    if (!(Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from <= to && to <= queryLength)) throw new UsageError(`slice(${from}, ${to}) is not within the ${queryLength} queries`);
    const sizes = sizesOf({ ...this.options, queryLength: to - from, kvLength });
    return new BlockMask(new SlicedBlocks(this, from, sizes), sizes);
  }

  // ---- Reading it ----

  /** From the runs: a box is full or empty if all blocks it touches are. */
  classify(b0: number, b1: number, h0: number, h1: number, q0: number, q1: number, kv0: number, kv1: number): Verdict {
    const { queries, keys } = this.#sizes, { batch, heads } = this.#found;
    const r0 = Math.floor(q0 / queries), r1 = Math.floor(q1 / queries), c0 = Math.floor(kv0 / keys), c1 = Math.floor(kv1 / keys);
    let seen: Verdict | undefined;
    for (let b = Math.min(b0, batch - 1); b <= Math.min(b1, batch - 1); b++) {
      for (let h = Math.min(h0, heads - 1); h <= Math.min(h1, heads - 1); h++) {
        for (let r = r0; r <= r1; r++) {
          const is = stretch(this.row(b, h, r), c0, c1);
          if (is === verdict.sometimes || (seen !== undefined && seen !== is)) return verdict.sometimes;
          seen = is;
        }
      }
    }
    return seen ?? verdict.never;
  }

  /** Blocks of each state, over all sequences and heads. */
  counts(): { readonly empty: number; readonly partial: number; readonly full: number } {
    let partial = 0, full = 0;
    for (const rows of this.#found.rows) {
      for (let r = 0; r < this.numRows; r++) {
        const runs = rows.row(r);
        for (let i = 1; i < runs.length; i += 2) {
          if (runs[i]! & 1) partial += runs[i]! >> 1;
          else full += runs[i]! >> 1;
        }
      }
    }
    const { batch, heads, numRows, numColumns } = this.#sizes;
    const times = (batch / this.#found.batch) * (heads / this.#found.heads), total = batch * heads * numRows * numColumns;
    return { empty: total - (partial + full) * times, partial: partial * times, full: full * times };
  }

  /** The part of blocks that are empty, 0 to 1. */
  sparsity(): number {
    const { empty, partial, full } = this.counts();
    return empty / Math.max(1, empty + partial + full);
  }

  /** [batch, heads, rows, columns] of block states (`blockState`). */
  toDense(): Tensor {
    const { batch, heads, numRows, numColumns } = this.#sizes;
    const data = new Uint8Array(batch * heads * numRows * numColumns);
    this.#eachRow((runs, at) => {
      for (let i = 0; i < runs.length; i += 2) data.fill(runs[i + 1]! & 1 ? blockState.partial : blockState.full, at * numColumns + runs[i]!, at * numColumns + runs[i]! + (runs[i + 1]! >> 1));
    });
    return tensor(data, [batch, heads, numRows, numColumns]);
  }

  /** [batch, heads, queries, keys], 1 where a key is allowed. Evaluates the mask in partial blocks. */
  toElements(): Tensor {
    const { batch, heads, numRows, queryLength, kvLength, queries, keys } = this.#sizes;
    const data = new Uint8Array(batch * heads * queryLength * kvLength);
    const { mask } = this, evaluate = evaluator(mask.expr()), env = { b: 0, h: 0, q: 0, kv: 0, score: 0, ...mask.values() };
    this.#eachRow((runs, at) => {
      const i = Math.floor(at / numRows), r = at % numRows;
      env.b = Math.floor(i / heads);
      env.h = i % heads;
      for (env.q = r * queries; env.q < Math.min((r + 1) * queries, queryLength); env.q++) {
        const to = (i * queryLength + env.q) * kvLength;
        for (let j = 0; j < runs.length; j += 2) {
          const from = runs[j]! * keys, end = Math.min((runs[j]! + (runs[j + 1]! >> 1)) * keys, kvLength);
          if (runs[j + 1]! & 1) for (env.kv = from; env.kv < end; env.kv++) data[to + env.kv] = evaluate(env);
          else data.fill(1, to + from, to + end);
        }
      }
    });
    return tensor(data, [batch, heads, queryLength, kvLength]);
  }

  /** Every row of blocks of every sequence and head, and its place in [batch, heads, rows]. */
  #eachRow(visit: (runs: Int32Array, at: number) => void): void {
    const { batch, heads, numRows } = this.#sizes;
    for (let b = 0, at = 0; b < batch; b++) for (let h = 0; h < heads; h++) for (let r = 0; r < numRows; r++, at++) visit(this.row(b, h, r), at);
  }

  /** A drawing of the first sequence and head: █ full, ░ partial, · empty; at most 64 characters wide, each then standing for several blocks. */
  toString(): string {
    return drawText(this);
  }

  /** A picture with axes and a legend; of a small mask every query and key. */
  toSVG(options: SvgOptions = {}): string {
    return drawSvg(this, options);
  }
}

/** What the blocks c0..c1 of one row are together. */
function stretch(runs: Int32Array, c0: number, c1: number): Verdict {
  for (let i = 0; i < runs.length; i += 2) {
    const first = runs[i]!, last = first + (runs[i + 1]! >> 1) - 1;
    if (last < c0) continue;
    if (first > c1) return verdict.never;
    return first <= c0 && last >= c1 && !(runs[i + 1]! & 1) ? verdict.always : verdict.sometimes;
  }
  return verdict.never;
}
