/**
 * All that crosses between the engine and the rest: plain data that survives structuredClone, but for `logitsProcessors`, which only an engine in the
 * same thread can be sent.
 *
 *   client  ── Submit, Abort, Close ──▶  engine (a worker thread, or the same thread in tests)
 *   client  ◀── Progress, Ready, Deltas, Stats, Failed, Closed ──  engine
 *
 * The engine sees token ids, never text. Every submitted request gets exactly one Delta with `finish` set, its last; where the engine died before, from
 * the engine that took its place.
 */
import type { TokenLogprobs } from "../sampling/logprobs.ts";
import type { SamplingParams } from "../sampling/params.ts";
import type { Speculation } from "./speculative-config.ts";

export type { TokenLogprobs };

export type ToEngine =
  | { readonly kind: "submit"; readonly id: string; readonly prompt: Int32Array; readonly params: SamplingParams; readonly standing: Standing; readonly told?: Told }
  | { readonly kind: "abort"; readonly id: string }
  | { readonly kind: "close" };

/** How a request stands among the others. */
export interface Standing {
  /** Requests with different salts share nothing in the cache. Default "". */
  readonly salt?: string;
  /** Choices of one prompt, which share its pages where prefix caching is switched off too: a name that no other prompt's choices have. */
  readonly family?: string;
  /** Lower runs earlier, equals in the order they come. Default 0. */
  readonly priority?: number;
}

/** What an engine that has died since has told of a request. */
export interface Told {
  /** Generated tokens. */
  readonly tokens: readonly number[];
  /** How likely the first so many of the prompt's tokens are, where the request wants to know. */
  readonly numRead: number;
}

export const nothingTold: Told = { tokens: [], numRead: 1 };

export type FromEngine =
  | { readonly kind: "progress"; readonly stage: string; readonly done: number; readonly total: number }
  /** `pulse`: shared words that change all the time while it computes, where it has such. */
  | { readonly kind: "ready"; readonly info: EngineInfo; readonly pulse?: readonly Int32Array[] }
  | { readonly kind: "deltas"; readonly deltas: readonly Delta[] }
  | { readonly kind: "stats"; readonly stats: Stats }
  /** Now and then from one without a pulse: its event loop turns. `preparing`: a step waits for kernels that are being compiled. */
  | { readonly kind: "alive"; readonly preparing: boolean }
  /** The engine is dead. `theirs`: a UsageError, which the operator can mend; ours comes with its stack. */
  | { readonly kind: "failed"; readonly message: string; readonly theirs: boolean; readonly stack?: string }
  /** The last message: nothing of the engine is left but its thread. */
  | { readonly kind: "closed" };

/** "stop": an end token or stop id. "length": maxTokens or the context is full. "abort": the client left. "error": see Delta.message. */
export type FinishReason = "stop" | "length" | "abort" | "error";

/** What one step added to one request. */
export interface Delta {
  readonly id: string;
  /** Tokens generated in this step, in order, the one that ended it included; empty only with `finish`, or while a prompt is read. */
  readonly tokens: readonly number[];
  /** With the first token: how long the request waited before a step first worked on it. */
  readonly queueSeconds?: number;
  /** With the first token: how many tokens of the prompt were in the cache, where any were. */
  readonly cachedTokens?: number;
  /** One for each token, where the request asked. */
  readonly logprobs?: readonly TokenLogprobs[];
  /** Before the first token or with it, where the request asked: of the prompt's tokens from number `from` on, 1 at first, as far as this step read them. */
  readonly promptLogprobs?: { readonly from: number; readonly logprobs: readonly TokenLogprobs[] };
  readonly finish?: FinishReason;
  /** The stop token id that ended it, where one did that is not the model's own end token. */
  readonly stopTokenId?: number;
  /** Why it ended in "error". */
  readonly message?: string;
  /** The field of the request that is wrong, where the error is one that the sender can mend. */
  readonly param?: string;
}

/** "fcfs": first come, first served. "priority": by the requests' priorities, and first come, first served among equals. */
export const schedulingPolicies = ["fcfs", "priority"] as const;
export type SchedulingPolicy = (typeof schedulingPolicies)[number];

export interface EngineInfo {
  readonly architecture: string;
  /** "wasm, 2 threads, relaxed SIMD" */
  readonly backend: string;
  /** What most matrices of weights are kept in: "float32", "bfloat16", "float16", "int8" or "int4". */
  readonly dtype: string;
  /** Set where the weights were rounded to that when they were loaded. */
  readonly quantizedOnLoad?: true;
  /** Set where the checkpoint has most matrices in 8 or 4 bits, or in finer floats, and they became `dtype` when they were loaded: what it has, "Q4_K". */
  readonly convertedFrom?: string;
  readonly kvCacheDtype: string;
  readonly numParameters: number;
  readonly maxModelLen: number;
  readonly vocabSize: number;
  readonly pageSize: number;
  readonly numPages: number;
  /** Set where pages expire: most of them that a sequence holds at once, however long it is. */
  readonly mostHeldPages?: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly eosTokenIds: readonly number[];
  readonly weightBytes: number;
  readonly kvBytes: number;
  readonly enablePrefixCaching: boolean;
  readonly schedulingPolicy: SchedulingPolicy;
  /** Who guesses what may follow, if anybody does; of a draft model, how large it is. Its weights and cache count in the two sums of bytes. */
  readonly speculation?: Speculation & { readonly numParameters?: number };
  readonly loadSeconds: number;
}

/** Steps are counted by their tokens: at most the first of these, of the next and no fewer, and so on, and more than the last. vLLM's buckets. */
export const stepSizes = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384] as const;

/** Gauges are now; counters are since the start. */
export interface Stats {
  readonly numRunning: number;
  readonly numWaiting: number;
  readonly numFreePages: number;
  readonly numPages: number;
  readonly numSteps: number;
  readonly promptTokens: number;
  readonly generationTokens: number;
  readonly numPreemptions: number;
  /** Pages that requests gave back while they ran, as no layer would look at them again. */
  readonly numExpiredPages: number;
  /** Tokens of requests when they were admitted, and of these the ones that were in the cache. */
  readonly prefixCacheQueries: number;
  readonly prefixCacheHits: number;
  /** Of the last step. */
  readonly stepTokens: number;
  readonly stepSeconds: number;
  /** Tokens of all steps, and how many steps there were of each of `stepSizes`, and larger ones. */
  readonly computedTokens: number;
  readonly stepsOfSize: readonly number[];
  /** Steps that were started while the one before was under way. */
  readonly numStepsAhead: number;
  /** What the host did for all steps: scheduling, batches, starting them, tokens. And how much of that while a step was under way. */
  readonly hostSeconds: number;
  readonly hiddenSeconds: number;
  /** How long it waited for steps to end. Above zero after a step that was started ahead: the machine was not waiting for the host. */
  readonly waitSeconds: number;
  /** How long it took to think of drafts. */
  readonly draftSeconds: number;
  /** How often a sequence's step had drafts, how many tokens these were, and how many were right, by their place behind the known tokens. */
  readonly numDrafts: number;
  readonly numDraftTokens: number;
  readonly acceptedPerPosition: readonly number[];
}
