/**
 * One run of the engine's core: the real Engine, with all that is in it, on a machine without arithmetic and a clock that only the machine moves. A seed
 * draws what the run is like (swarm.ts), and then one operation after another; what the engine says is compared with what a request alone is told
 * (oracle.ts), and what it does with what must always be so (watch.ts). The same seed gives the same run, operation by operation.
 *
 * A new kind of operation is a row of `operations`, a new parameter of requests a row of requests.ts, a new situation a row of reached.ts.
 */
import assert from "node:assert/strict";
import { Engine } from "../../src/engine/engine.ts";
import { stepSizes, type Delta, type TokenLogprobs } from "../../src/engine/messages.ts";
import { PagePool } from "../../src/engine/page-pool.ts";
import { PrefixCache } from "../../src/engine/prefix-cache.ts";
import { Scheduler, type Work } from "../../src/engine/scheduler.ts";
import type { Wanted } from "../engine/chooser.ts";
import { Dice } from "./dice.ts";
import { Guesses } from "./guesses.ts";
import { type Launch, Machine, type World } from "./machine.ts";
import { Oracle } from "./oracle.ts";
import type { Reached } from "./reached.ts";
import { type Request, Requests } from "./requests.ts";
import { drawSwarm, type Swarm } from "./swarm.ts";
import { Watch } from "./watch.ts";

/** What can happen between two steps, and, but for the first and the last, during one. */
const operations = {
  step: (run: Run) => run.step(),
  submit: (run: Run) => run.submit(run.requests.draw()),
  /** Some that begin alike, at once. */
  burst: (run: Run) => {
    const prompt = run.requests.prompt();
    for (let i = run.dice.int(2, 4); i > 0; i--) run.submit(run.requests.draw([...prompt, ...run.dice.ints(run.dice.int(0, 2), 0, run.swarm.vocabSize - 1)]));
  },
  choices: (run: Run) => {
    for (const request of run.requests.drawChoices()) run.submit(request);
  },
  /** The next turn of a conversation: what somebody has said and was told. */
  again: (run: Run) => run.submit(run.requests.draw(run.said())),
  wrong: (run: Run) => run.submit(run.requests.drawWrong()),
  abort: (run: Run) => run.abort(),
  abortAll: (run: Run) => run.abortAll(),
  wait: (run: Run) => run.wait(),
} satisfies Record<string, (run: Run) => void | Promise<void>>;
export type OperationName = keyof typeof operations;

/** A request that was submitted, and what its sender has been told. */
interface Open {
  readonly oracle: Oracle;
  readonly request: Request;
  readonly since: number;
  startedAt?: number;
  numAnswers: number;
  /** So many tokens of its prompt it has been told how likely they are, the first counted too. */
  numRead: number;
  /** It was aborted while the engine had it. */
  left: boolean;
}

class Run implements World {
  readonly swarm: Swarm;
  readonly dice: Dice;
  readonly requests: Requests;
  readonly #reached: Reached;
  readonly #scheduler: Scheduler;
  readonly #engine: Engine;
  readonly #machine: Machine;
  readonly #watch: Watch;
  readonly #guesses: Guesses | undefined;
  readonly #tell: ((line: string) => void) | undefined;
  readonly #open = new Map<string, Open>();
  readonly #ended: Oracle[] = [];
  #clock = 0;
  #isStepping = false;
  /** What was scheduled and has not been launched yet. */
  #plan: readonly Work[] = [];
  /** Launches of this step that nobody has scheduled: parts of one that has failed. */
  #again: Launch[] = [];
  #numAccepted = 0;
  #numRefused = 0;
  /** Nothing comes any more. */
  #closing = false;
  numOperations = 0;
  /** Of all that has happened. */
  hash = 0;
  /** What stats should say. */
  #secondsInSteps = 0;
  #stepSeconds: number | undefined = 0;
  #scheduledAt = 0;
  readonly #startedAt = new WeakMap<Launch, number>();
  readonly #counted = { numSteps: 0, promptTokens: 0, generationTokens: 0, stepTokens: 0, numStepsAhead: 0, computedTokens: 0, stepsOfSize: new Array<number>(stepSizes.length + 1).fill(0) };

  constructor(swarm: Swarm, reached: Reached, tell?: (line: string) => void) {
    this.swarm = swarm;
    this.dice = new Dice(-1 - swarm.seed);
    this.requests = new Requests(swarm, this.dice);
    this.#reached = reached;
    this.#tell = tell;
    this.#machine = new Machine(swarm, this.dice, this);
    const { limits, eosTokenIds, engineSeed } = swarm;
    this.#scheduler = new WatchedScheduler(swarm, (work) => this.#scheduled(work));
    const oracleOf = (id: string) => this.#open.get(id)!.oracle;
    this.#guesses = limits.numSpeculativeTokens ? new Guesses(swarm, this.dice, oracleOf, () => this.turn()) : undefined;
    this.#engine = new Engine(this.#machine, { limits, eosTokenIds, seed: engineSeed, now: () => this.#clock, scheduler: this.#scheduler, ...(this.#guesses && { drafter: this.#guesses }) });
    this.#watch = new Watch(swarm, this.#scheduler, this.#machine, oracleOf, reached);
    if (!limits.enablePrefixCaching) reached["runs without caching"]++;
  }

  /** Goes into the hash, and is told, with what else whoever listens wants to know. */
  #note(what: string, more?: unknown): void {
    for (let i = 0; i < what.length; i++) this.hash = (Math.imul(this.hash, 31) + what.charCodeAt(i)) | 0;
    this.#tell?.(more === undefined ? what : `${what} ${JSON.stringify(more, (_, value: unknown) => (value instanceof Map ? [...value] : value))}`);
  }

  /** So many operations, and then as many steps as it takes until nothing is left. */
  async all(numOperations: number): Promise<void> {
    while (this.numOperations < numOperations) await this.#one();
    this.#closing = true;
    if (this.swarm.dies) return this.#breakDown();
    // The oldest moves in each step, and is told of it in the next.
    const left = this.#scheduler.running.concat(this.#scheduler.waiting), most = left.reduce((sum, { capacity }) => sum + 2 * capacity, 2);
    // Whoever is admitted later and outranks others may have them begin again.
    let enough = this.swarm.priorities.length > 1 ? most * (1 + left.length) : most;
    while (!this.#engine.idle) {
      assert.ok(enough-- > 0, "it never comes to an end");
      await this.step();
      this.#watch.look();
    }
    assert.equal(this.#open.size, 0, "requests that were never answered");
    assert.equal(this.#engine.stats().numFreePages, this.swarm.limits.numPages, "free pages at the end");
  }

  #draw(weights = this.swarm.weights): OperationName {
    const name = this.dice.weighted(weights), { size } = this.#open;
    const isSubmit = name === "submit" || name === "burst" || name === "again" || name === "wrong" || name === "choices";
    if (isSubmit && size >= this.swarm.maxOpen) return "step";
    // A step of nothing is tried now and then.
    return name === "step" && size === 0 && this.dice.chance(0.9) ? "submit" : name;
  }

  async #one(): Promise<void> {
    await operations[this.#draw()](this);
    this.#watch.look();
  }

  submit(request: Request): void {
    this.numOperations++;
    const { id, prompt, params, standing, seed } = request;
    this.#note(`submit ${id} [${prompt}] seed ${seed} `, { ...standing, ...params });
    if (this.#isStepping) this.#reached["requests that come during a step"]++;
    if (params.seed === undefined) this.#reached["seeds drawn by the engine"]++;
    this.#open.set(id, { request, oracle: new Oracle(request, this.swarm), since: this.#clock, numAnswers: 0, numRead: 1, left: false });
    this.#engine.submit(id, prompt.slice(), params, standing);
  }

  /** Tokens that somebody has sent and received, and a few more. */
  said(): number[] {
    const { dice } = this, some = this.dice.chance(0.3) ? [...this.#open.values()].filter(({ request }) => request.wrong === undefined).map(({ oracle }) => oracle) : this.#ended;
    if (some.length === 0) return this.requests.prompt();
    const { tokens } = dice.pick(some);
    return [...tokens.slice(0, dice.int(1, tokens.length)), ...dice.ints(dice.int(0, 2), 0, this.swarm.vocabSize - 1)];
  }

  abort(): void {
    this.numOperations++;
    const known = [...this.#open.keys()];
    const id = known.length > 0 && this.dice.chance(0.9) ? this.dice.pick(known) : String(this.dice.int(0, 10));
    this.#note(`abort ${id}`);
    this.#leave(id);
    this.#engine.abort(id);
  }

  abortAll(): void {
    this.numOperations++;
    this.#note("abort all");
    this.#reached["aborts of all"]++;
    for (const id of this.#open.keys()) this.#leave(id);
    this.#engine.abortAll();
    const { running, waiting, pool } = this.#scheduler;
    assert.deepEqual([running.length, waiting.length, pool.numFree], [0, 0, pool.numPages], "left after abortAll");
  }

  /** Notes that the engine has been told that `id` is not wanted, and in which state. */
  #leave(id: string): void {
    const { running, waiting } = this.#scheduler, reached = this.#reached, open = this.#open.get(id);
    const sequence = running.find((sequence) => sequence.id === id) ?? waiting.find((sequence) => sequence.id === id);
    if (!sequence) return void reached["aborts of what has ended"]++;
    assert.ok(open && !open.left, `the engine still has request ${id}`);
    open.left = true;
    const { state, numCachedTokens, numSettled, numPromptTokens } = sequence;
    if (state === "waiting") reached[numCachedTokens === undefined ? "aborts while waiting" : "aborts while preempted"]++;
    else reached[numSettled < numPromptTokens ? "aborts within a prompt" : "aborts while decoding"]++;
    if (this.#isStepping && this.#plan.length > 0) reached["aborts while drafts are thought of"]++;
    else if (this.#isStepping) reached[this.#again.length > 0 ? "aborts while parts are computed again" : "aborts during a step"]++;
    if (this.#machine.numUnheard > 1 || (!this.#isStepping && this.#machine.numUnheard > 0)) reached["aborts with a step ahead"]++;
  }

  async wait(): Promise<void> {
    this.numOperations++;
    const turns = this.dice.int(1, 6);
    this.#note(`wait ${turns}`);
    for (let i = 0; i < turns; i++) await undefined;
    this.#clock += this.dice.int(0, 3);
  }

  async step(): Promise<void> {
    this.numOperations++;
    this.#reached.steps++;
    this.#note("step");
    const { running, waiting } = this.#scheduler, isBusy = running.length + waiting.length > 0;
    this.#again = [];
    this.#plan = [];
    this.#isStepping = true;
    const from = this.#clock;
    const deltas = await this.#engine.step();
    this.#isStepping = false;
    this.#secondsInSteps += this.#clock - from;
    // Whoever was to have a part of it may have left while drafts were thought of.
    if (isBusy && this.#plan.length === 0) assert.ok(this.#machine.numUnheard > 0, "there were sequences, and no step");
    this.#heard();
    for (const delta of deltas) this.#check(delta);
    this.#checkStats();
  }

  /** The step has ended. */
  #heard(): void {
    const isAhead = this.#machine.numUnheard > 1, oldest = this.#machine.heard(), counted = this.#counted;
    if (oldest?.state === "failed" && isAhead) this.#reached["steps behind one that fails"]++;
    if (oldest?.state === "failed") this.#reached[oldest.numSequences === 1 ? "steps that fail alone" : "steps that fail in company"]++;
    if (oldest?.state === "failed" && oldest.firstGuess.some((position) => position < Infinity)) this.#reached["steps that fail with drafts"]++;
    this.#reached["parts computed again"] += this.#again.length;
    for (const launch of oldest ? [oldest, ...this.#again] : []) {
      if (launch.state !== "ended") continue;
      counted.numSteps++;
      counted.stepTokens = launch.numTokens;
      counted.computedTokens += launch.numTokens;
      counted.stepsOfSize[stepSizes.filter((most) => most < launch.numTokens).length]!++;
      // Parts that are computed again end at times of their own.
      this.#stepSeconds = this.#again.length > 0 ? undefined : this.#clock - this.#startedAt.get(launch)!;
    }
  }

  /** What one is told is what he would be told alone. */
  #check(delta: Delta): void {
    const { id, tokens, finish, queueSeconds, cachedTokens, logprobs = [], promptLogprobs, stopTokenId, message, param } = delta, reached = this.#reached;
    const open = this.#open.get(id);
    assert.ok(open, `request ${id}, which has ended or never was, is told ${JSON.stringify(delta)}`);
    this.#note(`  ${id}: ${tokens} ${finish ?? ""}`);
    if (finish !== undefined) {
      this.#open.delete(id);
      if (open.request.wrong === undefined) this.#ended.push(open.oracle);
      if (this.#ended.length > 8) this.#ended.shift();
    }
    if (open.left && finish !== undefined) return assert.deepEqual(delta, { id, tokens: [], finish: "abort" });
    const { oracle, numAnswers, request: { prompt, params } } = open;
    if (promptLogprobs) {
      const { from, logprobs } = promptLogprobs;
      assert.deepEqual(delta, { id, tokens: [], promptLogprobs }, "how likely a prompt was comes alone");
      assert.ok(params.promptLogprobs !== undefined && from === open.numRead && logprobs.length > 0, `request ${id} is told of ${logprobs.length} tokens of its prompt from ${from} on, and knew of ${open.numRead}`);
      open.numRead += logprobs.length;
      return compareLogprobs(logprobs, oracle.promptLogprobs().slice(from - 1, open.numRead - 1), `the prompt of request ${id}`);
    }
    const where = `answer ${numAnswers} of request ${id}`;
    // Several tokens at once are what they are one by one, and only the last can be the end.
    const answers = Array.from({ length: Math.max(1, tokens.length) }, (_, i) => oracle.answer(numAnswers + i)), expected = answers.at(-1);
    assert.ok(expected, `${where} comes after its end: ${JSON.stringify(delta)}`);
    assert.deepEqual([tokens, finish, stopTokenId, param], [answers.flatMap((answer) => answer!.tokens), expected.finish, expected.stopTokenId, expected.param], where);
    assert.match(message ?? "", expected.message ?? /^$/, where);
    compareLogprobs(logprobs, answers.flatMap((answer) => answer!.logprobs ?? []), where);
    reached["log-probabilities compared"] += logprobs.length;
    const isFirst = tokens.length > 0 && numAnswers === 0;
    if (isFirst && params.promptLogprobs !== undefined) {
      assert.equal(open.numRead, prompt.length, `tokens of its prompt that request ${id} has been told of before the first token`);
      reached["prompts read"]++;
    }
    if (tokens.length > 1) reached["answers of several tokens"]++;
    if (tokens.length > 1 && finish !== undefined) reached["drafts that a request ends with"]++;
    if (isFirst) {
      this.#counted.promptTokens += open.request.prompt.length;
      const hits = this.#watch.hits.get(id)!;
      assert.deepEqual([queueSeconds, cachedTokens], [open.startedAt! - open.since, hits > 0 ? hits : undefined], `seconds in the queue and cached tokens of request ${id}`);
      if (hits > 0 && this.swarm.collisions) reached["hits among collisions"]++;
    } else assert.deepEqual([queueSeconds, cachedTokens], [undefined, undefined], where);
    open.numAnswers += tokens.length;
    this.#counted.generationTokens += tokens.length;
    reached["tokens compared"] += tokens.length;
    if (finish === "stop") reached[stopTokenId === undefined ? "ends by an end token" : "ends by a stop id"]++;
    if (finish === "length") reached[open.oracle.tokens.length === this.swarm.limits.maxModelLen ? "ends by the context" : "ends by maxTokens"]++;
    if (finish === "error") reached[open.request.wrong !== undefined ? "refused requests" : param === "logitsProcessors" ? "functions that fail" : param !== undefined ? "rules that leave nothing" : "logits that are no numbers"]++;
    if (finish === "stop" && this.#machine.numUnheard > 0) reached["ends that a step was ahead of"]++;
  }

  /** After a step, whose tokens have all been told. */
  #checkStats(): void {
    const { running, waiting, pool, cache } = this.#scheduler, { numPreemptions, numQueries, numHits } = this.#watch;
    assert.ok(cache.numExpired >= this.#watch.numExpired, `${cache.numExpired} pages expired, at least ${this.#watch.numExpired}`);
    const { stepSeconds, waitSeconds, draftSeconds, ...stats } = this.#engine.stats();
    const { numDrafts = 0, numDraftTokens = 0, acceptedPerPosition = [], numAccepted = 0 } = this.#guesses ?? {};
    this.#reached["drafts that are right"] += numAccepted - this.#numAccepted;
    this.#reached["drafts that are wrong"] += numDraftTokens - numAccepted - this.#numRefused;
    this.#numAccepted = numAccepted;
    this.#numRefused = numDraftTokens - numAccepted;
    assert.deepEqual(stats, {
      ...this.#counted, numRunning: running.length, numWaiting: waiting.length, numFreePages: pool.numFree, numPages: this.swarm.limits.numPages,
      numPreemptions, numExpiredPages: cache.numExpired, prefixCacheQueries: numQueries, prefixCacheHits: numHits, hostSeconds: 0, hiddenSeconds: 0, numDrafts, numDraftTokens, acceptedPerPosition,
    });
    // Where nothing is started ahead time passes only while a step is waited for, or thought of.
    const seconds = [waitSeconds + draftSeconds, stepSeconds], most = [this.#secondsInSteps, this.#stepSeconds ?? stepSeconds];
    if (this.swarm.runsAhead) assert.ok(seconds[0]! <= most[0]! && stepSeconds >= 0 && stepSeconds <= this.#clock, `${seconds} seconds, at most ${most}`);
    else assert.deepEqual(seconds, most, "seconds waited for steps, and of the last one");
    // Who was refused or has left since is told by the next step.
    const open = [...this.#open.values()].filter(({ request, left }) => !left && request.wrong === undefined);
    assert.equal(running.length + waiting.length, open.length, "sequences, one for each request that is open");
    assert.equal(this.#engine.idle, this.#open.size === 0 && this.#machine.numUnheard === 0, "idle");
  }

  /** The machine is not to be used any more, and whoever steps hears of it. */
  async #breakDown(): Promise<void> {
    const broken = (this.#machine.broken = new Error("the machine broke down"));
    let last = this.requests.draw([0]);
    while (last.wrong !== undefined) last = this.requests.draw([0]);
    this.submit(last);
    this.#watch.look();
    for (let enough = 4; enough > 0; enough--) {
      try {
        await this.#engine.step();
      } catch (error) {
        assert.equal(error, broken);
        this.#reached["machines that break down"]++;
        return;
      }
    }
    assert.fail("the machine broke down, and nobody heard");
  }

  // What the machine asks for and tells.

  /** Launches without a plan are of what has failed. A plan whose sequences have all left is not launched. */
  get recomputing(): boolean {
    return !this.#plan.some(({ sequence }) => sequence.state === "running");
  }

  ownersOf(batch: Parameters<World["ownersOf"]>[0]): ReturnType<World["ownersOf"]> {
    return this.#watch.ownersOf(batch);
  }

  started(launch: Launch, { hostRows, numRules, numQuestions }: Wanted): void {
    this.#note(`  start ${launch.owners.map(({ id }, s) => `${id}: ${launch.numRows[s]} from ${launch.firstPosition[s]}`).join(", ")}${launch.behind ? ", ahead" : ""}`);
    this.#reached["rows for the host"] += hostRows.length;
    this.#reached["rows with rules"] += numRules;
    this.#reached.questions += numQuestions;
    this.#startedAt.set(launch, this.recomputing ? this.#clock : this.#scheduledAt);
    if (launch.behind) {
      this.#counted.numStepsAhead++;
      this.#reached["steps ahead"]++;
      this.#reached["rows with rules in a step ahead"] += numRules;
      this.#reached["questions in a step ahead"] += numQuestions;
    }
    if (this.recomputing) {
      this.#again.push(launch);
      assert.equal(launch.numSequences, 1, "what has failed is computed one by one");
    } else this.#watch.launched(launch, this.#plan);
    this.#plan = [];
  }

  #scheduled(work: readonly Work[]): void {
    this.#scheduledAt = this.#clock;
    this.#plan = work.map((one) => ({ ...one }));
    for (const { sequence: { id } } of work) this.#open.get(id)!.startedAt ??= this.#clock;
    this.#watch.scheduled(this.#plan);
  }

  turn(): void {
    this.#clock += this.dice.int(0, 2);
    if (this.#closing || !this.dice.chance(this.swarm.busy)) return;
    const name = this.#draw({ ...this.swarm.weights, step: 0, wait: 0 });
    if (name === "step" || name === "wait") return;
    void operations[name](this);
    this.#watch.look();
  }
}

/** The engine's own scheduler, looked at whenever it has decided. */
class WatchedScheduler extends Scheduler {
  readonly #tell: (work: readonly Work[]) => void;

  constructor({ limits, engineSeed, collisions, needs }: Swarm, tell: (work: readonly Work[]) => void) {
    const pool = new PagePool(limits.numPages);
    super(limits, pool, new PrefixCache(pool, { needs, seed: engineSeed, ...(collisions && { hash: (hash, token) => (hash ^ token) & 1 }) }));
    this.#tell = tell;
  }

  override schedule(): readonly Work[] {
    const work = super.schedule();
    this.#tell(work);
    return work;
  }
}

function compareLogprobs(got: readonly TokenLogprobs[], expected: readonly TokenLogprobs[], where: string): void {
  assert.equal(got.length, expected.length, `log-probabilities of ${where}`);
  for (const [i, { token, logprob, rank, top }] of got.entries()) {
    const want = expected[i]!;
    assert.deepEqual([token, rank, top.map(({ token }) => token)], [want.token, want.rank, want.top.map(({ token }) => token)], where);
    for (const [x, y] of [[logprob, want.logprob], ...top.map(({ logprob }, i) => [logprob, want.top[i]!.logprob])]) assert.ok(x === y || Math.abs(x! - y!) < 1e-12, `${where}: ${x}, not ${y}`);
  }
}

/** What a run came to. */
export interface Outcome {
  readonly numOperations: number;
  readonly hash: number;
}

/** Runs a seed. `tell` hears of everything that happens. @throws what is wrong */
export async function simulate(seed: number, runsAhead: boolean, numOperations: number, reached: Reached, tell?: (line: string) => void): Promise<Outcome> {
  const swarm = drawSwarm(seed, runsAhead);
  tell?.(JSON.stringify(swarm));
  const run = new Run(swarm, reached, tell);
  await run.all(numOperations);
  return { numOperations: run.numOperations, hash: run.hash };
}
