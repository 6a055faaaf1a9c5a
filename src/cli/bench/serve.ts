/** `tessera bench serve`: sends random prompts to a server at a given rate, and prints vLLM's table of how it went. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import { UsageError } from "../../core/errors.ts";
import { createClient, type Client, type Outcome, type Target } from "./client.ts";
import { arrivals, randomSamples, type Sample } from "./dataset.ts";
import { evaluate, parseGoodput, parseMetrics, parsePercentiles, resultFields, resultLines, type ReportOptions } from "./report.ts";

export interface BenchServeFlags {
  readonly baseUrl?: string;
  readonly host: string;
  readonly port: number;
  readonly endpoint: string;
  /** Default: the first that the server names. */
  readonly model?: string;
  readonly apiKey?: string;
  readonly numPrompts: number;
  readonly numWarmups: number;
  /** Requests a second; Infinity sends all at once. */
  readonly requestRate: number;
  readonly burstiness: number;
  readonly maxConcurrency?: number;
  readonly randomInputLen: number;
  readonly randomOutputLen: number;
  readonly randomPrefixLen: number;
  readonly randomRangeRatio: number;
  readonly randomVocabSize: number;
  readonly seed: number;
  readonly temperature: number;
  readonly ignoreEos?: true;
  readonly percentileMetrics: string;
  readonly metricPercentiles: string;
  readonly goodput?: readonly string[];
  readonly saveResult?: true;
  readonly saveDetailed?: true;
  readonly resultDir: string;
  readonly resultFilename?: string;
}

/** What a benchmark needs of its surroundings. */
export interface BenchIo {
  print(line: string): void;
  /** How many requests have ended, of how many. */
  progress(done: number, total: number): void;
  /** Seconds. */
  now(): number;
  date(): Date;
}

/** A client busier than this measures itself. */
const busyShare = 0.9;

/** Runs it. Throws UsageError for wrong flags, and when the server does not answer a first request. */
export async function benchServe(flags: BenchServeFlags, io: BenchIo): Promise<void> {
  const report: ReportOptions = {
    metrics: parseMetrics(flags.percentileMetrics, "--percentile-metrics"), percentiles: parsePercentiles(flags.metricPercentiles, "--metric-percentiles"),
    goodput: flags.goodput && parseGoodput(flags.goodput, "--goodput"), requestRate: flags.requestRate, maxConcurrency: flags.maxConcurrency,
  };
  const base = parseUrl(flags.baseUrl ?? `http://${flags.host.includes(":") ? `[${flags.host}]` : flags.host}:${flags.port}`);
  const headers: Record<string, string> = flags.apiKey === undefined ? {} : { authorization: `Bearer ${flags.apiKey}` };
  const samples = randomSamples({
    numPrompts: flags.numPrompts, inputTokens: flags.randomInputLen, outputTokens: flags.randomOutputLen, prefixTokens: flags.randomPrefixLen,
    rangeRatio: flags.randomRangeRatio, vocabSize: flags.randomVocabSize, seed: flags.seed,
  });
  const model = flags.model ?? (await firstModel(base, headers));
  const target: Target = {
    url: new URL(base + flags.endpoint), headers,
    fields: { model, temperature: flags.temperature, ...(flags.ignoreEos && { ignore_eos: true }) },
  };
  const client = createClient(target, io.now);
  try {
    for (let i = 0; i < 1 + flags.numWarmups; i++) {
      const { error } = await client.complete(samples[i % samples.length]!);
      if (error !== undefined) throw new UsageError(`a first request to ${target.url} failed: ${error}`);
    }
    const times = arrivals(samples.length, flags.requestRate, flags.burstiness, flags.seed);
    const before = performance.eventLoopUtilization();
    const startedAt = io.now();
    const outcomes = await sendAll(client, samples, times, flags.maxConcurrency ?? Infinity, io);
    const duration = io.now() - startedAt;
    const { utilization } = performance.eventLoopUtilization(before);
    const result = evaluate(outcomes, startedAt, duration, report);
    for (const line of resultLines(result, report)) io.print(line);
    for (const [error, count] of errorCounts(outcomes)) io.print(`${count} failed: ${error}`);
    if (utilization > busyShare) io.print(`This client was busy ${Math.round(100 * utilization)}% of the time: the server may be faster than it says here.`);
    if (flags.saveResult || flags.saveDetailed) io.print(`Saved as ${await save(flags, model, outcomes, { ...resultFields(result, report) }, io.date())}`);
  } finally {
    client.close();
  }
}

function parseUrl(text: string): string {
  if (!URL.canParse(text) || !/^https?:$/.test(new URL(text).protocol)) throw new UsageError(`--base-url is ${JSON.stringify(text)}; it must be an address such as http://127.0.0.1:8000`);
  return text.replace(/\/+$/, "");
}

/** The first model that the server names. Throws UsageError. */
async function firstModel(base: string, headers: Readonly<Record<string, string>>): Promise<string> {
  let answer: Response;
  try {
    answer = await fetch(`${base}/v1/models`, { headers });
  } catch (error) {
    const { cause } = error as Error;
    throw new UsageError(`${base} does not answer (${cause instanceof Error && cause.message ? cause.message : (error as Error).message}); start the server, or say where it is with --base-url`);
  }
  const body = await answer.json().catch(() => ({})) as { readonly data?: readonly { readonly id?: string }[]; readonly error?: { readonly message?: string } };
  const id = body.data?.[0]?.id;
  if (id === undefined) throw new UsageError(`${base}/v1/models names no model (HTTP ${answer.status}${body.error?.message ? `: ${body.error.message}` : ""}); name one with --model`);
  return id;
}

/** Sends each sample at its time, at most `most` at once; a sample that has to wait for others is timed from when it is sent. */
async function sendAll(client: Client, samples: readonly Sample[], times: readonly number[], most: number, io: BenchIo): Promise<Outcome[]> {
  const startedAt = io.now();
  const waiting: (() => void)[] = [];
  let running = 0, done = 0;
  const send = async (sample: Sample): Promise<Outcome> => {
    if (running >= most) await new Promise<void>((resolve) => waiting.push(resolve));
    else running++;
    const outcome = await client.complete(sample);
    // Its place is handed over, or given back.
    const next = waiting.shift();
    if (next) next();
    else running--;
    io.progress(++done, samples.length);
    return outcome;
  };
  const sent: Promise<Outcome>[] = [];
  for (const [i, sample] of samples.entries()) {
    const wait = times[i]! - (io.now() - startedAt);
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, 1000 * wait));
    sent.push(send(sample));
  }
  return Promise.all(sent);
}

/** Each error with how often it happened, the most frequent first; at most five. */
function errorCounts(outcomes: readonly Outcome[]): [string, number][] {
  const counts = new Map<string, number>();
  for (const { error } of outcomes) if (error !== undefined) counts.set(error, (counts.get(error) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]).slice(0, 5);
}

/** Writes the result as JSON, by vLLM's names of fields and files; returns the path. */
async function save(flags: BenchServeFlags, model: string, outcomes: readonly Outcome[], fields: object, at: Date): Promise<string> {
  const date = at.toISOString().replace(/[-:]/g, "").replace("T", "-").slice(0, 15);
  const rate = flags.requestRate === Infinity ? "inf" : flags.requestRate;
  const concurrency = flags.maxConcurrency === undefined ? "" : `-concurrency${flags.maxConcurrency}`;
  const path = join(flags.resultDir, flags.resultFilename ?? `openai-${rate}qps${concurrency}-${model.split("/").at(-1)}-${date}.json`);
  const detail = {
    input_lens: outcomes.map(({ promptTokens }) => promptTokens), output_lens: outcomes.map(({ outputTokens, error }) => (error === undefined ? outputTokens : 0)),
    ttfts: outcomes.map(({ chunksAt, startedAt }) => (chunksAt[0] ?? startedAt) - startedAt),
    itls: outcomes.map(({ chunksAt }) => chunksAt.slice(1).map((time, i) => time - chunksAt[i]!)),
    errors: outcomes.map(({ error }) => error ?? ""),
  };
  await mkdir(flags.resultDir, { recursive: true });
  await writeFile(path, `${JSON.stringify({
    date, backend: "openai", endpoint_type: "openai", model_id: model, num_prompts: flags.numPrompts, request_rate: rate, burstiness: flags.burstiness,
    max_concurrency: flags.maxConcurrency ?? null, ...fields, ...(flags.saveDetailed && detail),
  }, null, 2)}\n`);
  return path;
}
