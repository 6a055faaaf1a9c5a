/**
 * From the outcomes of a serving benchmark to its numbers and its table: vLLM's definitions, names and lines. Prints nothing.
 *
 *   sent ────TTFT────▶ chunk ─ITL─▶ chunk ─ITL─▶ ... ─ITL─▶ last chunk        TPOT = (E2EL - TTFT) / (tokens - 1)
 *    └───────────────────────────E2EL───────────────────────────┘
 */
import { UsageError } from "../../core/errors.ts";
import type { Outcome } from "./client.ts";

export const metricNames = ["ttft", "tpot", "itl", "e2el"] as const;
export type MetricName = (typeof metricNames)[number];

const shown: Readonly<Record<MetricName, { readonly short: string; readonly title: string }>> = {
  ttft: { short: "TTFT", title: "Time to First Token" },
  tpot: { short: "TPOT", title: "Time per Output Token (excl. 1st token)" },
  itl: { short: "ITL", title: "Inter-token Latency" },
  e2el: { short: "E2EL", title: "End-to-end Latency" },
};

/** Milliseconds within which a request's own mean must stay to count as good. */
export type Goodput = Partial<Readonly<Record<MetricName, number>>>;

export interface ReportOptions {
  readonly metrics: readonly MetricName[];
  readonly percentiles: readonly number[];
  readonly goodput: Goodput | undefined;
  readonly requestRate: number;
  readonly maxConcurrency: number | undefined;
}

export interface Summary {
  readonly mean: number;
  readonly median: number;
  readonly std: number;
  /** By percentile. */
  readonly percentiles: ReadonlyMap<number, number>;
}

export interface Result {
  readonly completed: number;
  readonly failed: number;
  /** Seconds. */
  readonly duration: number;
  readonly totalInput: number;
  readonly totalOutput: number;
  readonly requestThroughput: number;
  readonly requestGoodput: number | undefined;
  readonly outputThroughput: number;
  readonly totalThroughput: number;
  /** Most tokens in any second since the start. */
  readonly peakOutputThroughput: number;
  readonly peakConcurrency: number;
  /** In milliseconds. */
  readonly latencies: Readonly<Record<MetricName, Summary>>;
}

/** The value below which `percent` of `sorted` lie, between neighbours in proportion; 0 of nothing. */
export function percentile(sorted: readonly number[], percent: number): number {
  if (sorted.length === 0) return 0;
  const at = (sorted.length - 1) * percent / 100, below = Math.floor(at);
  const low = sorted[below]!, high = sorted[Math.min(below + 1, sorted.length - 1)]!;
  return low + (high - low) * (at - below);
}

/** Mean, median, standard deviation and percentiles of `values`; zeros where there are none. */
export function summarize(values: readonly number[], percentiles: readonly number[]): Summary {
  const sorted = values.toSorted((a, b) => a - b);
  const mean = values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length;
  const variance = values.length === 0 ? 0 : values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
  return { mean, median: percentile(sorted, 50), std: Math.sqrt(variance), percentiles: new Map(percentiles.map((p) => [p, percentile(sorted, p)])) };
}

/** What one good request measured, in milliseconds; a request of one token has no TPOT. */
function latenciesOf({ startedAt, chunksAt, endedAt, outputTokens }: Outcome): Readonly<Record<MetricName, readonly number[]>> {
  const ttft = 1000 * (chunksAt[0]! - startedAt), e2el = 1000 * (endedAt - startedAt);
  return {
    ttft: [ttft], e2el: [e2el],
    tpot: outputTokens > 1 ? [(e2el - ttft) / (outputTokens - 1)] : [],
    itl: chunksAt.slice(1).map((at, i) => 1000 * (at - chunksAt[i]!)),
  };
}

/** The numbers of a run that began at `startedAt` and took `duration`, both in seconds. */
export function evaluate(outcomes: readonly Outcome[], startedAt: number, duration: number, { percentiles, goodput }: ReportOptions): Result {
  const good = outcomes.filter(({ error }) => error === undefined);
  const measured = good.map(latenciesOf);
  const sum = (read: (outcome: Outcome) => number) => good.reduce((total, outcome) => total + read(outcome), 0);
  const totalInput = sum(({ promptTokens }) => promptTokens), totalOutput = sum(({ outputTokens }) => outputTokens);
  const keeps = goodput && measured.filter((latencies) => Object.entries(goodput).every(([name, most]) => (latencies[name as MetricName][0] ?? 0) <= most));
  const summary = (name: MetricName) => summarize(measured.flatMap((latencies) => latencies[name]), percentiles);
  return {
    completed: good.length, failed: outcomes.length - good.length, duration, totalInput, totalOutput,
    requestThroughput: good.length / duration,
    requestGoodput: keeps && keeps.length / duration,
    outputThroughput: totalOutput / duration,
    totalThroughput: (totalInput + totalOutput) / duration,
    peakOutputThroughput: peakPerSecond(good, startedAt),
    peakConcurrency: peakConcurrency(good),
    latencies: { ttft: summary("ttft"), tpot: summary("tpot"), itl: summary("itl"), e2el: summary("e2el") },
  };
}

/** A chunk counts as its request's tokens divided by its chunks. */
function peakPerSecond(outcomes: readonly Outcome[], startedAt: number): number {
  const perSecond: number[] = [];
  for (const { chunksAt, outputTokens } of outcomes) {
    for (const at of chunksAt) {
      const second = Math.max(0, Math.floor(at - startedAt));
      perSecond[second] = (perSecond[second] ?? 0) + outputTokens / chunksAt.length;
    }
  }
  return perSecond.reduce((most, tokens) => Math.max(most, tokens ?? 0), 0);
}

function peakConcurrency(outcomes: readonly Outcome[]): number {
  const turns = outcomes.flatMap(({ startedAt, endedAt }) => [{ at: startedAt, by: 1 }, { at: endedAt, by: -1 }]);
  turns.sort((a, b) => a.at - b.at || a.by - b.by);
  let running = 0, most = 0;
  for (const { by } of turns) most = Math.max(most, (running += by));
  return most;
}

const line = (name: string, value: number, digits: number) => `${name.padEnd(40)} ${value.toFixed(digits).padEnd(10)}`.trimEnd();

/** `text` in the middle of 50 characters, as Python's format centres it. */
function headed(text: string, fill: string): string {
  const left = Math.floor((50 - text.length) / 2);
  return fill.repeat(Math.max(0, left)) + text + fill.repeat(Math.max(0, 50 - text.length - left));
}

/** The table as vLLM's client prints it. */
export function resultLines(result: Result, { metrics, percentiles, requestRate, maxConcurrency }: ReportOptions): string[] {
  const lines = [
    headed(" Serving Benchmark Result ", "="),
    line("Successful requests:", result.completed, 0),
    line("Failed requests:", result.failed, 0),
    ...(maxConcurrency === undefined ? [] : [line("Maximum request concurrency:", maxConcurrency, 0)]),
    ...(requestRate === Infinity ? [] : [line("Request rate configured (RPS):", requestRate, 2)]),
    line("Benchmark duration (s):", result.duration, 2),
    line("Total input tokens:", result.totalInput, 0),
    line("Total generated tokens:", result.totalOutput, 0),
    line("Request throughput (req/s):", result.requestThroughput, 2),
    ...(result.requestGoodput === undefined ? [] : [line("Request goodput (req/s):", result.requestGoodput, 2)]),
    line("Output token throughput (tok/s):", result.outputThroughput, 2),
    line("Peak output token throughput (tok/s):", result.peakOutputThroughput, 2),
    line("Peak concurrent requests:", result.peakConcurrency, 2),
    line("Total token throughput (tok/s):", result.totalThroughput, 2),
  ];
  for (const name of metrics) {
    const { short, title } = shown[name];
    const { mean, median, percentiles: byPercent } = result.latencies[name];
    lines.push(headed(title, "-"), line(`Mean ${short} (ms):`, mean, 2), line(`Median ${short} (ms):`, median, 2));
    for (const percent of percentiles) lines.push(line(`P${percent} ${short} (ms):`, byPercent.get(percent)!, 2));
  }
  return [...lines, "=".repeat(50)];
}

/** The result by the names that vLLM's client saves it under. */
export function resultFields(result: Result, { metrics }: ReportOptions): Record<string, unknown> {
  return {
    duration: result.duration, completed: result.completed, failed: result.failed,
    total_input_tokens: result.totalInput, total_output_tokens: result.totalOutput,
    request_throughput: result.requestThroughput, request_goodput: result.requestGoodput ?? null,
    output_throughput: result.outputThroughput, total_token_throughput: result.totalThroughput,
    max_output_tokens_per_s: result.peakOutputThroughput, max_concurrent_requests: result.peakConcurrency,
    ...Object.fromEntries(metrics.flatMap((name) => {
      const { mean, median, std, percentiles } = result.latencies[name];
      return [[`mean_${name}_ms`, mean], [`median_${name}_ms`, median], [`std_${name}_ms`, std],
        ...[...percentiles].map(([percent, value]) => [`p${percent}_${name}_ms`, value])];
    })),
  };
}

/** "ttft,itl" as names. Throws UsageError naming `flag`. */
export function parseMetrics(text: string, flag: string): MetricName[] {
  return text.split(",").map((part) => {
    const name = metricNames.find((one) => one === part.trim());
    if (name === undefined) throw new UsageError(`${flag} has ${JSON.stringify(part)}; it must be a list of ${metricNames.join(", ")}, with commas between`);
    return name;
  });
}

/** "50,99,99.9" as numbers. Throws UsageError naming `flag`. */
export function parsePercentiles(text: string, flag: string): number[] {
  return text.split(",").map((part) => {
    const percent = Number(part);
    if (part.trim() === "" || !(percent >= 0 && percent <= 100)) throw new UsageError(`${flag} has ${JSON.stringify(part)}; it must be a list of numbers from 0 to 100, with commas between`);
    return percent;
  });
}

/** ["ttft:100", "tpot:20"] as bounds in milliseconds. Throws UsageError naming `flag`. */
export function parseGoodput(parts: readonly string[], flag: string): Goodput {
  return Object.fromEntries(parts.map((part) => {
    const [name, bound] = part.split(":");
    const metric = (["ttft", "tpot", "e2el"] as const).find((one) => one === name);
    const most = Number(bound);
    if (metric === undefined || bound === undefined || bound.trim() === "" || !(most >= 0)) {
      throw new UsageError(`${flag} has ${JSON.stringify(part)}; it must be ttft, tpot or e2el with a bound in milliseconds, such as ttft:200`);
    }
    return [metric, most];
  }));
}
