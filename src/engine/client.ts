/**
 * The near side of the engine: requests in, one stream of deltas each. What lies behind the messages is a worker thread, a process
 * where the device's driver may end that (`start.ts`), or an engine in this thread (`clientOf`).
 *
 * A stream ends after its Delta with `finish`. Whoever leaves the loop early, or aborts the signal, ends the request: the engine
 * frees its pages before its next step. When the engine dies and another takes its place (supervisor.ts), streams go on where they were, without a gap
 * and without a repeat; when there will be no other, every stream throws what the last one died of.
 */
import { seedOf } from "../core/random.ts";
import { invariant, UsageError } from "../core/errors.ts";
import { Queue } from "../core/queue.ts";
import type { SamplingParams } from "../sampling/params.ts";
import type { Engine } from "./engine.ts";
import { Host } from "./host.ts";
import { Ledger, type Entry } from "./ledger.ts";
import { type Delta, type EngineInfo, type FromEngine, type Standing, type Stats, stepSizes, type ToEngine } from "./messages.ts";

export interface EngineClient {
  readonly info: EngineInfo;
  /**
   * Starts a request; ends after the Delta with `finish`. Leaving the loop early or aborting the signal frees its pages. Throws when
   * the engine has died for good.
   */
  generate(prompt: Int32Array, params: SamplingParams, signal?: AbortSignal, standing?: Standing): AsyncIterable<Delta>;
  /** Whether the engine runs in this thread, so that functions reach it. */
  readonly inProcess: boolean;
  /** The newest; counters are over all engines there were. */
  readonly stats: Stats;
  /** Whether there is an engine now: false while another takes the place of one that died, and once there will be none. */
  readonly alive: boolean;
  /** Whether there will be one again. */
  readonly restarting: boolean;
  /** Engines that took the place of one that had died. */
  readonly restarts: number;
  /** Aborts what is running, then frees threads and memory. */
  close(): Promise<void>;
}

/** The way to the engine, whichever it is at the time. */
export interface Link {
  readonly inProcess: boolean;
  post(message: ToEngine): void;
  /** Whether requests are in flight: only then need the process wait for the engine. */
  busy(yes: boolean): void;
  /** Asks it to end; resolves when nothing of it is left. */
  close(): Promise<void>;
}

interface InFlight extends Entry {
  readonly queue: Queue<Delta>;
  /** Lets go of the signal. */
  readonly release: () => void;
}

/** Stats that count from an engine's start; the others are of the moment. */
const counters = [
  "numSteps", "promptTokens", "generationTokens", "numPreemptions", "numExpiredPages", "prefixCacheQueries", "prefixCacheHits", "numStepsAhead", "hostSeconds", "hiddenSeconds", "waitSeconds",
  "draftSeconds", "numDrafts", "numDraftTokens", "computedTokens",
] as const satisfies readonly (keyof Stats)[];

export class Client implements EngineClient {
  readonly info: EngineInfo;
  readonly #link: Link;
  readonly #seed: number;
  readonly #ledger = new Ledger<InFlight>();
  /** Of this engine, and of those before it. */
  #stats: Stats;
  #former: Stats;
  /** What this engine has told, of which its stats may not speak yet. */
  #told = { promptTokens: 0, generationTokens: 0 };
  #numRequests = 0;
  /** How many went to an engine: each has a seed of its own. */
  #numSeeds = 0;
  #restarts = 0;
  #up = true;
  #death: Error | undefined;
  #closing: Promise<void> | undefined;

  /** The client of an engine that is ready. `seed`: where the seeds of requests without one come from. */
  constructor(info: EngineInfo, link: Link, seed: number) {
    this.info = info;
    this.#link = link;
    this.#seed = seed;
    this.#stats = this.#former = noStats(info);
  }

  get stats(): Stats {
    const now = this.#up ? this.#stats : { ...noStats(this.info), numWaiting: this.#ledger.size };
    if (this.#restarts === 0 && this.#up) return now;
    const sums = (name: "acceptedPerPosition" | "stepsOfSize"): number[] => now[name].map((count, i) => count + this.#former[name][i]!);
    return { ...now, ...Object.fromEntries(counters.map((name) => [name, now[name] + this.#former[name]])), acceptedPerPosition: sums("acceptedPerPosition"), stepsOfSize: sums("stepsOfSize") };
  }

  get inProcess(): boolean {
    return this.#link.inProcess;
  }

  get alive(): boolean {
    return this.#up && this.#death === undefined;
  }

  get restarting(): boolean {
    return !this.#up && this.#death === undefined;
  }

  get restarts(): number {
    return this.#restarts;
  }

  /** Requests in flight. */
  get numInFlight(): number {
    return this.#ledger.size;
  }

  generate(prompt: Int32Array, params: SamplingParams, signal?: AbortSignal, standing: Standing = {}): AsyncIterableIterator<Delta> {
    const id = String(this.#numRequests++);
    const queue = new Queue<Delta>();
    if (this.#death) queue.fail(this.#death);
    else if (signal?.aborted) end(queue, id);
    else {
      const abort = (): void => {
        end(queue, id);
        this.#leave(id);
      };
      signal?.addEventListener("abort", abort, { once: true });
      // Drawn here and not by the engine: another one may have to go on with it.
      const seed = params.seed ?? seedOf(this.#seed, this.#numSeeds);
      this.#numSeeds++;
      this.#ledger.add({
        id, prompt, params: { ...params, seed }, standing, output: [], numRead: 1, handedOver: false, numDeaths: 0, numBefore: 0,
        queue, release: () => signal?.removeEventListener("abort", abort),
      });
      if (this.#ledger.size === 1) this.#link.busy(true);
      this.#handOver();
    }
    // Not a generator function: one that is left before its first `next` would never run its `finally`.
    const deltas = queue[Symbol.asyncIterator]();
    const stream: AsyncIterableIterator<Delta> = {
      next: () => deltas.next(),
      return: async () => {
        queue.end();
        this.#leave(id);
        return { done: true, value: undefined };
      },
      [Symbol.asyncIterator]: () => stream,
    };
    return stream;
  }

  receive(message: FromEngine): void {
    switch (message.kind) {
      case "deltas":
        for (const delta of message.deltas) this.#deliver(delta);
        break;
      case "stats":
        this.#stats = message.stats;
        break;
      case "failed":
        this.died(errorOf(message));
        break;
      case "closed":
        this.died(new Error("the engine is closed"));
        break;
      case "ready":
      case "progress":
        invariant(false, `the engine said ${message.kind} after it was ready`);
    }
  }

  /** The engine is gone. What is in flight waits for the next one, but for a request that is to blame, which ends: its id is returned. */
  lost(): string | undefined {
    const { promptTokens, generationTokens } = this.#told;
    this.#stats = { ...this.#stats, promptTokens: Math.max(promptTokens, this.#stats.promptTokens), generationTokens: Math.max(generationTokens, this.#stats.generationTokens) };
    this.#former = this.stats;
    this.#told = { promptTokens: 0, generationTokens: 0 };
    this.#stats = noStats(this.info);
    this.#up = false;
    const blamed = this.#ledger.lost(this.info.maxNumSeqs);
    if (!blamed) return undefined;
    blamed.release();
    blamed.queue.push({ id: blamed.id, tokens: [], finish: "error", message: `the engine died ${blamed.numDeaths} times over this request; it is not tried again` });
    blamed.queue.end();
    if (this.#ledger.size === 0) this.#link.busy(false);
    return blamed.id;
  }

  /** Another engine is ready, in the place of the one that was lost. */
  found(): void {
    this.#up = true;
    this.#restarts++;
    this.#handOver();
  }

  /** Every stream throws `reason`, those to come too. The first reason stands. */
  died(reason: Error): void {
    this.#death ??= reason;
    for (const { id, queue } of this.#ledger.all()) {
      this.#forget(id);
      queue.fail(this.#death);
    }
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    this.#death ??= new Error("the engine is closed");
    for (const { id, queue } of this.#ledger.all()) {
      this.#forget(id);
      end(queue, id);
    }
    await this.#link.close();
  }

  #handOver(): void {
    if (!this.#up) return;
    for (const { id, prompt, params, standing, output, numRead } of this.#ledger.next()) {
      const told = output.length > 0 || numRead > 1 ? { told: { tokens: [...output], numRead } } : {};
      this.#link.post({ kind: "submit", id, prompt, params, standing, ...told });
    }
  }

  #deliver(delta: Delta): void {
    // One that has left may still be spoken of: its abort was on the way.
    const request = this.#ledger.get(delta.id);
    if (!request) return;
    if (request.output.length === 0 && delta.tokens.length > 0) this.#told.promptTokens += request.prompt.length;
    this.#told.generationTokens += delta.tokens.length;
    const goesOn = this.#ledger.told(request, delta);
    request.queue.push(delta);
    if (delta.finish) {
      this.#forget(delta.id);
      request.queue.end();
    } else if (goesOn) this.#handOver();
  }

  #forget(id: string): InFlight | undefined {
    const request = this.#ledger.get(id);
    if (!request) return undefined;
    request.release();
    this.#ledger.remove(id);
    if (this.#ledger.size === 0) this.#link.busy(false);
    else if (this.#death === undefined) this.#handOver();
    return request;
  }

  #leave(id: string): void {
    if (this.#forget(id)?.handedOver && this.#up) this.#link.post({ kind: "abort", id });
  }
}

const noStats = ({ numPages, speculation }: EngineInfo): Stats => ({
  numRunning: 0, numWaiting: 0, numFreePages: numPages, numPages, numSteps: 0, promptTokens: 0, generationTokens: 0, numPreemptions: 0, numExpiredPages: 0, prefixCacheQueries: 0, prefixCacheHits: 0,
  stepTokens: 0, stepSeconds: 0, computedTokens: 0, stepsOfSize: zeros(stepSizes.length + 1), numStepsAhead: 0, hostSeconds: 0, hiddenSeconds: 0, waitSeconds: 0,
  draftSeconds: 0, numDrafts: 0, numDraftTokens: 0, acceptedPerPosition: zeros(speculation?.numSpeculativeTokens ?? 0),
});
const zeros = (length: number): number[] => new Array<number>(length).fill(0);

function end(queue: Queue<Delta>, id: string): void {
  queue.push({ id, tokens: [], finish: "abort" });
  queue.end();
}

/** What an engine said it died of. */
export function errorOf({ message, theirs, stack }: FromEngine & { readonly kind: "failed" }): Error {
  if (theirs) return new UsageError(message);
  const error = new Error(`the engine died: ${message}`);
  if (stack !== undefined) error.stack = `the engine died: ${stack}`;
  return error;
}

/** A client of an engine in this thread, which then steps between other work; no other takes its place. `release` frees what the engine stands on. */
export function clientOf(engine: Engine, info: EngineInfo, now: () => number, release: () => Promise<void> = async () => {}): EngineClient {
  const link: Link = {
    inProcess: true,
    post: (message) => host.receive(message),
    busy: () => {},
    close: async () => {
      host.receive({ kind: "close" });
      await host.ended;
      await release();
    },
  };
  const client: Client = new Client(info, link, engine.seed);
  const host = new Host(engine, { post: (message) => client.receive(message), now });
  return client;
}
