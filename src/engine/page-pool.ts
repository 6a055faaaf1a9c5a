/**
 * The pages of the KV cache, as integers. Each is in one of three states:
 *
 *   empty ──take──▶ held by n ──keep──▶ kept: free, but what is in it may be wanted again
 *     ▲                │  ▲               │ │
 *     └────release─────┘  └─────share─────┘ └──take, in the order of their list──▶ held
 *
 * Empty pages are taken first, so a kept page lasts until memory is really needed. Knows no requests, no tensors, and not what is
 * in a page: whoever keeps one (prefix-cache.ts) asks of a page it has taken whether that was somebody's.
 */
import { invariant } from "../core/errors.ts";

/** In place of a page: no neighbour in the list, or not in the list at all. */
const none = -1, unlisted = -2;

export class PagePool {
  readonly numPages: number;
  /** A stack: the first `#numEmpty` entries are the empty pages, the one released last on top. */
  readonly #empty: Int32Array;
  readonly #holders: Int32Array;
  /** The kept pages as a list, in the order in which they are taken again: the one kept longest first, where nobody said otherwise. */
  readonly #before: Int32Array;
  readonly #after: Int32Array;
  #oldest = none;
  #newest = none;
  #numEmpty: number;
  #numKept = 0;

  constructor(numPages: number) {
    invariant(Number.isSafeInteger(numPages) && numPages > 0, `a pool of ${numPages} pages`);
    this.numPages = numPages;
    this.#empty = Int32Array.from({ length: numPages }, (_, i) => numPages - 1 - i);
    this.#holders = new Int32Array(numPages);
    this.#before = new Int32Array(numPages).fill(unlisted);
    this.#after = new Int32Array(numPages).fill(unlisted);
    this.#numEmpty = numPages;
  }

  /** Pages that nobody holds, empty or kept. */
  get numFree(): number {
    return this.#numEmpty + this.#numKept;
  }

  get numKept(): number {
    return this.#numKept;
  }

  /** A free page, now held once: an empty one, else the first that is kept. The caller has looked at `numFree`. */
  take(): number {
    invariant(this.numFree > 0, "a page was taken from an empty pool");
    let page: number;
    if (this.#numEmpty > 0) page = this.#empty[--this.#numEmpty]!;
    else {
      page = this.#oldest;
      this.#unlist(page);
    }
    this.#holders[page] = 1;
    return page;
  }

  /** One more holder of a page that is held or kept. */
  share(page: number): void {
    if (this.#holders[page] === 0) {
      invariant(this.#after[page] !== unlisted, `page ${page} is shared but nobody holds it and it is not kept`);
      this.#unlist(page);
    }
    this.#holders[page]!++;
  }

  /** One holder less; after the last the page is empty. */
  release(page: number): void {
    if (this.#drop(page)) this.#empty[this.#numEmpty++] = page;
  }

  /** One holder less; after the last the page is kept: for longer than all others that are, or taken again just before `elder`, one of these. */
  keep(page: number, elder?: number): void {
    if (this.#drop(page)) this.#list(page, elder ?? none);
  }

  #drop(page: number): boolean {
    invariant(this.#holders[page]! > 0, `page ${page} is released but nobody holds it`);
    return --this.#holders[page]! === 0;
  }

  /** How many hold `page`; 0 when it is free. */
  holders(page: number): number {
    return this.#holders[page] ?? 0;
  }

  /** The kept pages, in the order in which they will be taken. For tests. */
  kept(): number[] {
    const pages: number[] = [];
    for (let page = this.#oldest; page !== none; page = this.#after[page]!) pages.push(page);
    return pages;
  }

  /** Conservation: every page is empty, kept or held, and only one of these. For tests: it walks the whole pool. */
  check(): void {
    const seen = new Uint8Array(this.numPages);
    const free = (page: number, how: string): void => {
      invariant(seen[page] === 0, `page ${page} is free twice`);
      invariant(this.#holders[page] === 0, `page ${page} is ${how} and held`);
      seen[page] = 1;
    };
    for (let i = 0; i < this.#numEmpty; i++) free(this.#empty[i]!, "empty");
    const kept = this.kept();
    for (const page of kept) free(page, "kept");
    invariant(kept.length === this.#numKept, `${kept.length} pages are kept, not ${this.#numKept}`);
    for (let page = 0; page < this.numPages; page++) {
      invariant(seen[page] === 1 || this.#holders[page]! > 0, `page ${page} is neither free nor held`);
      invariant((this.#after[page] !== unlisted) === kept.includes(page), `page ${page} has neighbours in a list it is not in`);
    }
  }

  /** Into the list just before `elder`, or at its end. */
  #list(page: number, elder: number): void {
    invariant(elder === none || this.#after[elder] !== unlisted, `page ${page} can not be kept before page ${elder}, which is not`);
    const before = elder === none ? this.#newest : this.#before[elder]!;
    this.#before[page] = before;
    this.#after[page] = elder;
    if (before === none) this.#oldest = page;
    else this.#after[before] = page;
    if (elder === none) this.#newest = page;
    else this.#before[elder] = page;
    this.#numKept++;
  }

  #unlist(page: number): void {
    const before = this.#before[page]!, after = this.#after[page]!;
    if (before === none) this.#oldest = after;
    else this.#after[before] = after;
    if (after === none) this.#newest = before;
    else this.#before[after] = before;
    this.#before[page] = this.#after[page] = unlisted;
    this.#numKept--;
  }
}
