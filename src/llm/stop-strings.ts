/**
 * Finds the first stop string in a text that arrives in pieces, and lets out only text that can no longer be part of one.
 *
 * One Knuth-Morris-Pratt automaton for each stop string reads the text character by character: its state is the length of the
 * longest prefix of the stop string that the text so far ends with. What must be held back is the largest state, so text leaves
 * as early as it can, the work is linear in the text whatever the stop strings are, and the result does not depend on how the
 * text was cut into pieces. The match that ends first wins; of several that end together, the longest.
 */

/** fail[j]: the length of the longest proper prefix of `pattern` that is also a suffix of its first j characters. */
function failureTable(pattern: string): Int32Array {
  const fail = new Int32Array(pattern.length + 1);
  for (let i = 1, j = 0; i < pattern.length; i++) {
    while (j > 0 && pattern[i] !== pattern[j]) j = fail[j]!;
    if (pattern[i] === pattern[j]) j++;
    fail[i + 1] = j;
  }
  return fail;
}

export interface StopScan {
  /** Text that may be shown now. */
  readonly text: string;
  /** The stop string that was found; the scan is over. */
  readonly stop?: string;
}

/** One scan over one output. `keepStop` leaves the stop string in the text. */
export class StopStrings {
  readonly #patterns: readonly { readonly text: string; readonly fail: Int32Array; state: number }[];
  readonly #keepStop: boolean;
  #held = "";

  constructor(stops: readonly string[], keepStop = false) {
    this.#patterns = stops.map((text) => ({ text, fail: failureTable(text), state: 0 }));
    this.#keepStop = keepStop;
  }

  /** Adds a piece of text. After a result with `stop`, call nothing more. A stop string that ends in a piece that may not stop is none. */
  push(piece: string, mayStop = true): StopScan {
    if (this.#patterns.length === 0) return { text: piece };
    const text = this.#held + piece;
    for (let i = this.#held.length; i < text.length; i++) {
      let found = "";
      for (const pattern of this.#patterns) {
        while (pattern.state > 0 && (pattern.state === pattern.text.length || pattern.text[pattern.state] !== text[i])) {
          pattern.state = pattern.fail[pattern.state]!;
        }
        if (pattern.text[pattern.state] === text[i]) pattern.state++;
        if (pattern.state < pattern.text.length) continue;
        if (!mayStop) pattern.state = pattern.fail[pattern.state]!;
        else if (pattern.state > found.length) found = pattern.text;
      }
      if (found) return { text: text.slice(0, this.#keepStop ? i + 1 : i + 1 - found.length), stop: found };
    }
    const hold = this.#patterns.reduce((most, pattern) => Math.max(most, pattern.state), 0);
    this.#held = text.slice(text.length - hold);
    return { text: text.slice(0, text.length - hold) };
  }

  /** The output has ended: what was held back is ordinary text after all. */
  flush(): string {
    const rest = this.#held;
    this.#held = "";
    return rest;
  }
}
