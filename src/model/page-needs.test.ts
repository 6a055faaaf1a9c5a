import assert from "node:assert/strict";
import test from "node:test";
import { plainExpiry, seesAll, seesChunk, seesSink, seesWindow } from "../../tests/engine/plain-expiry.ts";
import { stream } from "../core/random.ts";
import { PageNeeds } from "./page-needs.ts";

test("where nothing expires a sequence needs pages for all its tokens, from the start", () => {
  for (const needs of [new PageNeeds({ pageSize: 4, maxNumBatchedTokens: 8 }), new PageNeeds({ pageSize: 4, maxNumBatchedTokens: 8 }, plainExpiry(seesAll, 4, 100))]) {
    assert.deepEqual([needs.expires, needs.numExpired(99), needs.isExpired(0, 99), needs.reach(3, 50, 8)], [false, 0, false, 50]);
    assert.deepEqual([0, 1, 4, 5, 100].map((numTokens) => needs.mostHeld(numTokens)), [0, 1, 1, 2, 25]);
  }
});

test("under a window a sequence holds the window and a step, however long it is", () => {
  const needs = new PageNeeds({ pageSize: 16, maxNumBatchedTokens: 64 }, plainExpiry(seesWindow(128), 16, 4096, 32));
  assert.deepEqual([needs.expires, needs.reach(3, 50, 8), needs.numExpired(300), needs.isExpired(9, 300), needs.isExpired(10, 300)], [true, 11, 10, true, false]);
  assert.deepEqual([64, 128, 160, 512, 4096].map((numTokens) => needs.mostHeld(numTokens)), [4, 8, 10, 14, 14], "128 and 64 tokens, the tile of the window's edge and the page of the step's");
});

test("no walk through a sequence ever holds more than mostHeld, and mostly some walk holds as much", () => {
  const random = stream(2);
  const int = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
  let numReached = 0;
  for (let round = 0; round < 90; round++) {
    const pageSize = int(1, 6), maxNumBatchedTokens = int(1, 20), length = int(2, 120), size = int(1, 30);
    const sees = [seesWindow(size), seesChunk(size), seesSink(int(1, 8), size)][round % 3]!;
    const needs = new PageNeeds({ pageSize, maxNumBatchedTokens }, plainExpiry(sees, pageSize, length, int(1, 8)));
    let most = 0;
    for (let walk = 0; walk < 10; walk++) for (let computed = 0; computed < length; ) {
      const reach = needs.reach(computed, length, walk === 0 ? maxNumBatchedTokens : int(1, maxNumBatchedTokens));
      // A draft model may be one token behind.
      const held = needs.pagesFor(reach) - needs.numExpired(Math.max(0, computed - int(0, 1)));
      assert.ok(held <= needs.mostHeld(reach), `${held} pages up to token ${reach}, ${needs.mostHeld(reach)} at most`);
      for (let block = 0; walk === 0 && block < needs.pagesFor(computed) - 1; block++) if (needs.isExpired(block, computed)) {
        assert.ok((block + 2) * pageSize <= computed, "the block behind is full");
        for (let kv = block * pageSize; kv < (block + 1) * pageSize; kv++) for (let q = computed; q < length; q++) assert.ok(!sees(q, kv), `${q} sees ${kv}`);
      }
      most = Math.max(most, held);
      computed = reach;
    }
    if (most === needs.mostHeld(length)) numReached++;
  }
  assert.ok(numReached > 60, `in ${numReached} of 90 rounds`);
});
