/**
 * States of blocks that were set, not derived: two bits each, read by the mask itself, so that a tile of the kernel which lies in
 * several blocks still decides each key by its own block.
 *
 * 0: the mask decides (nothing was set, or "partial"); 1: empty; 2: full. It knows no runs of a mask that was derived.
 */
import { fixed } from "./captures.ts";
import { floorDiv } from "./language.ts";
import { type MaskMod, maskMod } from "./mod.ts";
import { pushRun } from "./row-runs.ts";
import { type Tensor, tensor } from "./tensor.ts";

export const stateCode = { ask: 0, empty: 1, full: 2 } as const;
export type StateCode = (typeof stateCode)[keyof typeof stateCode];

/** Blocks in a word. */
const perWord = 16;

export class BlockStates {
  readonly batch: number;
  readonly heads: number;
  /** What a block is that was never set, those of later growth too. */
  readonly #initial: StateCode;
  #numRows = 0;
  #numColumns = 0;
  /** Words, [batch, heads, rows, words of a row], with room to grow; one object that the mask captures. */
  readonly #captured: { states: Tensor };

  constructor(batch: number, heads: number, numRows: number, numColumns: number, initial: StateCode) {
    this.batch = batch;
    this.heads = heads;
    this.#initial = initial;
    this.#captured = { states: tensor(new Int32Array(0), [batch, heads, 0, 0]) };
    this.grow(numRows, numColumns);
  }

  #rowAt(b: number, h: number, row: number): number {
    const [, heads, rows, words] = this.#captured.states.shape as [number, number, number, number];
    return ((Math.min(b, this.batch - 1) * heads + Math.min(h, heads - 1)) * rows + row) * words;
  }

  get(b: number, h: number, row: number, column: number): StateCode {
    return ((this.#captured.states.data[this.#rowAt(b, h, row) + Math.floor(column / perWord)]! >> (2 * (column % perWord))) & 3) as StateCode;
  }

  set(b: number, h: number, row: number, column: number, code: StateCode): void {
    const at = this.#rowAt(b, h, row) + Math.floor(column / perWord), shift = 2 * (column % perWord), { data } = this.#captured.states;
    data[at] = (data[at]! & ~(3 << shift)) | (code << shift);
  }

  /** Room for more rows and columns. Space doubles, so that growing block by block costs each block once on average. */
  grow(numRows: number, numColumns: number): void {
    const old = this.#captured.states;
    const [, , oldRows, oldWords] = old.shape as [number, number, number, number];
    const needWords = Math.ceil(numColumns / perWord);
    if (numRows > oldRows || needWords > oldWords) {
      const rows = numRows > oldRows ? Math.max(numRows, oldRows === 0 ? 0 : 2 * oldRows) : oldRows, words = needWords > oldWords ? Math.max(needWords, 2 * oldWords) : oldWords;
      const data = new Int32Array(this.batch * this.heads * rows * words).fill(this.#initial * 0x55555555);
      for (let i = 0; i < this.batch * this.heads; i++) {
        for (let r = 0; r < oldRows; r++) data.set((old.data as Int32Array).subarray((i * oldRows + r) * oldWords, (i * oldRows + r + 1) * oldWords), (i * rows + r) * words);
      }
      this.#captured.states = tensor(data, [this.batch, this.heads, rows, words]);
    }
    this.#numRows = numRows;
    this.#numColumns = numColumns;
  }

  /** Every block to one state. */
  fill(code: StateCode): void {
    this.#captured.states.data.fill(code * 0x55555555);
  }

  /** A row as runs: full blocks as full, empty ones as partial; what the mask decides is in none. */
  row(b: number, h: number, row: number): number[] {
    const out: number[] = [], { data } = this.#captured.states;
    for (let c = 0, word = this.#rowAt(b, h, row); c < this.#numColumns; c += perWord, word++) {
      const bits = data[word]!, end = Math.min(perWord, this.#numColumns - c);
      if (bits === 0) continue;
      for (let i = 0; i < end; i++) pushRun(out, c + i, 1, (bits >> (2 * i)) & 3);
    }
    return out;
  }

  get numRows(): number {
    return this.#numRows;
  }

  /** `inner` where its blocks decide; else what they are set to. One text for all sizes of a table, so one kernel. */
  over(inner: MaskMod, [queries, keys]: readonly [query: number, kv: number]): MaskMod {
    // The object itself is captured, so that a table that grew is found at the next call.
    const captures = Object.assign(this.#captured, { inner, batch: fixed(this.batch), heads: fixed(this.heads), queries: fixed(queries), keys: fixed(keys) });
    return maskMod(({ states, inner, batch, heads, queries, keys }) => (b, h, q, kv) => {
      const column = floorDiv(kv, keys);
      const code = (states[batch > 1 ? b : 0]![heads > 1 ? h : 0]![floorDiv(q, queries)]![column >> 4]! >> ((column & 15) << 1)) & 3;
      return code === 2 || (code === 0 && inner(b, h, q, kv));
    }, captures);
  }
}
