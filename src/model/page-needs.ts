/**
 * How many pages a sequence needs at once, and from when on it does without each: what follows from the masks of a model's layers (attention/expiry.ts),
 * its pages and the tokens of a step.
 *
 *   pages     0    1    2    3    4    5          of 16 tokens, under a window of 32: at position 70
 *             -    -    ##   ##   #.              pages 0 and 1 have expired, and the step that computes token 70 needs three
 *
 * Where one layer sees everything no page ever expires; then a sequence needs pages for all its tokens, and has them from the start. Else they are taken
 * step by step, and `mostHeld` says how many it comes to. Knows no sequences and no pool.
 */
import { neverExpires } from "../attention/expiry.ts";

export interface PageNeedsOptions {
  readonly pageSize: number;
  /** Most tokens of one step. */
  readonly maxNumBatchedTokens: number;
}

export class PageNeeds {
  readonly pageSize: number;
  /** The blocks of a sequence that expire, in the order in which they do. */
  readonly order: Int32Array;
  /** The position from which on a step needs `order[i]` no more. */
  readonly positions: Int32Array;
  /** The same by block. */
  readonly #from: Int32Array;
  /** By how many pages its tokens fill: the most that a sequence holds on its way there. Empty where nothing expires. */
  readonly #mostHeld: Int32Array;

  /** `expiry`: of each block of pageSize tokens. Left out: nothing expires. */
  constructor({ pageSize, maxNumBatchedTokens }: PageNeedsOptions, expiry: Int32Array = new Int32Array(0)) {
    this.pageSize = pageSize;
    // A block is kept until the one behind it is full: so the block behind one that is gone is there and holds the sequence's own tokens.
    const from = this.#from = expiry.map((position, block) => (position === neverExpires ? neverExpires : Math.max(position, (block + 2) * pageSize)));
    this.order = Int32Array.from(from.keys()).filter((block) => from[block]! < neverExpires).sort((a, b) => from[a]! - from[b]! || a - b);
    this.positions = this.order.map((block) => from[block]!);
    this.#mostHeld = new Int32Array(this.order.length > 0 ? expiry.length + 1 : 0);
    for (let numPages = 1, numExpired = 0; numPages < this.#mostHeld.length; numPages++) {
      // A step that ends in this page began at most so far before it, a draft model's one token earlier.
      const began = (numPages - 1) * pageSize - maxNumBatchedTokens;
      while (numExpired < this.order.length && this.positions[numExpired]! <= began) numExpired++;
      this.#mostHeld[numPages] = Math.max(this.#mostHeld[numPages - 1]!, numPages - numExpired);
    }
  }

  /** Whether pages are given back while their sequence runs. */
  get expires(): boolean {
    return this.order.length > 0;
  }

  /** Pages that `numTokens` tokens fill. */
  pagesFor(numTokens: number): number {
    return Math.ceil(numTokens / this.pageSize);
  }

  /** Most pages that a sequence holds at once until `numTokens` of its tokens are computed. */
  mostHeld(numTokens: number): number {
    const numPages = this.pagesFor(numTokens);
    return this.#mostHeld[numPages] ?? numPages;
  }

  /** How many of its tokens a sequence needs pages for, when `numComputed` of `numTokens` are computed and a step has `budget` left for it. */
  reach(numComputed: number, numTokens: number, budget: number): number {
    return this.expires ? Math.min(numTokens, numComputed + budget) : numTokens;
  }

  isExpired(block: number, position: number): boolean {
    return this.#from[block]! <= position;
  }

  /** How many blocks, the first so many of `order`, no step needs that begins at `position`; `from`: so many it is known of. */
  numExpired(position: number, from = 0): number {
    let count = from;
    while (count < this.positions.length && this.positions[count]! <= position) count++;
    return count;
  }
}
