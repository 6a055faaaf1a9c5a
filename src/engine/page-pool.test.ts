import assert from "node:assert/strict";
import test from "node:test";
import { stream } from "../core/random.ts";
import { PagePool } from "./page-pool.ts";

test("pages are free, held, shared and free again, and none is lost on a random walk", () => {
  const pool = new PagePool(17);
  const random = stream(1);
  const held: number[] = [];
  let shares = 0, empties = 0;
  for (let i = 0; i < 5000; i++) {
    const r = random();
    if (r < 0.45 && pool.numFree > 0) held.push(pool.take());
    else if (r < 0.6 && held.length > 0) {
      const page = held[Math.floor(random() * held.length)]!;
      pool.share(page);
      held.push(page);
      shares++;
    } else if (held.length > 0) pool.release(held.splice(Math.floor(random() * held.length), 1)[0]!);
    pool.check();
    assert.equal(pool.numFree, 17 - new Set(held).size);
    for (let page = 0; page < 17; page++) assert.equal(pool.holders(page), held.filter((p) => p === page).length);
    if (pool.numFree === 0) empties++;
  }
  assert.ok(shares > 100 && empties > 10, `${shares} shares, ${empties} times empty`);
});

test("taking from an empty pool, and releasing or sharing a free page, are broken invariants", () => {
  const pool = new PagePool(1);
  const page = pool.take();
  assert.throws(() => pool.take(), /empty pool/);
  pool.release(page);
  assert.throws(() => pool.release(page), /nobody holds it/);
  assert.throws(() => pool.share(page), /nobody holds it/);
  assert.throws(() => new PagePool(0), /a pool of 0 pages/);
});
