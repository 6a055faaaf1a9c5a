/**
 * The engine: requests in, tokens out, one step at a time.
 *
 *   step = schedule -> fill the batch -> forward -> sample -> settle -> deltas
 *
 * Where the model samples, the next step is scheduled and started before this one's tokens are here (run-ahead.ts), unless somebody would have
 * to be preempted for it; a request's tokens are the same either way.
 * `submit` and `abort` may come at any time, also while steps are under way: an aborted sequence's pages are free
 * at once and its rows of those steps are ignored. Everything is a function of the requests and the seed, in the order they came.
 * Knows token ids and never text; knows no thread, no message and no backend: the forward pass is handed in.
 */
import { invariant, UsageError } from "../core/errors.ts";
import { seedOf } from "../core/random.ts";
import { logprobsOf } from "../sampling/logprobs.ts";
import { checkSampling, type SamplingParams } from "../sampling/params.ts";
import { LogitRules } from "../sampling/rules.ts";
import { argmax, Sampler } from "../sampling/sampler.ts";
import { PagePool } from "./page-pool.ts";
import { PrefixCache } from "./prefix-cache.ts";
import type { Delta, FinishReason, Stats } from "./messages.ts";
import { drain, type Flight, type ForwardModel, Launcher, type Part, type Sampled } from "./run-ahead.ts";
import { Scheduler, type SchedulerLimits, type Work } from "./scheduler.ts";
import { Sequence } from "./sequence.ts";

export type { ForwardModel };

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
  readonly #launcher: Launcher;
  readonly #sampler: Sampler;
  readonly #eos: ReadonlySet<number>;
  /** Where the seeds of requests without one come from. */
  readonly seed: number;
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
  #numStepsAhead = 0;
  #hostSeconds = 0;
  #hiddenSeconds = 0;
  #waitSeconds = 0;
  /** When the last step ended. */
  #settledAt = 0;
  /** The step that was started and will be settled next. */
  #flight: Flight | undefined;
  #stepping = false;

  constructor(model: ForwardModel, { limits, eosTokenIds, seed = 0, now = () => 0 }: EngineSetup) {
    this.limits = limits;
    this.#model = model;
    const pool = new PagePool(limits.numPages);
    this.#scheduler = new Scheduler(limits, pool, new PrefixCache(pool, { pageSize: limits.pageSize, enabled: limits.enablePrefixCaching ?? true, seed }));
    this.#launcher = new Launcher(model, limits, limits.maxModelLen);
    this.#sampler = new Sampler(model.vocabSize);
    this.#eos = new Set(eosTokenIds);
    this.seed = seed;
    this.#now = now;
  }

  /** Nothing to compute and nothing to tell. */
  get idle(): boolean {
    return this.#sequences.size === 0 && this.#deltas.length === 0 && this.#flight === undefined;
  }

  /**
   * Starts a request; what is wrong with it is told by its one Delta. `id` is in use by no other. Requests with different salts share no pages.
   * `output`: what an engine before this one has generated for it and told; it goes on behind that, as after a preemption. Its seed must then be given.
   */
  submit(id: string, prompt: Int32Array, params: SamplingParams, salt = "", output: readonly number[] = []): void {
    invariant(!this.#sequences.has(id), `request ${id} is already running`);
    const number = this.#numSubmitted++;
    const wrong = this.#check(prompt, params);
    if (wrong) {
      this.#deltas.push({ id, tokens: [], finish: "error", ...wrong });
      return;
    }
    const rules = LogitRules.of(params, prompt, this.#eos);
    for (const token of output) rules?.add(token);
    const sequence = new Sequence(id, prompt, params, params.seed ?? seedOf(this.seed, number), this.limits.maxModelLen, salt, rules, output);
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

  /**
   * One step of everything that is running: waits for the oldest that is under way, with the next one started behind it where that can be. What it,
   * and `submit` and `abort` before it, have to tell.
   */
  async step(): Promise<readonly Delta[]> {
    invariant(!this.#stepping, "a step began within a step");
    this.#stepping = true;
    try {
      this.#flight ??= this.#start();
      const flight = this.#flight;
      if (flight) {
        this.#flight = flight.mayBeFollowed && this.#scheduler.hasRoom ? this.#start() : undefined;
        await this.#settle(flight);
      }
    } finally {
      this.#stepping = false;
    }
    const deltas = this.#deltas;
    this.#deltas = [];
    return deltas;
  }
  /** Schedules and starts a step, if there is work: behind the one under way, where there is one. */
  #start(work?: readonly Work[]): Flight | undefined {
    return this.#timed(() => {
      const todo = work ?? this.#scheduler.schedule();
      if (todo.length === 0) return undefined;
      if (this.#fresh.size > 0) for (const { sequence } of todo) this.#leaveQueue(sequence.id, this.#now());
      if (this.#flight) this.#numStepsAhead++;
      return this.#launcher.start(todo, this.#now());
    });
  }

  /**
   * Waits for a step and does what follows from its tokens. A mod of the operator's may fail for one request (an index outside its table): that
   * one ends with the error, found by computing each alone, and the others never notice, as company does not show in their bits.
   */
  async #settle(flight: Flight): Promise<void> {
    const from = this.#now();
    let sampled: Sampled;
    try {
      sampled = await flight.sampled;
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      return this.#recompute(flight, error);
    } finally {
      this.#waitSeconds += this.#now() - from;
    }
    this.#timed(() => {
      for (const part of flight.parts) if (part.sequence.state === "running") this.#advance(part, sampled);
    });
    this.#numSteps++;
    this.#stepTokens = flight.numTokens;
    this.#stepSeconds = this.#now() - Math.max(flight.startedAt, this.#settledAt);
    this.#settledAt = this.#now();
  }

  /** What to do about a step that failed: nothing that was started counts, and who is left is computed alone. */
  async #recompute({ parts }: Flight, { message }: UsageError): Promise<void> {
    const next = this.#flight;
    this.#flight = undefined;
    if (next) await drain(next);
    // Aborts may have come meanwhile, and may come while each is computed.
    for (const { sequence } of [...parts, ...(next?.parts ?? [])]) if (sequence.state === "running") sequence.undo();
    for (const { sequence, numTokens } of parts) {
      if (sequence.state !== "running") continue;
      if (parts.length === 1) this.#end(sequence, { id: sequence.id, tokens: [], finish: "error", message });
      else await this.#settle(this.#start([{ sequence, numTokens }])!);
    }
  }

  /** Runs what the host does for a step, and adds up how long it takes. */
  #timed<T>(body: () => T): T {
    const from = this.#now(), hidden = this.#flight !== undefined;
    const result = body();
    const seconds = this.#now() - from;
    this.#hostSeconds += seconds;
    if (hidden) this.#hiddenSeconds += seconds;
    return result;
  }

  stats(): Stats {
    const { running, waiting, pool, cache, numPreemptions } = this.#scheduler;
    return {
      numRunning: running.length, numWaiting: waiting.length, numFreePages: pool.numFree, numPages: pool.numPages,
      numSteps: this.#numSteps, promptTokens: this.#promptTokens, generationTokens: this.#generationTokens, numPreemptions,
      prefixCacheQueries: cache.numQueries, prefixCacheHits: cache.numHits,
      stepTokens: this.#stepTokens, stepSeconds: this.#stepSeconds, numStepsAhead: this.#numStepsAhead,
      hostSeconds: this.#hostSeconds, hiddenSeconds: this.#hiddenSeconds, waitSeconds: this.#waitSeconds,
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

  /** A step has computed its part of a sequence: what the client gets of it. */
  #advance({ sequence, numTokens, row, hostRow }: Part, sampled: Sampled): void {
    const { id, params, rules } = sequence;
    if (row === undefined) return sequence.settle(numTokens, undefined);
    const logits = hostRow === undefined ? undefined : sampled.logits[hostRow]!;
    const token = logits ? this.#sampler.sample(logits, params, sequence.seed, sequence.numKnown, rules) : fromDevice(sampled.tokens[row]!);
    if (token === undefined && rules && logits && argmax(logits) !== undefined) {
      const message = `after ${sequence.numGenerated} tokens of output no token is left that the request allows (allowed ids, bad words, minimum of tokens); allow more`;
      return this.#end(sequence, { id, tokens: [], finish: "error", message, param: params.allowedTokenIds ? "allowedTokenIds" : params.badWords.length > 0 ? "badWords" : "minTokens" });
    }
    if (token === undefined) {
      const message = `the model's logits for token ${sequence.numKnown} are not numbers (NaN or infinity)`;
      return this.#end(sequence, { id, tokens: [], finish: "error", message });
    }
    const cachedTokens = sequence.numGenerated === 0 ? sequence.numCachedTokens : undefined;
    const queueSeconds = sequence.numGenerated === 0 ? this.#fresh.get(id)?.queueSeconds : undefined;
    if (sequence.numGenerated === 0) {
      this.#promptTokens += sequence.numPromptTokens;
      this.#fresh.delete(id);
    }
    this.#generationTokens++;
    sequence.settle(numTokens, token);
    rules?.add(token);
    const delta: Delta = {
      id, tokens: [token],
      ...(queueSeconds !== undefined && { queueSeconds }),
      ...(cachedTokens && { cachedTokens }),
      ...(params.logprobs !== undefined && { logprobs: [logprobsOf(logits!, token, params.logprobs)] }),
      ...this.#endedBy(sequence, token),
    };
    if (delta.finish) this.#end(sequence, delta);
    else this.#deltas.push(delta);
  }

  #leaveQueue(id: string, at: number): void {
    const fresh = this.#fresh.get(id);
    if (fresh) fresh.queueSeconds ??= at - fresh.since;
  }

  #endedBy({ params, numKnown, capacity }: Sequence, token: number): { finish?: FinishReason; stopTokenId?: number } {
    if (!params.ignoreEos && this.#eos.has(token)) return { finish: "stop" };
    if (params.stopTokenIds.includes(token)) return { finish: "stop", stopTokenId: token };
    return numKnown === capacity ? { finish: "length" } : {};
  }

  #end(sequence: Sequence, last: Delta): void {
    this.#scheduler.remove(sequence);
    this.#sequences.delete(sequence.id);
    this.#fresh.delete(sequence.id);
    this.#deltas.push(last);
  }
}

const fromDevice = (token: number): number | undefined => (token < 0 ? undefined : token);
