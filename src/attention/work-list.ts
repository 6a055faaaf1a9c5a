/**
 * Which blocks of keys each tile of query rows needs: one work list (ir/plan.ts) for a ragged batch, from a classified mask.
 *
 * Each sequence's rows are cut into tiles; for each tile the blocks of keys are classified by bisection, so that a row of
 * causal attention costs one question and a sliding window a few. It knows lengths and positions, not pages or tensors.
 */
import { invariant, UsageError } from "../core/errors.ts";
import { maxPositions, runWords, workHeaderWords, workItem } from "../ir/plan.ts";
import { type Classifier, verdict } from "../ir/range.ts";

/** The rows of a step: entry i of each array belongs to sequence i, which is the mods' `b` and the row of the block table. */
export interface WorkBatch {
  readonly numSequences: number;
  /** First row in the packed query, and how many; a sequence without rows makes no items. */
  readonly firstRow: Int32Array;
  readonly numRows: Int32Array;
  /** The mods' `q` of the first row. */
  readonly firstPosition: Int32Array;
  /** Keys of the sequence, the step's own included. */
  readonly kvLength: Int32Array;
}

export interface WorkShape {
  readonly queryTile: number;
  readonly kvTile: number;
  readonly numQueryHeads: number;
  /** Most runs of one item. Beyond it the last run grows, partial, over what is left: slower, never wrong. Unlimited when left out. */
  readonly maxRuns?: number;
}

/** Cost of a block whose mask is evaluated, in units of a full block: only the order of items depends on it. */
const partialCost = 2;
/** Where an item's cost stands until the items are in order. */
const costWord = workItem.firstPartial;

/**
 * Words that a list can need. Items: sequence i makes ceil(rows_i / queryTile) <= 1 + (rows_i - 1) / queryTile of them, so all make at
 * most numSequences + floor((rows - numSequences) / queryTile). Runs: at most one for each block, and at most `maxRuns`.
 */
export function maxWorkWords(limits: { readonly maxRows: number; readonly maxSequences: number; readonly maxKvLength: number }, shape: WorkShape): number {
  const sequences = Math.min(limits.maxSequences, limits.maxRows);
  const items = sequences + Math.floor((limits.maxRows - sequences) / shape.queryTile);
  const runs = Math.min(shape.maxRuns ?? Infinity, Math.ceil(limits.maxKvLength / shape.kvTile));
  return workHeaderWords + items * (workItem.words + runs * runWords);
}

/**
 * Writes the work list of a batch. `mask` is range analysis with its captures bound, or a BlockMask; undefined allows every key.
 *
 * @throws UsageError for positions that are too many for any kernel
 * The list is written into `out` where one is given (a part of it is returned), else into a new array. Heads share a list:
 * a block is full or empty only if it is so for all of them. A full run may end in a block that kvLength cuts short.
 */
export function planWork(mask: Classifier | undefined, batch: WorkBatch, shape: WorkShape, out?: Int32Array): Int32Array<ArrayBufferLike> {
  const { queryTile, kvTile } = shape;
  let numItems = 0;
  for (let s = 0; s < batch.numSequences; s++) numItems += Math.ceil(batch.numRows[s]! / queryTile);
  const list = new WorkWriter(numItems, shape.maxRuns ?? Infinity, out);
  for (let s = 0; s < batch.numSequences; s++) {
    const kvLength = batch.kvLength[s]!, rows = batch.numRows[s]!;
    const numBlocks = Math.ceil(kvLength / kvTile);
    for (let row = 0; row < rows; row += queryTile) {
      const numRows = Math.min(queryTile, rows - row);
      const q0 = batch.firstPosition[s]! + row;
      list.beginItem(s, batch.firstRow[s]! + row, numRows, q0, kvLength);
      if (mask === undefined) { if (numBlocks > 0) list.addRun(0, numBlocks, 0); }
      else if (numBlocks > 0) bisect(mask, list, s, shape.numQueryHeads - 1, q0, q0 + numRows - 1, kvTile, kvLength, 0, numBlocks);
      list.endItem();
    }
  }
  return list.finish();
}

/** Classifies blocks first..end-1 of one tile and writes their runs, ascending. */
function bisect(
  mask: Classifier, list: WorkWriter, sequence: number, lastHead: number, q0: number, q1: number, kvTile: number, kvLength: number, first: number, end: number,
): void {
  const kv1 = Math.min(end * kvTile, kvLength) - 1;
  const is = mask.classify(sequence, sequence, 0, lastHead, q0, q1, first * kvTile, kv1);
  if (is === verdict.never) return;
  if (is === verdict.always) return list.addRun(first, end - first, 0);
  if (end - first === 1) return list.addRun(first, 1, 1);
  const middle = (first + end) >>> 1;
  bisect(mask, list, sequence, lastHead, q0, q1, kvTile, kvLength, first, middle);
  bisect(mask, list, sequence, lastHead, q0, q1, kvTile, kvLength, middle, end);
}

/** Writes a list front to back: header, items, runs; then sorts the items. Grows its array only where it made it itself. */
export class WorkWriter {
  readonly #numItems: number;
  readonly #maxRuns: number;
  readonly #given: boolean;
  #words: Int32Array;
  /** Word of the present item, and of the next run; runs written in all. */
  #item = workHeaderWords - workItem.words;
  readonly #firstRunWord: number;
  #runs = 0;
  #itemRuns = 0;
  #blocks = 0;

  constructor(numItems: number, maxRuns: number, out: Int32Array | undefined) {
    this.#numItems = numItems;
    this.#maxRuns = maxRuns;
    this.#given = out !== undefined;
    this.#firstRunWord = workHeaderWords + numItems * workItem.words;
    this.#words = out ?? new Int32Array(this.#firstRunWord + 4 * numItems * runWords);
    invariant(this.#words.length >= this.#firstRunWord, `the work list has ${this.#words.length} words, too few for ${numItems} items`);
  }

  beginItem(sequence: number, firstRow: number, numRows: number, firstPosition: number, kvLength: number): void {
    const end = Math.max(kvLength, firstPosition + numRows);
    if (end > maxPositions) throw new UsageError(`sequence ${sequence} has ${end} positions; attention is for ${maxPositions} at most`);
    this.#item += workItem.words;
    this.#itemRuns = 0;
    this.#blocks = 0;
    const at = this.#item, words = this.#words;
    words[at + workItem.sequence] = sequence;
    words[at + workItem.firstRow] = firstRow;
    words[at + workItem.numRows] = numRows;
    words[at + workItem.firstPosition] = firstPosition;
    words[at + workItem.firstRun] = this.#runs;
    words[at + workItem.kvLength] = kvLength;
  }

  /** Blocks first .. first + count - 1; joined to the run before where it continues it. */
  addRun(first: number, count: number, partial: 0 | 1): void {
    this.#blocks += partial ? partialCost * count : count;
    let at = this.#firstRunWord + this.#runs * runWords;
    if (this.#itemRuns > 0) {
      const before = this.#words[at - 2]!, length = this.#words[at - 1]! >> 1, kind = this.#words[at - 1]! & 1;
      if (kind === partial && before + length === first) {
        this.#words[at - 1] = ((length + count) << 1) | kind;
        return;
      }
      if (this.#itemRuns === this.#maxRuns) {
        this.#words[at - 1] = ((first + count - before) << 1) | 1;
        return;
      }
    }
    if (at + runWords > this.#words.length) this.#grow();
    this.#words[at++] = first;
    this.#words[at] = (count << 1) | partial;
    this.#runs++;
    this.#itemRuns++;
  }

  endItem(): void {
    this.#words[this.#item + workItem.numRuns] = this.#itemRuns;
    this.#words[this.#item + costWord] = this.#blocks * this.#words[this.#item + workItem.numRows]!;
  }

  /** The finished list. */
  finish(): Int32Array {
    const words = this.#words;
    words.fill(0, 0, workHeaderWords);
    words[0] = this.#numItems;
    words[1] = this.#firstRunWord;
    sortItems(words, this.#numItems);
    words[2] = this.#numberPartial();
    return words.subarray(0, this.#firstRunWord + this.#runs * runWords);
  }

  /** Counts the blocks of partial runs, item by item. */
  #numberPartial(): number {
    const words = this.#words;
    let count = 0;
    for (let at = workHeaderWords; at < this.#firstRunWord; at += workItem.words) {
      words[at + workItem.firstPartial] = count;
      const firstRun = this.#firstRunWord + words[at + workItem.firstRun]! * runWords, end = firstRun + words[at + workItem.numRuns]! * runWords;
      for (let run = firstRun; run < end; run += runWords) if (words[run + 1]! & 1) count += words[run + 1]! >> 1;
    }
    return count;
  }

  #grow(): void {
    invariant(!this.#given, `the work list of ${this.#words.length} words is full; maxWorkWords() says how long it must be`);
    const larger = new Int32Array(2 * this.#words.length + 64);
    larger.set(this.#words);
    this.#words = larger;
  }
}

/** Whether item i comes before item j: the dearer first, then by sequence and row, so that the order is total. */
function before(words: Int32Array, i: number, j: number): boolean {
  const a = workHeaderWords + i * workItem.words, b = workHeaderWords + j * workItem.words;
  const cost = words[a + costWord]! - words[b + costWord]!;
  if (cost !== 0) return cost > 0;
  const sequence = words[a + workItem.sequence]! - words[b + workItem.sequence]!;
  return sequence !== 0 ? sequence < 0 : words[a + workItem.firstRow]! < words[b + workItem.firstRow]!;
}

/** Heapsort in place: no scratch, no garbage. */
function sortItems(words: Int32Array, count: number): void {
  const swap = (i: number, j: number): void => {
    const a = workHeaderWords + i * workItem.words, b = workHeaderWords + j * workItem.words;
    for (let k = 0; k < workItem.words; k++) {
      const word = words[a + k]!;
      words[a + k] = words[b + k]!;
      words[b + k] = word;
    }
  };
  // The root of the heap is the item that comes last.
  const sink = (root: number, end: number): void => {
    for (;;) {
      let child = 2 * root + 1;
      if (child >= end) return;
      if (child + 1 < end && before(words, child, child + 1)) child++;
      if (!before(words, root, child)) return;
      swap(root, child);
      root = child;
    }
  };
  for (let i = (count >> 1) - 1; i >= 0; i--) sink(i, count);
  for (let end = count - 1; end > 0; end--) {
    swap(0, end);
    sink(0, end);
  }
}
