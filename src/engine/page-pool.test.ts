import assert from "node:assert/strict";
import test from "node:test";
import { stream } from "../core/random.ts";
import { PagePool } from "./page-pool.ts";

test("30,000 random operations: holders, the order in which kept pages are taken, and conservation are those of a plain model", () => {
  const numPages = 17, pool = new PagePool(numPages);
  const random = stream(1);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
  /** The model: holders of each page, the empty ones as a stack, the kept ones as a list. */
  const holders = new Array<number>(numPages).fill(0);
  const empty = Array.from({ length: numPages }, (_, i) => numPages - 1 - i), kept: number[] = [];
  const reached = { shares: 0, revivals: 0, evictions: 0, keeps: 0, keepsBeforeAnother: 0, full: 0 };
  for (let i = 0; i < 30_000; i++) {
    const held = holders.flatMap((n, page) => (n > 0 ? [page] : []));
    // Long swings: now everything is taken, now everything is let go.
    const eager = 0.5 + 0.35 * Math.sin(i / 200), r = random();
    if (r < 0.6 * eager && pool.numFree > 0) {
      if (empty.length === 0) reached.evictions++;
      const page = empty.pop() ?? kept.shift()!;
      holders[page] = 1;
      assert.equal(pool.take(), page);
    } else if (r < eager && held.length + kept.length > 0) {
      const page = pick([...held, ...kept]), at = kept.indexOf(page);
      if (at >= 0) {
        kept.splice(at, 1);
        reached.revivals++;
      } else reached.shares++;
      holders[page]!++;
      pool.share(page);
    } else if (held.length > 0) {
      const page = pick(held), keep = random() < 0.6, elder = random() < 0.5 ? pick(kept) : undefined;
      if (--holders[page]! === 0) {
        if (keep && elder !== undefined) kept.splice(kept.indexOf(elder), 0, page);
        else (keep ? kept : empty).push(page);
        if (keep) reached[elder === undefined ? "keeps" : "keepsBeforeAnother"]++;
      }
      if (keep) pool.keep(page, elder);
      else pool.release(page);
    }
    pool.check();
    assert.deepEqual(pool.kept(), kept);
    assert.deepEqual([pool.numFree, pool.numKept], [empty.length + kept.length, kept.length]);
    for (let page = 0; page < numPages; page++) assert.equal(pool.holders(page), holders[page]);
    if (pool.numFree === 0) reached.full++;
  }
  for (const [what, count] of Object.entries(reached)) assert.ok(count > 100, `${what}: only ${count}`);
});

test("a page has as many holders as there are", () => {
  const pool = new PagePool(2), page = pool.take();
  for (let i = 0; i < 70_000; i++) pool.share(page);
  for (let i = 0; i < 70_000; i++) pool.release(page);
  assert.deepEqual([pool.holders(page), pool.numFree], [1, 1]);
  pool.release(page);
  assert.equal(pool.numFree, 2);
});

test("taking from an empty pool, and releasing or sharing a free page, are broken invariants", () => {
  const pool = new PagePool(1);
  const page = pool.take();
  assert.throws(() => pool.take(), /empty pool/);
  pool.release(page);
  assert.throws(() => pool.release(page), /nobody holds it/);
  assert.throws(() => pool.share(page), /nobody holds it/);
  pool.take();
  assert.throws(() => pool.keep(page, page), /before page 0, which is not/);
  assert.throws(() => new PagePool(0), /a pool of 0 pages/);
});
