import assert from "node:assert/strict";
import test from "node:test";
import { plainExpiry, seesWindow } from "../../tests/engine/plain-expiry.ts";
import { stream } from "../core/random.ts";
import { defaultSampling } from "../sampling/params.ts";
import { PageNeeds } from "../model/page-needs.ts";
import { noPage } from "./page-index.ts";
import { PagePool } from "./page-pool.ts";
import { PrefixCache, type PrefixCacheOptions } from "./prefix-cache.ts";
import { Scheduler, type SchedulerLimits } from "./scheduler.ts";
import { Sequence } from "./sequence.ts";

/** `window`: so many keys a query sees; under it pages expire. */
const make = ({ window, ...over }: Partial<SchedulerLimits> & { readonly window?: number } = {}, numPages = 50, cache: Partial<PrefixCacheOptions> = {}) => {
  const limits = { maxNumBatchedTokens: 16, maxNumSeqs: 8, pageSize: 4, ...over };
  const pool = new PagePool(numPages);
  return new Scheduler(limits, pool, new PrefixCache(pool, { needs: new PageNeeds(limits, window === undefined ? undefined : plainExpiry(seesWindow(window), limits.pageSize, 200)), ...cache }));
};
const range = (length: number, from = 0) => Array.from({ length }, (_, i) => from + i);
const sequence = (id: string, prompt: readonly number[], maxTokens = 1, salt: string | null = "") =>
  new Sequence(id, Int32Array.from(prompt), { ...defaultSampling, maxTokens }, 0, 1 << 20, salt);

/** One step; every sequence generates `next`. What it computed: [id, from, tokens] each. */
function step(scheduler: Scheduler, next = 0): (readonly [string, number, number])[] {
  const work = scheduler.schedule().map(({ sequence, numTokens }) => ({ sequence, numTokens, from: sequence.numComputed }));
  for (const { sequence, numTokens } of work) {
    const last = numTokens === sequence.numUncomputed;
    sequence.compute(numTokens, last ? 0 : undefined);
    sequence.settle(numTokens, last ? [next] : []);
    if (sequence.numTokens === sequence.capacity) scheduler.remove(sequence);
  }
  scheduler.pool.check();
  scheduler.cache.check();
  return work.map(({ sequence: { id }, from, numTokens }) => [id, from, numTokens]);
}
/** Runs what is there to its end; what it computed, step by step. */
function run(scheduler: Scheduler, ...sequences: readonly Sequence[]) {
  for (const s of sequences) scheduler.add(s);
  const seen = [];
  while (scheduler.running.length + scheduler.waiting.length > 0) seen.push(step(scheduler));
  return seen;
}

test("a prompt that begins like an earlier one computes only what follows the full pages they share", () => {
  const scheduler = make();
  assert.deepEqual(run(scheduler, sequence("a", range(14))), [[["a", 0, 14]]]);
  const b = sequence("b", [...range(9), 77, 78]);
  assert.deepEqual(run(scheduler, b), [[["b", 8, 3]]], "tokens 0 to 7 fill two pages");
  assert.equal(b.numCachedTokens, 8);
  assert.deepEqual([scheduler.cache.numQueries, scheduler.cache.numHits], [25, 8]);
  assert.equal(scheduler.pool.numFree, 50);
});

test("salts that differ in their last character are different ones", () => {
  const scheduler = make(), salt = "tenant ".repeat(20);
  run(scheduler, sequence("a", range(9), 1, `${salt}1`));
  assert.deepEqual(run(scheduler, sequence("b", range(9), 1, `${salt}2`)), [[["b", 0, 9]]]);
  assert.deepEqual(run(scheduler, sequence("c", range(9), 1, `${salt}1`)), [[["c", 8, 1]]]);
});

test("tokens whose logits are wanted are computed, whatever is in the cache: of a prompt that is read, those that have not been told", () => {
  const scheduler = make();
  run(scheduler, sequence("a", range(14)));
  const read = new Sequence("b", Int32Array.from(range(14)), { ...defaultSampling, maxTokens: 1, promptLogprobs: 0 }, 0, 1 << 20);
  // As after a preemption: tokens 1 to 5 were told, so the rows from token 5's on are wanted.
  read.numRead = 6;
  assert.ok(scheduler.cache.admit(read, 16, 0));
  assert.deepEqual([read.logitsFrom, read.numComputed], [5, 4], "one page of the three that are there");
});

test("where pages expire, who comes in has room for all that it comes to hold", () => {
  // A window of 8 keys and steps of 4 tokens: of 40 tokens four pages are held at once.
  const limits = { window: 8, maxNumBatchedTokens: 4 }, most = new PageNeeds({ maxNumBatchedTokens: 4, pageSize: 4 }, plainExpiry(seesWindow(8), 4, 200)).mostHeld(40);
  assert.ok(most > 1 && most < 10);
  for (const numPages of [most - 1, most]) assert.equal(make(limits, numPages).cache.admit(sequence("a", range(40)), 4, 0), numPages === most);
});

test("the last token of a prompt is always computed, wherever its page ends", () => {
  const scheduler = make();
  run(scheduler, sequence("a", range(8)));
  assert.deepEqual(run(scheduler, sequence("b", range(8))), [[["b", 4, 4]]]);
  assert.deepEqual(run(scheduler, sequence("c", range(9))), [[["c", 8, 1]]]);
  assert.deepEqual(run(scheduler, sequence("d", range(4))), [[["d", 0, 4]]]);
  assert.equal(scheduler.pool.numKept, 2, "each page is kept once");
});

test("generated tokens are found as well, as by the next turn of a chat", () => {
  const scheduler = make();
  run(scheduler, sequence("a", range(6), 4)); // 9 tokens are computed: 0 to 5 and three times 0
  assert.deepEqual(run(scheduler, sequence("b", [...range(6), 0, 0, 0, 0, 5, 5])), [[["b", 8, 4]]]);
});

test("requests that come at once wait for the one that computes what they begin with, and then share its pages", () => {
  const scheduler = make({ maxNumBatchedTokens: 8 });
  const prompts = range(4).map((i) => [...range(12), 50 + i]);
  const seen = run(scheduler, ...prompts.map((prompt, i) => sequence("abcd"[i]!, prompt)));
  assert.deepEqual(seen, [[["a", 0, 8]], [["a", 8, 5]], [["b", 12, 1], ["c", 12, 1], ["d", 12, 1]]]);
});

test("when the one that computes leaves, the next in line computes instead", () => {
  const scheduler = make({ maxNumBatchedTokens: 6 });
  const [a, b, c] = ["a", "b", "c"].map((id) => sequence(id, [...range(12), id.charCodeAt(0)]));
  for (const s of [a!, b!, c!]) scheduler.add(s);
  assert.deepEqual(step(scheduler), [["a", 0, 6]]);
  scheduler.remove(a!);
  scheduler.cache.check();
  assert.deepEqual([step(scheduler), step(scheduler), step(scheduler)], [[["b", 4, 6]], [["b", 10, 3]], [["c", 12, 1]]], "one page of a's was ready");
});

test("two that come to hold the same tokens in pages of their own go on with one of them", () => {
  const scheduler = make();
  const [a, b] = [sequence("a", [1, 2, 3], 9), sequence("b", [1, 2], 9)];
  for (const s of [a, b]) scheduler.add(s);
  step(scheduler, 3); // both hold 1 2 3, a and then b a 3 too
  assert.notEqual(a.pages[0], b.pages[0]);
  for (let i = 0; i < 3; i++) step(scheduler, 3);
  assert.equal(a.pages[0], b.pages[0]);
  assert.equal(scheduler.pool.holders(a.pages[0]!), 2);
  assert.equal(scheduler.pool.numFree, 50 - 3);
});

test("what is evicted first is what was used longest ago, and of a chain its end", () => {
  const scheduler = make({}, 6);
  run(scheduler, sequence("a", range(8)));
  run(scheduler, sequence("b", range(9, 100)));
  assert.equal(scheduler.pool.numKept, 4);
  run(scheduler, sequence("a again", range(5))); // a's first page is young again, its second is the oldest
  assert.deepEqual(run(scheduler, sequence("c", range(12, 200))), [[["c", 0, 12]]]); // two empty pages and a's second
  assert.deepEqual(run(scheduler, sequence("b", range(6, 100))), [[["b", 4, 2]]]); // b's second page, the oldest now, gives way
  assert.deepEqual(run(scheduler, sequence("a", range(9))), [[["a", 4, 5]]], "of a the first page is left");
  assert.deepEqual(run(scheduler, sequence("b", range(9, 100))), [[["b", 4, 5]]], "and of b");
});

test("salts separate: the same tokens under another salt are computed again", () => {
  const scheduler = make();
  run(scheduler, sequence("a", range(9), 1, "x"));
  assert.deepEqual(run(scheduler, sequence("b", range(9), 1, "y"), sequence("c", range(9))), [[["b", 0, 9], ["c", 0, 7]], [["c", 7, 2]]]);
  assert.deepEqual(run(scheduler, sequence("d", range(9), 1, "x")), [[["d", 8, 1]]]);
});

test("a preempted sequence finds its own pages again", () => {
  const scheduler = make({ maxNumBatchedTokens: 32 }, 10);
  const seen = run(scheduler, sequence("a", range(13), 10), sequence("b", range(14, 100), 16));
  assert.equal(scheduler.numPreemptions, 1);
  const back = seen.flat().filter(([id, from, count]) => id === "b" && from > 0 && count > 1);
  assert.equal(back.length, 1, JSON.stringify(seen));
  assert.ok(back[0]![1] >= 12, "at least the full pages of its prompt");
  assert.equal(scheduler.cache.numRecovered, back[0]![1]);
  assert.equal(scheduler.cache.numHits, 0, "hits are of first admissions");
});

test("sequences without a salt find, keep and share nothing, and are not found by others", () => {
  const scheduler = make();
  run(scheduler, sequence("a", range(14), 1, null));
  assert.deepEqual(run(scheduler, sequence("b", range(14), 1, null), sequence("c", range(2), 1, null)), [[["b", 0, 14], ["c", 0, 2]]]);
  assert.deepEqual([scheduler.pool.numKept, scheduler.cache.numQueries, scheduler.cache.numHits], [0, 0, 0]);
  assert.deepEqual(run(scheduler, sequence("d", range(14)), sequence("e", range(14), 1, null), sequence("f", range(14))), [[["d", 0, 14], ["e", 0, 2]], [["e", 2, 12], ["f", 12, 2]]]);
});

test("a hash that collides always, or half of the time, serves the same pages as a good one", () => {
  const trace = (hash?: (hash: number, token: number) => number) => {
    const scheduler = make({}, 14, hash ? { hash } : { seed: 5 });
    const random = stream(3);
    const int = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
    const seen = range(300).map((i) => {
      const prompt = range(int(1, 24)).map((at) => (at < 12 ? int(0, 1) * 100 : int(0, 2)));
      for (let at = 0; at < Math.min(8, prompt.length); at++) prompt[at] = prompt[0]!;
      scheduler.add(sequence(`${i}`, prompt, int(1, 5), int(0, 1) ? "x" : ""));
      return step(scheduler, i % 2);
    });
    return { seen, hits: scheduler.cache.numHits };
  };
  const expected = trace();
  assert.ok(expected.hits > 200, `${expected.hits} hits`);
  assert.deepEqual(trace(() => 0), expected);
  assert.deepEqual(trace((hash, token) => (hash + token) & 1), expected);
});

test("pages that have expired are given back while their sequence runs, stay findable, and are used by whoever begins alike without being held", () => {
  const scheduler = make({ window: 6 });
  const a = sequence("a", range(18), 30);
  scheduler.add(a);
  assert.deepEqual([step(scheduler), a.pages.length, a.numExpiredPages], [[["a", 0, 16]], 4, 0], "a page for each four tokens of the step, and no more");
  const [, , third, fourth] = a.pages;
  assert.deepEqual([step(scheduler), a.pages.slice(0, 2), a.numExpiredPages, scheduler.pool.numKept], [[["a", 16, 2]], [noPage, noPage], 2, 2]);
  const b = sequence("b", range(18), 2);
  scheduler.add(b);
  assert.deepEqual(step(scheduler), [["a", 18, 1], ["b", 16, 2]]);
  assert.deepEqual([b.numCachedTokens, b.pages.slice(0, 4)], [16, [noPage, noPage, third, fourth]]);
  assert.equal(scheduler.pool.numFree, 50 - 4, "the two, and one of each its own");
  while (a.state === "running") {
    assert.ok(a.pages.length - a.numExpiredPages <= 4);
    step(scheduler);
  }
  assert.deepEqual([scheduler.pool.numFree, scheduler.pool.numKept], [50, 11], "all full pages of a's 47 tokens");
});

test("of what has expired the end is evicted first; what stood behind it is cut off: its holders' as before, nobody else's ever, and not kept", () => {
  const scheduler = make({ window: 4 }, 7, { hash: () => 0 });
  const a = sequence("a", range(20), 30), b = sequence("b", range(12, 100));
  scheduler.add(a);
  assert.deepEqual([step(scheduler), step(scheduler)], [[["a", 0, 16]], [["a", 16, 4]]]);
  const fifth = a.pages[4]!, kept = scheduler.pool.kept();
  assert.deepEqual([a.pages.slice(0, 3), kept.length], [[noPage, noPage, noPage], 3]);
  scheduler.add(b);
  assert.deepEqual(step(scheduler), [["a", 20, 1], ["b", 0, 12]]);
  // One page was empty; b took the last two of the four that a had given back.
  assert.deepEqual(scheduler.pool.kept().slice(0, 2), kept.slice(1), "a's first is evicted last");
  assert.equal(scheduler.cache.numExpired, 4);
  // By its number the second page of b is the one that a's fifth stands behind.
  const c = sequence("c", [...range(8, 100), ...range(4, 16), 7]);
  scheduler.add(c);
  assert.deepEqual(step(scheduler), [["a", 21, 1], ["c", 8, 5]], "what stands behind a's fourth page does not stand behind b's second");
  scheduler.remove(a);
  scheduler.cache.check();
  assert.ok(!scheduler.pool.kept().includes(fifth) && scheduler.pool.holders(fifth) === 0, "nobody would find it");
});
