/**
 * What /metrics shows: vLLM's names, labels and buckets, so that existing dashboards read it unchanged; and what vLLM has no name for as tessera's.
 *
 * Gauges and counters of the engine are read from its newest Stats when somebody asks; latencies are measured by `Observer` as
 * deltas come out of the engine. It knows no route.
 */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import { type FinishReason, type Stats, stepSizes } from "../engine/messages.ts";
import type { GenerationDelta } from "../llm/generation.ts";
import type { LLM } from "../llm.ts";
import type { Gate } from "./gate.ts";

const firstTokenSeconds = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560];
/** vLLM's, with finer ones below its floor of 10 ms. */
const betweenTokensSeconds = [
  0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
];
const requestSeconds = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680];

/** 1, 2, 5, 10, 20, 50, ... up to `most`. */
function tokenBuckets(most: number): number[] {
  const buckets: number[] = [];
  for (let power = 1; power <= most; power *= 10) buckets.push(...[1, 2, 5].map((digit) => digit * power).filter((bucket) => bucket <= most));
  return buckets;
}

/** The steps by their tokens, counted by the engine, as the histogram that vLLM has of them. */
function stepsBySize(labels: Readonly<Record<string, string>>, { stepsOfSize, computedTokens, numSteps }: Stats): string {
  const name = "vllm:iteration_tokens_total", common = Object.entries(labels).map(([label, value]) => `${label}=${JSON.stringify(value)}`).join(",");
  let count = 0;
  const buckets = [...stepSizes, "+Inf"].map((most, i) => `${name}_bucket{le="${most}",${common}} ${(count += stepsOfSize[i]!)}`);
  return [`# HELP ${name} Tokens of a step.`, `# TYPE ${name} histogram`, ...buckets, `${name}_sum{${common}} ${computedTokens}`, `${name}_count{${common}} ${numSteps}`, ""].join("\n");
}

/** What is measured of one generation, known once its prompt is good. Times in seconds of the clock `now`. */
export interface Started {
  readonly arrivedAt: number;
  /** When the engine got it. */
  readonly submittedAt: number;
  readonly promptTokens: number;
  /** Most tokens it asked for; undefined: it did not say. */
  readonly maxTokens: number | undefined;
  /** Choices it asked for. */
  readonly n: number;
}

/** How one choice went, in seconds since its arrival. */
export interface Measured {
  readonly tokens: number;
  readonly firstTokenSeconds: number | undefined;
  readonly seconds: number;
}

/** Follows the choices of one generation to their ends. */
export interface Observer {
  /** `at`: now. */
  delta(delta: GenerationDelta, at: number): void;
  end(choice: number, finish: FinishReason): Measured;
}

export interface Metrics {
  readonly contentType: string;
  text(): Promise<string>;
  observe(started: Started): Observer;
  /** Counts an answered HTTP request. `handler`: the route's path, one of few; "none" where there is no such route. */
  answered(handler: string, method: string, status: number): void;
}

/** The metrics of what `llm` runs under `modelName`, and of the gate before it. `now` gives seconds. */
export function createMetrics(modelName: string, llm: LLM, gate: Gate, now: () => number): Metrics {
  const { info } = llm;
  const registry = new Registry();
  const registers = [registry];
  const labels = { model_name: modelName, engine: "0" };
  const labelNames = Object.keys(labels);

  const gauge = (name: string, help: string, read: (stats: Stats) => number, more: Readonly<Record<string, string>> = {}, whose = "vllm") => new Gauge({
    name: `${whose}:${name}`, help, labelNames: [...labelNames, ...Object.keys(more)], registers, collect() { this.set({ ...labels, ...more }, read(llm.stats)); },
  });
  const counter = (name: string, help: string, read: (stats: Stats) => number, whose = "vllm") => new Counter({
    name: `${whose}:${name}`, help, labelNames, registers,
    collect() { this.reset(); this.inc(labels, read(llm.stats)); },
  });
  const histogram = (name: string, help: string, buckets: number[]) => {
    const all = new Histogram({ name: `vllm:${name}`, help, labelNames, buckets, registers });
    all.zero(labels);
    return (value: number) => all.observe(labels, value);
  };

  gauge("num_requests_running", "Requests in the running batch.", ({ numRunning }) => numRunning);
  gauge("num_requests_waiting", "Requests waiting to be processed.", ({ numWaiting }) => numWaiting);
  gauge("num_requests_waiting_by_reason", "Requests waiting, by reason: capacity is room in the batch or the KV cache.", ({ numWaiting }) => numWaiting, { reason: "capacity" });
  const cacheUsage = ({ numFreePages, numPages }: Stats) => 1 - numFreePages / numPages;
  gauge("kv_cache_usage_perc", "Fraction of the KV cache in use; 1 is all of it.", cacheUsage);
  gauge("gpu_cache_usage_perc", "kv_cache_usage_perc by its old name, whatever the machine is.", cacheUsage);
  counter("prompt_tokens_total", "Prompt tokens processed.", ({ promptTokens }) => promptTokens);
  counter("generation_tokens_total", "Tokens generated.", ({ generationTokens }) => generationTokens);
  const queries = ({ prefixCacheQueries }: Stats) => prefixCacheQueries, hits = ({ prefixCacheHits }: Stats) => prefixCacheHits;
  counter("prefix_cache_queries_total", "Tokens of admitted requests that were looked for in the cache.", queries);
  counter("prefix_cache_hits_total", "Tokens of these that were in the cache.", hits);
  counter("gpu_prefix_cache_queries_total", "prefix_cache_queries_total by its old name.", queries);
  counter("gpu_prefix_cache_hits_total", "prefix_cache_hits_total by its old name.", hits);
  counter("num_preemptions_total", "Requests put back to waiting because the KV cache was full.", ({ numPreemptions }) => numPreemptions);
  if (info.speculation) {
    const accepted = ({ acceptedPerPosition }: Stats) => acceptedPerPosition.reduce((sum, count) => sum + count, 0);
    counter("spec_decode_num_drafts_total", "How often a sequence's step had draft tokens.", ({ numDrafts }) => numDrafts);
    counter("spec_decode_num_draft_tokens_total", "Draft tokens.", ({ numDraftTokens }) => numDraftTokens);
    counter("spec_decode_num_accepted_tokens_total", "Draft tokens that were right.", accepted);
    const { numSpeculativeTokens } = info.speculation;
    registry.registerMetric(new Counter({
      name: "vllm:spec_decode_num_accepted_tokens_per_pos_total", help: "Draft tokens that were right, by their position in the draft.", labelNames: [...labelNames, "position"], registers: [],
      collect() {
        this.reset();
        const { acceptedPerPosition } = llm.stats;
        for (let position = 0; position < numSpeculativeTokens; position++) this.inc({ ...labels, position: String(position) }, acceptedPerPosition[position] ?? 0);
      },
    }));
  }
  const own = (name: string, help: string, read: (stats: Stats) => number) => counter(name, help, read, "tessera");
  own("expired_pages_total", "Pages of the KV cache given back before their request's end, as no layer would look at them again.", ({ numExpiredPages }) => numExpiredPages);
  own("steps_total", "Steps of the model.", ({ numSteps }) => numSteps);
  own("steps_ahead_total", "Steps started while the one before was under way.", ({ numStepsAhead }) => numStepsAhead);
  own("host_seconds_total", "What the host did for all steps: scheduling, batches, starting them, tokens.", ({ hostSeconds }) => hostSeconds);
  own("hidden_host_seconds_total", "Of these, seconds in which a step was under way.", ({ hiddenSeconds }) => hiddenSeconds);
  if (info.speculation) own("draft_seconds_total", "How long it took to think of draft tokens.", ({ draftSeconds }) => draftSeconds);
  own("wait_seconds_total", "How long the host waited for steps to end.", ({ waitSeconds }) => waitSeconds);
  own("engine_restarts_total", "Engines that took the place of one that had died.", () => llm.restarts);
  gauge("num_requests_in_flight", "Requests let in and not answered to the end.", () => gate.inFlight, {}, "tessera");
  gauge("num_queued_tokens", "Tokens of prompts that have no token of an answer yet.", () => gate.queuedTokens, {}, "tessera");
  const refused = new Counter({
    name: "tessera:requests_refused_total", help: "Requests refused before anything was done for them, by reason.", labelNames: [...labelNames, "reason"], registers,
  });
  const countRefused = (): void => {
    refused.reset();
    for (const [reason, count] of gate.refused) refused.inc({ ...labels, reason }, count);
  };

  const config = { block_size: String(info.pageSize), num_gpu_blocks: String(info.numPages), cache_dtype: info.kvCacheDtype, enable_prefix_caching: info.enablePrefixCaching ? "True" : "False" };
  new Gauge({ name: "vllm:cache_config_info", help: "How the KV cache is set up.", labelNames: [...labelNames, ...Object.keys(config)], registers })
    .set({ ...labels, ...config }, 1);

  const bySource = new Counter({
    name: "vllm:prompt_tokens_by_source_total", help: "Prompt tokens of requests that got a first token: computed, or found in the prefix cache.", labelNames: [...labelNames, "source"], registers,
  });
  const cached = new Counter({ name: "vllm:prompt_tokens_cached_total", help: "Of these, the ones found in the prefix cache.", labelNames, registers });
  for (const source of ["local_compute", "local_cache_hit"]) bySource.inc({ ...labels, source }, 0);
  cached.inc(labels, 0);
  const success = new Counter({
    name: "vllm:request_success_total", help: "Requests finished, by reason.", labelNames: [...labelNames, "finished_reason"], registers,
  });
  for (const finished_reason of ["stop", "length", "abort", "error"] satisfies FinishReason[]) success.inc({ ...labels, finished_reason }, 0);

  const firstToken = histogram("time_to_first_token_seconds", "From arrival to the first token.", firstTokenSeconds);
  const betweenTokens = histogram("inter_token_latency_seconds", "Between one step's tokens and the next's.", betweenTokensSeconds);
  const betweenTokensOld = histogram("time_per_output_token_seconds", "inter_token_latency_seconds by its old name.", betweenTokensSeconds);
  const perToken = histogram("request_time_per_output_token_seconds", "Mean time per token after the first, of one request.", betweenTokensSeconds);
  const whole = histogram("e2e_request_latency_seconds", "From arrival to the last token.", requestSeconds);
  const queue = histogram("request_queue_time_seconds", "In the engine before a step first worked on it.", requestSeconds);
  const prefill = histogram("request_prefill_time_seconds", "From the first step that worked on it to the first token.", requestSeconds);
  const decode = histogram("request_decode_time_seconds", "From the first token to the last.", requestSeconds);
  const inference = histogram("request_inference_time_seconds", "From the first step that worked on it to the last token.", requestSeconds);
  const promptTokens = histogram("request_prompt_tokens", "Prompt tokens of one request.", tokenBuckets(info.maxModelLen));
  const generationTokens = histogram("request_generation_tokens", "Tokens generated for one request.", tokenBuckets(info.maxModelLen));
  const computedTokens = histogram("request_prefill_kv_computed_tokens", "Prompt tokens of one request that the prefix cache did not have.", tokenBuckets(info.maxModelLen));
  const mostTokens = histogram("request_max_num_generation_tokens", "Tokens of a request's longest choice.", tokenBuckets(info.maxModelLen));
  const maxTokensAsked = histogram("request_params_max_tokens", "max_tokens of requests that gave it.", tokenBuckets(info.maxModelLen));
  const choicesAsked = histogram("request_params_n", "Choices asked for.", [1, 2, 5, 10, 20]);
  const answers = new Counter({ name: "http_requests_total", help: "HTTP requests answered.", labelNames: ["handler", "method", "status"], registers });

  return {
    contentType: registry.contentType,
    async text() {
      countRefused();
      return (await registry.metrics()) + stepsBySize(labels, llm.stats);
    },
    answered: (handler, method, status) => answers.inc({ handler, method, status: `${Math.floor(status / 100)}xx` }),
    observe({ arrivedAt, submittedAt, promptTokens: numPromptTokens, maxTokens, n }) {
      const choices = Array.from({ length: n }, () => ({ firstAt: undefined as number | undefined, lastAt: arrivedAt, startedAt: submittedAt, tokens: 0, cachedTokens: 0 }));
      let running = n, completed = 0, longest = 0;
      return {
        delta(delta, at) {
          const choice = choices[delta.index]!;
          choice.cachedTokens += delta.cachedTokens ?? 0;
          if (delta.tokens.length === 0) return;
          if (choice.firstAt === undefined) {
            choice.firstAt = at;
            choice.startedAt += delta.queueSeconds ?? 0;
            firstToken(at - arrivedAt);
            // As prompt_tokens_total: for each choice.
            cached.inc(labels, choice.cachedTokens);
            bySource.inc({ ...labels, source: "local_cache_hit" }, choice.cachedTokens);
            bySource.inc({ ...labels, source: "local_compute" }, numPromptTokens - choice.cachedTokens);
          } else {
            betweenTokens(at - choice.lastAt);
            betweenTokensOld(at - choice.lastAt);
          }
          choice.lastAt = at;
          choice.tokens += delta.tokens.length;
        },
        end(index, finish) {
          const { firstAt, lastAt, startedAt, tokens, cachedTokens } = choices[index]!;
          const seconds = now() - arrivedAt;
          success.inc({ ...labels, finished_reason: finish });
          const measured = { tokens, seconds, firstTokenSeconds: firstAt === undefined ? undefined : firstAt - arrivedAt };
          const complete = finish === "stop" || finish === "length";
          if (complete) {
            completed++;
            longest = Math.max(longest, tokens);
          }
          // What was asked is counted once for all choices, when the last has ended.
          if (--running === 0 && completed > 0) {
            mostTokens(longest);
            choicesAsked(n);
            if (maxTokens !== undefined) maxTokensAsked(maxTokens);
          }
          if (!complete) return measured;
          whole(seconds);
          promptTokens(numPromptTokens);
          computedTokens(numPromptTokens - cachedTokens);
          generationTokens(tokens);
          if (firstAt === undefined) return measured;
          queue(startedAt - submittedAt);
          prefill(firstAt - startedAt);
          decode(lastAt - firstAt);
          inference(lastAt - startedAt);
          if (tokens > 1) perToken((lastAt - firstAt) / (tokens - 1));
          return measured;
        },
      };
    },
  };
}
