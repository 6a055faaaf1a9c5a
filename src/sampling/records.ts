/**
 * A list of records of so many words each, an even number: i32, and doubles at even words, as a backend reads them. Grows as it is filled; one that was once
 * far larger than it is used for is let go. Knows no field.
 */
export class Records {
  readonly #wordsEach: number;
  #count = 0;
  /** All words that there is room for: valid until a record is added. */
  ints = new Int32Array(0);
  doubles = new Float64Array(0);

  constructor(wordsEach: number) {
    this.#wordsEach = wordsEach;
  }

  get count(): number {
    return this.#count;
  }

  /** The records that there are. */
  get words(): Int32Array<ArrayBuffer> {
    return this.ints.subarray(0, this.#count * this.#wordsEach);
  }

  /** One more, or so many, of words that mean nothing yet. Returns the first one's first word. */
  add(count = 1): number {
    const at = this.#count * this.#wordsEach, end = at + count * this.#wordsEach;
    this.#count += count;
    if (end > this.ints.length) {
      const grown = new Float64Array(Math.ceil(Math.max(16 * this.#wordsEach, end, 2 * at) / 2));
      grown.set(this.doubles);
      this.doubles = grown;
      this.ints = new Int32Array(grown.buffer);
    }
    return at;
  }

  /** Takes the last one back. */
  removeLast(): void {
    this.#count--;
  }

  clear(): void {
    if (this.ints.length > mostWordsKept && this.words.length < this.ints.length / 8) {
      this.doubles = new Float64Array(0);
      this.ints = new Int32Array(0);
    }
    this.#count = 0;
  }
}

/** Room for more than that is kept only while some of it is used: 4 MiB. */
const mostWordsKept = 2 ** 20;
