/**
 * What must be so whatever happens: looked at after every operation and whenever a step has been scheduled. The rules are those that scheduler.ts, prefix-cache.ts, page-pool.ts
 * and sequence.ts open with, said again in terms of what can be seen from outside; nothing here asks the code how it decides.
 */
import assert from "node:assert/strict";
import type { Batch } from "../../src/engine/batch.ts";
import { noPage } from "../../src/engine/page-index.ts";
import type { Scheduler, Work } from "../../src/engine/scheduler.ts";
import type { Sequence, SequenceState } from "../../src/engine/sequence.ts";
import type { Launch, Machine } from "./machine.ts";
import type { Oracle } from "./oracle.ts";
import type { Reached } from "./reached.ts";
import type { Swarm } from "./swarm.ts";

/** A sequence when it was last looked at. */
interface Seen {
  readonly state: SequenceState;
  readonly numTokens: number;
  readonly numComputed: number;
  /** Of what is computed, the part that may be found: the rest is wanted for its logits. */
  readonly mostFound: number;
  readonly pages: readonly number[];
  /** Pages it looked for when it was admitted, the last time. */
  readonly numLookedFor: number;
  /** Steps for which there are to be no drafts. */
  readonly rest: number;
}

export class Watch {
  readonly #swarm: Swarm;
  readonly #scheduler: Scheduler;
  readonly #machine: Machine;
  readonly #oracleOf: (id: string) => Oracle;
  readonly #reached: Reached;
  #seen = new Map<Sequence, Seen>();
  /** The look before. */
  #before = this.#seen;
  #kept: readonly number[] = [];
  /** Since the look before this one. */
  #admitted: Sequence[] = [];
  #preempted: Sequence[] = [];
  /** Since the start, as stats count them. */
  numPreemptions = 0;
  numQueries = 0;
  numHits = 0;
  /** Pages that were seen to expire, which some do behind the back of whoever looks. */
  numExpired = 0;
  /** Tokens that a sequence found in the cache when it was first admitted. */
  readonly hits = new Map<string, number>();

  constructor(swarm: Swarm, scheduler: Scheduler, machine: Machine, oracleOf: (id: string) => Oracle, reached: Reached) {
    this.#swarm = swarm;
    this.#scheduler = scheduler;
    this.#machine = machine;
    this.#oracleOf = oracleOf;
    this.#reached = reached;
  }

  #pagesFor(numTokens: number): number {
    return Math.ceil(numTokens / this.#swarm.limits.pageSize);
  }

  /** Whose pages a batch writes to: exactly one sequence's each. */
  ownersOf({ numSequences, firstPosition, blockTable, maxPagesPerSequence }: Batch): readonly { readonly oracle: Oracle; readonly numKnown: number }[] {
    const { running, pool } = this.#scheduler;
    return Array.from({ length: numSequences }, (_, s) => {
      const table = blockTable.subarray(s * maxPagesPerSequence, (s + 1) * maxPagesPerSequence);
      const block = Math.floor(firstPosition[s]! / this.#swarm.limits.pageSize), page = table[block]!;
      const owner = running.find(({ pages }) => pages[block] === page);
      if (!owner) assert.fail(`nobody holds page ${page}, which entry ${s} of the batch writes to`);
      for (const [i, own] of owner.pages.entries()) {
        // In place of one that has expired stands the next that is there.
        const page = own === noPage ? owner.pages.find((page, at) => at > i && page !== noPage) : own;
        if (page === undefined || table[i] !== page) assert.fail(`block ${i} of request ${owner.id} is page ${page}, and the batch says ${table[i]}`);
        if (i >= block && pool.holders(page) !== 1) assert.fail(`page ${page} is written to by request ${owner.id} and held by others`);
      }
      return { oracle: this.#oracleOf(owner.id), numKnown: owner.numKnown };
    });
  }

  /** Conservation, order and bounds; and what has changed since the last look. */
  look(): void {
    const { running, waiting, pool, cache } = this.#scheduler, { maxNumSeqs, pageSize, numSpeculativeTokens = 0 } = this.#swarm.limits;
    pool.check();
    cache.check();
    const holders = new Int32Array(pool.numPages);
    for (const sequence of running) for (const page of sequence.pages) if (page !== noPage) holders[page]!++;
    for (let page = 0; page < holders.length; page++) if (holders[page] !== pool.holders(page)) assert.fail(`page ${page} is held by ${holders[page]}, and the pool says ${pool.holders(page)}`);
    const numHeld = holders.reduce((sum, n) => sum + Math.min(n, 1), 0);
    assert.equal(pool.numFree, pool.numPages - numHeld, "free pages");
    assert.ok(running.length <= maxNumSeqs, `${running.length} sequences run, at most ${maxNumSeqs} may`);
    this.#checkOrder(running);
    this.#checkOrder(waiting);
    if (this.#swarm.priorities.length === 1) this.#checkOrder([...running, ...waiting]);
    for (const sequence of [...running, ...waiting]) {
      const { pages, numSettled, numComputed, numTokens, capacity, numReadyPages, numListedPages } = sequence;
      const say = () => `${sequence}: ${numSettled} settled, ${numComputed} computed of ${numTokens}, at most ${capacity}; ${numReadyPages} pages ready, ${numListedPages} listed`;
      if (!(numSettled <= numComputed && numComputed < numTokens && numTokens <= capacity)) assert.fail(say());
      if (!(numReadyPages <= numListedPages && numReadyPages * pageSize <= numSettled && numListedPages <= pages.length)) assert.fail(say());
      for (const [block, page] of pages.entries()) if (page === noPage && (block + 1) * pageSize - 1 + this.#swarm.window > numSettled) assert.fail(`${say()}: page ${block} has expired`);
      if (sequence.numExpiredPages !== pages.filter((page) => page === noPage).length) assert.fail(`${say()}: ${sequence.numExpiredPages} pages have expired, not ${pages}`);
      // What failed or was not wanted, drafts too, leaves pages for tokens that are not there any more.
      if (pages.length * pageSize < numComputed || pages.length > this.#pagesFor(numTokens + 1 + numSpeculativeTokens)) assert.fail(say());
      for (let block = Math.floor(numSettled / pageSize); block < pages.length; block++) if (holders[pages[block]!] !== 1) assert.fail(`${say()}: page ${pages[block]} is shared and not computed`);
    }
    for (const sequence of waiting) if (sequence.state !== "waiting" || sequence.pages.length + sequence.numComputed > 0) assert.fail(`${sequence} waits`);
    for (const sequence of running) if (sequence.state !== "running") assert.fail(`${sequence} runs`);
    this.#compare(holders);
  }

  /** By priority, and among equals as they came. */
  #checkOrder(line: readonly Sequence[]): void {
    for (let i = 1; i < line.length; i++) {
      const [a, b] = [line[i - 1]!, line[i]!], [p, q] = [a, b].map(({ id }) => this.#oracleOf(id).request.standing.priority ?? 0);
      if (p! > q! || (p === q && Number(a.id) >= Number(b.id))) assert.fail(`request ${b.id} (priority ${q}) stands behind request ${a.id} (${p})`);
    }
  }

  /** What has become of everybody since the last look. */
  #compare(holders: Int32Array): void {
    const { running, waiting, pool } = this.#scheduler, reached = this.#reached;
    const seen = new Map<Sequence, Seen>();
    this.#admitted = [];
    this.#preempted = [];
    for (const sequence of [...running, ...waiting]) {
      const { state, pages, numTokens, numComputed, logitsFrom, salt, rest } = sequence, was = this.#seen.get(sequence);
      if (state === "running" && was?.state !== "running") this.#admitted.push(sequence);
      if (state === "waiting" && was?.state === "running") this.#preempted.push(sequence);
      if (state === "running" && was?.state === "running") {
        if (was.pages.some((page, block) => page !== pages[block] && pages[block] !== noPage)) reached.joins++;
        const numExpired = was.pages.filter((page, block) => page !== noPage && pages[block] === noPage).length;
        this.numExpired += numExpired;
        reached["pages that expire"] += numExpired;
      } else reached["pages that had expired when they were found"] += pages.filter((page) => page === noPage).length;
      const mostFound = salt === null ? 0 : Math.floor(Math.min(numTokens - 1, logitsFrom) / this.#swarm.limits.pageSize);
      seen.set(sequence, { state, rest, numTokens, numComputed, pages: pages.slice(), mostFound, numLookedFor: state === "running" && was?.state === "waiting" ? was.mostFound : was?.numLookedFor ?? 0 });
    }
    this.#before = this.#seen;
    this.#seen = seen;
    this.numPreemptions += this.#preempted.length;
    reached.preemptions += this.#preempted.length;
    if (this.#swarm.needs.expires) reached["preemptions where pages expire"] += this.#preempted.length;
    if (holders.some((n) => n > 1)) reached["shared pages"]++;

    const kept = pool.kept(), still = new Set(kept);
    const ready = new Set(running.flatMap(({ pages, numReadyPages }) => pages.slice(0, numReadyPages)));
    const evicted = this.#kept.filter((page) => !still.has(page) && !ready.has(page));
    reached.evictions += evicted.length;
    // What is preempted gives pages back between two that are taken.
    if (evicted.length > 0 && this.#preempted.length === 0) {
      assert.equal(pool.numFree, kept.length, "kept pages were taken while there were empty ones");
      // Those that a sequence did without when it came in are the youngest again.
      const survivor = this.#swarm.needs.expires ? -1 : this.#kept.findIndex((page) => still.has(page));
      if (survivor >= 0 && evicted.some((page) => this.#kept.indexOf(page) > survivor)) assert.fail(`pages ${evicted} were taken, of ${this.#kept}, oldest first; ${kept} are left`);
    }
    this.#kept = kept;
  }

  /** The work of a step was decided. */
  scheduled(work: readonly Work[]): void {
    this.look();
    const { limits, priorities } = this.#swarm, { running, waiting, pool } = this.#scheduler;
    // Pages for drafts are what nobody else wanted.
    const numFree = pool.numFree + running.reduce((sum, { pages, numTokens }) => sum + Math.max(0, pages.length - this.#pagesFor(numTokens)), 0);
    const left = this.#checkService(work);
    this.#checkDrafts(work, Math.min(left.budget, left.rows), numFree);
    this.#checkAdmissions(numFree);
    this.#checkPreemptions(numFree);
    this.#checkReady();
    this.#checkExpired();
    if (priorities.length > 1 && waiting.some(({ id }) => Number(id) < Number(running.at(-1)?.id))) this.#reached["requests that overtake"]++;
    const next = waiting[0];
    if (left.budget === 0) this.#reached["steps with the whole budget"]++;
    if (!next) return;
    if (running.length === limits.maxNumSeqs) this.#reached["waits for a sequence"]++;
    else if (left.budget > 0 && left.rows > 0 && this.#preempted.length === 0) {
      const { found, numKept, promised } = this.#lookUp(next);
      if (promised) this.#reached["waits on promised pages"]++;
      // Pages for drafts may have been those that led to somebody's promised one.
      else if (promised !== undefined && !(this.#swarm.needs.expires && work.some(({ numDrafts }) => numDrafts > 0))) {
        const needed = this.#needed(next.numTokens, found, left.budget) + numKept + running.length + this.#owed();
        assert.ok(needed > numFree, `request ${next.id} waits, though ${needed} pages are enough and ${numFree} are free`);
        this.#reached["waits for pages"]++;
      }
    }
  }

  /** Free pages that a sequence comes to need from the `found`th on, before its known tokens are computed. */
  #needed(numTokens: number, found: number, budget: number): number {
    const { needs, limits: { pageSize } } = this.#swarm;
    if (!needs.expires) return this.#pagesFor(numTokens) - found;
    const reach = Math.min(numTokens, found * pageSize + budget), numPages = this.#pagesFor(reach);
    const numHeld = Array.from({ length: numPages }, (_, block) => Number(!needs.isExpired(block, found * pageSize))).reduce((sum, n) => sum + n, 0);
    return numPages - found + (reach < numTokens ? Math.max(0, needs.mostHeld(numTokens) - numHeld) : 0);
  }

  /** Pages that those who run have not taken yet, and will. */
  #owed(): number {
    const { needs } = this.#swarm;
    return !needs.expires ? 0 : this.#scheduler.running.reduce((sum, { isFull, pages, numTokens }) =>
      (isFull || pages.length >= this.#pagesFor(numTokens) ? sum : sum + Math.max(0, needs.mostHeld(numTokens) - pages.filter((page) => page !== noPage).length)), 0);
  }

  /** Nobody holds what has expired, but for the last page that others can find. */
  #checkExpired(): void {
    const { needs } = this.#swarm;
    for (const { id, salt, pages, numSettled, numReadyPages } of this.#scheduler.running) for (const [block, page] of pages.entries()) {
      if (page !== noPage && needs.isExpired(block, numSettled) && (salt === null || block < numReadyPages - 1)) assert.fail(`request ${id} holds page ${page}, block ${block}, which has expired at ${numSettled}`);
    }
  }

  /** Everybody who runs is given what he lacks, in order, those who came in last; as far as the budget goes and the rows of logits, of which one is kept for each who ran. What is left of both. */
  #checkService(work: readonly Work[]): { readonly budget: number; readonly rows: number } {
    const { maxNumBatchedTokens, maxNumSeqs, maxNumLogits = maxNumSeqs } = this.#swarm.limits, { running } = this.#scheduler;
    let budget = maxNumBatchedTokens, rows = maxNumLogits, at = 0;
    const ran = running.filter((sequence) => !this.#admitted.includes(sequence)), order = [...ran, ...running.filter((sequence) => this.#admitted.includes(sequence))];
    for (const [i, sequence] of order.entries()) {
      const { id, isFull, numComputed, numUncomputed, logitsFrom } = sequence;
      if (isFull || budget === 0) continue;
      const { numTokens, numLogits } = work[at++] ?? assert.fail(`request ${id} runs, and has no part of the step`);
      assert.equal(work[at - 1]!.sequence.id, id, "who is served");
      const offered = Math.min(numUncomputed, budget), wanted = Math.max(0, numComputed + offered - Math.max(numComputed, logitsFrom));
      const given = Math.min(wanted, rows - Math.max(0, ran.length - 1 - i)), expected = offered - (wanted - given);
      // Who is preempted behind it has had a row kept until then.
      if (this.#preempted.length === 0 || wanted === 0) assert.equal(numTokens, expected, `tokens of request ${id}, which lacks ${numUncomputed}, with ${budget} to give and ${rows} rows`);
      assert.ok(numTokens > 0 && numTokens <= expected, `tokens of request ${id}: ${numTokens} of ${expected}`);
      const end = numComputed + numTokens;
      assert.equal(numLogits, logitsFrom < end ? end - Math.max(numComputed, logitsFrom) : Number(numTokens === numUncomputed), `rows of logits of request ${id}`);
      if (numTokens < numUncomputed) this.#reached.chunks++;
      if (numTokens < offered) this.#reached["prompts cut by rows of logits"]++;
      budget -= numTokens;
      rows -= numLogits;
    }
    assert.equal(work.length, at, "entries of the work");
    assert.ok(budget >= 0 && rows >= 0, `${budget} tokens and ${rows} rows are left`);
    return { budget, rows };
  }

  /** Drafts have what is left: rows and pages, in the order of the work. Whose were all wrong again and again rests from them. */
  #checkDrafts(work: readonly Work[], rows: number, numFree: number): void {
    const { numSpeculativeTokens: most = 0, maxNumBatchedTokens } = this.#swarm.limits;
    for (const { sequence, numDrafts, numTokens: given } of work) {
      const { id, numGenerated, numComputed, numUncomputed, numKnown, numTokens, capacity, pages } = sequence;
      const decodes = numGenerated > 0 && numUncomputed === 1 && numKnown === numTokens, rest = this.#before.get(sequence)?.rest ?? 0;
      assert.equal(sequence.rest, decodes ? Math.max(0, rest - 1) : rest, `steps without drafts of request ${id}`);
      if (decodes && rest > 0) this.#reached["steps that rest from drafts"]++;
      let expected = decodes && rest === 0 ? Math.max(0, Math.min(most, rows, capacity - numTokens - 1)) : 0;
      const has = this.#pagesFor(numTokens);
      while (this.#pagesFor(numTokens + expected) - has > numFree) expected--;
      assert.equal(numDrafts, expected, `room for drafts of request ${id}`);
      if (this.#swarm.needs.expires && numUncomputed > 1) {
        const least = this.#pagesFor(numComputed + given), most = Math.max(this.#before.get(sequence)?.pages.length ?? 0, this.#pagesFor(Math.min(numTokens, numComputed + maxNumBatchedTokens)));
        assert.ok(pages.length >= least && pages.length <= most, `${pages.length} pages of request ${id} for a chunk of ${given} tokens from ${numComputed} on, ${least} to ${most}`);
        continue;
      }
      assert.equal(pages.length, this.#pagesFor(numTokens + expected), `pages of request ${id} for ${numTokens} tokens and ${expected} drafts`);
      numFree -= pages.length - has;
      rows -= expected;
    }
  }

  /** What is launched is what was decided, of whoever has not left since, with as many drafts as there was room for at most, and logits of the last rows. */
  launched({ owners, firstRow, numRows, firstPosition, firstGuess, logitRows }: Launch, plan: readonly Work[]): void {
    const work = plan.filter(({ sequence }) => sequence.state === "running"), rows: number[] = [];
    assert.deepEqual(owners.map(({ id }) => id), work.map(({ sequence }) => sequence.id), "whose parts a step has");
    for (const [s, { sequence, numTokens, numLogits, numDrafts }] of work.entries()) {
      const guesses = numRows[s]! - numTokens;
      assert.ok(guesses >= 0 && guesses <= numDrafts && guesses === sequence.numDrafts, `${guesses} drafts of request ${sequence.id}, room for ${numDrafts}`);
      assert.equal(firstPosition[s], this.#seen.get(sequence)!.numComputed, `where request ${sequence.id} goes on`);
      if (guesses > 0) assert.equal(firstGuess[s], firstPosition[s]! + numTokens, `where the drafts of request ${sequence.id} are`);
      for (let row = numTokens - numLogits; row < numRows[s]!; row++) rows.push(firstRow[s]! + row);
    }
    assert.deepEqual([...logitRows], rows, "rows whose logits are wanted");
  }

  /** Whoever came in has found all pages that there were, waited for those that somebody computes, and left a page for each who was there. */
  #checkAdmissions(numFree: number): void {
    const { running } = this.#scheduler, { pageSize } = this.#swarm.limits;
    for (const sequence of this.#admitted) {
      const { id, numTokens, numComputed: numFound, numCachedTokens, pages, capacity } = sequence, isFirst = !this.hits.has(id);
      const { numLookedFor: most } = this.#seen.get(sequence)!, found = numFound / pageSize;
      assert.equal(sequence.salt !== null, this.#sharesPages(id), `whether request ${id} may share`);
      assert.ok(Number.isInteger(found) && found <= most, `request ${id} begins at token ${numFound} of ${numTokens}`);
      const oracle = this.#oracleOf(id);
      const other = found < most ? this.#findable().get(oracle.hash((found + 1) * pageSize - 1)) : undefined;
      if (other && other.page !== pages[found]) assert.fail(`request ${id} has page ${pages[found]} as block ${found}, though it is in page ${other.page} (${other.ready ? "ready" : "promised"})`);
      for (const other of running) {
        // What the other has computed long ago, and what it stood behind has expired for it and been taken since, is found no more.
        const promised = found < most && other !== sequence && found < this.#seen.get(other)!.numLookedFor && (found + 1) * pageSize > other.numSettled;
        if (promised && this.#oracleOf(other.id).hash((found + 1) * pageSize - 1) === oracle.hash((found + 1) * pageSize - 1)) assert.fail(`requests ${id} and ${other.id} compute block ${found} side by side`);
      }
      if (isFirst) {
        if (capacity - 1 > this.#swarm.limits.numPages * pageSize) this.#reached["requests longer than the pool"]++;
        this.hits.set(id, numFound);
        assert.equal(numCachedTokens, numFound, `cached tokens of request ${id}`);
        const { prompt, params: { promptLogprobs }, standing } = oracle.request;
        if (this.#sharesPages(id) && (promptLogprobs === undefined || prompt.length === 1)) this.numQueries += numTokens;
        if (found > 0 && standing.family !== undefined) this.#reached["choices that share pages"]++;
        this.numHits += numFound;
        if (found > 0) this.#reached[found < most ? "partial hits" : "whole hits"]++;
      } else if (sequence.logitsFrom < Infinity && sequence.logitsFrom > 0) this.#reached["prompts read on after a preemption"]++;
      if (!isFirst && found > 0) this.#reached["pages found again after a preemption"]++;
    }
    if (this.#admitted.length > 0) assert.ok(numFree >= running.length - 1, `${numFree} pages are left for the ${running.length - 1} that ran before`);
  }

  /** What has been computed by steps that have ended can be found; where it stands in another's page, that one is joined as soon as it is ready. */
  #checkReady(): void {
    const { pageSize } = this.#swarm.limits;
    const findable = this.#findable();
    for (const { id, pages, numReadyPages, numSettled } of this.#scheduler.running) {
      if (!this.#sharesPages(id) || numReadyPages === Math.floor(numSettled / pageSize)) continue;
      const hash = this.#oracleOf(id).hash((numReadyPages + 1) * pageSize - 1), other = findable.get(hash);
      // Who had promised it may have been preempted since; then it is listed with the next step.
      const promised = this.#mayBeFound(hash, id) || this.#preempted.some((victim) => this.#oracleOf(victim.id).hash((numReadyPages + 1) * pageSize - 1) === hash) || this.#hasGoneSince(numReadyPages, hash);
      assert.ok(other ? other.page !== pages[numReadyPages] : promised, `request ${id} has computed ${numSettled} tokens, and ${numReadyPages} pages of them are ready`);
    }
  }

  /** Whether somebody had promised this block when the step was decided, and has made it ready and given it back since: its page may be another's already. */
  #hasGoneSince(block: number, hash: number): boolean {
    const { pageSize } = this.#swarm.limits;
    return this.#scheduler.running.some((other) => {
      const was = this.#before.get(other)?.pages[block];
      return other.pages[block] === noPage && was !== undefined && was !== noPage && this.#oracleOf(other.id).hash((block + 1) * pageSize - 1) === hash;
    });
  }

  /** Nobody is preempted in vain: without his pages there would not have been enough. (The others go before it: `look` knows the order.) */
  #checkPreemptions(numFree: number): void {
    const victim = this.#preempted[0];
    // Where pages expire more than the victim's own come free: those that others could not give back while they waited for what it had promised.
    if (!victim || this.#swarm.needs.expires) return;
    const { running } = this.#scheduler;
    assert.equal(this.#admitted.length, 0, "requests are admitted by the step that preempts others");
    const others = new Set(running.flatMap((sequence) => this.#before.get(sequence)?.pages ?? []));
    const { pages } = this.#before.get(victim)!;
    const freed = pages.filter((page) => !others.has(page)).length;
    const missing = Math.max(0, this.#pagesFor(victim.numTokens) - pages.length);
    assert.ok(numFree - freed < Math.max(1, missing), `request ${victim.id} was preempted for its ${freed} pages, and ${numFree} are free`);
  }

  /** With the others of its salt, or where nothing is cached with the other choices of its prompt. */
  #sharesPages(id: string): boolean {
    return this.#swarm.limits.enablePrefixCaching === true || this.#oracleOf(id).request.standing.family !== undefined;
  }

  /** Whether one that runs, besides `id`, has listed a page with these tokens behind one that has expired for it: who knows what it stands behind? */
  #mayBeFound(hash: number, id = ""): boolean {
    const { pageSize } = this.#swarm.limits;
    return this.#scheduler.running.some(({ id: other, pages, numListedPages }) => {
      const first = pages.indexOf(noPage);
      return first >= 0 && other !== id && pages.some((page, block) => block > first && page !== noPage && block < numListedPages && this.#oracleOf(other).hash((block + 1) * pageSize - 1) === hash);
    });
  }

  /** Which page surely holds all tokens of a prefix and can be found, by the prefix's hash. */
  #findable(): Map<number, { readonly page: number; readonly ready: boolean }> {
    const { running, pool } = this.#scheduler, { pageSize } = this.#swarm.limits;
    const found = new Map<number, { page: number; ready: boolean }>();
    const add = (hash: number, page: number, ready: boolean) => {
      const other = found.get(hash);
      if (other && other.page !== page) assert.fail(`pages ${page} and ${other.page} can both be found, and hold the same`);
      found.set(hash, { page, ready });
    };
    for (const { id, pages, numListedPages, numReadyPages } of running) {
      const oracle = this.#oracleOf(id);
      // A machine that breaks down has said what no oracle knows.
      for (let block = 0; block < numListedPages && pages[block] !== noPage && oracle.reaches((block + 1) * pageSize - 1); block++) add(oracle.hash((block + 1) * pageSize - 1), pages[block]!, block < numReadyPages);
    }
    for (const page of pool.kept()) add(this.#machine.slots[(page + 1) * pageSize - 1]!, page, true);
    return found;
  }

  /** What a waiting sequence would find: whole pages, how many of them nobody holds of those it needs, and whether the next is being computed; undefined: who knows? */
  #lookUp(sequence: Sequence): { readonly found: number; readonly numKept: number; readonly promised: boolean | undefined } {
    const findable = this.#findable(), oracle = this.#oracleOf(sequence.id), { pageSize } = this.#swarm.limits;
    const { mostFound: most } = this.#seen.get(sequence)!;
    const pages: number[] = [];
    let promised: boolean | undefined = false;
    while (pages.length < most) {
      const hash = oracle.hash((pages.length + 1) * pageSize - 1), next = findable.get(hash);
      promised = next ? !next.ready : this.#mayBeFound(hash) ? undefined : false;
      if (!next?.ready) break;
      pages.push(next.page);
    }
    const found = pages.length;
    const numKept = pages.filter((page, block) => !this.#swarm.needs.isExpired(block, found * pageSize) && this.#scheduler.pool.holders(page) === 0).length;
    return { found, numKept, promised };
  }
}
