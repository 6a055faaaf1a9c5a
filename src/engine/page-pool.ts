/**
 * The pages of the KV cache, as integers: each is free or held by n holders.
 *
 * Knows no requests and no tensors. A page that several sequences share (prefix caching) is held once by each.
 */
import { invariant } from "../core/errors.ts";

export class PagePool {
  readonly numPages: number;
  /** A stack: the first `#numFree` entries are the free pages, the one freed last on top. */
  readonly #free: Int32Array;
  readonly #holders: Int32Array;
  #numFree: number;

  constructor(numPages: number) {
    invariant(Number.isSafeInteger(numPages) && numPages > 0, `a pool of ${numPages} pages`);
    this.numPages = numPages;
    this.#free = Int32Array.from({ length: numPages }, (_, i) => numPages - 1 - i);
    this.#holders = new Int32Array(numPages);
    this.#numFree = numPages;
  }

  get numFree(): number {
    return this.#numFree;
  }

  /** A free page, now held once. The caller has looked at `numFree`. */
  take(): number {
    invariant(this.#numFree > 0, "a page was taken from an empty pool");
    const page = this.#free[--this.#numFree]!;
    this.#holders[page] = 1;
    return page;
  }

  /** One more holder of a page that is held. */
  share(page: number): void {
    invariant(this.#holders[page]! > 0, `page ${page} is shared but nobody holds it`);
    this.#holders[page]!++;
  }

  /** One holder less; the page is free after the last. */
  release(page: number): void {
    invariant(this.#holders[page]! > 0, `page ${page} is released but nobody holds it`);
    if (--this.#holders[page]! === 0) this.#free[this.#numFree++] = page;
  }

  /** How many hold `page`; 0 when it is free. */
  holders(page: number): number {
    return this.#holders[page] ?? 0;
  }

  /** Conservation: every page is free or held, never both, never neither. For tests: it walks the whole pool. */
  check(): void {
    const free = new Uint8Array(this.numPages);
    for (let i = 0; i < this.#numFree; i++) {
      const page = this.#free[i]!;
      invariant(free[page] === 0, `page ${page} is free twice`);
      invariant(this.#holders[page] === 0, `page ${page} is free and held`);
      free[page] = 1;
    }
    for (let page = 0; page < this.numPages; page++) {
      invariant(free[page] === 1 || this.#holders[page]! > 0, `page ${page} is neither free nor held`);
    }
  }
}
