import assert from "node:assert/strict";
import test from "node:test";
import { plainExpiry, seesAll, seesChunk, seesSink, seesWindow } from "../../tests/engine/plain-expiry.ts";
import { invariant } from "../core/errors.ts";
import { stream } from "../core/random.ts";
import { defaultSampling } from "../sampling/params.ts";
import { PageNeeds } from "../model/page-needs.ts";
import { noPage } from "./page-index.ts";
import { PagePool } from "./page-pool.ts";
import { PrefixCache } from "./prefix-cache.ts";
import { Scheduler, type SchedulerLimits, type Work } from "./scheduler.ts";
import { Sequence } from "./sequence.ts";

const make = (limits: SchedulerLimits, numPages: number, expiry?: Int32Array) => {
  const pool = new PagePool(numPages);
  return new Scheduler(limits, pool, new PrefixCache(pool, { needs: new PageNeeds(limits, expiry) }));
};
/** Sequences that have nothing in common: each has its own salt. */
const sequence = (id: string, promptLength: number, maxTokens: number) =>
  new Sequence(id, Int32Array.from({ length: promptLength }, (_, i) => i), { ...defaultSampling, maxTokens }, 0, 1 << 20, id);
const shape = (scheduler: Scheduler) => scheduler.schedule().map((w) => [w.sequence.id, w.numTokens]);
const compute = (scheduler: Scheduler, see: (work: Work) => void = () => {}) => {
  for (const work of scheduler.schedule()) {
    const { sequence, numTokens } = work;
    see(work);
    const last = numTokens === sequence.numUncomputed;
    sequence.compute(numTokens, last ? 0 : undefined);
    sequence.settle(numTokens, last ? [0] : []);
    if (sequence.numTokens === sequence.capacity) scheduler.remove(sequence);
  }
};

test("running sequences go first, a long prompt is cut to what the budget leaves, and the line is in order of arrival", () => {
  const scheduler = make({ maxNumBatchedTokens: 8, maxNumSeqs: 3, pageSize: 4 }, 100);
  for (const [id, n] of [["a", 2], ["b", 19], ["c", 1], ["d", 1]] as const) scheduler.add(sequence(id, n, 50));
  const seen = [];
  for (let step = 0; step < 5; step++) {
    seen.push(shape(scheduler));
    compute(scheduler);
  }
  assert.deepEqual(seen, [
    [["a", 2], ["b", 6]],
    [["a", 1], ["b", 7]],
    [["a", 1], ["b", 6], ["c", 1]],
    [["a", 1], ["b", 1], ["c", 1]],
    [["a", 1], ["b", 1], ["c", 1]],
  ]);
  assert.deepEqual(scheduler.waiting.map((s) => s.id), ["d"], "maxNumSeqs holds d back");
});

test("when pages run out the one admitted last gives its pages back and is computed again later", () => {
  const scheduler = make({ maxNumBatchedTokens: 8, maxNumSeqs: 4, pageSize: 2 }, 5);
  scheduler.add(sequence("a", 2, 8));
  scheduler.add(sequence("b", 2, 7));
  let recomputed = 0;
  for (let step = 0; step < 30 && scheduler.running.length + scheduler.waiting.length > 0; step++) {
    compute(scheduler, ({ sequence: { id, numGenerated }, numTokens }) => {
      if (id === "b" && numGenerated > 0 && numTokens > 1) recomputed++;
    });
  }
  assert.equal(scheduler.numPreemptions, 1);
  assert.equal(recomputed, 1);
  assert.equal(scheduler.pool.numFree, 5);
});

test("nobody is admitted into the last pages that running sequences are about to need", () => {
  const scheduler = make({ maxNumBatchedTokens: 8, maxNumSeqs: 4, pageSize: 2 }, 3);
  scheduler.add(sequence("a", 4, 2));
  scheduler.add(sequence("b", 2, 1));
  const seen = [];
  for (let step = 0; step < 3; step++) {
    seen.push(shape(scheduler));
    compute(scheduler);
  }
  assert.deepEqual(seen, [[["a", 4]], [["a", 1]], [["b", 2]]], "b fits beside a, but a would throw it out in the next step");
  assert.equal(scheduler.numPreemptions, 0);
});

test("a lower priority goes first, equals by arrival: into the batch, and when pages run out", () => {
  const scheduler = make({ maxNumBatchedTokens: 8, maxNumSeqs: 2, pageSize: 2 }, 5);
  const ranked = (id: string, priority: number) => new Sequence(id, new Int32Array(2), { ...defaultSampling, maxTokens: 6 }, 0, 1 << 20, null, undefined, priority);
  scheduler.add(ranked("late", 7));
  assert.deepEqual(shape(scheduler), [["late", 2]]);
  compute(scheduler);
  for (const [id, priority] of [["last", 9], ["b", 1], ["a", -1], ["c", 1]] as const) scheduler.add(ranked(id, priority));
  assert.deepEqual(scheduler.waiting.map((s) => s.id), ["a", "b", "c", "last"]);
  compute(scheduler);
  assert.deepEqual(scheduler.running.map((s) => s.id), ["a", "late"], "one that waits throws nobody out, and once in goes first");
  const order: string[] = [];
  let preempted = "";
  for (let step = 0; scheduler.running.length + scheduler.waiting.length > 0; step++) {
    assert.ok(step < 100);
    const before = [...scheduler.running], alive = new Set([...before, ...scheduler.waiting]);
    compute(scheduler);
    if (scheduler.numPreemptions === 1) preempted ||= before.find((s) => s.state === "waiting")?.id ?? "";
    for (const s of alive) if (s.state === "finished") order.push(s.id);
  }
  assert.equal(preempted, "late", "it came first, and is the one of least rank");
  assert.deepEqual(order, ["a", "b", "c", "late", "last"]);
});

test("a prompt whose log-probabilities are wanted takes the rows of logits that nobody else needs, and finds no pages of what it must compute", () => {
  const scheduler = make({ maxNumBatchedTokens: 50, maxNumSeqs: 4, maxNumLogits: 6, pageSize: 2 }, 60);
  const read = (id: string, length: number) => new Sequence(id, Int32Array.from({ length }, (_, i) => i), { ...defaultSampling, maxTokens: 4, promptLogprobs: 1 }, 0, 1 << 20);
  const run = () => {
    const work = scheduler.schedule().map((w) => [w.sequence.id, w.numTokens, w.numLogits]);
    for (const { sequence, numTokens } of scheduler.schedule()) {
      const last = numTokens === sequence.numUncomputed;
      while (sequence.logitsFrom < sequence.numComputed + numTokens) sequence.numRead++;
      sequence.compute(numTokens, last ? 0 : undefined);
      sequence.settle(numTokens, last ? [0] : []);
    }
    return work;
  };
  for (const s of [sequence("a", 3, 40), sequence("b", 2, 40), read("long", 9), read("one", 1)]) scheduler.add(s);
  assert.deepEqual(run(), [["a", 3, 1], ["b", 2, 1], ["long", 4, 4]], "who comes behind it waits, as for the budget");
  assert.deepEqual(run(), [["a", 1, 1], ["b", 1, 1], ["long", 4, 4]]);
  assert.deepEqual(run(), [["a", 1, 1], ["b", 1, 1], ["long", 1, 1], ["one", 1, 1]]);
  for (const s of [...scheduler.running]) scheduler.remove(s);
  scheduler.add(read("again", 9));
  assert.deepEqual(run(), [["again", 6, 6]], "its pages are there, and what they say is not");
  assert.deepEqual([scheduler.running[0]!.numCachedTokens, scheduler.cache.numHits], [0, 0]);
});

test("what could never fit the pool is known before it is added", () => {
  const scheduler = make({ maxNumBatchedTokens: 8, maxNumSeqs: 4, pageSize: 4 }, 2);
  assert.ok(scheduler.fits(9), "the last token is never computed");
  assert.ok(!scheduler.fits(10));
  assert.throws(() => scheduler.add(sequence("a", 5, 5)), /can not be scheduled/);
});

/** What a step leaves room for: [id, drafts] each. */
const room = (scheduler: Scheduler) => scheduler.schedule().map((w) => [w.sequence.id, w.numDrafts]);
/** Sequences of `promptLength` tokens that have all generated one. */
const decoding = (limits: SchedulerLimits, numPages: number, ids: readonly string[], promptLength: number, maxTokens: number) => {
  const scheduler = make(limits, numPages);
  for (const id of ids) scheduler.add(sequence(id, promptLength, maxTokens));
  compute(scheduler);
  return scheduler;
};

test("drafts get what is left of the budget and of the rows of logits when everybody is served, oldest first, and never reach the end", () => {
  const limits = { maxNumBatchedTokens: 8, maxNumSeqs: 4, maxNumLogits: 100, pageSize: 4, numSpeculativeTokens: 3 };
  assert.deepEqual(room(decoding(limits, 100, ["a", "b"], 2, 50)), [["a", 3], ["b", 3]]);
  assert.deepEqual(room(decoding({ ...limits, maxNumBatchedTokens: 6 }, 100, ["a", "b"], 2, 50)), [["a", 3], ["b", 1]]);
  assert.deepEqual(room(decoding({ ...limits, maxNumLogits: 4 }, 100, ["a", "b"], 2, 50)), [["a", 2], ["b", 0]]);
  assert.deepEqual(room(decoding(limits, 100, ["a"], 2, 4)), [["a", 2]], "two more by the model, or two drafts and one by the model");
  assert.deepEqual(room(decoding(limits, 100, ["a"], 2, 2)), [["a", 0]]);
  const scheduler = decoding(limits, 100, ["a"], 2, 50);
  scheduler.add(sequence("b", 20, 10));
  assert.deepEqual(scheduler.schedule().map((w) => [w.sequence.id, w.numTokens, w.numDrafts]), [["a", 1, 0], ["b", 7, 0]], "a prompt needs the whole budget");
});

test("drafts take free pages only, as many as there are, and give them back before anybody else is served", () => {
  const limits = { maxNumBatchedTokens: 50, maxNumSeqs: 4, maxNumLogits: 50, pageSize: 2, numSpeculativeTokens: 5 };
  const scheduler = decoding(limits, 5, ["a"], 3, 8);
  assert.deepEqual(room(scheduler), [["a", 5]]);
  const [a] = scheduler.running;
  assert.equal(a!.pages.length, 5, "4 known tokens and 5 drafts");
  a!.propose([1, 1]);
  a!.compute(3, 0);
  a!.settle(3, [0]);
  scheduler.add(sequence("b", 1, 1));
  assert.deepEqual(scheduler.schedule().map((w) => [w.sequence.id, w.numTokens, w.numDrafts]), [["a", 1, 3], ["b", 1, 0]], "b has a page that drafts had");
  assert.deepEqual([a!.pages.length, scheduler.numPreemptions, scheduler.pool.numFree], [4, 0, 0]);
});

/** 1,000 operations on one random pool and limits: arrivals, departures and steps, every invariant after each. */
function simulate(seed: number, reached: Record<string, number>): number {
  const random = stream(seed);
  const int = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
  const maxNumSeqs = int(1, 8);
  const limits = { maxNumBatchedTokens: int(1, 24), maxNumSeqs, maxNumLogits: maxNumSeqs + int(0, 4), pageSize: int(1, 5), numSpeculativeTokens: int(0, 4) };
  const shares = random() < 0.8;
  // Every other pool is of a model under which pages expire; then sequences may be longer than the pool.
  const window = int(1, 30), longestExpiring = 120;
  const sees = seed % 2 === 0 ? seesAll : [seesWindow(window), seesChunk(window), seesSink(int(1, 6), window)][int(0, 2)]!;
  const scheduler = make(limits, int(4, 30), sees === seesAll ? undefined : plainExpiry(sees, limits.pageSize, longestExpiring, int(1, 6)));
  const { pool, cache } = scheduler;
  const { needs } = cache;
  const { pageSize } = limits;
  /** What the pages hold: of each token a number that stands for it, all before it and the salt that it was computed under, as its keys do. */
  const content = new Float64Array(pool.numPages * pageSize).fill(-1);
  const firstStored = (s: Sequence) => (s.salt === "other" ? 1 : 0), nextStored = (before: number, token: number) => (before * 7919 + token + 1) % 4_294_967_291;
  const alive = new Map<Sequence, number>();
  const priorities = random() < 0.5 ? [0] : [-5, 0, 0, 3];
  const outranks = (a: Sequence, b: Sequence) => (a.priority === b.priority ? alive.get(a)! < alive.get(b)! : a.priority < b.priority);
  const finishes = new Map<string, number>();
  const token = (s: Sequence, position: number) => (s.seed * 31 + position * 7) % 1009;
  let arrivals = 0, ops = 0;

  const finish = (s: Sequence): void => {
    if (s.numGenerated > 0 && s.params.promptLogprobs !== undefined) invariant(s.numRead === s.numPromptTokens, `${s.id} was not read to its end`);
    for (let i = s.numPromptTokens; i < s.numTokens; i++) invariant(s.token(i) === token(s, i), `token ${i} of ${s.id} was lost or repeated`);
    const { numKept } = pool, numOwn = s.pages.filter((page, block) => page !== noPage && block < s.numReadyPages && pool.holders(page) === 1).length;
    scheduler.remove(s);
    if (pool.numKept < numKept + numOwn) reached["cut off"]!++;
    alive.delete(s);
    finishes.set(s.id, (finishes.get(s.id) ?? 0) + 1);
  };
  const arrive = (): void => {
    const filling = pool.numPages * limits.pageSize + 1, longest = needs.expires ? longestExpiring : filling;
    const capacity = int(2, random() < 0.1 ? longest + (needs.expires ? 0 : 3) : Math.min(longest, needs.expires && random() < 0.5 ? 90 : 40));
    const prompt = int(1, capacity - 1);
    // Families begin alike; some of their members go on alike, too, or are alike to the end.
    const family = int(0, 2), common = int(0, prompt), twin = random() < 0.3;
    const tokens = Int32Array.from({ length: prompt }, (_, i) => (twin || i < common ? family * 100 + i : 1000 + ((arrivals * 31 + i) % 977)));
    const s = new Sequence(`${seed}.${arrivals}`, tokens, { ...defaultSampling, maxTokens: capacity - prompt, ...(random() < 0.2 && { promptLogprobs: 0 }) }, twin ? family : arrivals, 1 << 20, !shares ? null : random() < 0.8 ? "" : "other", undefined, priorities[int(0, priorities.length - 1)]);
    if (!scheduler.fits(capacity)) {
      invariant(capacity > filling, `${capacity} tokens fit ${pool.numPages} pages of ${limits.pageSize}`);
      reached["refusals"]!++;
      return;
    }
    if (capacity > filling) reached["longer than the pool"]!++;
    scheduler.add(s);
    alive.set(s, arrivals++);
  };
  const abort = (): void => {
    const s = [...alive.keys()][int(0, alive.size - 1)];
    if (!s) return;
    reached[s.state === "running" ? (s.numGenerated ? "aborts while decoding" : "aborts in a prompt") : s.numGenerated ? "aborts while preempted" : "aborts while waiting"]!++;
    finish(s);
  };
  const step = (): void => {
    const oldest = scheduler.running[0] ?? scheduler.waiting[0];
    const computed = oldest?.numComputed ?? 0;
    const preemptions = scheduler.numPreemptions, kept = new Set(pool.kept());
    const before = new Map(scheduler.running.map((s) => [s, [...s.pages]]));
    const work = scheduler.schedule();
    for (const s of scheduler.running) {
      if (!before.has(s)) invariant(scheduler.waiting.every((w) => outranks(s, w)), `${s.id} was admitted before its turn`);
      if (!before.has(s) && scheduler.running.some((r) => before.has(r) && outranks(s, r))) reached["admitted above one that runs"]!++;
      for (const w of scheduler.waiting) if (before.has(w)) invariant(outranks(s, w), `${w.id} was preempted and ${s.id} was not`);
    }
    for (const s of scheduler.running) {
      s.pages.forEach((page, block) => {
        const was = before.get(s)?.[block];
        if (page === noPage) {
          if (was !== undefined && was !== noPage) reached["expired"]!++;
          if (was === undefined) reached["expired when found"]!++;
          return;
        }
        if (was !== undefined && was !== page) reached["joins"]!++;
        if (kept.has(page) && block >= s.numReadyPages) reached["evictions"]!++;
        if (pool.holders(page) > 1) reached["shared pages"]!++;
      });
    }
    reached["preemptions"]! += scheduler.numPreemptions - preemptions;
    if (needs.expires) reached["preemptions where pages expire"]! += scheduler.numPreemptions - preemptions;
    if (pool.numFree === 0) reached["pool full"]!++;
    invariant(work.length <= limits.maxNumSeqs && new Set(work.map((w) => w.sequence)).size === work.length, "a sequence is scheduled twice");
    invariant(work.reduce((sum, w) => sum + w.numTokens, 0) <= limits.maxNumBatchedTokens, "over the budget");
    invariant(work[0]?.sequence === oldest, "the first in rank is not served first");
    invariant(work.reduce((sum, w) => sum + w.numTokens + w.numDrafts, 0) <= limits.maxNumBatchedTokens && work.every((w) => w.numDrafts <= limits.numSpeculativeTokens), "drafts over the budget");
    invariant(work.reduce((sum, w) => sum + w.numLogits + w.numDrafts, 0) <= limits.maxNumLogits, "more rows of logits than there is room for");
    for (const { sequence: s, numTokens: numKnownTokens, numLogits, numDrafts } of [...work]) {
      const end = s.numComputed + numKnownTokens, { logitsFrom } = s;
      if (logitsFrom < Infinity) {
        invariant(s.numComputed <= logitsFrom && numLogits === Math.max(0, end - logitsFrom), `${s.id} wants logits from ${logitsFrom} and gets ${numLogits} up to ${end}`);
        if (numLogits > 0) s.numRead = Math.min(end + 1, s.numPromptTokens);
        if (s.numComputed > 0 && s.numReadyPages * pageSize >= s.numComputed && !before.has(s)) reached["prompts that go on being read"]!++;
        if (end < s.numTokens && work.reduce((sum, w) => sum + w.numTokens, 0) < limits.maxNumBatchedTokens) reached["prompts cut by rows"]!++;
      } else invariant(numLogits === (end === s.numTokens ? 1 : 0), `${s.id} gets ${numLogits} rows of logits`);
      invariant(s.state === "running" && numKnownTokens > 0, `${s.id} is ${s.state} with ${numKnownTokens} tokens`);
      if (needs.expires && end < s.numTokens) invariant(s.pages.length < Math.ceil((s.numComputed + limits.maxNumBatchedTokens) / pageSize) + 1 && s.pages.length >= Math.ceil(end / pageSize), `${s.id} has ${s.pages.length} pages for tokens to ${end}`);
      else invariant(s.pages.length === Math.ceil((s.numTokens + numDrafts) / pageSize), `${s.id} has ${s.pages.length} pages`);
      invariant(s.pages.filter((page) => page === noPage).length === s.numExpiredPages, `${s.id} has lost a page`);
      const rights = Array.from({ length: int(0, numDrafts) }, () => random() < 0.6);
      if (numDrafts > 0) s.propose(rights.map((right, i) => token(s, s.numKnown + i) + (right ? 0 : 5000)));
      const numTokens = numKnownTokens + s.numDrafts;
      invariant(s.pages.length >= Math.ceil((s.numComputed + numTokens) / limits.pageSize), `${s.id} has too few pages`);
      for (let i = 0, stored = firstStored(s); i < s.numComputed + numTokens; i++) {
        stored = nextStored(stored, s.token(i));
        const page = s.pages[Math.floor(i / pageSize)]!, slot = page * pageSize + (i % pageSize);
        if (page === noPage) {
          for (let q = s.numComputed; q < Math.min(s.capacity, longestExpiring); q++) invariant(!sees(q, i), `token ${q} of ${s.id} sees token ${i}, whose page has expired`);
        } else if (i >= s.numComputed) {
          invariant(pool.holders(page) === 1, `page ${page} is written to and shared`);
          content[slot] = stored;
        } else invariant(content[slot] === stored, `token ${i} of ${s.id} is not in page ${page}`);
      }
      const last = numTokens === s.numUncomputed;
      if (!last) reached["chunks"]!++;
      if (last && s.numGenerated > 0 && numTokens > 1) reached["recomputations"]!++;
      s.compute(numTokens, last ? 0 : undefined);
      const wrongAt = rights.indexOf(false), given = wrongAt < 0 ? rights.length : wrongAt;
      if (rights.length > 0) reached[wrongAt < 0 ? "all drafts right" : "drafts refused"]!++;
      s.settle(numTokens, last ? Array.from({ length: given + 1 }, (_, i) => token(s, s.numKnown + i)) : []);
      if (s.numTokens === s.capacity) finish(s);
    }
    invariant(!oldest || oldest.state === "finished" || oldest.numComputed > computed, "the first in rank stands still");
  };
  const check = (): void => {
    ops++;
    pool.check();
    cache.check();
    invariant(scheduler.running.length + scheduler.waiting.length === alive.size, "a sequence is lost");
    // Without priorities nobody overtakes, so both are one line.
    const lines = priorities.length === 1 ? [[...scheduler.running, ...scheduler.waiting]] : [scheduler.running, scheduler.waiting];
    for (const line of lines) line.forEach((s, i) => invariant(i === 0 || outranks(line[i - 1]!, s), "out of order"));
    invariant(scheduler.running.length <= limits.maxNumSeqs, "too many are running");
    const held = new Map<number, number>();
    for (const s of scheduler.running) for (const page of s.pages) if (page !== noPage) held.set(page, (held.get(page) ?? 0) + 1);
    for (const [page, n] of held) invariant(pool.holders(page) === n, `page ${page} has ${n} holders, not ${pool.holders(page)}`);
    invariant(shares || [...held.values()].every((n) => n === 1), "a page is shared by sequences that share nothing");
    invariant(scheduler.waiting.every((s) => s.pages.length === 0 && s.numComputed === 0), "a waiting sequence holds pages");
    invariant(held.size + pool.numFree === pool.numPages, "a page leaked");
  };

  const rate = 0.05 + 0.4 * random();
  for (let i = 0; i < 1000; i++) {
    const r = random();
    if (r < rate && alive.size < 20) arrive();
    else if (r > 0.97) abort();
    else step();
    check();
  }
  for (let patience = 20_000; alive.size > 0; patience--) {
    invariant(patience > 0, "the line never empties");
    step();
    check();
  }
  invariant(pool.numFree === pool.numPages && scheduler.schedule().length === 0, "something is left at the end");
  invariant(finishes.size === arrivals && [...finishes.values()].every((n) => n === 1), "not exactly one finish each");
  reached["hits"]! += cache.numHits;
  reached["recovered"]! += cache.numRecovered;
  return ops;
}

test("50,000 random operations keep every invariant and reach every situation", () => {
  const reached: Record<string, number> = {
    preemptions: 0, recomputations: 0, chunks: 0, refusals: 0, "pool full": 0,
    "admitted above one that runs": 0, "prompts cut by rows": 0, "prompts that go on being read": 0, "drafts refused": 0, "all drafts right": 0, hits: 0, recovered: 0, joins: 0, evictions: 0, "shared pages": 0,
    expired: 0, "expired when found": 0, "longer than the pool": 0, "preemptions where pages expire": 0, "cut off": 0, "aborts while waiting": 0, "aborts in a prompt": 0, "aborts while decoding": 0, "aborts while preempted": 0,
  };
  let ops = 0;
  for (let seed = 0; seed < (process.env["TESSERA_LONG"] ? 2000 : 50); seed++) {
    try {
      ops += simulate(seed, reached);
    } catch (error) {
      throw new Error(`seed ${seed}`, { cause: error });
    }
  }
  assert.ok(ops >= 50_000, `${ops} operations`);
  for (const [what, count] of Object.entries(reached)) assert.ok(count > 0, `${what}: never`);
});
