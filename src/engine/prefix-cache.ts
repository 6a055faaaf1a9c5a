/**
 * The pages of sequences: taken from the pool, shared where their tokens are those of pages that are there, and given back.
 *
 * Only full pages are shared, and only what is computed before them can be in them, so a page is the same whoever computed it, bit for bit.
 *
 *   promised   full of known tokens, being computed by the one sequence that holds it. Who wants the same page waits for it
 *   ready      computed: held by n sequences, or kept by the pool until memory is needed
 *
 * A sequence gives its pages back from the last on, when it ends; and one by one while it runs, where pages expire (model/page-needs.ts). Whoever
 * comes by then finds them, while they are kept, and does without those that have expired for it too.
 *
 *   kept     0 ◀ 1 ◀ 2 ◀ 3                a kept page is found, as are all before it, and is taken again before any kept one that it stands behind:
 *   held                   ◀ 4 ◀ 5        the end of a chain first. When that was page 3, those behind it are cut off: page 4 is still its holders',
 *                                         and nobody else's ever; after the last of them it is not kept
 *
 * Where nothing expires, whoever holds a page holds those before it, and none is ever cut off.
 *
 * A sequence without a salt takes pages and gives them back and shares none. Knows no scheduler's order, no model and no clock.
 */
import { PageNeeds } from "../model/page-needs.ts";
import { goneParent, noPage, PageIndex } from "./page-index.ts";
import type { PagePool } from "./page-pool.ts";
import type { Sequence } from "./sequence.ts";

export interface PrefixCacheOptions {
  /** The size of pages, and which of them a sequence needs. */
  readonly needs: PageNeeds;
  /** Makes hashes unpredictable. Default 0. */
  readonly seed?: number;
  /** One more token in a hash; replaced by tests that want collisions. */
  readonly hash?: (hash: number, token: number) => number;
}

export class PrefixCache {
  readonly needs: PageNeeds;
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
  #numExpired = 0;

  constructor(pool: PagePool, { needs, seed, hash }: PrefixCacheOptions) {
    this.needs = needs;
    this.#pool = pool;
    this.#pageSize = needs.pageSize;
    this.#index = new PageIndex(pool.numPages, needs.pageSize, seed, hash);
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

  /** Pages that sequences have given back while they ran. */
  get numExpired(): number {
    return this.#numExpired;
  }

  /**
   * Admits a waiting sequence with pages for all its known tokens (where pages expire, for those that a step of `budget` tokens computes), as many of them
   * found as there are, and says whether it did. It does not when fewer than `reserve` pages would be left free, or when another sequence is computing
   * the next page it wants: that one is worth waiting for. The last known token is always left to compute, as somebody wants what follows from it, and
   * so are those whose logits are wanted.
   */
  admit(sequence: Sequence, budget: number, reserve: number): boolean {
    const found = this.#found, { needs } = this, { numTokens } = sequence;
    found.length = 0;
    const looks = sequence.salt !== null && sequence.logitsFrom > 0;
    if (looks) {
      const most = Math.floor(Math.min(numTokens - 1, sequence.logitsFrom) / this.#pageSize);
      for (let parent = noPage; found.length < most; ) {
        const page = this.#index.find(sequence, found.length, parent);
        if (page === noPage) break;
        if (this.#ready[page] === 0) return false;
        found.push((parent = page));
      }
    }
    const numHits = found.length * this.#pageSize, reach = needs.reach(numHits, numTokens, budget);
    const numExpired = needs.numExpired(numHits), numHeld = needs.pagesFor(reach) - numExpired;
    const numMissing = needs.pagesFor(reach) - found.length;
    const numLater = reach < numTokens ? Math.max(0, needs.mostHeld(numTokens) - numHeld) : 0;
    const numKept = found.reduce((count, page, block) => (!needs.isExpired(block, numHits) && this.#pool.holders(page) === 0 ? count + 1 : count), 0);
    if (numMissing + numKept + numLater + reserve > this.#pool.numFree) return false;
    for (const [block, page] of found.entries()) sequence.pages.push(needs.isExpired(block, numHits) ? noPage : page);
    // Those that have expired for it were of use, too: of all these the first is taken again last.
    for (let page = found.pop(); page !== undefined; page = found.pop()) {
      this.#pool.share(page);
      if (sequence.pages[found.length] === noPage) this.#pool.keep(page);
    }
    for (let i = 0; i < numMissing; i++) sequence.pages.push(this.#take());
    if (looks && sequence.numCachedTokens === undefined) {
      this.#numQueries += numTokens;
      this.#numHits += numHits;
    } else this.#numRecovered += numHits;
    sequence.numExpiredPages = numExpired;
    sequence.numListedPages = sequence.numReadyPages = numHits / this.#pageSize;
    sequence.admit(numHits);
    this.#promise(sequence);
    return true;
  }

  /** Pages for the first `numTokens` tokens of a running sequence: all that are missing, or none and false. */
  grow(sequence: Sequence, numTokens: number): boolean {
    const numMissing = this.needs.pagesFor(numTokens) - sequence.pages.length;
    if (numMissing > this.#pool.numFree) return false;
    for (let i = 0; i < numMissing; i++) sequence.pages.push(this.#take());
    if (numMissing > 0 && this.needs.expires) this.#promise(sequence);
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

  /** Takes back the pages of a running sequence that no step will look at any more, those under way included. */
  expire(sequence: Sequence): void {
    const { pages, salt } = sequence, { order } = this.needs;
    // The last ready page stays: the next one to be listed stands behind it.
    const end = salt === null ? Infinity : sequence.numReadyPages - 1;
    const numExpired = this.needs.numExpired(sequence.numSettled - sequence.numBehind, sequence.numExpiredPages);
    for (; sequence.numExpiredPages < numExpired && order[sequence.numExpiredPages]! < end; sequence.numExpiredPages++) {
      const block = order[sequence.numExpiredPages]!, page = pages[block]!;
      pages[block] = noPage;
      this.#numExpired++;
      if (salt === null) this.#pool.release(page);
      else this.#leave(page, this.#elderOf(page));
    }
  }

  /** Takes all pages of a sequence back. What is ready stays findable; what was promised is not there any more. */
  release(sequence: Sequence): void {
    this.keep(sequence);
    const { pages } = sequence;
    while (pages.length > 0) {
      // The pages behind the last one that has expired, from the last on.
      let first = pages.length;
      while (first > 0 && pages[first - 1] !== noPage) first--;
      const elder = first < sequence.numReadyPages ? this.#elderOf(pages[first]!) : undefined;
      while (pages.length > first) {
        const block = pages.length - 1, page = pages.pop()!;
        if (block < sequence.numReadyPages) this.#leave(page, elder);
        else {
          if (block < sequence.numListedPages) this.#index.remove(page);
          this.#pool.release(page);
        }
      }
      while (pages.at(-1) === noPage) pages.pop();
    }
    sequence.numListedPages = sequence.numReadyPages = sequence.numExpiredPages = 0;
  }

  /** What the comment above promises. For tests. */
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
      const before = this.#index.parent(page);
      if (before >= 0 && this.#ready[page] === 1 && this.#ready[before] === 0) fail(`is ready and page ${before} before it is not`);
      if (!this.needs.expires && before !== noPage && this.#pool.holders(before) < Math.min(1, holders)) fail(`is held and page ${before} before it is not`);
      for (let elder = before; holders === 0 && elder !== noPage; elder = this.#index.parent(elder)) {
        if (elder === goneParent) fail("is kept but cut off");
        if ((order.get(elder) ?? Infinity) < order.get(page)!) fail(`would outlive page ${elder} before it`);
      }
    }
  }

  /** Lists the full pages that the sequence holds and is going to compute. One that is there already is left to `keep`. */
  #promise(sequence: Sequence): void {
    if (sequence.salt === null) return;
    const numFull = Math.min(sequence.pages.length, Math.floor(sequence.numKnown / this.#pageSize));
    for (let block = sequence.numListedPages; block < numFull; block++) {
      const parent = block === 0 ? noPage : sequence.pages[block - 1]!;
      if (this.#index.find(sequence, block, parent) !== noPage) return;
      this.#index.add(sequence.pages[block]!, sequence, block, parent);
      sequence.numListedPages++;
    }
  }

  /** One holder less of a ready page. After the last it is kept, where it can be found. */
  #leave(page: number, elder: number | undefined): void {
    if (elder !== goneParent) return this.#pool.keep(page, elder);
    if (this.#pool.holders(page) === 1) {
      this.#index.remove(page);
      this.#ready[page] = 0;
    }
    this.#pool.release(page);
  }

  /** The nearest page before `page` that is kept, if one is; goneParent where it is cut off. */
  #elderOf(page: number): number | undefined {
    let elder = this.#index.parent(page);
    while (elder >= 0 && this.#pool.holders(elder) > 0) elder = this.#index.parent(elder);
    return elder === noPage ? undefined : elder;
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
