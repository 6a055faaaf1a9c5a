/**
 * Rows of runs: built in any order of rows but ascending within each, then packed; rows changed later lie beside the packed ones.
 *
 * A run is a pair of words, (first block, (number of blocks << 1) | partial): blocks that are all full, or all partial. Blocks in no
 * run are empty. Runs of a row ascend and are maximal. It knows no mask and no sizes of blocks.
 */
import { invariant } from "../core/errors.ts";

/** What takes runs: a row being built, or a work list. */
export interface RunSink {
  /** Appends blocks first .. first + count - 1 to a row, after those it has. */
  add(row: number, first: number, count: number, partial: 0 | 1): void;
}

const empty = new Int32Array(0);

export class RowRuns implements RunSink {
  #numRows: number;
  /** Triples (first block, (count << 1) | partial, next entry or -1). */
  #entries = new Int32Array(3 * 64);
  #used = 0;
  readonly #first: Int32Array;
  readonly #last: Int32Array;
  /** After `pack`: row r is words start[r] .. start[r + 1] - 1. */
  #start: Int32Array = empty;
  #runs: Int32Array = empty;
  /** Rows that changed after `pack`, and rows beyond the packed ones. */
  readonly #changed = new Map<number, Int32Array>();

  constructor(numRows: number) {
    this.#numRows = numRows;
    this.#first = new Int32Array(numRows).fill(-1);
    this.#last = new Int32Array(numRows).fill(-1);
  }

  /** As `RunSink` says; joined to the row's last run where they continue it. Only before `pack`. */
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

  /** Puts the rows one after another; `set` changes them afterwards. Returns itself. */
  pack(): RowRuns {
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
    this.#entries = empty;
    return this;
  }

  row(r: number): Int32Array {
    const changed = this.#changed.size > 0 ? this.#changed.get(r) : undefined;
    if (changed) return changed;
    return r + 1 < this.#start.length ? this.#runs.subarray(this.#start[r]!, this.#start[r + 1]!) : empty;
  }

  /** The block after a row's last run: 0 of a row without runs. */
  end(r: number): number {
    const changed = this.#changed.size > 0 ? this.#changed.get(r) : undefined;
    const runs = changed ?? this.#runs, from = changed ? 0 : this.#start[r] ?? 0, to = changed ? changed.length : this.#start[r + 1] ?? 0;
    return to > from ? runs[to - 2]! + (runs[to - 1]! >> 1) : 0;
  }

  /** Replaces a row. Once changed rows outnumber the others all are packed again, so that a change costs its own row on average. */
  set(r: number, runs: Int32Array): void {
    this.#numRows = Math.max(this.#numRows, r + 1);
    this.#changed.set(r, runs);
    if (2 * this.#changed.size <= this.#start.length + 64) return;
    const rows = Array.from({ length: this.#numRows }, (_, i) => this.row(i));
    const start = new Int32Array(rows.length + 1);
    rows.forEach((row, i) => { start[i + 1] = start[i]! + row.length; });
    const packed = new Int32Array(start[rows.length]!);
    rows.forEach((row, i) => packed.set(row, start[i]!));
    this.#start = start;
    this.#runs = packed;
    this.#changed.clear();
  }
}

/** What a block is to two rows: index 3 a + b, with 0 empty, 1 partial, 2 full, gives the same. */
export type StateTable = readonly [0 | 1 | 2, 0 | 1 | 2, 0 | 1 | 2, 0 | 1 | 2, 0 | 1 | 2, 0 | 1 | 2, 0 | 1 | 2, 0 | 1 | 2, 0 | 1 | 2];

/** The row of what `table` makes of two rows, in blocks 0 .. numColumns - 1. Costs their runs. */
export function joinRuns(a: Int32Array, b: Int32Array, numColumns: number, table: StateTable): Int32Array {
  const out: number[] = [];
  for (let at = 0, i = 0, j = 0; at < numColumns;) {
    const inA = i < a.length && a[i]! <= at, inB = j < b.length && b[j]! <= at;
    const endA = i >= a.length ? numColumns : inA ? a[i]! + (a[i + 1]! >> 1) : a[i]!;
    const endB = j >= b.length ? numColumns : inB ? b[j]! + (b[j + 1]! >> 1) : b[j]!;
    const end = Math.min(endA, endB, numColumns);
    pushRun(out, at, end - at, table[3 * (inA ? 2 - (a[i + 1]! & 1) : 0) + (inB ? 2 - (b[j + 1]! & 1) : 0)]!);
    if (inA && end === endA) i += 2;
    if (inB && end === endB) j += 2;
    at = end;
  }
  return Int32Array.from(out);
}

/** The row with blocks c0 .. c1 - 1 replaced by those of `fresh`, which has no others. The row itself where that changes nothing. */
export function spliceRuns(row: Int32Array, c0: number, c1: number, fresh: ArrayLike<number>): Int32Array {
  const out: number[] = [];
  const clipped = (from: number, to: number): void => {
    for (let i = 0; i < row.length; i += 2) {
      const first = Math.max(from, row[i]!), end = Math.min(to, row[i]! + (row[i + 1]! >> 1));
      if (first < end) pushRun(out, first, end - first, row[i + 1]! & 1 ? 1 : 2);
    }
  };
  clipped(0, c0);
  for (let i = 0; i < fresh.length; i += 2) pushRun(out, fresh[i]!, fresh[i + 1]! >> 1, fresh[i + 1]! & 1 ? 1 : 2);
  clipped(c1, Infinity);
  return out.length === row.length && out.every((word, i) => word === row[i]) ? row : Int32Array.from(out);
}

/** Appends a run of blocks of one state (0 empty, 1 partial, 2 full), joined to the last where it continues it. */
export function pushRun(out: number[], first: number, count: number, state: number): void {
  if (state === 0 || count === 0) return;
  const last = out.length - 2, partial = state === 1 ? 1 : 0;
  if (last >= 0 && (out[last + 1]! & 1) === partial && out[last]! + (out[last + 1]! >> 1) === first) out[last + 1]! += count << 1;
  else out.push(first, (count << 1) | partial);
}
