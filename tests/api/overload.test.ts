/** Ten times more than a server can do, for a moment: bench/overload.ts is the long form, with its figures. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { closedLoop, createClient, openLoop, outcomes, percentile, perSecond, startServer } from "../../bench/overload/load.ts";

test("at ten times its capacity a server goes on at its pace, refuses the rest at once, and every request is in the client's ledger", async (t) => {
  const tokens = 16, stepMs = 20, maxNumSeqs = 8, maxNumQueuedReqs = 16, seconds = 2;
  const capacity = (1000 * maxNumSeqs) / (tokens * stepMs);
  const server = await startServer({ stepMs, maxNumSeqs, maxNumQueuedReqs });
  t.after(() => server.close());
  // Both sides run code that V8 has seen before.
  const warm = createClient(server.port, tokens);
  await closedLoop(warm, 40, 1);
  warm.close();
  const client = createClient(server.port, tokens);
  t.after(() => client.close());
  const from = performance.now();
  const entries = await openLoop(client, 10 * capacity, seconds);
  const { done = 0, refused = 0, ...rest } = outcomes(entries);
  assert.deepEqual(rest, {}, "nothing is lost, broken or cut short");
  assert.ok(done >= maxNumSeqs + maxNumQueuedReqs && refused > done, `${done} done, ${refused} refused`);
  const slowest = percentile(entries, "done", 100), longest = (1000 * (maxNumSeqs + maxNumQueuedReqs)) / capacity;
  t.diagnostic(`${done} done, ${perSecond(entries, from + 500, from + 1000 * seconds).toFixed(1)} a second of ${capacity}; the slowest in ${slowest.toFixed(0)} ms of ${longest}; refusals in ${percentile(entries, "refused", 50).toFixed(1)} ms, 99% in ${percentile(entries, "refused", 99).toFixed(1)} ms`);
  // The bounds are for machines that do other things too; the figures are the benchmark's.
  assert.ok(perSecond(entries, from + 500, from + 1000 * seconds) > 0.7 * capacity);
  assert.ok(slowest < 3 * longest, `the queue is bounded: ${slowest} ms`);
  assert.ok(percentile(entries, "refused", 50) < longest / 4, `a refusal waits for nothing: ${percentile(entries, "refused", 50)} ms`);
});
