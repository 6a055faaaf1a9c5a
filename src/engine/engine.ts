/**
 * The engine: requests in, tokens out, one step at a time.
 *
 *   step = schedule -> fill the batch -> forward and choose tokens -> settle -> deltas
 *
 * Where the machine runs ahead, the next step is scheduled and started before this one's tokens are here (run-ahead.ts), unless somebody would have
 * to be preempted for it; a request's tokens are the same either way.
 * `submit` and `abort` may come at any time, also while steps are under way: an aborted sequence's pages are free
 * at once and its rows of those steps are ignored. Everything is a function of the requests and the seed, in the order they came.
 * Knows token ids and never text; knows no thread, no message and no backend: the forward pass is handed in.
 */
import { BadRequest, invariant, UsageError } from "../core/errors.ts";
import { seedOf } from "../core/random.ts";
import { PageNeeds } from "../model/page-needs.ts";
import { logprobsOf } from "../sampling/logprobs.ts";
import { checkSampling, type SamplingParams } from "../sampling/params.ts";
import { LogitRules } from "../sampling/rules.ts";
import { argmax, Sampler } from "../sampling/sampler.ts";
import type { Drafter } from "./drafter.ts";
import { PagePool } from "./page-pool.ts";
import { PrefixCache } from "./prefix-cache.ts";
import { type Delta, nothingTold, type Standing, type Stats, stepSizes, type TokenLogprobs, type Told } from "./messages.ts";
import { drain, type Flight, type ForwardModel, Launcher, type Part, type Sampled } from "./run-ahead.ts";
import { Scheduler, type SchedulerLimits, type Work } from "./scheduler.ts";
import { Sequence } from "./sequence.ts";

export type { ForwardModel };

export interface EngineLimits extends SchedulerLimits {
  /** Sequences that begin alike share pages. Default true. */
  readonly enablePrefixCaching?: boolean;
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
  /** Who guesses what may follow, where somebody does. */
  readonly drafter?: Drafter;
  /** Who runs when and on which pages, under the same limits and expiry. Default: one that nobody else looks into. */
  readonly scheduler?: Scheduler;
  /** From which position on nobody looks at a page's keys (attention/expiry.ts), by the page's number in its sequence. Default: they are looked at to the end. */
  readonly expiry?: Int32Array;
}

export class Engine {
  readonly limits: EngineLimits;
  readonly #model: ForwardModel;
  readonly #scheduler: Scheduler;
  readonly #launcher: Launcher;
  readonly #sampler: Sampler;
  readonly #drafter: Drafter | undefined;
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
  #computedTokens = 0;
  readonly #stepsOfSize = new Array<number>(stepSizes.length + 1).fill(0);
  #numStepsAhead = 0;
  #hostSeconds = 0;
  #hiddenSeconds = 0;
  #waitSeconds = 0;
  #draftSeconds = 0;
  #numDrafts = 0;
  #numDraftTokens = 0;
  /** Drafts that were right, by their place behind the known tokens. */
  readonly #acceptedPerPosition: number[];
  /** When the last step ended. */
  #settledAt = 0;
  /** The step that was started and will be settled next. */
  #flight: Flight | undefined;
  #stepping = false;

  constructor(model: ForwardModel, { limits: given, eosTokenIds, seed = 0, now = () => 0, drafter, expiry, scheduler }: EngineSetup) {
    const limits = { ...given, numSpeculativeTokens: drafter?.numTokens ?? 0 };
    this.limits = limits;
    this.#drafter = drafter;
    this.#acceptedPerPosition = new Array<number>(drafter?.numTokens ?? 0).fill(0);
    this.#model = model;
    this.#scheduler = scheduler ?? createScheduler(limits, seed, expiry);
    this.#launcher = new Launcher(model, limits, limits.maxModelLen);
    this.#sampler = new Sampler(model.vocabSize);
    // A tokenizer may have more than the model: what it can not say does not end anything, and there are no logits to hold it back in.
    this.#eos = new Set(eosTokenIds.filter((id) => id < model.vocabSize));
    this.seed = seed;
    this.#now = now;
  }

  /** Nothing to compute and nothing to tell. */
  get idle(): boolean {
    return this.#sequences.size === 0 && this.#deltas.length === 0 && this.#flight === undefined;
  }

  /**
   * Starts a request; what is wrong with it is told by its one Delta. `id` is in use by no other. `told`: what an engine before this one has told of it; this
   * one goes on behind that, as after a preemption. Its seed must then be given.
   */
  submit(id: string, prompt: Int32Array, params: SamplingParams, { salt = "", family, priority }: Standing = {}, told: Told = nothingTold): void {
    invariant(!this.#sequences.has(id), `request ${id} is already running`);
    const number = this.#numSubmitted++;
    const wrong = this.#check(prompt, params);
    if (wrong) {
      this.#deltas.push({ id, tokens: [], finish: "error", ...wrong });
      return;
    }
    const { maxModelLen, enablePrefixCaching = true } = this.limits;
    const rules = LogitRules.of(params, prompt, this.#eos);
    for (const token of told.tokens) rules?.add(token);
    const sequence = new Sequence(id, prompt, params, params.seed ?? seedOf(this.seed, number), maxModelLen, enablePrefixCaching ? salt : family ?? null, rules, priority, told);
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
      this.#flight ??= this.#drafter ? await this.#startDrafted() : this.#start();
      const flight = this.#flight;
      if (flight) {
        const follows = flight.mayBeFollowed && this.#scheduler.hasRoom;
        this.#flight = !follows ? undefined : this.#drafter ? await this.#startDrafted() : this.#start();
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
  #start(work?: readonly Work[], since = this.#now()): Flight | undefined {
    return this.#timed(() => {
      const todo = work ?? this.#scheduler.schedule();
      if (todo.length === 0) return undefined;
      if (this.#fresh.size > 0) for (const { sequence } of todo) this.#leaveQueue(sequence.id, since);
      if (this.#flight) this.#numStepsAhead++;
      return this.#launcher.start(todo, since);
    });
  }

  /** The same with drafts behind the tokens of sequences that have room for some. Who is aborted while they are thought of has no part in the step. */
  async #startDrafted(): Promise<Flight | undefined> {
    const since = this.#now();
    const work = this.#timed(() => this.#scheduler.schedule());
    const from = this.#now();
    await this.#drafter!.propose(work);
    this.#draftSeconds += this.#now() - from;
    return this.#start(work.filter(({ sequence }) => sequence.state === "running"), since);
  }

  /**
   * Waits for a step and does what follows from its tokens. A mod of the operator's may fail for one request (an index outside its table): that
   * one ends with the error, found by computing each alone, and the others never notice, as company does not show in their bits. Drafts, for which a
   * mod may fail where it would never have come to, are forgotten.
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
    this.#computedTokens += flight.numTokens;
    this.#stepsOfSize[sizeOf(flight.numTokens)]!++;
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
    for (const { sequence, numTokens, numLogits, numDrafts } of parts) {
      if (sequence.state !== "running") continue;
      if (parts.length === 1 && numDrafts === 0) this.#end(sequence, { id: sequence.id, tokens: [], finish: "error", message });
      else await this.#settle(this.#start([{ sequence, numTokens: numTokens - numDrafts, numLogits: numLogits - numDrafts, numDrafts: 0 }])!);
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
      numExpiredPages: cache.numExpired, prefixCacheQueries: cache.numQueries, prefixCacheHits: cache.numHits,
      stepTokens: this.#stepTokens, stepSeconds: this.#stepSeconds, computedTokens: this.#computedTokens, stepsOfSize: [...this.#stepsOfSize], numStepsAhead: this.#numStepsAhead,
      hostSeconds: this.#hostSeconds, hiddenSeconds: this.#hiddenSeconds, waitSeconds: this.#waitSeconds, draftSeconds: this.#draftSeconds,
      numDrafts: this.#numDrafts, numDraftTokens: this.#numDraftTokens, acceptedPerPosition: [...this.#acceptedPerPosition],
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

  /**
   * A step has computed its part of a sequence: what the client gets of it. Each row is sampled for its position as if it were the only one; a draft that
   * is what was sampled is there already, and the row behind it counts too. The first that is not is where drafts end.
   */
  #advance(part: Part, sampled: Sampled): void {
    const { sequence, numTokens, reachesEnd, numDrafts } = part;
    const { id, params, rules, numKnown } = sequence;
    if (sequence.logitsFrom < Infinity && !this.#readPrompt(part, sampled)) return;
    if (!reachesEnd) return sequence.settle(numTokens, noTokens);
    const tokens: number[] = [], logprobs: TokenLogprobs[] = [];
    let ended: Ending = {}, wrong: Ending | undefined, numAccepted = 0;
    for (let i = 0; i <= numDrafts; i++) {
      const position = numKnown + i;
      let token: number;
      try {
        token = this.#chosen(part, i, sampled);
      } catch (error) {
        if (!(error instanceof BadRequest)) throw error;
        wrong = { finish: "error", message: error.message, param: error.param };
        break;
      }
      // A logits processor may have had it aborted.
      if (sequence.state !== "running") return;
      if (token < 0) {
        wrong = noTokenLeft(sequence, position, token === ruledOut);
        break;
      }
      tokens.push(token);
      rules?.add(token);
      if (params.logprobs !== undefined) logprobs.push(this.#howLikely(part, i, token, sampled));
      ended = this.#endedBy(sequence, position + 1, token);
      const agrees = i < numDrafts && sequence.token(position) === token;
      if (agrees) numAccepted++;
      if (ended.finish || !agrees) break;
    }
    if (tokens.length > 0) this.#tell(part, tokens, numAccepted, { ...(params.logprobs !== undefined && { logprobs }), ...ended });
    if (wrong && sequence.state === "running") this.#end(sequence, { id, tokens: [], ...wrong });
  }

  /** The token that decides draft `i` of a part, or follows the last one; below 0 where there is none. @throws BadRequest when a logits processor fails */
  #chosen({ sequence, firstRow, numLogits, numDrafts, hostRow }: Part, i: number, { tokens, logits }: Sampled): number {
    if (hostRow === undefined) return tokens[firstRow + numLogits - 1 - numDrafts + i]!;
    const row = logits[hostRow + i]!;
    return this.#sampler.sample(row, sequence.params, sequence.seed, sequence.numKnown + i, sequence.rules) ?? (argmax(row) === undefined ? noDistribution : ruledOut);
  }

  /** How likely that token was, by the model's own logits. */
  #howLikely({ sequence: { params }, firstQuestion, numPromptQuestions, hostRow }: Part, i: number, token: number, { answers, logits }: Sampled): TokenLogprobs {
    const numTop = Math.min(params.logprobs!, this.#model.vocabSize);
    return hostRow === undefined ? answers.of(firstQuestion + numPromptQuestions + i, token, numTop)! : logprobsOf(logits[hostRow + i]!, token, numTop);
  }

  /** Tells how likely the prompt's tokens are that follow those of a part. False: the request has ended, for the model's logits are no numbers. */
  #readPrompt({ sequence, firstQuestion, numPromptQuestions }: Part, { answers }: Sampled): boolean {
    const { id, numRead: from, params } = sequence, to = from + numPromptQuestions, numTop = Math.min(params.promptLogprobs!, this.#model.vocabSize);
    if (to === from) return true;
    const logprobs: TokenLogprobs[] = [];
    for (let position = from; position < to; position++) {
      const likely = answers.of(firstQuestion + position - from, sequence.token(position), numTop);
      if (!likely) {
        this.#end(sequence, { id, tokens: [], ...noTokenLeft(sequence, position, false) });
        return false;
      }
      logprobs.push(likely);
    }
    sequence.numRead = to;
    this.#deltas.push({ id, tokens: [], promptLogprobs: { from, logprobs } });
    return true;
  }

  /** The tokens that a part has given, as a Delta; `more`: what else is in it. */
  #tell({ sequence, numTokens, numDrafts }: Part, tokens: readonly number[], numAccepted: number, more: Omit<Delta, "id" | "tokens">): void {
    const { id } = sequence, isFirst = sequence.numGenerated === 0;
    const cachedTokens = isFirst ? sequence.numCachedTokens : undefined;
    const queueSeconds = isFirst ? this.#fresh.get(id)?.queueSeconds : undefined;
    if (isFirst) {
      this.#promptTokens += sequence.numPromptTokens;
      this.#fresh.delete(id);
    }
    this.#generationTokens += tokens.length;
    sequence.settle(numTokens, tokens);
    if (numDrafts > 0) {
      this.#numDrafts++;
      this.#numDraftTokens += numDrafts;
      for (let i = 0; i < numAccepted; i++) this.#acceptedPerPosition[i]!++;
    }
    this.#drafter?.decided(sequence, numDrafts, tokens.length);
    const delta: Delta = { id, tokens, ...(queueSeconds !== undefined && { queueSeconds }), ...(cachedTokens && { cachedTokens }), ...more };
    if (delta.finish) this.#end(sequence, delta);
    else this.#deltas.push(delta);
  }

  #leaveQueue(id: string, at: number): void {
    const fresh = this.#fresh.get(id);
    if (fresh) fresh.queueSeconds ??= at - fresh.since;
  }

  /** Whether a sequence ends with `token`, the last of `numTokens`. */
  #endedBy({ params, capacity }: Sequence, numTokens: number, token: number): Ending {
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

function createScheduler(limits: EngineLimits, seed: number, expiry: Int32Array | undefined): Scheduler {
  const pool = new PagePool(limits.numPages);
  return new Scheduler(limits, pool, new PrefixCache(pool, { needs: new PageNeeds(limits, expiry), seed }));
}

/** How a request ends, if it does. */
type Ending = Pick<Delta, "finish" | "stopTokenId" | "message" | "param">;

/** Which of `stepSizes` a step is of. */
function sizeOf(numTokens: number): number {
  const size = stepSizes.findIndex((most) => numTokens <= most);
  return size < 0 ? stepSizes.length : size;
}

const noTokens: readonly number[] = [];
/** In place of a token (backend.ts, sampleRuled): the model's logits are no distribution, or what rules left of them is none. */
const noDistribution = -1, ruledOut = -2;

/** Why there is no token for a position: by the request's own rules, or by the model's logits. */
function noTokenLeft({ params, numPromptTokens }: Sequence, position: number, byRules: boolean): Ending {
  if (!byRules) return { finish: "error", message: `the model's logits for token ${position} are not numbers (NaN or infinity)` };
  const after = `after ${position - numPromptTokens} tokens of output`;
  if (params.logitsProcessors?.length) {
    return { finish: "error", message: `${after} logitsProcessors left no token that may be generated, or a logit that is NaN or +Infinity; leave a distribution`, param: "logitsProcessors" };
  }
  const param = params.allowedTokenIds ? "allowedTokenIds" : params.badWords.length > 0 ? "badWords" : "minTokens";
  return { finish: "error", message: `${after} no token is left that the request allows (allowed ids, bad words, minimum of tokens); allow more`, param };
}
