/**
 * Rows of runs, built in any order of rows but ascending within each: lists threaded through one growing array, then packed.
 */
import { invariant } from "../core/errors.ts";

export class RowRuns {
  readonly #numRows: number;
  /** Triples (first block, (count << 1) | partial, next entry or -1). */
  #entries = new Int32Array(3 * 64);
  #used = 0;
  readonly #first: Int32Array;
  readonly #last: Int32Array;
  /** After `pack`: row r is runs start[r] .. start[r + 1] - 1, in pairs of words. */
  #start = new Int32Array(0);
  #runs = new Int32Array(0);

  constructor(numRows: number) {
    this.#numRows = numRows;
    this.#first = new Int32Array(numRows).fill(-1);
    this.#last = new Int32Array(numRows).fill(-1);
  }

  /** Appends blocks first .. first + count - 1 to a row, joined to its last run where they continue it. */
  add(row: number, first: number, count: number, partial: 0 | 1): void {
    const last = this.#last[row]!;
    const entries = this.#entries;
    if (last >= 0) {
      const end = entries[last]! + (entries[last + 1]! >> 1);
      invariant(first >= end, `run at ${first} after one that ends at ${end}`);
      if (end === first && (entries[last + 1]! & 1) === partial) {
        entries[last + 1] = entries[last + 1]! + 2 * count;
        return;
      }
    }
    const at = this.#used;
    if (at + 3 > entries.length) {
      this.#entries = new Int32Array(2 * entries.length);
      this.#entries.set(entries);
    }
    this.#entries[at] = first;
    this.#entries[at + 1] = (count << 1) | partial;
    this.#entries[at + 2] = -1;
    this.#used += 3;
    if (last >= 0) this.#entries[last + 2] = at;
    else this.#first[row] = at;
    this.#last[row] = at;
  }

  /** Puts the rows one after another; nothing can be added afterwards. */
  pack(): void {
    this.#start = new Int32Array(this.#numRows + 1);
    this.#runs = new Int32Array((this.#used / 3) * 2);
    let at = 0;
    for (let row = 0; row < this.#numRows; row++) {
      this.#start[row] = at;
      for (let i = this.#first[row]!; i >= 0; i = this.#entries[i + 2]!) {
        this.#runs[at++] = this.#entries[i]!;
        this.#runs[at++] = this.#entries[i + 1]!;
      }
    }
    this.#start[this.#numRows] = at;
    this.#entries = new Int32Array(0);
  }

  row(r: number): Int32Array {
    return this.#runs.subarray(this.#start[r]!, this.#start[r + 1]!);
  }
}
