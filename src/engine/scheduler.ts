/**
 * Which tokens of which sequences the next step computes. One rule: every sequence has tokens known and tokens computed, and
 * a step closes the gap, first come first served, under one token budget. There is no prefill and no decode.
 *
 *   rank                   the priority, lowest first, and among equals the order of arrival. Running and waiting are lines in this
 *                          order, so the first of those that run is served first and always moves
 *   pages                  a running sequence that has work holds pages for all its known tokens; where pages expire (model/page-needs.ts) for those
 *                          that this step computes, and gives back those that no step looks at any more. When the pool is empty the
 *                          last of those that run gives all of its pages back and is computed again later
 *   admission              the head of the waiting line, when its known tokens fit (where pages expire: the most pages that it comes to hold
 *                          until they are computed, and those that the running ones come to hold) and every running sequence still finds a
 *                          free page (so that whom we admit is not thrown out in the next step). Pages with the tokens it begins
 *                          with are shared; while a running sequence is computing the next of them, the line waits for that one
 *   logits                 a step has so many rows of them; each sequence finds one, and a prompt whose log-probabilities are wanted, which takes one
 *                          for each token, those that nobody else needs: it is cut into chunks by them as by the budget
 *   drafts                 what is left of the budget and of free pages, in the end, for running sequences that decode: nobody is preempted or held
 *                          back for a draft, and the pages of refused ones are given back before anybody is served
 *
 * Nobody is preempted for one that waits, as in vLLM: priority decides who is admitted next, and once running who keeps its pages.
 * State in, work out: knows no model, no clock, no randomness.
 */
import { invariant } from "../core/errors.ts";
import { maxNumLogitsOf } from "../model/memory.ts";
import { PageNeeds } from "../model/page-needs.ts";
import type { PagePool } from "./page-pool.ts";
import { PrefixCache } from "./prefix-cache.ts";
import type { Sequence } from "./sequence.ts";

export interface SchedulerLimits {
  /** Most tokens of one step. */
  readonly maxNumBatchedTokens: number;
  /** Most sequences that hold pages at once. */
  readonly maxNumSeqs: number;
  /** Most rows of one step whose logits are wanted. Default: one for each sequence, which is the least. */
  readonly maxNumLogits?: number;
  readonly pageSize: number;
  /** Most tokens that somebody proposes behind the known ones of a sequence. Default 0. */
  readonly numSpeculativeTokens?: number;
}

/** `numTokens` tokens of `sequence`, from its numComputed on. */
export interface Work {
  sequence: Sequence;
  numTokens: number;
  /** So many of them, the last ones, whose logits are wanted: at least one where its last token is among them. */
  numLogits: number;
  /** Room for so many drafts behind its last token; once they are there (drafter.ts), how many, and then the two other numbers count them. */
  numDrafts: number;
}

export class Scheduler {
  readonly limits: SchedulerLimits;
  readonly pool: PagePool;
  readonly cache: PrefixCache;
  readonly #running: Sequence[] = [];
  readonly #waiting: Sequence[] = [];
  readonly #work: Work[] = [];
  #numArrivals = 0;
  #numPreemptions = 0;

  constructor(limits: SchedulerLimits, pool: PagePool, cache = new PrefixCache(pool, { needs: new PageNeeds(limits) })) {
    this.limits = limits;
    this.pool = pool;
    this.cache = cache;
  }

  /** In order of rank. Without priorities all of them arrived before all of `waiting`, which is in that order too. */
  get running(): readonly Sequence[] {
    return this.#running;
  }

  get waiting(): readonly Sequence[] {
    return this.#waiting;
  }

  /** Since the start. */
  get numPreemptions(): number {
    return this.#numPreemptions;
  }

  /** Whether a sequence that ends with `capacity` known tokens can ever run: alone it must fit. The last token is never computed. */
  fits(capacity: number): boolean {
    return this.cache.needs.mostHeld(capacity - 1) <= this.pool.numPages;
  }

  /** Into the line, behind all of its priority. The caller has asked `fits`. */
  add(sequence: Sequence): void {
    invariant(sequence.state === "waiting" && this.fits(sequence.capacity), `sequence ${sequence.id} can not be scheduled`);
    sequence.arrival = this.#numArrivals++;
    insert(this.#waiting, sequence);
  }

  /** The sequence ends, whatever its state; its pages are free. */
  remove(sequence: Sequence): void {
    const line = sequence.state === "running" ? this.#running : this.#waiting;
    const at = line.indexOf(sequence);
    invariant(at >= 0, `sequence ${sequence.id} (${sequence.state}) is not in its line`);
    line.splice(at, 1);
    this.cache.release(sequence);
    sequence.finish();
  }

  /** Whether the running sequences find the pages they need without a preemption, which must know every token. */
  get hasRoom(): boolean {
    const { needs } = this.cache;
    let numMissing = 0;
    for (const { isFull, numComputed, numTokens, pages } of this.#running) {
      if (!isFull) numMissing += Math.max(0, needs.pagesFor(needs.reach(numComputed, numTokens, this.limits.maxNumBatchedTokens)) - pages.length);
    }
    return numMissing <= this.pool.numFree;
  }

  /** Pages that the running sequences come to hold, besides those that they do, until their known tokens are computed. */
  get #numOwed(): number {
    const { needs } = this.cache;
    let numOwed = 0;
    if (needs.expires) for (const { isFull, numTokens, pages, numExpiredPages } of this.#running) {
      if (!isFull && pages.length < needs.pagesFor(numTokens)) numOwed += Math.max(0, needs.mostHeld(numTokens) - (pages.length - numExpiredPages));
    }
    return numOwed;
  }

  /**
   * The work of the next step. Not empty while there is a sequence, but for those that end with the step under way. The list is reused by the next
   * call. While a step is under way the caller has asked `hasRoom`.
   */
  schedule(): readonly Work[] {
    let budget = this.limits.maxNumBatchedTokens;
    let rows = maxNumLogitsOf(this.limits);
    let length = 0;
    const before = this.#numPreemptions;
    for (const sequence of this.#running) this.#tidy(sequence);
    for (let i = 0; i < this.#running.length && budget > 0; i++) {
      const sequence = this.#running[i]!;
      if (sequence.isFull || !this.#makeRoom(sequence, budget)) continue;
      const work = this.#give(length++, sequence, budget, rows - (this.#running.length - 1 - i));
      budget -= work.numTokens;
      rows -= work.numLogits;
    }
    while (before === this.#numPreemptions && budget > 0 && rows > 0) {
      const admitted = this.#admitNext(budget);
      if (!admitted) break;
      const work = this.#give(length++, admitted, budget, rows);
      budget -= work.numTokens;
      rows -= work.numLogits;
    }
    this.#work.length = length;
    if (this.limits.numSpeculativeTokens) this.#leaveRoom(budget, this.limits.numSpeculativeTokens);
    invariant(length > 0 || this.#running.length + this.#waiting.length === 0 || this.#running.some((s) => s.isFull), "there are sequences but no work");
    return this.#work;
  }

  /** Entry `i` of the work: what `sequence` lacks, within the budget and with at most `rows` rows of logits. */
  #give(i: number, sequence: Sequence, budget: number, rows: number): Work {
    const { numComputed, numUncomputed, logitsFrom } = sequence;
    const work = (this.#work[i] ??= { sequence, numTokens: 0, numLogits: 0, numDrafts: 0 });
    const offered = Math.min(numUncomputed, budget);
    const wanted = Math.max(0, numComputed + offered - Math.max(numComputed, logitsFrom));
    work.sequence = sequence;
    work.numTokens = offered - Math.max(0, wanted - rows);
    work.numLogits = wanted > 0 ? Math.min(wanted, rows) : work.numTokens === numUncomputed ? 1 : 0;
    work.numDrafts = 0;
    return work;
  }

  /** Room for up to `most` drafts of each sequence that decodes, in the order of the work, as far as `budget`, rows of logits and free pages go. */
  #leaveRoom(budget: number, most: number): void {
    let rows = Math.min(budget, this.#work.reduce((left, { numLogits }) => left - numLogits, maxNumLogitsOf(this.limits)));
    for (const work of this.#work) {
      const { sequence } = work;
      if (sequence.numGenerated === 0 || sequence.numUncomputed !== 1 || sequence.numKnown < sequence.numTokens || !sequence.wantsDrafts()) continue;
      let numDrafts = Math.min(most, rows, sequence.capacity - sequence.numTokens - 1);
      while (numDrafts > 0 && !this.cache.grow(sequence, sequence.numTokens + numDrafts)) numDrafts--;
      if (numDrafts <= 0) continue;
      work.numDrafts = numDrafts;
      rows -= numDrafts;
    }
  }

  /** Takes over what the steps that have ended have computed, and takes back pages that are not needed any more. */
  #tidy(sequence: Sequence): void {
    this.cache.keep(sequence);
    this.cache.trim(sequence);
    this.cache.expire(sequence);
  }

  /** Pages for what a running sequence may compute within the budget, from those behind it in rank where need be; false when it had to go itself. */
  #makeRoom(sequence: Sequence, budget: number): boolean {
    const { needs } = this.cache;
    while (!this.cache.grow(sequence, needs.reach(sequence.numComputed, sequence.numTokens, budget))) {
      const victim = this.#running.pop()!;
      this.cache.release(victim);
      victim.preempt();
      insert(this.#waiting, victim);
      this.#numPreemptions++;
      if (victim === sequence) return false;
      // What the victim had promised was in the way of pages that could expire.
      if (needs.expires) this.#tidy(sequence);
    }
    return true;
  }

  #admitNext(budget: number): Sequence | undefined {
    const next = this.#waiting[0];
    if (!next || this.#running.length === this.limits.maxNumSeqs) return undefined;
    if (!this.cache.admit(next, budget, this.#running.length + this.#numOwed)) return undefined;
    this.#waiting.shift();
    insert(this.#running, next);
    return next;
  }
}

/** Whether `a` goes before `b`. */
const outranks = (a: Sequence, b: Sequence): boolean => (a.priority === b.priority ? a.arrival < b.arrival : a.priority < b.priority);

/** Puts a sequence where its rank is in a line. */
function insert(line: Sequence[], sequence: Sequence): void {
  let low = 0, high = line.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (outranks(line[middle]!, sequence)) low = middle + 1;
    else high = middle;
  }
  line.splice(low, 0, sequence);
}
