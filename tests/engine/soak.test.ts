/** Many short requests through the client: each is answered or cancelled, no page stays behind, and memory is flat. */
import assert from "node:assert/strict";
import test from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { stream } from "../../src/core/random.ts";
import { clientOf } from "../../src/engine/client.ts";
import { Engine, type EngineLimits } from "../../src/engine/engine.ts";
import { defaultSampling } from "../../src/sampling/params.ts";
import { fixture, openTiny } from "./tiny-model.ts";

const numRequests = process.env["TESSERA_LONG"] ? 20_000 : 1000;
const concurrency = 32;

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;
const seconds = () => performance.now() / 1000;

/** Least squares: growth of y for each x. */
function slope(points: readonly (readonly [number, number])[]): number {
  const mx = points.reduce((sum, [x]) => sum + x, 0) / points.length;
  const my = points.reduce((sum, [, y]) => sum + y, 0) / points.length;
  return points.reduce((sum, [x, y]) => sum + (x - mx) * (y - my), 0) / points.reduce((sum, [x]) => sum + (x - mx) ** 2, 0);
}

test(`${numRequests} short requests, ${concurrency} at a time with random cancellations: all end, no page leaks, the heap is flat`, async (t) => {
  const limits: EngineLimits = { maxNumBatchedTokens: 128, maxNumSeqs: 16, pageSize: 4, maxModelLen: 64, numPages: 60 };
  await using model = await openTiny(fixture("llama"), limits);
  const engine = new Engine(model, { limits, eosTokenIds: model.eosTokenIds });
  const client = clientOf(engine, {
    ...limits, architecture: "", backend: "", dtype: "", kvCacheDtype: "", numParameters: 0, vocabSize: model.vocabSize, eosTokenIds: [], weightBytes: 0, kvBytes: 0, enablePrefixCaching: true, schedulingPolicy: "fcfs", loadSeconds: 0,
  }, seconds);
  const random = stream(77);
  const int = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
  const ends = { stop: 0, length: 0, abort: 0, error: 0, left: 0 };
  const heap: [number, number][] = [];
  let next = 0, done = 0;

  const one = async (): Promise<void> => {
    const prompt = Int32Array.from({ length: int(1, 24) }, () => int(0, model.vocabSize - 1));
    const params = { ...defaultSampling, maxTokens: int(1, 24), logprobs: random() < 0.3 ? 2 : undefined };
    const patience = random() < 0.3 ? int(0, 10) : Infinity;
    const leaves = random() < 0.5;
    const controller = new AbortController();
    let received = 0;
    if (patience === 0) controller.abort();
    for await (const delta of client.generate(prompt, params, controller.signal)) {
      received += delta.tokens.length;
      assert.ok(received <= params.maxTokens);
      if (delta.finish) {
        ends[delta.finish]++;
        assert.ok(delta.finish !== "length" || received === params.maxTokens);
        return;
      }
      if (received < patience) continue;
      if (leaves) {
        ends.left++;
        return;
      }
      controller.abort();
    }
    assert.fail("a stream ended without an end");
  };
  const worker = async (): Promise<void> => {
    while (next++ < numRequests) {
      await one();
      if (++done % 50 > 0) continue;
      collectGarbage();
      heap.push([done, process.memoryUsage().heapUsed]);
    }
  };
  await Promise.all(Array.from({ length: concurrency }, worker));

  for (let i = 0; client.stats.numRunning + client.stats.numWaiting > 0 || client.stats.numFreePages < limits.numPages; i++) {
    assert.ok(i < 200, `still held: ${JSON.stringify(client.stats)}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  const { numPreemptions, numSteps, generationTokens } = client.stats;
  await client.close();
  assert.equal(done, numRequests);
  assert.equal(Object.values(ends).reduce((a, b) => a + b), numRequests);
  for (const [what, count] of Object.entries({ ...ends, error: 1, numPreemptions })) assert.ok(count > 0, `${what}: never`);
  assert.equal(ends.error, 0);
  // The first requests warm the compiler up.
  const growth = slope(heap.filter(([x]) => x > numRequests / 4));
  t.diagnostic(`${JSON.stringify(ends)}, ${numSteps} steps, ${generationTokens} tokens, ${numPreemptions} preemptions, heap ${growth.toFixed(0)} bytes for each request`);
  assert.ok(growth < 1000, `the heap grows by ${growth.toFixed(0)} bytes with each request`);
});
