/**
 * Drafts looked up in the sequence itself: where its last tokens stood before, what followed them then may follow now. vLLM's "ngram".
 *
 *   tokens    1 2 3 4 5 ... 9 2 3        the last two stood there before, the last three did not: 4 5 ... are proposed
 *
 * The longest run counts, of `promptLookupMin` to `promptLookupMax` tokens, and of places with equally long ones the first. One pass over the tokens.
 */
import { addDrafts, type Drafter } from "./drafter.ts";
import type { Work } from "./scheduler.ts";

export interface NgramOptions {
  readonly numSpeculativeTokens: number;
  readonly promptLookupMin: number;
  readonly promptLookupMax: number;
}

export class NgramDrafter implements Drafter {
  readonly numTokens: number;
  readonly #min: number;
  /** Of the last i + 1 tokens, read backwards: how long the longest beginning is that they also end with, themselves left out. */
  readonly #borders: Int32Array;

  constructor({ numSpeculativeTokens, promptLookupMin, promptLookupMax }: NgramOptions) {
    this.numTokens = numSpeculativeTokens;
    this.#min = promptLookupMin;
    this.#borders = new Int32Array(promptLookupMax);
  }

  propose(work: readonly Work[]): void {
    for (const item of work) if (item.numDrafts > 0) addDrafts(item, this.#find(item.sequence.known(), item.numDrafts));
  }

  decided(): void {}

  /** At most `most` tokens that followed. */
  #find(tokens: Int32Array, most: number): readonly number[] {
    const at = followers(tokens, this.#min, this.#borders);
    return at < 0 ? [] : [...tokens.subarray(at, at + most)];
  }
}

/**
 * Where in `tokens` the first of the longest earlier runs ends that the tokens end with too, of `min` to `borders.length` tokens; -1 where there is none.
 * Knuth, Morris and Pratt's failure function of the tokens read backwards: at each place how long a run of theirs ends there, and no longer than it may be.
 */
export function followers(tokens: Int32Array, min: number, borders: Int32Array): number {
  const last = tokens.length - 1, max = borders.length;
  let longest = 0, end = -1, length = 0;
  borders[0] = 0;
  for (let i = 1; i <= last; i++) {
    const token = tokens[last - i]!;
    if (length === max) length = borders[max - 1]!;
    while (length > 0 && tokens[last - length] !== token) length = borders[length - 1]!;
    if (tokens[last - length] === token) length++;
    if (i < max) borders[i] = length;
    // Backwards, the later place is the earlier one.
    if (length >= longest && length >= min) {
      longest = length;
      end = last - i + length;
    }
  }
  return end;
}
