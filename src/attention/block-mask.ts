/**
 * Which blocks of a (query, key) grid a mask leaves empty, full or partial: found by range analysis, never by evaluating the mask.
 *
 * A box of blocks is classified as a whole; where the answer is not certain it is cut in four, down to one block. The cost
 * follows the mask's boundary, not the area. A block called full is full and one called empty is empty; a partial one is not
 * proved either way (with `exact` it is also evaluated on the host, and then surely mixed). Rows keep runs of equal blocks.
 */
import { UsageError } from "../core/errors.ts";
import { evaluator } from "../ir/interpret.ts";
import { analyse, type Classifier, indicesOf, verdict, type Verdict } from "../ir/range.ts";
import { contentHash } from "../ir/table-stats.ts";
import { fixed } from "./captures.ts";
import { classifyBlocks } from "./classify.ts";
import { floorDiv } from "./language.ts";
import { type MaskMod, maskMod, offset } from "./mod.ts";
import { RowRuns } from "./row-runs.ts";
import { tensor, type Tensor } from "./tensor.ts";

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

/** Block states in `toDense`. */
export const blockState = { empty: 0, partial: 1, full: 2 } as const;

/** Classifies every block. @throws UsageError for sizes that are no whole numbers from 1 (lengths: from 0). */
export function createBlockMask(mask: MaskMod, options: BlockMaskOptions): BlockMask {
  if (mask?.kind !== "mask") throw new UsageError("createBlockMask() takes a mask made with maskMod()");
  for (const [name, value, least] of [["batch", options.batch, 1], ["heads", options.heads, 1], ["queryLength", options.queryLength, 0], ["kvLength", options.kvLength, 0]] as const) {
    if (!Number.isInteger(value) || value < least) throw new UsageError(`${name} is ${value}; it must be a whole number from ${least}`);
  }
  return new BlockMask(mask, options);
}

/**
 * A block mask from states found elsewhere (top-k blocks, a routing network): [batch or 1, heads or 1, rows, columns] of `blockState`, read again
 * when they change. Full blocks are attended whole, partial ones where `mask` says so, or whole when it is left out.
 */
export function blockMaskOf(states: Tensor, options: BlockMaskOptions & { readonly mask?: MaskMod }): BlockMask {
  const [queries, keys] = sizesOf(options.blockSize);
  const rows = Math.ceil(options.queryLength / queries), columns = Math.ceil(options.kvLength / keys);
  const [batch, heads] = states.shape as [number, number];
  const fits = states.shape.length === 4 && (batch === 1 || batch === options.batch) && (heads === 1 || heads === options.heads) && states.shape[2] === rows && states.shape[3] === columns;
  if (!fits) throw new UsageError(`the block states have shape [${states.shape.join(", ")}]; they must be [${options.batch} or 1, ${options.heads} or 1, ${rows}, ${columns}]`);
  const inner = options.mask ?? maskMod(() => true);
  const mask = maskMod(({ states, inner, batch, heads, queries, keys }) => (b, h, q, kv) => {
    const state = states[Math.min(b, batch - 1)]![Math.min(h, heads - 1)]![floorDiv(q, queries)]![floorDiv(kv, keys)]!;
    return state === 2 || (state === 1 && inner(b, h, q, kv));
  }, { states, inner, batch: fixed(batch), heads: fixed(heads), queries: fixed(queries), keys: fixed(keys) });
  return new BlockMask(mask, options);
}

function sizesOf(blockSize: BlockMaskOptions["blockSize"] = 128): readonly [query: number, kv: number] {
  const sizes = typeof blockSize === "number" ? [blockSize, blockSize] as const : blockSize;
  for (const size of sizes) if (!Number.isInteger(size) || size < 1) throw new UsageError(`blockSize is ${size}; it must be a whole number from 1`);
  return sizes;
}

export class BlockMask implements Classifier {
  readonly mask: MaskMod;
  readonly options: BlockMaskOptions;
  readonly blockSize: readonly [query: number, kv: number];
  /** Rows and columns of blocks. */
  readonly numRows: number;
  readonly numColumns: number;
  /** One list of rows for each sequence and head that differ: 1 where the mask does not read b (or h). */
  readonly #batch: number;
  readonly #heads: number;
  readonly #rows: readonly RowRuns[];
  readonly #stamp: string;

  constructor(mask: MaskMod, options: BlockMaskOptions) {
    this.mask = mask;
    this.options = options;
    this.blockSize = sizesOf(options.blockSize);
    this.numRows = Math.ceil(options.queryLength / this.blockSize[0]);
    this.numColumns = Math.ceil(options.kvLength / this.blockSize[1]);
    const reads = indicesOf(mask.expr());
    this.#batch = reads.has("b") ? options.batch : 1;
    this.#heads = reads.has("h") ? options.heads : 1;
    this.#stamp = stamp(mask);
    this.#rows = this.#derive();
  }

  #derive(): RowRuns[] {
    const { mask, options: { queryLength, kvLength, exact = false }, blockSize: [queries, keys] } = this;
    const captures = mask.values();
    const analysis = analyse(mask.expr()).bind(captures);
    const evaluate = exact ? evaluator(mask.expr()) : undefined;
    const all: RowRuns[] = [];
    for (let b = 0; b < this.#batch; b++) {
      for (let h = 0; h < this.#heads; h++) {
        const runs = new RowRuns(this.numRows);
        classifyBlocks(analysis, b, h, { queryLength, kvLength, queries, keys }, { r0: 0, r1: this.numRows, c0: 0, c1: this.numColumns }, runs, evaluate && ((q, kv) => evaluate({ b, h, q, kv, score: 0, ...captures }) === 1));
        runs.pack();
        all.push(runs);
      }
    }
    return all;
  }

  /** Runs of one row of blocks, ascending: pairs of (first block, (number of blocks << 1) | partial). What is in no run is empty. */
  row(b: number, h: number, row: number): Int32Array {
    return this.#rows[Math.min(b, this.#batch - 1) * this.#heads + Math.min(h, this.#heads - 1)]!.row(row);
  }

  /** Whether a captured value changed since the blocks were derived. */
  isStale(): boolean {
    return stamp(this.mask) !== this.#stamp;
  }

  /** This mask, derived anew if a captured value changed. */
  current(): BlockMask {
    return this.isStale() ? new BlockMask(this.mask, this.options) : this;
  }

  /** Queries from..to-1 as a mask of their own, whose first query is 0. */
  slice(from: number, to: number): BlockMask {
    const { queryLength } = this.options;
    if (!(from >= 0 && from <= to && to <= queryLength)) throw new UsageError(`slice(${from}, ${to}) is not within the ${queryLength} queries`);
    return new BlockMask(offset(this.mask, { query: from }), { ...this.options, queryLength: to - from });
  }

  /** From the runs: a box is full or empty if all blocks it touches are. */
  classify(b0: number, b1: number, h0: number, h1: number, q0: number, q1: number, kv0: number, kv1: number): Verdict {
    const [queries, keys] = this.blockSize;
    const r0 = Math.floor(q0 / queries), r1 = Math.floor(q1 / queries), c0 = Math.floor(kv0 / keys), c1 = Math.floor(kv1 / keys);
    let seen: Verdict | undefined;
    for (let b = Math.min(b0, this.#batch - 1); b <= Math.min(b1, this.#batch - 1); b++) {
      for (let h = Math.min(h0, this.#heads - 1); h <= Math.min(h1, this.#heads - 1); h++) {
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
    for (const rows of this.#rows) {
      for (let r = 0; r < this.numRows; r++) {
        const runs = rows.row(r);
        for (let i = 1; i < runs.length; i += 2) {
          if (runs[i]! & 1) partial += runs[i]! >> 1;
          else full += runs[i]! >> 1;
        }
      }
    }
    const times = (this.options.batch / this.#batch) * (this.options.heads / this.#heads);
    const total = this.options.batch * this.options.heads * this.numRows * this.numColumns;
    return { empty: total - (partial + full) * times, partial: partial * times, full: full * times };
  }

  /** The part of blocks that are empty, 0 to 1. */
  sparsity(): number {
    const { empty, partial, full } = this.counts();
    return empty / Math.max(1, empty + partial + full);
  }

  /** [batch, heads, rows, columns] of block states (`blockState`). */
  toDense(): Tensor {
    const { batch, heads } = this.options;
    const data = new Uint8Array(batch * heads * this.numRows * this.numColumns);
    for (let b = 0, at = 0; b < batch; b++) for (let h = 0; h < heads; h++) for (let r = 0; r < this.numRows; r++, at += this.numColumns) {
      const runs = this.row(b, h, r);
      for (let i = 0; i < runs.length; i += 2) data.fill(runs[i + 1]! & 1 ? blockState.partial : blockState.full, at + runs[i]!, at + runs[i]! + (runs[i + 1]! >> 1));
    }
    return tensor(data, [batch, heads, this.numRows, this.numColumns]);
  }

  /** A drawing of the first sequence and head: █ full, ░ partial, · empty; at most 64 characters wide, each then standing for several blocks. */
  toString(): string {
    const { empty, partial, full } = this.counts();
    const { batch, heads, queryLength, kvLength } = this.options;
    const cells = 64, step = Math.max(1, Math.ceil(Math.max(this.numRows, this.numColumns) / cells));
    const lines = [`BlockMask [${batch}, ${heads}, ${queryLength}, ${kvLength}], blocks of ${this.blockSize.join(" x ")}: ${full} full, ${partial} partial, ${empty} empty (${(100 * this.sparsity()).toFixed(1)}% skipped)`];
    for (let r = 0; r < this.numRows; r += step) {
      let line = "";
      for (let c = 0; c < this.numColumns; c += step) {
        const q1 = Math.min((r + step) * this.blockSize[0], queryLength) - 1, kv1 = Math.min((c + step) * this.blockSize[1], kvLength) - 1;
        line += { [verdict.always]: "█", [verdict.never]: "·", [verdict.sometimes]: "░" }[this.classify(0, 0, 0, 0, r * this.blockSize[0], q1, c * this.blockSize[1], kv1)];
      }
      lines.push(line);
    }
    return lines.join("\n");
  }

  /** The same as a picture: one rectangle for each run. `cell` is the side of a block in pixels. */
  toSVG(cell = 8): string {
    const width = this.numColumns * cell, height = this.numRows * cell;
    const parts = [`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}">`, `<rect width="${width}" height="${height}" fill="#f4f1ea"/>`];
    for (let r = 0; r < this.numRows; r++) {
      const runs = this.row(0, 0, r);
      for (let i = 0; i < runs.length; i += 2) {
        parts.push(`<rect x="${runs[i]! * cell}" y="${r * cell}" width="${(runs[i + 1]! >> 1) * cell}" height="${cell}" fill="${runs[i + 1]! & 1 ? "#d9a441" : "#2f5d62"}"/>`);
      }
    }
    return [...parts, "</svg>"].join("\n");
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

/** The captured values a derivation stands on. */
function stamp(mask: MaskMod): string {
  const { uniforms, tables } = mask.values();
  return JSON.stringify([uniforms, Object.entries(tables).map(([name, { data, shape }]) => [name, shape, contentHash(data)])]);
}
