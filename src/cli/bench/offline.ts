/**
 * `tessera bench latency` and `tessera bench throughput`: the engine in this process, without a server, on random token ids.
 * What they print is what vLLM's commands of these names print.
 */
import { writeFile } from "node:fs/promises";
import { UsageError } from "../../core/errors.ts";
import { LLM } from "../../llm.ts";
import { engineOptions, type EngineFlags } from "../options.ts";
import { randomSamples, type Sample } from "./dataset.ts";
import { summarize } from "./report.ts";
import type { BenchIo } from "./serve.ts";

interface OfflineFlags extends EngineFlags {
  readonly model?: string;
  readonly inputLen: number;
  readonly outputLen: number;
  readonly seed: number;
  readonly outputJson?: string;
}

export interface BenchLatencyFlags extends OfflineFlags {
  readonly batchSize: number;
  readonly numItersWarmup: number;
  readonly numIters: number;
}

export interface BenchThroughputFlags extends OfflineFlags {
  readonly numPrompts: number;
}

const latencyPercentiles = [10, 25, 50, 75, 90, 99];

async function load(flags: OfflineFlags): Promise<LLM> {
  const llm = await LLM.load(flags.model, { ...(await engineOptions(flags)), skipTokenizerInit: true, generationConfig: "vllm" });
  const { maxModelLen } = llm.info;
  if (flags.inputLen + flags.outputLen <= maxModelLen) return llm;
  await llm.close();
  throw new UsageError(`--input-len ${flags.inputLen} and --output-len ${flags.outputLen} make ${flags.inputLen + flags.outputLen} tokens; the model's context is ${maxModelLen}, give less`);
}

/** Prompts that no earlier call had: a cache of prefixes would answer those without computing them. */
function draw(llm: LLM, flags: OfflineFlags, numPrompts: number, round: number): Sample[] {
  return randomSamples({
    numPrompts, inputTokens: flags.inputLen, outputTokens: flags.outputLen, prefixTokens: 0, rangeRatio: 0, vocabSize: llm.info.vocabSize, seed: flags.seed + round,
  });
}

/** Runs all samples together and gives the tokens they made. */
async function run(llm: LLM, samples: readonly Sample[], onEnd: () => void = () => {}): Promise<number> {
  const counts = await Promise.all(samples.map(async ({ prompt, outputTokens }) => {
    const { usage } = await llm.generate(prompt, { maxTokens: outputTokens, ignoreEos: true, temperature: 1 });
    onEnd();
    return usage.completionTokens;
  }));
  return counts.reduce((sum, count) => sum + count, 0);
}

async function save(path: string | undefined, fields: object): Promise<void> {
  if (path !== undefined) await writeFile(path, `${JSON.stringify(fields, null, 2)}\n`);
}

/** How long one batch takes from its prompts to its last tokens. Throws UsageError. */
export async function benchLatency(flags: BenchLatencyFlags, io: BenchIo): Promise<void> {
  await using llm = await load(flags);
  const total = flags.numItersWarmup + flags.numIters;
  const latencies: number[] = [];
  for (let round = 0; round < total; round++) {
    const samples = draw(llm, flags, flags.batchSize, round);
    const startedAt = io.now();
    await run(llm, samples);
    if (round >= flags.numItersWarmup) latencies.push(io.now() - startedAt);
    io.progress(round + 1, total);
  }
  const { mean, percentiles } = summarize(latencies, latencyPercentiles);
  io.print(`Avg latency: ${mean} seconds`);
  for (const [percent, latency] of percentiles) io.print(`${percent}% percentile latency: ${latency} seconds`);
  await save(flags.outputJson, { avg_latency: mean, latencies, percentiles: Object.fromEntries(percentiles) });
}

/** How much the engine does when all prompts are there at once. Throws UsageError. */
export async function benchThroughput(flags: BenchThroughputFlags, io: BenchIo): Promise<void> {
  await using llm = await load(flags);
  const samples = draw(llm, flags, flags.numPrompts, 0);
  let done = 0;
  const startedAt = io.now();
  const outputTokens = await run(llm, samples, () => io.progress(++done, samples.length));
  const seconds = io.now() - startedAt;
  const promptTokens = samples.reduce((sum, { prompt }) => sum + prompt.length, 0);
  const total = promptTokens + outputTokens;
  const rate = (count: number) => (count / seconds).toFixed(2);
  io.print(`Throughput: ${rate(samples.length)} requests/s, ${rate(total)} total tokens/s, ${rate(outputTokens)} output tokens/s`);
  io.print(`Total num prompt tokens:  ${promptTokens}`);
  io.print(`Total num output tokens:  ${outputTokens}`);
  await save(flags.outputJson, {
    elapsed_time: seconds, num_requests: samples.length, total_num_tokens: total, requests_per_second: samples.length / seconds, tokens_per_second: total / seconds,
  });
}
