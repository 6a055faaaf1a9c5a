/**
 * Keeps an engine running in a thread or a process: watches it, ends it when it is stuck, and starts another in the place of one that died.
 *
 *   loading ──ready──▶ up ──died, or stuck and ended──▶ loading ──ready──▶ up ...        the client holds the requests meanwhile
 *
 * The end is when there is no sense in another: what it died of is the operator's to mend (a UsageError), or engines die in a row (`limits`). Then
 * every request ends with that error. Knows what a thread is, and nothing of what the engine computes.
 */
import { UsageError } from "../core/errors.ts";
import type { Thread } from "../core/thread.ts";
import { Client, type EngineClient, errorOf, type Link } from "./client.ts";
import type { EngineInfo, FromEngine, ToEngine } from "./messages.ts";
import type { Progress } from "./open.ts";
import { lookSeconds, Watchdog } from "./watchdog.ts";

const limits = {
  /** So many deaths within so many seconds of being up: loading does not count. */
  deaths: 10, seconds: 600,
  /** Engines in a row that died while loading. */
  stillborn: 3,
  /** How long an engine that takes the place of another may say nothing while it loads: so long, or so many times what the first took, if that is more. */
  loadSeconds: 60, timesFirst: 10,
  /** How long a thread that is told to end may take. */
  endSeconds: 10,
} as const;

/** What becomes of an engine, for the operator's log. */
export type EngineEvent =
  /** `refused`: a request was to blame, and has ended with an error. */
  | { readonly kind: "died"; readonly reason: string; readonly numInFlight: number; readonly refused: boolean }
  | { readonly kind: "restarted"; readonly seconds: number; readonly numInFlight: number }
  /** There will be no other. */
  | { readonly kind: "ended"; readonly reason: string };

export interface Supervision {
  /** Starts the thread of another engine, which loads by itself, as large as the one before. */
  readonly again: (before: EngineInfo) => Thread;
  /** Where the seeds of requests without one come from. */
  readonly seed: number;
  /** Whether silence of an engine that has no pulse means anything: its steps are short, and its event loop turns. */
  readonly stepsAreShort: boolean;
  /** Of the first engine's loading. */
  readonly onProgress?: Progress;
  readonly onEvent?: (event: EngineEvent) => void;
  /** Seconds. */
  readonly now: () => number;
}

/** The client of the engine that `thread` is loading, and of those after it. The thread keeps the process alive while it loads and while requests are in flight. */
export function supervise(thread: Thread, supervision: Supervision): Promise<EngineClient> {
  return new Promise((resolve, reject) => new Supervisor(supervision).first(thread, resolve, reject));
}

/** What is told of one engine's life, each at most once, `gone` last. */
interface Life {
  readonly progress: Progress;
  readonly ready: (message: FromEngine & { readonly kind: "ready" }) => void;
  readonly gone: (reason: Error) => void;
}

class Supervisor implements Link {
  readonly inProcess = false;
  readonly #supervision: Supervision;
  #thread: Thread | undefined;
  #client: Client | undefined;
  #watchdog: Watchdog | undefined;
  #timer: ReturnType<typeof setInterval> | undefined;
  #busy = false;
  /** Nothing was heard since a request was handed over: until then the engine is looked at, also when whoever sent it has left. */
  #unanswered = false;
  #closing = false;
  /** Why the thread was told to end, if it was; whether it then did not. */
  #reason: Error | undefined;
  #stranded = false;
  /** To be told that the thread has ended, where nobody else does (a browser's). */
  #gone: (reason: Error) => void = () => {};
  #readyAt: number | undefined;
  /** How long the last engines were up; undefined: never. */
  readonly #lives: (number | undefined)[] = [];
  #ended!: () => void;
  readonly #end = new Promise<void>((resolve) => (this.#ended = resolve));

  constructor(supervision: Supervision) {
    this.#supervision = supervision;
  }

  first(thread: Thread, resolve: (client: EngineClient) => void, reject: (reason: Error) => void): void {
    const { onProgress = () => {}, seed } = this.#supervision;
    this.#begin(thread, {
      progress: onProgress,
      ready: (message) => {
        this.#client = new Client(message.info, this, seed);
        this.#isUp(message);
        resolve(this.#client);
      },
      gone: (reason) => (this.#client ? this.#died(reason) : reject(reason)),
    });
  }

  post(message: ToEngine): void {
    if (message.kind === "submit") this.#unanswered = true;
    this.#thread!.post(message);
  }

  busy(yes: boolean): void {
    this.#busy = yes;
    if (yes || this.#closing) this.#thread?.ref();
    else this.#thread?.unref();
    this.#watch();
  }

  close(): Promise<void> {
    this.#closing = true;
    if (this.#thread) {
      this.#thread.ref();
      // One that is loading listens to nobody.
      if (this.#readyAt !== undefined) this.post({ kind: "close" });
      else this.#stop(new Error("the engine is closed"));
      this.#watch();
    }
    return this.#end;
  }

  #begin(thread: Thread, { progress, ready, gone }: Life): void {
    this.#thread = thread;
    this.#reason = undefined;
    let isGone = false;
    this.#gone = (reason) => {
      if (isGone) return;
      isGone = true;
      this.#unanswered = false;
      this.#thread = this.#watchdog = undefined;
      this.#watch();
      gone(this.#reason ?? reason);
    };
    thread.onMessage((data) => {
      const message = data as FromEngine;
      if (isGone) return;
      if (message.kind === "alive") this.#watchdog?.beat(message.preparing);
      else this.#watchdog?.sign();
      if (message.kind === "alive") return;
      this.#unanswered = false;
      if (!this.#busy) this.#watch();
      if (message.kind === "progress") progress(message.stage, message.done, message.total);
      else if (message.kind === "ready") ready(message);
      else if (message.kind === "failed") this.#stop(errorOf(message));
      else if (message.kind === "closed") this.#stop(new Error("the engine is closed"));
      else this.#client!.receive(message);
    });
    thread.onExit((reason) => this.#gone(new Error(`the engine died: ${reason}`)));
  }

  /** Ends the thread, for a reason that counts for more than how it ended. */
  #stop(reason: Error): void {
    const gone = this.#gone;
    this.#reason ??= reason;
    const late = setTimeout(() => {
      this.#stranded = true;
      this.#reason = new Error(`${reason.message}; its thread does not end, so no other is started`);
      gone(this.#reason);
    }, limits.endSeconds * 1000);
    void this.#thread!.terminate().then(() => {
      clearTimeout(late);
      gone(reason);
    });
  }

  #isUp({ pulse: words }: { readonly pulse?: readonly Int32Array[] }): void {
    this.#readyAt = this.#supervision.now();
    // To a process memory does not cross: what came are copies.
    const pulse = words?.every(({ buffer }) => typeof SharedArrayBuffer !== "undefined" && buffer instanceof SharedArrayBuffer) ? words : undefined;
    this.#watchdog = pulse || this.#supervision.stepsAreShort ? new Watchdog(pulse) : undefined;
    this.busy(this.#busy);
  }

  /** Looks at the engine while it has something to do. */
  #watch(): void {
    const watchdog = this.#watchdog;
    if (!watchdog || !(this.#busy || this.#closing || this.#unanswered)) {
      clearInterval(this.#timer);
      this.#timer = undefined;
      return;
    }
    // What is quiet stays so, however clients come and go.
    if (this.#timer !== undefined) return;
    watchdog.start();
    this.#timer = setInterval(() => {
      if (!watchdog.look()) return;
      clearInterval(this.#timer);
      this.#timer = undefined;
      this.#stop(new Error("the engine died: it was stuck and has been ended"));
    }, lookSeconds * 1000);
    // What keeps the process is the engine's thread.
    (this.#timer as { unref?: () => void }).unref?.();
  }

  #died(reason: Error): void {
    const { onEvent = () => {}, now } = this.#supervision;
    const client = this.#client!;
    this.#lives.push(this.#readyAt === undefined ? undefined : now() - this.#readyAt);
    this.#readyAt = undefined;
    if (this.#closing) {
      client.died(reason);
      return this.#ended();
    }
    if (reason instanceof UsageError || this.#stranded) return this.#giveUp(reason);
    const refused = client.alive ? client.lost() !== undefined : false;
    const tooMany = this.#tooMany();
    if (tooMany !== undefined) return this.#giveUp(new Error(`${reason.message} (${tooMany})`));
    onEvent({ kind: "died", reason: reason.message, numInFlight: client.numInFlight, refused });
    this.#revive(now());
  }

  #revive(since: number): void {
    const { again, onEvent = () => {}, now } = this.#supervision;
    const client = this.#client!;
    let thread: Thread;
    try {
      thread = again(client.info);
    } catch (error) {
      return this.#giveUp(error instanceof Error ? error : new Error(String(error)));
    }
    if (!this.#busy) thread.unref();
    const patience = Math.max(limits.loadSeconds, limits.timesFirst * client.info.loadSeconds);
    let silent: ReturnType<typeof setTimeout> | undefined;
    const heard = (): void => {
      clearTimeout(silent);
      silent = setTimeout(() => this.#stop(new Error(`the engine died: it said nothing for ${patience} s while it was loading`)), 1000 * patience);
      (silent as { unref?: () => void }).unref?.();
    };
    heard();
    this.#begin(thread, {
      progress: heard,
      ready: (message) => {
        clearTimeout(silent);
        this.#isUp(message);
        client.found();
        onEvent({ kind: "restarted", seconds: now() - since, numInFlight: client.numInFlight });
      },
      gone: (reason) => {
        clearTimeout(silent);
        this.#died(reason);
      },
    });
  }

  /** Why there is no sense in another engine, if there is none. */
  #tooMany(): string | undefined {
    const last = (count: number) => (this.#lives.length < count ? undefined : this.#lives.slice(-count));
    if (last(limits.stillborn)?.every((up) => up === undefined)) return `${limits.stillborn} times in a row before it was ready`;
    const up = last(limits.deaths)?.reduce<number>((sum, seconds) => sum + (seconds ?? 0), 0) ?? Infinity;
    return up < limits.seconds ? `${limits.deaths} times within ${Math.ceil(up)} s` : undefined;
  }

  #giveUp(reason: Error): void {
    this.#client?.died(reason);
    this.#supervision.onEvent?.({ kind: "ended", reason: reason.message });
    this.#ended();
  }
}
