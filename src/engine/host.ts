/**
 * Runs an engine behind messages.ts: steps while there is work, sleeps while there is none.
 *
 * Between steps it gives the event loop a turn, so that what has come in (a new request, an abort) is part of the next step.
 * Knows no thread: whoever hosts it hands in how to post and passes on what arrives.
 */
import { UsageError } from "../core/errors.ts";
import type { Engine } from "./engine.ts";
import type { FromEngine, ToEngine } from "./messages.ts";

/** Seconds between two Stats while it runs. */
const statsInterval = 0.05;

export interface HostSetup {
  readonly post: (message: FromEngine) => void;
  /** Seconds. */
  readonly now: () => number;
}

export class Host {
  readonly #engine: Engine;
  readonly #post: (message: FromEngine) => void;
  readonly #now: () => number;
  #closing = false;
  /** When Stats were last posted. */
  #told = -Infinity;
  #wake: () => void = () => {};
  /** Resolves when it has been closed or has failed; never rejects. */
  readonly ended: Promise<void>;

  constructor(engine: Engine, { post, now }: HostSetup) {
    this.#engine = engine;
    this.#post = post;
    this.#now = now;
    this.ended = this.#run();
  }

  receive(message: ToEngine): void {
    switch (message.kind) {
      case "submit":
        this.#engine.submit(message.id, message.prompt, message.params, message.standing, message.told);
        break;
      case "abort":
        this.#engine.abort(message.id);
        break;
      case "close":
        this.#closing = true;
        break;
    }
    this.#wake();
  }

  async #run(): Promise<void> {
    try {
      while (!this.#closing) {
        if (this.#engine.idle) await new Promise<void>((resolve) => (this.#wake = resolve));
        else {
          await this.#step();
          await turn();
        }
      }
      this.#engine.abortAll();
      await this.#step();
    } catch (error) {
      this.#post(failure(error));
    }
  }

  /** Stats go first: whoever sees a request's end finds it counted. */
  async #step(): Promise<void> {
    const deltas = await this.#engine.step();
    if (this.#engine.idle || this.#now() - this.#told >= statsInterval) {
      this.#told = this.#now();
      this.#post({ kind: "stats", stats: this.#engine.stats() });
    }
    if (deltas.length > 0) this.#post({ kind: "deltas", deltas });
  }
}

/** `error` as the message that says the engine is dead. */
export function failure(error: unknown): FromEngine {
  if (error instanceof UsageError) return { kind: "failed", message: error.message, theirs: true };
  if (!(error instanceof Error)) return { kind: "failed", message: String(error), theirs: false };
  return { kind: "failed", message: error.message, theirs: false, ...(error.stack !== undefined && { stack: error.stack }) };
}

/** One turn of the event loop, in which messages arrive. */
function turn(): Promise<void> {
  return new Promise((resolve) => {
    if (typeof setImmediate === "function") return void setImmediate(resolve);
    // Browsers hold nested timers back by 4 ms; a message they do not.
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(0);
  });
}
