/**
 * The pages of sequences: taken from the pool, shared where their tokens are those of pages that are there, and given back.
 *
 * Only full pages are shared, and only what is computed before them can be in them, so a page is the same whoever computed it, bit for bit.
 *
 *   promised   full of known tokens, being computed by the one sequence that holds it. Who wants the same page waits for it
 *   ready      computed: held by n sequences, or kept by the pool until memory is needed
 *
 * A sequence holds its pages from the first on and gives them back from the last on. So whoever holds a page holds those before it, a page
 * is kept for longer than those behind it, and the page that is taken again first is the end of a chain: no page is in the index whose
 * parent is not.
 *
 * A sequence without a salt takes pages and gives them back and shares none. Knows no scheduler's order, no model and no clock.
 */
import { PageIndex, noPage } from "./page-index.ts";
import type { PagePool } from "./page-pool.ts";
import type { Sequence } from "./sequence.ts";

export interface PrefixCacheOptions {
  readonly pageSize: number;
  /** Makes hashes unpredictable. Default 0. */
  readonly seed?: number;
  /** One more token in a hash; replaced by tests that want collisions. */
  readonly hash?: (hash: number, token: number) => number;
}

export class PrefixCache {
  readonly #pool: PagePool;
  readonly #pageSize: number;
  readonly #index: PageIndex;
  /** 1 for pages of the index that are computed. */
  readonly #ready: Uint8Array;
  /** What the last `admit` found; reused. */
  readonly #found: number[] = [];
  #numQueries = 0;
  #numHits = 0;
  #numRecovered = 0;

  constructor(pool: PagePool, { pageSize, seed, hash }: PrefixCacheOptions) {
    this.#pool = pool;
    this.#pageSize = pageSize;
    this.#index = new PageIndex(pool.numPages, pageSize, seed, hash);
    this.#ready = new Uint8Array(pool.numPages);
  }

  /** Tokens that sequences had when they were first admitted, those left out that no pages were looked for. */
  get numQueries(): number {
    return this.#numQueries;
  }

  /** Of these, tokens whose pages were there. */
  get numHits(): number {
    return this.#numHits;
  }

  /** Tokens whose pages were there when a sequence came back from a preemption. */
  get numRecovered(): number {
    return this.#numRecovered;
  }

  /**
   * Admits a waiting sequence with pages for all its known tokens, as many of them found as there are, and says whether it did. It does not when
   * fewer than `reserve` pages would be left free, or when another sequence is computing the next page it wants: that one is worth
   * waiting for. The last known token is always left to compute, as somebody wants what follows from it, and so are those whose logits are wanted.
   */
  admit(sequence: Sequence, reserve: number): boolean {
    const found = this.#found;
    found.length = 0;
    let numKept = 0;
    const looks = sequence.salt !== null && sequence.logitsFrom > 0;
    if (looks) {
      const most = Math.floor(Math.min(sequence.numTokens - 1, sequence.logitsFrom) / this.#pageSize);
      for (let parent = noPage; found.length < most; ) {
        const page = this.#index.find(sequence, found.length, parent);
        if (page === noPage) break;
        if (this.#ready[page] === 0) return false;
        if (this.#pool.holders(page) === 0) numKept++;
        found.push((parent = page));
      }
    }
    const numMissing = Math.ceil(sequence.numTokens / this.#pageSize) - found.length;
    if (numMissing + numKept + reserve > this.#pool.numFree) return false;
    for (const page of found) {
      this.#pool.share(page);
      sequence.pages.push(page);
    }
    for (let i = 0; i < numMissing; i++) sequence.pages.push(this.#take());
    const numHits = found.length * this.#pageSize;
    if (looks && sequence.numCachedTokens === undefined) {
      this.#numQueries += sequence.numTokens;
      this.#numHits += numHits;
    } else this.#numRecovered += numHits;
    sequence.numListedPages = sequence.numReadyPages = found.length;
    sequence.admit(numHits);
    this.#promise(sequence);
    return true;
  }

  /** Pages for all known tokens of a running sequence, and `numDrafts` more: all that are missing, or none and false. */
  grow(sequence: Sequence, numDrafts = 0): boolean {
    const numMissing = Math.ceil((sequence.numTokens + numDrafts) / this.#pageSize) - sequence.pages.length;
    if (numMissing > this.#pool.numFree) return false;
    for (let i = 0; i < numMissing; i++) sequence.pages.push(this.#take());
    return true;
  }

  /** Takes back the pages that a running sequence had for drafts that were refused. */
  trim(sequence: Sequence): void {
    const { pages } = sequence;
    for (const least = Math.ceil(sequence.numTokens / this.#pageSize); pages.length > least; ) this.#pool.release(pages.pop()!);
  }

  /** Makes ready what the sequence has computed since, by steps that have ended; a page that somebody else has made ready meanwhile takes the place of its own. */
  keep(sequence: Sequence): void {
    if (sequence.salt === null) return;
    const { pages } = sequence;
    const numFull = Math.floor((sequence.numSettled - sequence.numBehind) / this.#pageSize);
    for (let block = sequence.numReadyPages; block < numFull; block = ++sequence.numReadyPages) {
      if (block === sequence.numListedPages) {
        const parent = block === 0 ? noPage : pages[block - 1]!;
        const other = this.#index.find(sequence, block, parent);
        if (other === noPage) this.#index.add(pages[block]!, sequence, block, parent);
        else if (this.#ready[other] === 0) return; // promised by another: once it is ready this one joins it
        else {
          this.#pool.share(other);
          this.#pool.release(pages[block]!);
          pages[block] = other;
        }
        sequence.numListedPages++;
      }
      this.#ready[pages[block]!] = 1;
    }
  }

  /** Takes all pages of a sequence back. What is ready stays findable; what was promised is not there any more. */
  release(sequence: Sequence): void {
    this.keep(sequence);
    const { pages } = sequence;
    for (let page = pages.pop(); page !== undefined; page = pages.pop()) {
      const block = pages.length;
      if (block >= sequence.numReadyPages && block < sequence.numListedPages) this.#index.remove(page);
      this.#pool.release(page, block < sequence.numReadyPages);
    }
    sequence.numListedPages = sequence.numReadyPages = 0;
  }

  /** Every page that is found is kept or held, stands behind one that is ready, and is ready where nobody computes it. For tests. */
  check(): void {
    const kept = this.#pool.kept();
    const order = new Map(kept.map((page, i) => [page, i]));
    for (let page = 0; page < this.#pool.numPages; page++) {
      const listed = this.#index.has(page);
      const fail = (what: string): never => {
        throw new Error(`invariant: page ${page} ${what}`);
      };
      if (!listed) {
        if (order.has(page) || this.#ready[page] === 1) fail("is kept but can not be found");
        continue;
      }
      const holders = this.#pool.holders(page);
      if (holders === 0 && !order.has(page)) fail("can be found but is empty");
      if (this.#ready[page] === 0 && holders !== 1) fail(`is promised by ${holders}`);
      const parent = this.#index.parent(page);
      if (parent === noPage) continue;
      if (!this.#index.has(parent)) fail(`stands behind page ${parent}, which is gone`);
      if (this.#ready[page] === 1 && this.#ready[parent] === 0) fail(`is ready and page ${parent} before it is not`);
      if (this.#pool.holders(parent) < Math.min(1, holders)) fail(`is held and page ${parent} before it is not`);
      if (holders === 0 && (order.get(parent) ?? Infinity) < order.get(page)!) fail(`would outlive page ${parent} before it`);
    }
  }

  /** Lists the full pages that the sequence is going to compute. One that is there already is left to `keep`. */
  #promise(sequence: Sequence): void {
    if (sequence.salt === null) return;
    const numFull = Math.floor(sequence.numTokens / this.#pageSize);
    for (let block = sequence.numListedPages; block < numFull; block++) {
      const parent = block === 0 ? noPage : sequence.pages[block - 1]!;
      if (this.#index.find(sequence, block, parent) !== noPage) return;
      this.#index.add(sequence.pages[block]!, sequence, block, parent);
      sequence.numListedPages++;
    }
  }

  #take(): number {
    const page = this.#pool.take();
    if (this.#index.has(page)) {
      this.#index.remove(page);
      this.#ready[page] = 0;
    }
    return page;
  }
}
