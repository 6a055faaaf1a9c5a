/** The numbers of a serving benchmark, from outcomes whose numbers are known, and the lines they are printed in. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Outcome } from "./client.ts";
import { evaluate, parseGoodput, parseMetrics, parsePercentiles, percentile, resultFields, resultLines, summarize } from "./report.ts";

const outcome = (startedAt: number, chunksAt: readonly number[], more: Partial<Outcome> = {}): Outcome =>
  ({ error: undefined, promptTokens: 10, outputTokens: chunksAt.length, startedAt, chunksAt, endedAt: chunksAt.at(-1) ?? startedAt, ...more });

const options = { metrics: ["ttft", "tpot", "itl", "e2el"] as const, percentiles: [50, 99], goodput: undefined, requestRate: Infinity, maxConcurrency: undefined };

// Seconds: the first waits 0.1 and then 0.02 a token; the second 0.3, and one chunk brings two tokens; the third never began.
const outcomes = [
  outcome(5, [5.1, 5.12, 5.14]),
  outcome(5.05, [5.35, 5.45], { outputTokens: 3 }),
  outcome(5.2, [], { error: "HTTP 429: try again later" }),
];

test("percentiles lie between neighbours in proportion, as numpy's do", () => {
  assert.equal(percentile([1, 2, 3, 4], 50), 2.5);
  assert.equal(percentile([1, 2, 3, 4], 100), 4);
  assert.ok(Math.abs(percentile([10, 20, 30, 40, 50], 99) - 49.6) < 1e-9);
  assert.equal(percentile([7], 1), 7);
  assert.deepEqual([...summarize([], [99]).percentiles], [[99, 0]]);
  assert.equal(summarize([4, 1, 1, 2], []).std, Math.sqrt(1.5));
});

test("throughput, latencies and peaks are those of the requests that succeeded", () => {
  const result = evaluate(outcomes, 5, 0.5, { ...options, goodput: { ttft: 200, tpot: 50 } });
  const near = (value: number, expected: number, what: string) => assert.ok(Math.abs(value - expected) < 1e-9 * Math.max(1, expected), `${what}: ${value}, not ${expected}`);
  assert.deepEqual([result.completed, result.failed, result.totalInput, result.totalOutput], [2, 1, 20, 6]);
  near(result.requestThroughput, 4, "requests/s");
  near(result.outputThroughput, 12, "output");
  near(result.totalThroughput, 52, "total");
  near(result.requestGoodput!, 2, "goodput: the second request is late");
  near(result.peakOutputThroughput, 6, "all in one second");
  assert.equal(result.peakConcurrency, 2);
  const { ttft, tpot, itl, e2el } = result.latencies;
  near(ttft.mean, 200, "ttft");
  near(tpot.mean, (20 + 50) / 2, "tpot: by tokens, not by chunks");
  near(itl.mean, (20 + 20 + 100) / 3, "itl: by chunks");
  near(itl.median, 20, "itl median");
  near(e2el.percentiles.get(99)!, 140 + 0.99 * 260, "e2el p99");
});

test("requests that follow one another are never two at once, and seconds are counted apart", () => {
  const result = evaluate([outcome(0, [0.5, 1]), outcome(1, [1.5, 1.75, 1.9])], 0, 2, options);
  assert.equal(result.peakConcurrency, 1);
  assert.equal(result.peakOutputThroughput, 4, "one at 1.0 and three after it");
});

test("the table is vLLM's, line by line", () => {
  const asked = { ...options, metrics: ["ttft", "tpot", "itl"] as const, percentiles: [99], goodput: { ttft: 200 }, requestRate: 10, maxConcurrency: 4 };
  assert.deepEqual(resultLines(evaluate(outcomes, 5, 0.5, asked), asked), [
    "============ Serving Benchmark Result ============",
    "Successful requests:                     2",
    "Failed requests:                         1",
    "Maximum request concurrency:             4",
    "Request rate configured (RPS):           10.00",
    "Benchmark duration (s):                  0.50",
    "Total input tokens:                      20",
    "Total generated tokens:                  6",
    "Request throughput (req/s):              4.00",
    "Request goodput (req/s):                 2.00",
    "Output token throughput (tok/s):         12.00",
    "Peak output token throughput (tok/s):    6.00",
    "Peak concurrent requests:                2.00",
    "Total token throughput (tok/s):          52.00",
    "---------------Time to First Token----------------",
    "Mean TTFT (ms):                          200.00",
    "Median TTFT (ms):                        200.00",
    "P99 TTFT (ms):                           298.00",
    "-----Time per Output Token (excl. 1st token)------",
    "Mean TPOT (ms):                          35.00",
    "Median TPOT (ms):                        35.00",
    "P99 TPOT (ms):                           49.70",
    "---------------Inter-token Latency----------------",
    "Mean ITL (ms):                           46.67",
    "Median ITL (ms):                         20.00",
    "P99 ITL (ms):                            98.40",
    "==================================================",
  ]);
  const fields = resultFields(evaluate(outcomes, 5, 0.5, asked), asked);
  assert.equal(fields["completed"], 2);
  assert.ok(Math.abs((fields["p99_itl_ms"] as number) - 98.4) < 1e-6);
  assert.equal(fields["mean_e2el_ms"], undefined, "not asked for");
});

test("what is wrong in a list of metrics, percentiles or bounds is named", () => {
  assert.deepEqual(parseMetrics("ttft, e2el", "--m"), ["ttft", "e2el"]);
  assert.deepEqual(parsePercentiles("50,99.9", "--p"), [50, 99.9]);
  assert.deepEqual(parseGoodput(["ttft:200", "e2el:1.5"], "--g"), { ttft: 200, e2el: 1.5 });
  assert.throws(() => parseMetrics("ttft,speed", "--m"), /--m has "speed".*ttft, tpot, itl, e2el/);
  for (const text of ["101", "", "x", "-1"]) assert.throws(() => parsePercentiles(text, "--p"), /--p has .*0 to 100/);
  for (const text of ["ttft", "ttft:", "itl:5", "ttft:-1", "ttft:x"]) assert.throws(() => parseGoodput([text], "--g"), /--g has .*ttft:200/);
});
