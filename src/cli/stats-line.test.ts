/** The line of throughput: what it counts, and when there is none. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Stats } from "../engine/messages.ts";
import { statsLine } from "./stats-line.ts";

const idle: Stats = {
  numRunning: 0, numWaiting: 0, numFreePages: 80, numPages: 80, numSteps: 100, promptTokens: 500, generationTokens: 900, numPreemptions: 0, numExpiredPages: 0,
  prefixCacheQueries: 0, prefixCacheHits: 0, stepTokens: 1, stepSeconds: 0.001, numStepsAhead: 0, hostSeconds: 0, hiddenSeconds: 0, waitSeconds: 0, draftSeconds: 0, numDrafts: 0, numDraftTokens: 0, acceptedPerPosition: [], computedTokens: 0, stepsOfSize: new Array<number>(14).fill(0),
};

test("it says what happened since the last one", () => {
  const now = { ...idle, numSteps: 150, promptTokens: 525, generationTokens: 1900, numRunning: 3, numWaiting: 2, numFreePages: 60, prefixCacheQueries: 200, prefixCacheHits: 50 };
  assert.equal(statsLine(idle, now, 10),
    "Avg prompt throughput: 2.5 tokens/s, Avg generation throughput: 100.0 tokens/s, Running: 3 reqs, Waiting: 2 reqs, KV cache usage: 25.0%, Prefix cache hit rate: 25.0%");
});

test("there is none while nothing runs, and one for what began and ended in between or only waits", () => {
  assert.equal(statsLine(idle, idle, 10), undefined);
  assert.match(statsLine(idle, { ...idle, numSteps: 101 }, 10)!, /Running: 0 reqs/);
  assert.match(statsLine(idle, { ...idle, numRunning: 1 }, 10)!, /Running: 1 reqs/);
  assert.match(statsLine(idle, { ...idle, numWaiting: 1 }, 10)!, /Waiting: 1 reqs/);
});
