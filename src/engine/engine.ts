/**
 * The engine: requests in, tokens out, one step at a time.
 *
 *   step = schedule -> fill the batch -> forward -> sample -> advance -> deltas
 *
 * `submit` and `abort` may come at any time, also while a step is waiting for the model: an aborted sequence's pages are free
 * at once and its row of that step is ignored. Everything is a function of the requests and the seed, in the order they came.
 * Knows token ids and never text; knows no thread, no message and no backend: the forward pass is handed in.
 */
import { invariant, UsageError } from "../core/errors.ts";
import { uniform } from "../core/random.ts";
import { logprobsOf } from "../sampling/logprobs.ts";
import { checkSampling, type SamplingParams } from "../sampling/params.ts";
import { LogitRules } from "../sampling/rules.ts";
import { argmax, Sampler } from "../sampling/sampler.ts";
import { Batch } from "./batch.ts";
import { PagePool } from "./page-pool.ts";
import { PrefixCache } from "./prefix-cache.ts";
import type { Delta, FinishReason, Stats } from "./messages.ts";
import { Scheduler, type SchedulerLimits, type Work } from "./scheduler.ts";
import { Sequence } from "./sequence.ts";

/** What the engine needs of a model. */
export interface ForwardModel {
  readonly vocabSize: number;
  /** Computes the batch's tokens into the KV cache. Resolves to f32 [batch.numLogits, vocabSize], row-major, valid until the next call; the engine may write to it. */
  forward(batch: Batch): Promise<Float32Array>;
}

export interface EngineLimits extends SchedulerLimits {
  /** Most tokens of one sequence, prompt and output together. */
  readonly maxModelLen: number;
  readonly numPages: number;
}

export interface EngineSetup {
  readonly limits: EngineLimits;
  /** The model's own end tokens. */
  readonly eosTokenIds: readonly number[];
  /** Where the seeds of requests without one come from. Default 0. */
  readonly seed?: number;
  /** Seconds, for stats; default: no time passes. */
  readonly now?: () => number;
}

export class Engine {
  readonly limits: EngineLimits;
  readonly #model: ForwardModel;
  readonly #scheduler: Scheduler;
  readonly #batch: Batch;
  readonly #sampler: Sampler;
  readonly #eos: ReadonlySet<number>;
  readonly #seed: number;
  readonly #now: () => number;
  readonly #sequences = new Map<string, Sequence>();
  /** What has happened since the last step returned. */
  #deltas: Delta[] = [];
  #numSubmitted = 0;
  /** Requests without a token yet: when they came, and how long they waited before a step first worked on them. */
  readonly #fresh = new Map<string, { readonly since: number; queueSeconds?: number }>();
  #numSteps = 0;
  #promptTokens = 0;
  #generationTokens = 0;
  #stepTokens = 0;
  #stepSeconds = 0;
  #stepping = false;

  constructor(model: ForwardModel, { limits, eosTokenIds, seed = 0, now = () => 0 }: EngineSetup) {
    this.limits = limits;
    this.#model = model;
    const pool = new PagePool(limits.numPages);
    this.#scheduler = new Scheduler(limits, pool, new PrefixCache(pool, { pageSize: limits.pageSize, enabled: limits.enablePrefixCaching ?? true, seed }));
    this.#batch = new Batch(limits, limits.maxModelLen);
    this.#sampler = new Sampler(model.vocabSize);
    this.#eos = new Set(eosTokenIds);
    this.#seed = seed;
    this.#now = now;
  }

  /** Nothing to compute and nothing to tell. */
  get idle(): boolean {
    return this.#sequences.size === 0 && this.#deltas.length === 0;
  }

  /** Starts a request; what is wrong with it is told by its one Delta. `id` is in use by no other. Requests with different salts share no pages. */
  submit(id: string, prompt: Int32Array, params: SamplingParams, salt = ""): void {
    invariant(!this.#sequences.has(id), `request ${id} is already running`);
    const number = this.#numSubmitted++;
    const wrong = this.#check(prompt, params);
    if (wrong) {
      this.#deltas.push({ id, tokens: [], finish: "error", ...wrong });
      return;
    }
    const seed = params.seed ?? Math.floor(uniform(this.#seed, 0, number) * 2 ** 53);
    const sequence = new Sequence(id, prompt, params, seed, this.limits.maxModelLen, salt, LogitRules.of(params, prompt, this.#eos));
    this.#sequences.set(id, sequence);
    this.#fresh.set(id, { since: this.#now() });
    this.#scheduler.add(sequence);
  }

  /** Ends a request; one that has ended already is left alone. */
  abort(id: string): void {
    const sequence = this.#sequences.get(id);
    if (sequence) this.#end(sequence, { id, tokens: [], finish: "abort" });
  }

  abortAll(): void {
    for (const id of [...this.#sequences.keys()]) this.abort(id);
  }

  /** One step of everything that is running. What it, and `submit` and `abort` before it, have to tell. */
  async step(): Promise<readonly Delta[]> {
    invariant(!this.#stepping, "a step began within a step");
    this.#stepping = true;
    try {
      const work = this.#scheduler.schedule();
      if (work.length > 0) {
        const start = this.#now();
        if (this.#fresh.size > 0) for (const { sequence } of work) this.#leaveQueue(sequence.id, start);
        await this.#compute(work);
        this.#numSteps++;
        this.#stepTokens = work.reduce((sum, { numTokens }) => sum + numTokens, 0);
        this.#stepSeconds = this.#now() - start;
      }
    } finally {
      this.#stepping = false;
    }
    const deltas = this.#deltas;
    this.#deltas = [];
    return deltas;
  }

  /**
   * One forward pass and what follows from it. A mod of the operator's may fail for one request (an index outside its table): that
   * one ends with the error, found by computing each alone, and the others never notice, as company does not show in their bits.
   */
  async #compute(work: readonly Work[]): Promise<void> {
    this.#batch.fill(work);
    const { numLogits } = this.#batch;
    const { vocabSize } = this.#model;
    let logits: Float32Array;
    try {
      logits = await this.#model.forward(this.#batch);
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      // An abort may have come while the model was running.
      const left = work.filter(({ sequence }) => sequence.state === "running");
      if (work.length > 1) for (const one of left) await this.#compute([one]);
      else for (const { sequence } of left) this.#end(sequence, { id: sequence.id, tokens: [], finish: "error", message: error.message });
      return;
    }
    invariant(logits.length >= numLogits * vocabSize, `${logits.length} logits for ${numLogits} rows of ${vocabSize}`);
    let row = 0;
    for (const { sequence, numTokens } of work) {
      const last = numTokens === sequence.numUncomputed;
      const rowLogits = last ? logits.subarray(row * vocabSize, ++row * vocabSize) : undefined;
      if (sequence.state === "running") this.#advance(sequence, numTokens, rowLogits);
    }
  }

  stats(): Stats {
    const { running, waiting, pool, cache, numPreemptions } = this.#scheduler;
    return {
      numRunning: running.length, numWaiting: waiting.length, numFreePages: pool.numFree, numPages: pool.numPages,
      numSteps: this.#numSteps, promptTokens: this.#promptTokens, generationTokens: this.#generationTokens, numPreemptions,
      prefixCacheQueries: cache.numQueries, prefixCacheHits: cache.numHits,
      stepTokens: this.#stepTokens, stepSeconds: this.#stepSeconds,
    };
  }

  #check(prompt: Int32Array, params: SamplingParams): Pick<Delta, "message" | "param"> | undefined {
    const { vocabSize } = this.#model;
    const { maxModelLen, numPages, pageSize } = this.limits;
    if (prompt.length === 0) return { param: "prompt", message: "prompt is empty; it must have at least one token" };
    const stray = prompt.findIndex((token) => token < 0 || token >= vocabSize);
    if (stray >= 0) return { param: "prompt", message: `prompt[${stray}] is ${prompt[stray]}; it must be a token id from 0 to ${vocabSize - 1}` };
    if (prompt.length + 1 > maxModelLen) {
      const message = `prompt has ${prompt.length} tokens; the model's context is ${maxModelLen} tokens, and one at least must be left for the output`;
      return { param: "prompt", message };
    }
    const error = checkSampling(params, vocabSize);
    if (error) return { param: error.param, message: error.message };
    const capacity = Math.min(prompt.length + params.maxTokens, maxModelLen);
    if (!this.#scheduler.fits(capacity)) {
      const room = `${numPages * pageSize} (${numPages} pages of ${pageSize})`;
      return { param: "maxTokens", message: `prompt and maxTokens make ${capacity} tokens; the KV cache has room for ${room}: ask for fewer` };
    }
    return undefined;
  }

  #advance(sequence: Sequence, numTokens: number, logits: Float32Array | undefined): void {
    const { id, params, rules } = sequence;
    if (!logits) return sequence.advance(numTokens, undefined);
    const token = this.#sampler.sample(logits, params, sequence.seed, sequence.numTokens, rules);
    if (token === undefined && rules && argmax(logits) !== undefined) {
      const message = `after ${sequence.numGenerated} tokens of output no token is left that the request allows (allowed ids, bad words, minimum of tokens); allow more`;
      return this.#end(sequence, { id, tokens: [], finish: "error", message, param: params.allowedTokenIds ? "allowedTokenIds" : params.badWords.length > 0 ? "badWords" : "minTokens" });
    }
    if (token === undefined) {
      const message = `the model's logits for token ${sequence.numTokens} are not numbers (NaN or infinity)`;
      return this.#end(sequence, { id, tokens: [], finish: "error", message });
    }
    const cachedTokens = sequence.numGenerated === 0 ? sequence.numCachedTokens : undefined;
    const queueSeconds = sequence.numGenerated === 0 ? this.#fresh.get(id)?.queueSeconds : undefined;
    if (sequence.numGenerated === 0) {
      this.#promptTokens += sequence.numPromptTokens;
      this.#fresh.delete(id);
    }
    this.#generationTokens++;
    sequence.advance(numTokens, token);
    rules?.add(token);
    const delta: Delta = {
      id, tokens: [token],
      ...(queueSeconds !== undefined && { queueSeconds }),
      ...(cachedTokens && { cachedTokens }),
      ...(params.logprobs !== undefined && { logprobs: [logprobsOf(logits, token, params.logprobs)] }),
      ...this.#endedBy(sequence, token),
    };
    if (delta.finish) this.#end(sequence, delta);
    else this.#deltas.push(delta);
  }

  #leaveQueue(id: string, at: number): void {
    const fresh = this.#fresh.get(id);
    if (fresh) fresh.queueSeconds ??= at - fresh.since;
  }

  #endedBy({ params, numTokens, capacity }: Sequence, token: number): { finish?: FinishReason; stopTokenId?: number } {
    if (!params.ignoreEos && this.#eos.has(token)) return { finish: "stop" };
    if (params.stopTokenIds.includes(token)) return { finish: "stop", stopTokenId: token };
    return numTokens === capacity ? { finish: "length" } : {};
  }

  #end(sequence: Sequence, last: Delta): void {
    this.#scheduler.remove(sequence);
    this.#sequences.delete(sequence.id);
    this.#fresh.delete(sequence.id);
    this.#deltas.push(last);
  }
}
