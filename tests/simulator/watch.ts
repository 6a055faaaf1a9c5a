/**
 * What must be so whatever happens: looked at after every operation and whenever a step has been scheduled. The rules are those that scheduler.ts, prefix-cache.ts, page-pool.ts
 * and sequence.ts open with, said again in terms of what can be seen from outside; nothing here asks the code how it decides.
 */
import assert from "node:assert/strict";
import type { Batch } from "../../src/engine/batch.ts";
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
  readonly numUncomputed: number;
  readonly pages: readonly number[];
  /** Tokens it was admitted with, the last time. */
  readonly numAdmitted: number;
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
  ownersOf({ numSequences, firstPosition, blockTable, maxPagesPerSequence }: Batch): readonly Oracle[] {
    const { running, pool } = this.#scheduler;
    return Array.from({ length: numSequences }, (_, s) => {
      const table = blockTable.subarray(s * maxPagesPerSequence, (s + 1) * maxPagesPerSequence);
      const block = Math.floor(firstPosition[s]! / this.#swarm.limits.pageSize), page = table[block]!;
      const owner = running.find(({ pages }) => pages[block] === page);
      if (!owner) assert.fail(`nobody holds page ${page}, which entry ${s} of the batch writes to`);
      for (const [i, page] of owner.pages.entries()) {
        if (table[i] !== page) assert.fail(`block ${i} of request ${owner.id} is page ${page}, and the batch says ${table[i]}`);
        if (i >= block && pool.holders(page) !== 1) assert.fail(`page ${page} is written to by request ${owner.id} and held by others`);
      }
      return this.#oracleOf(owner.id);
    });
  }

  /** Conservation, order and bounds; and what has changed since the last look. */
  look(): void {
    const { running, waiting, pool, cache } = this.#scheduler, { maxNumSeqs, pageSize } = this.#swarm.limits;
    pool.check();
    cache.check();
    const holders = new Int32Array(pool.numPages);
    for (const sequence of running) for (const page of sequence.pages) holders[page]!++;
    for (let page = 0; page < holders.length; page++) if (holders[page] !== pool.holders(page)) assert.fail(`page ${page} is held by ${holders[page]}, and the pool says ${pool.holders(page)}`);
    const numHeld = holders.reduce((sum, n) => sum + Math.min(n, 1), 0);
    assert.equal(pool.numFree, pool.numPages - numHeld, "free pages");
    assert.ok(running.length <= maxNumSeqs, `${running.length} sequences run, at most ${maxNumSeqs} may`);
    let before = -1;
    for (const sequence of [...running, ...waiting]) {
      const { id, pages, numSettled, numComputed, numTokens, capacity, numReadyPages, numListedPages } = sequence;
      const say = () => `${sequence}: ${numSettled} settled, ${numComputed} computed of ${numTokens}, at most ${capacity}; ${numReadyPages} pages ready, ${numListedPages} listed`;
      if (Number(id) <= before) assert.fail(`request ${id} stands behind request ${before}`);
      before = Number(id);
      if (!(numSettled <= numComputed && numComputed < numTokens && numTokens <= capacity)) assert.fail(say());
      if (!(numReadyPages <= numListedPages && numReadyPages * pageSize <= numSettled && numListedPages <= pages.length)) assert.fail(say());
      // What failed or was not wanted leaves one page too many, for the token that is not there any more.
      if (pages.length * pageSize < numComputed || pages.length > this.#pagesFor(numTokens + 1)) assert.fail(say());
      for (let block = Math.floor(numSettled / pageSize); block < pages.length; block++) if (holders[pages[block]!] !== 1) assert.fail(`${say()}: page ${pages[block]} is shared and not computed`);
    }
    for (const sequence of waiting) if (sequence.state !== "waiting" || sequence.pages.length + sequence.numComputed > 0) assert.fail(`${sequence} waits`);
    for (const sequence of running) if (sequence.state !== "running") assert.fail(`${sequence} runs`);
    this.#compare(holders);
  }

  /** What has become of everybody since the last look. */
  #compare(holders: Int32Array): void {
    const { running, waiting, pool } = this.#scheduler, reached = this.#reached;
    const seen = new Map<Sequence, Seen>();
    this.#admitted = [];
    this.#preempted = [];
    for (const sequence of [...running, ...waiting]) {
      const { state, pages, numTokens, numUncomputed } = sequence, was = this.#seen.get(sequence);
      if (state === "running" && was?.state !== "running") this.#admitted.push(sequence);
      if (state === "waiting" && was?.state === "running") this.#preempted.push(sequence);
      if (state === "running" && was?.state === "running" && was.pages.some((page, block) => page !== pages[block])) reached.joins++;
      seen.set(sequence, { state, numTokens, numUncomputed, pages: pages.slice(), numAdmitted: state === "running" && was?.state === "waiting" ? was.numTokens : was?.numAdmitted ?? 0 });
    }
    this.#before = this.#seen;
    this.#seen = seen;
    this.numPreemptions += this.#preempted.length;
    reached.preemptions += this.#preempted.length;
    if (holders.some((n) => n > 1)) reached["shared pages"]++;

    const kept = pool.kept(), still = new Set(kept);
    const ready = new Set(running.flatMap(({ pages, numReadyPages }) => pages.slice(0, numReadyPages)));
    const evicted = this.#kept.filter((page) => !still.has(page) && !ready.has(page));
    reached.evictions += evicted.length;
    // What is preempted gives pages back between two that are taken.
    if (evicted.length > 0 && this.#preempted.length === 0) {
      assert.equal(pool.numFree, kept.length, "kept pages were taken while there were empty ones");
      const survivor = this.#kept.findIndex((page) => still.has(page));
      if (survivor >= 0 && evicted.some((page) => this.#kept.indexOf(page) > survivor)) assert.fail(`pages ${evicted} were taken, of ${this.#kept}, oldest first; ${kept} are left`);
    }
    this.#kept = kept;
  }

  /** The work of a step was decided. */
  scheduled(work: readonly Work[]): void {
    this.look();
    const left = this.#checkService(work);
    this.#checkAdmissions();
    this.#checkPreemptions();
    this.#checkReady();
    const { limits } = this.#swarm, { running, waiting, pool } = this.#scheduler;
    const next = waiting[0];
    if (left === 0) this.#reached["steps with the whole budget"]++;
    if (!next) return;
    if (running.length === limits.maxNumSeqs) this.#reached["waits for a sequence"]++;
    else if (left > 0 && this.#preempted.length === 0) {
      const { found, numKept, promised } = this.#lookUp(next);
      if (promised) this.#reached["waits on promised pages"]++;
      else {
        const needed = this.#pagesFor(next.numTokens) - found + numKept + running.length;
        assert.ok(needed > pool.numFree, `request ${next.id} waits, though ${needed} pages are enough and ${pool.numFree} are free`);
        this.#reached["waits for pages"]++;
      }
    }
  }

  /** Everybody who runs is given what he lacks, in order of arrival, as far as the budget goes; what is left of it. */
  #checkService(work: readonly Work[]): number {
    let budget = this.#swarm.limits.maxNumBatchedTokens, at = 0;
    for (const sequence of this.#scheduler.running) {
      const { id, isFull, numUncomputed } = sequence;
      if (isFull || budget === 0) continue;
      assert.equal(work[at]?.sequence.id, id, "who is served");
      if (work[at]!.numTokens !== Math.min(numUncomputed, budget)) assert.fail(`request ${id} is given ${work[at]!.numTokens} of the ${numUncomputed} tokens that it lacks, with ${budget} to give`);
      if (work[at]!.numTokens < numUncomputed) this.#reached.chunks++;
      budget -= work[at++]!.numTokens;
    }
    assert.equal(work.length, at, "entries of the work");
    return budget;
  }

  /** What is launched is what was decided: the same tokens of the same sequences, and logits of those whose last one is among them. */
  launched({ owners, firstRow, numRows, firstPosition, logitRows }: Launch, work: readonly Work[]): void {
    if (owners.length !== work.length) assert.fail(`a step of ${owners.length} parts, and ${work.length} were decided`);
    // By now they count as computed.
    for (const [s, { sequence: { id, numComputed }, numTokens }] of work.entries()) {
      if (owners[s]!.id !== id || numRows[s] !== numTokens || firstPosition[s] !== numComputed - numTokens) assert.fail(`part ${s} of a step is ${numRows[s]} tokens from ${firstPosition[s]} of request ${owners[s]!.id}, not ${numTokens} from ${numComputed - numTokens} of request ${id}`);
    }
    const rows = work.flatMap(({ sequence, numTokens }, s) => (this.#seen.get(sequence)!.numUncomputed === numTokens ? [firstRow[s]! + numRows[s]! - 1] : []));
    assert.deepEqual([...logitRows], rows, "rows whose logits are wanted");
  }

  /** Whoever came in has found all pages that there were, waited for those that somebody computes, and left a page for each who was there. */
  #checkAdmissions(): void {
    const { running, pool } = this.#scheduler, { pageSize, enablePrefixCaching } = this.#swarm.limits;
    for (const sequence of this.#admitted) {
      const { id, numTokens, numComputed: numFound, numCachedTokens, pages } = sequence, isFirst = !this.hits.has(id);
      const most = Math.floor((numTokens - 1) / pageSize), found = numFound / pageSize;
      assert.ok(Number.isInteger(found) && found <= most && (enablePrefixCaching || found === 0), `request ${id} begins at token ${numFound} of ${numTokens}`);
      const oracle = this.#oracleOf(id);
      const other = found < most ? this.#findable().get(oracle.hash((found + 1) * pageSize - 1)) : undefined;
      if (other && other.page !== pages[found]) assert.fail(`request ${id} has page ${pages[found]} as block ${found}, though it is in page ${other.page} (${other.ready ? "ready" : "promised"})`);
      for (const other of running) {
        const promised = found < most && enablePrefixCaching && other !== sequence && found < Math.floor((this.#seen.get(other)!.numAdmitted - 1) / pageSize);
        if (promised && this.#oracleOf(other.id).hash((found + 1) * pageSize - 1) === oracle.hash((found + 1) * pageSize - 1)) assert.fail(`requests ${id} and ${other.id} compute block ${found} side by side`);
      }
      if (isFirst) {
        this.hits.set(id, numFound);
        assert.equal(numCachedTokens, numFound, `cached tokens of request ${id}`);
        if (enablePrefixCaching) this.numQueries += numTokens;
        this.numHits += numFound;
        if (found > 0) this.#reached[found < most ? "partial hits" : "whole hits"]++;
      } else if (found > 0) this.#reached["pages found again after a preemption"]++;
    }
    if (this.#admitted.length > 0) assert.ok(pool.numFree >= running.length - 1, `${pool.numFree} pages are left for the ${running.length - 1} that ran before`);
  }

  /** What has been computed by steps that have ended can be found; where it stands in another's page, that one is joined as soon as it is ready. */
  #checkReady(): void {
    const { pageSize, enablePrefixCaching } = this.#swarm.limits;
    if (!enablePrefixCaching) return;
    const findable = this.#findable();
    for (const { id, pages, numReadyPages, numSettled } of this.#scheduler.running) {
      if (numReadyPages === Math.floor(numSettled / pageSize)) continue;
      const other = findable.get(this.#oracleOf(id).hash((numReadyPages + 1) * pageSize - 1));
      assert.ok(other && other.page !== pages[numReadyPages], `request ${id} has computed ${numSettled} tokens, and ${numReadyPages} pages of them are ready`);
    }
  }

  /** Nobody is preempted in vain: without his pages there would not have been enough. (The others are older: `look` knows the order.) */
  #checkPreemptions(): void {
    const victim = this.#preempted[0];
    if (!victim) return;
    const { running, pool } = this.#scheduler;
    assert.equal(this.#admitted.length, 0, "requests are admitted by the step that preempts others");
    const others = new Set(running.flatMap((sequence) => this.#before.get(sequence)?.pages ?? []));
    const { pages } = this.#before.get(victim)!;
    const freed = pages.filter((page) => !others.has(page)).length;
    const missing = Math.max(0, this.#pagesFor(victim.numTokens) - pages.length);
    assert.ok(pool.numFree - freed < Math.max(1, missing), `request ${victim.id} was preempted for its ${freed} pages, and ${pool.numFree} are free`);
  }

  /** Which page holds all tokens of a prefix, by the prefix's hash. */
  #findable(): Map<number, { readonly page: number; readonly ready: boolean }> {
    const { running, pool } = this.#scheduler, { pageSize } = this.#swarm.limits;
    const found = new Map<number, { page: number; ready: boolean }>();
    const add = (hash: number, page: number, ready: boolean) => {
      const other = found.get(hash);
      if (other && other.page !== page) assert.fail(`pages ${page} and ${other.page} can both be found, and hold the same`);
      found.set(hash, { page, ready });
    };
    if (!this.#swarm.limits.enablePrefixCaching) return found;
    for (const { id, pages, numListedPages, numReadyPages } of running) {
      const oracle = this.#oracleOf(id);
      for (let block = 0; block < numListedPages; block++) add(oracle.hash((block + 1) * pageSize - 1), pages[block]!, block < numReadyPages);
    }
    for (const page of pool.kept()) add(this.#machine.slots[(page + 1) * pageSize - 1]!, page, true);
    return found;
  }

  /** What a waiting sequence would find: whole pages, how many of them nobody holds, and whether the next is being computed. */
  #lookUp(sequence: Sequence): { readonly found: number; readonly numKept: number; readonly promised: boolean } {
    const findable = this.#findable(), oracle = this.#oracleOf(sequence.id), { pageSize } = this.#swarm.limits;
    const most = Math.floor((sequence.numTokens - 1) / pageSize);
    let found = 0, numKept = 0;
    for (; found < most; found++) {
      const next = findable.get(oracle.hash((found + 1) * pageSize - 1));
      if (!next) break;
      if (!next.ready) return { found, numKept, promised: true };
      if (this.#scheduler.pool.holders(next.page) === 0) numKept++;
    }
    return { found, numKept, promised: false };
  }
}
