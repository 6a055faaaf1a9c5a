/**
 * A number for each of many pairs of ids, in typed arrays (open addressing): a Map would need a double as its key and is several
 * times slower. Knows no tokens.
 */
export class PairTable {
  readonly #mask: number;
  /** Left and right id and value of each slot, side by side; a left id of -1 is an empty slot. */
  readonly #slots: Int32Array;
  #size = 0;

  /** Room for `maxPairs` pairs, which the caller keeps to. */
  constructor(maxPairs: number) {
    const numSlots = 2 ** Math.ceil(Math.log2(Math.max(1, maxPairs) * 1.5));
    this.#mask = numSlots - 1;
    this.#slots = new Int32Array(3 * numSlots).fill(-1);
  }

  get size(): number {
    return this.#size;
  }

  get(left: number, right: number): number | undefined {
    const slot = this.#find(left, right);
    return this.#slots[slot] === -1 ? undefined : this.#slots[slot + 2];
  }

  set(left: number, right: number, value: number): void {
    const slot = this.#find(left, right);
    if (this.#slots[slot] === -1) this.#size++;
    this.#slots[slot] = left;
    this.#slots[slot + 1] = right;
    this.#slots[slot + 2] = value;
  }

  clear(): void {
    this.#slots.fill(-1);
    this.#size = 0;
  }

  /** Where the pair stands, or the empty slot where it would. */
  #find(left: number, right: number): number {
    const slots = this.#slots;
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
    hash ^= hash >>> 15;
    for (let at = hash & this.#mask; ; at = (at + 1) & this.#mask) {
      const slot = 3 * at;
      if (slots[slot] === -1 || (slots[slot] === left && slots[slot + 1] === right)) return slot;
    }
  }
}
