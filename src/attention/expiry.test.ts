import assert from "node:assert/strict";
import test from "node:test";
import { plainExpiry, type Sees } from "../../tests/engine/plain-expiry.ts";
import { stream } from "../core/random.ts";
import { runWords, workHeaderWords, workItem } from "../ir/plan.ts";
import { analyse } from "../ir/range.ts";
import { and, causal, document, type MaskMod, maskMod, or, slidingWindow, tensor } from "./index.ts";
import { expiryOf, neverExpires, type Reader } from "./expiry.ts";
import { planWork } from "./work-list.ts";

const length = 150, heads = 2;
const reader = (mask: MaskMod, kvTile = 1): Reader => ({ mask: analyse(mask.expr()).bind(mask.values()), shape: { kvTile, numQueryHeads: heads } });
/** Whether any head sees it. */
const seen = (mask: MaskMod): Sees => (q, kv) => Array.from({ length: heads }, (_, h) => mask(0, h, q, kv)).some(Boolean);

const chunk = (size: number) => and(causal, maskMod(({ size }) => (_b, _h, q, kv) => Math.floor(q / size) === Math.floor(kv / size), { size }));
const documents = (starts: readonly number[]) => and(causal, document(Int32Array.from({ length }, (_, i) => starts.filter((start) => start <= i).length)));
const byHead = (...sizes: readonly number[]) => maskMod(({ sizes }) => (_b, h, q, kv) => q >= kv && q - kv < sizes[h]!, { sizes: tensor(Int32Array.from(sizes), [heads]) });
const firstFew = or(and(causal, maskMod(() => (_b, _h, _q, kv) => kv < 5, {})), slidingWindow(20));
const strided = and(slidingWindow(30), maskMod(() => (_b, _h, q, kv) => (q - kv) % 3 === 0, {}));
/** Nobody sees keys 20 to 40, not even themselves. */
const blind = and(slidingWindow(25), maskMod(() => (_b, _h, _q, kv) => kv < 20 || kv > 40, {}));

const masks: readonly (readonly [name: string, mask: MaskMod, isExact: boolean])[] = [
  ["causal", causal, true], ["a window of 1", slidingWindow(1), true], ["a window of 31", slidingWindow(31), true], ["a window of 149", slidingWindow(149), true], ["a window of 150", slidingWindow(150), true],
  ["chunks of 32", chunk(32), true], ["documents", documents([11, 12, 90]), true], ["a window for each head", byHead(7, 40), true], ["a window for each head, the first one's longer", byHead(40, 7), true], ["a window and the first few", firstFew, true], ["every third of a window", strided, false],
  ["a window and a blind spot", blind, false],
];

test("what expires is never seen again, in whole tiles, and expires no later than it must where that can be proved", () => {
  for (const [name, mask, isExact] of masks) for (const [size, tile] of [[1, 1], [4, 1], [4, 16], [16, 32], [5, 8], [64, 16]] as const) {
    const got = expiryOf([reader(mask, tile)], { size, length }), want = plainExpiry(seen(mask), size, length, tile);
    if (isExact) assert.deepEqual(got, want, `${name}: stretches of ${size} in tiles of ${tile}`);
    else {
      got.forEach((position, i) => assert.ok(position >= want[i]!, `${name}: stretch ${i} of ${size} expires at ${position} and is seen until ${want[i]}`));
      assert.ok(got.some((position) => position < neverExpires), name);
    }
  }
});

test("of several readers the one that looks longest counts, and each reads by its own tiles", () => {
  const both = expiryOf([reader(slidingWindow(10), 16), reader(slidingWindow(4), 32)], { size: 8, length });
  const [a, b] = [[slidingWindow(10), 16], [slidingWindow(4), 32]].map(([mask, tile]) => plainExpiry(seen(mask as MaskMod), 8, length, tile as number));
  assert.deepEqual(both, a!.map((position, i) => Math.max(position, b![i]!)));
  assert.ok([...both].some((position, i) => position !== a![i]) && [...both].some((position, i) => position !== b![i]));
  assert.deepEqual([...expiryOf([reader(slidingWindow(4)), reader(causal)], { size: 50, length })], [neverExpires, neverExpires, neverExpires]);
});

test("no work list asks for a tile of a stretch that has expired", () => {
  const random = stream(4);
  const int = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
  let expired = 0, visited = 0;
  for (const [name, mask] of masks) for (let round = 0; round < 40; round++) {
    const size = int(1, 20), kvTile = 4 * int(1, 8), one = reader(mask, kvTile), expiry = expiryOf([one], { size, length });
    const from = int(0, length - 1), rows = int(1, length - from);
    const work = planWork(one.mask, { numSequences: 1, firstRow: Int32Array.of(0), numRows: Int32Array.of(rows), firstPosition: Int32Array.of(from), kvLength: Int32Array.of(from + rows) },
      { queryTile: int(1, 16), ...one.shape });
    const gone = new Set([...expiry.keys()].filter((i) => expiry[i]! <= from));
    expired += gone.size;
    for (let item = workHeaderWords; item < work[1]!; item += workItem.words) {
      const firstRun = work[1]! + runWords * work[item + workItem.firstRun]!;
      for (let run = firstRun; run < firstRun + runWords * work[item + workItem.numRuns]!; run += runWords) {
        for (let kv = work[run]! * kvTile; kv < Math.min((work[run]! + (work[run + 1]! >> 1)) * kvTile, from + rows); kv++, visited++) {
          assert.ok(!gone.has(Math.floor(kv / size)), `${name}: key ${kv} is asked for from position ${from} on, and its stretch of ${size} expired at ${expiry[Math.floor(kv / size)]}`);
        }
      }
    }
  }
  assert.ok(expired > 1000 && visited > 10_000, `${expired} stretches had expired, ${visited} keys were asked for`);
});
