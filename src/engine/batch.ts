/**
 * The work of one step as the typed arrays that a forward pass reads. Rows of all sequences are packed one after another:
 *
 *   row        0  1  2 | 3 | 4  5  6  7        three sequences: a chunk, a decode, a prompt
 *   firstRow   0         3   4                 sequence s has rows firstRow[s] .. firstRow[s] + numRows[s] - 1
 *   logitRows            3               7     rows whose logits are wanted: of a sequence the last ones, one where its last token is in this step
 *
 * A token that is not known yet is -1 - i, for row i of the logits of the step before (sequence.ts).
 *
 * Filled in place each step, so a step makes no garbage. Knows no model and no backend.
 */
import type { WorkBatch } from "../attention/work-list.ts";
import { invariant } from "../core/errors.ts";
import { maxNumLogitsOf } from "../model/memory.ts";
import { noPage } from "./page-index.ts";
import type { SchedulerLimits, Work } from "./scheduler.ts";
import type { Sequence } from "./sequence.ts";

export class Batch implements WorkBatch {
  readonly maxPagesPerSequence: number;
  readonly #pageSize: number;
  /** [maxNumBatchedTokens] each, of which numTokens are filled (backend.ts, BatchInputs). */
  readonly tokens: Int32Array<ArrayBuffer>;
  readonly positions: Int32Array<ArrayBuffer>;
  readonly slots: Int32Array<ArrayBuffer>;
  /** [maxNumSeqs, maxPagesPerSequence]; a row's entries past its sequence's pages are stale. */
  readonly blockTable: Int32Array<ArrayBuffer>;
  /** [maxNumLogits], of which numLogits are filled; in the order of the work. */
  readonly logitRows: Int32Array<ArrayBuffer>;
  /** [maxNumSeqs] each: the sequence's rows, the position of the first, and the tokens that are in the cache once this step has run. */
  readonly firstRow: Int32Array<ArrayBuffer>;
  readonly numRows: Int32Array<ArrayBuffer>;
  readonly firstPosition: Int32Array<ArrayBuffer>;
  readonly kvLength: Int32Array<ArrayBuffer>;
  #numTokens = 0;
  #numSequences = 0;
  #numLogits = 0;

  constructor(limits: SchedulerLimits, maxModelLen: number) {
    const { maxNumBatchedTokens: maxTokens, maxNumSeqs } = limits;
    this.#pageSize = limits.pageSize;
    this.maxPagesPerSequence = Math.ceil(maxModelLen / limits.pageSize);
    this.tokens = new Int32Array(maxTokens);
    this.positions = new Int32Array(maxTokens);
    this.slots = new Int32Array(maxTokens);
    this.blockTable = new Int32Array(maxNumSeqs * this.maxPagesPerSequence);
    this.logitRows = new Int32Array(maxNumLogitsOf(limits));
    this.firstRow = new Int32Array(maxNumSeqs);
    this.numRows = new Int32Array(maxNumSeqs);
    this.firstPosition = new Int32Array(maxNumSeqs);
    this.kvLength = new Int32Array(maxNumSeqs);
  }

  get numTokens(): number {
    return this.#numTokens;
  }

  get numSequences(): number {
    return this.#numSequences;
  }

  /** How many rows want logits, of all sequences. */
  get numLogits(): number {
    return this.#numLogits;
  }

  /** Takes over the work of a step. */
  fill(work: readonly Omit<Work, "numDrafts">[]): void {
    this.clear();
    for (const { sequence, numTokens, numLogits } of work) this.add(sequence, sequence.numComputed, numTokens, numLogits);
  }

  clear(): void {
    this.#numTokens = this.#numSequences = this.#numLogits = 0;
  }

  /** Rows of one more sequence: its tokens of positions from .. from + count - 1, or where it does not have that one yet `token`; the last `numLogits` want logits. */
  add(sequence: Sequence, from: number, count: number, numLogits: number, token?: number): void {
    const { pages } = sequence, s = this.#numSequences++, end = from + count;
    const fits = end <= pages.length * this.#pageSize && pages.length <= this.maxPagesPerSequence;
    invariant(fits, `sequence ${sequence.id} computes token ${end - 1} with ${pages.length} pages`);
    let row = this.#numTokens;
    this.firstRow[s] = row;
    this.numRows[s] = count;
    this.firstPosition[s] = from;
    this.kvLength[s] = end;
    this.#writeTable(s * this.maxPagesPerSequence, pages);
    if (token === undefined) sequence.copyTokens(this.tokens, row, from, count);
    else this.tokens[row] = token;
    for (let position = from; position < end; position++, row++) {
      this.positions[row] = position;
      this.slots[row] = pages[Math.floor(position / this.#pageSize)]! * this.#pageSize + (position % this.#pageSize);
    }
    invariant(this.#numLogits + numLogits <= this.logitRows.length, `${this.#numLogits + numLogits} rows of logits with room for ${this.logitRows.length}`);
    for (let logitRow = row - numLogits; logitRow < row; logitRow++) this.logitRows[this.#numLogits++] = logitRow;
    this.#numTokens = row;
  }
  /**
   * The pages of a sequence from `at` on. No key of a page that has expired is allowed, and still a kernel may come by, where a list of blocks was joined for want of
   * room: it then reads the page behind, which is full and the sequence's own, and nobody else's.
   */
  #writeTable(at: number, pages: readonly number[]): void {
    for (let i = pages.length - 1, next = noPage; i >= 0; i--) {
      const page = pages[i]!;
      if (page !== noPage) next = page;
      invariant(next !== noPage, "a page has expired and none behind it is there");
      this.blockTable[at + i] = next;
    }
  }
}
