/**
 * The near side of the engine: requests in, one stream of deltas each. What lies behind the messages is a worker thread, a process
 * where the device's driver may end that (`startEngine`), or an engine in this thread (`clientOf`).
 *
 * A stream ends after its Delta with `finish`. Whoever leaves the loop early, or aborts the signal, ends the request: the engine
 * frees its pages before its next step. When the engine dies, every stream throws what it died of.
 */
import { spawn, spawnProcess } from "#thread";
import { type AttentionOverrideData, sharedCapture } from "../attention/override.ts";
import { capsOf } from "../backend/caps.ts";
import { invariant, UsageError } from "../core/errors.ts";
import { Queue } from "../core/queue.ts";
import type { Thread } from "../core/thread.ts";
import type { SamplingParams } from "../sampling/params.ts";
import type { Engine } from "./engine.ts";
import { Host } from "./host.ts";
import type { Delta, EngineInfo, FromEngine, Standing, Stats, ToEngine } from "./messages.ts";
import type { EngineOptions, Machine, Progress } from "./open.ts";

export type { EngineOptions, Progress };

export interface EngineClient {
  readonly info: EngineInfo;
  /**
   * Starts a request; ends after the Delta with `finish`. Leaving the loop early or aborting the signal frees its pages. Throws when
   * the engine has died.
   */
  generate(prompt: Int32Array, params: SamplingParams, signal?: AbortSignal, standing?: Standing): AsyncIterable<Delta>;
  /** Whether the engine runs in this thread, so that functions reach it. */
  readonly inProcess: boolean;
  /** The newest. */
  readonly stats: Stats;
  /** false once the engine has died or is closed. */
  readonly alive: boolean;
  /** Aborts what is running, then frees threads and memory. */
  close(): Promise<void>;
}

/** The way to the engine. */
interface Link {
  readonly inProcess: boolean;
  post(message: ToEngine): void;
  /** Whether requests are in flight: only then need the process wait for the engine. */
  busy(yes: boolean): void;
  /** Resolves when nothing of the engine is left; `close` has been posted. */
  closed(): Promise<void>;
}

interface InFlight {
  readonly queue: Queue<Delta>;
  /** Lets go of the signal. */
  readonly release: () => void;
}

class Client implements EngineClient {
  readonly info: EngineInfo;
  readonly #link: Link;
  readonly #inFlight = new Map<string, InFlight>();
  #stats: Stats;
  #numRequests = 0;
  #death: Error | undefined;
  #closing: Promise<void> | undefined;

  constructor(info: EngineInfo, link: Link) {
    this.info = info;
    this.#link = link;
    this.#stats = {
      numRunning: 0, numWaiting: 0, numFreePages: info.numPages, numPages: info.numPages, numSteps: 0, promptTokens: 0,
      generationTokens: 0, numPreemptions: 0, prefixCacheQueries: 0, prefixCacheHits: 0, stepTokens: 0, stepSeconds: 0, numStepsAhead: 0, hostSeconds: 0,
      hiddenSeconds: 0, waitSeconds: 0, draftSeconds: 0, numDrafts: 0, numDraftTokens: 0, acceptedPerPosition: [],
    };
  }

  get stats(): Stats {
    return this.#stats;
  }

  get inProcess(): boolean {
    return this.#link.inProcess;
  }

  get alive(): boolean {
    return this.#death === undefined;
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
      if (this.#inFlight.size === 0) this.#link.busy(true);
      this.#inFlight.set(id, { queue, release: () => signal?.removeEventListener("abort", abort) });
      this.#link.post({ kind: "submit", id, prompt, params, standing });
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

  /** Every stream throws `reason`, those to come too. The first reason stands. */
  died(reason: Error): void {
    this.#death ??= reason;
    for (const [id, { queue }] of [...this.#inFlight]) {
      this.#forget(id);
      queue.fail(this.#death);
    }
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    for (const [id, { queue }] of [...this.#inFlight]) {
      this.#forget(id);
      end(queue, id);
    }
    if (this.alive) this.#link.post({ kind: "close" });
    this.#death ??= new Error("the engine is closed");
    await this.#link.closed();
  }

  #deliver(delta: Delta): void {
    // One that has left may still be spoken of: its abort was on the way.
    const request = this.#inFlight.get(delta.id);
    if (!request) return;
    request.queue.push(delta);
    if (!delta.finish) return;
    this.#forget(delta.id);
    request.queue.end();
  }

  #forget(id: string): boolean {
    const request = this.#inFlight.get(id);
    if (!request) return false;
    request.release();
    this.#inFlight.delete(id);
    if (this.#inFlight.size === 0) this.#link.busy(false);
    return true;
  }

  #leave(id: string): void {
    if (this.#forget(id)) this.#link.post({ kind: "abort", id });
  }
}

function end(queue: Queue<Delta>, id: string): void {
  queue.push({ id, tokens: [], finish: "abort" });
  queue.end();
}

function errorOf({ message, theirs, stack }: FromEngine & { readonly kind: "failed" }): Error {
  if (theirs) return new UsageError(message);
  const error = new Error(`the engine died: ${message}`);
  if (stack !== undefined) error.stack = `the engine died: ${stack}`;
  return error;
}

/** A client of an engine in this thread, which then steps between other work. `release` frees what the engine stands on. */
export function clientOf(engine: Engine, info: EngineInfo, now: () => number, release: () => Promise<void> = async () => {}): EngineClient {
  const client: Client = new Client(info, { inProcess: true, post: (message) => host.receive(message), busy: () => {}, closed: () => host.ended.then(release) });
  const host = new Host(engine, { post: (message) => client.receive(message), now });
  return client;
}

/** Engines of this process that have begun and not ended. */
let livingEngines = 0;

/** What an engine's thread must know before its model is found, of options that say more. */
export function machineOf({ device, threads, deterministic }: Machine): Machine {
  return { device, ...(threads !== undefined && { threads }), ...(deterministic !== undefined && { deterministic }) };
}

/**
 * A thread for `startEngine`, or a process, which opens `machine` meanwhile. Started before the model is found, it is ready when the model is.
 * @throws UsageError when there is no such device
 */
export function prepareEngine(options: Machine): Thread {
  const { ownProcess } = capsOf(options.device);
  // The sources run as they are and as compiled: the worker's file ends as this one does.
  const url = new URL(import.meta.url.endsWith(".ts") ? "./worker.ts" : "./worker.js", import.meta.url);
  // Wide code is compiled under flags of the whole process, which must not meet another engine's kernels on their way through V8's compiler.
  const machine: Machine = { ...machineOf(options), wideVectors: livingEngines === 0 };
  if (ownProcess) return spawnProcess(url, machine);
  const thread = spawn(url, machine);
  livingEngines++;
  thread.onExit(() => livingEngines--);
  return thread;
}

/**
 * Loads a model and runs its engine in `thread`.
 * @throws UsageError for what the caller can mend: no such model, one that is not supported, one that does not fit.
 */
export async function startEngine(options: EngineOptions, onProgress?: Progress, thread = prepareEngine(options)): Promise<EngineClient> {
  if (capsOf(options.device).ownProcess && options.attention) {
    try {
      refuseShared(options.device, options.attention);
    } catch (error) {
      await thread.terminate();
      throw error;
    }
  }
  thread.post(options);
  return connect(thread, onProgress);
}

/**
 * Loads a model and runs its engine in this thread, which does nothing else while a step is computed. Functions reach it.
 * @throws UsageError as `startEngine` does
 */
export async function startEngineHere(options: EngineOptions, onProgress?: Progress): Promise<EngineClient> {
  // Loaded when it is asked for: elsewhere this thread needs no backend.
  const { openEngine, openMachine } = await import("./open.ts");
  const now = (): number => performance.now() / 1000;
  const machine: Machine = { ...machineOf(options), wideVectors: livingEngines === 0 };
  livingEngines++;
  try {
    const { engine, info, release } = await openEngine(options, now, onProgress, openMachine(machine));
    return clientOf(engine, info, now, () => release().finally(() => livingEngines--));
  } catch (error) {
    livingEngines--;
    throw error;
  }
}

/** Shared memory does not cross to a process. */
function refuseShared(device: string, attention: AttentionOverrideData): void {
  const found = sharedCapture(attention);
  if (!found) return;
  const { mod, capture } = found;
  throw new UsageError(`${mod} captures ${capture} over a SharedArrayBuffer, and device ${device} computes in a process of its own, which shares no memory; give the mod an array of its own`);
}

/** The client of an engine that `thread` is loading. The thread keeps the process alive while it loads and while requests are in flight. */
export function connect(thread: Thread, onProgress: Progress = () => {}): Promise<EngineClient> {
  return new Promise((resolve, reject) => {
    let client: Client | undefined;
    let exited!: () => void;
    const exit = new Promise<void>((done) => (exited = done));
    const link: Link = {
      inProcess: false,
      post: (message) => thread.post(message),
      busy: (yes) => (yes ? thread.ref() : thread.unref()),
      closed: () => (thread.ref(), exit),
    };
    thread.onMessage((data) => {
      const message = data as FromEngine;
      if (client) client.receive(message);
      else if (message.kind === "progress") onProgress(message.stage, message.done, message.total);
      else if (message.kind === "failed") reject(errorOf(message));
      else if (message.kind === "ready") {
        resolve((client = new Client(message.info, link)));
        thread.unref();
      }
      if (message.kind === "closed" || message.kind === "failed") void thread.terminate().then(exited);
    });
    thread.onExit((reason) => {
      exited();
      const error = new Error(`the engine died: ${reason}`);
      if (client) client.died(error);
      else reject(error);
    });
  });
}
