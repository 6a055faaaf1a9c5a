/**
 * The one gate that requests of all routes pass before anything is done for them: is there an engine, is the server staying, is there room.
 *
 *   running    as many as the engine works on at once (--max-num-seqs)
 *   queue      the rest, bounded by requests and by the tokens of prompts that have no answer yet; more are refused at once, by 429, and told when
 *              to come again: when half of the queue will have gone at the rate of the last seconds
 *
 * A request that is larger than the whole queue is let in when there is no other. The gate is asked before a body is read, with what is known then, and
 * again by what the body holds; tokens are an estimate until they are counted. It knows no route and no wire format.
 */
import type { LLM } from "../llm.ts";
import { HttpError } from "./errors.ts";
import { limits } from "./limits.ts";

export interface GateOptions {
  /** Requests that may wait beyond those that run. vLLM's flag. Default: limits.queuedRequests. */
  readonly maxNumQueuedReqs?: number;
  /** Prompt tokens of requests that have no token of an answer yet. vLLM's flag. Default: limits.queuedTokens. */
  readonly maxNumQueuedTokens?: number;
  /** Aborted when the server begins to stop: what runs goes on, nothing new is let in. */
  readonly draining?: AbortSignal;
  /** Aborted when the server stops: what still runs is ended. */
  readonly shutdown?: AbortSignal;
}

/** Why somebody was refused, as /metrics counts them. */
export const refusalReasons = ["requests", "tokens", "bodies", "engine", "stopping"] as const;
export type RefusalReason = (typeof refusalReasons)[number];

export interface Admission {
  /** Aborted when the client leaves or the server stops, with the HttpError that says which. */
  readonly signal: AbortSignal;
  /** How many tokens the prompts have, now that they are counted. */
  counted(tokens: readonly number[]): void;
  /** The first token for a prompt has come. */
  answered(index: number): void;
  /** Gives the room back; to be called once, when nothing of it runs any more. */
  release(): void;
}

/** Seconds over which the rate of departures is taken. */
const rateSeconds = 10;

export class Gate {
  readonly #llm: LLM;
  readonly #now: () => number;
  readonly #draining: AbortSignal | undefined;
  readonly #shutdown: AbortSignal | undefined;
  readonly #maxRequests: number;
  readonly #maxTokens: number;
  #inFlight = 0;
  #queuedTokens = 0;
  /** Bytes of the bodies that are being read. */
  readonly #bodyBytes = { short: 0, long: 0 };
  /** Departures, each counting less as it grows older, as of `#departedAt`; and since when they are counted. */
  #departures = 0;
  #departedAt: number;
  readonly #since: number;
  readonly #refused = new Map<RefusalReason, number>(refusalReasons.map((reason) => [reason, 0]));

  /** `now`: seconds. */
  constructor(llm: LLM, now: () => number, { maxNumQueuedReqs = limits.queuedRequests, maxNumQueuedTokens = limits.queuedTokens, draining, shutdown }: GateOptions = {}) {
    this.#llm = llm;
    this.#now = now;
    this.#draining = draining;
    this.#shutdown = shutdown;
    this.#maxRequests = llm.info.maxNumSeqs + maxNumQueuedReqs;
    this.#maxTokens = maxNumQueuedTokens;
    this.#since = this.#departedAt = now();
  }

  /** Requests that are let in and not answered to the end. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Tokens of prompts that have no token of an answer yet. */
  get queuedTokens(): number {
    return this.#queuedTokens;
  }

  /** How many were refused, and why, since the start. */
  get refused(): ReadonlyMap<RefusalReason, number> {
    return this.#refused;
  }

  /** Why requests with so many tokens each would be refused now; undefined: they would not. */
  refusal(tokens: readonly number[] = [0]): readonly [reason: RefusalReason, error: HttpError] | undefined {
    const later = (seconds: number) => ({ "retry-after": String(seconds) });
    if (this.#draining?.aborted || this.#shutdown?.aborted) return ["stopping", new HttpError(503, "the server is shutting down", null, later(limits.retryAfterSeconds.least))];
    if (this.#llm.restarting) {
      return ["engine", new HttpError(503, "the engine is being started again; try again soon", null, later(within(this.#llm.info.loadSeconds)))];
    }
    if (!this.#llm.alive) return ["engine", new HttpError(503, "the engine has stopped; the server's log says why")];
    if (this.#inFlight === 0) return undefined;
    const { maxNumSeqs } = this.#llm.info;
    if (this.#inFlight + tokens.length > this.#maxRequests) {
      const message = `${this.#inFlight} requests are in flight; ${maxNumSeqs} run at once and ${this.#maxRequests - maxNumSeqs} may wait (--max-num-queued-reqs); try again later`;
      return ["requests", new HttpError(429, message, null, later(this.#retryAfter()))];
    }
    const sum = tokens.reduce((a, b) => a + b, 0);
    if (this.#queuedTokens > 0 && this.#queuedTokens + sum > this.#maxTokens) {
      const message = `${this.#queuedTokens} tokens of prompts wait, of at most ${this.#maxTokens} (--max-num-queued-tokens); try again later`;
      return ["tokens", new HttpError(429, message, null, later(this.#retryAfter()))];
    }
    return undefined;
  }

  /** Reads a body of so many bytes at most, if one more request would be let in: a full server reads none. Throws HttpError 429 or 503. */
  async reading<T>(bytes: number, read: () => Promise<T>): Promise<T> {
    this.#refuse(this.refusal());
    const kind = bytes <= limits.shortBodyBytes ? "short" : "long", sum = this.#bodyBytes[kind];
    if (sum > 0 && sum + bytes > limits.bodiesBytes) {
      const message = `bodies of ${sum} bytes are being read, of at most ${limits.bodiesBytes}; try again later`;
      this.#refuse(["bodies", new HttpError(429, message, null, { "retry-after": String(limits.retryAfterSeconds.least) })]);
    }
    this.#bodyBytes[kind] += bytes;
    try {
      return await read();
    } finally {
      this.#bodyBytes[kind] -= bytes;
    }
  }

  #refuse(refused: readonly [reason: RefusalReason, error: HttpError] | undefined): void {
    if (!refused) return;
    const [reason, error] = refused;
    this.#refused.set(reason, this.#refused.get(reason)! + 1);
    throw error;
  }

  /** Lets one request in for each of `tokens`, an estimate of how many it has. Throws HttpError 429 or 503 when there is no room. */
  admit(request: Request, tokens: readonly number[]): Admission {
    this.#refuse(this.refusal(tokens));
    const abort = new AbortController();
    const onLeave = () => abort.abort(new HttpError(499, "the client closed the connection"));
    const onShutdown = () => abort.abort(new HttpError(503, "the server is shutting down"));
    request.signal.addEventListener("abort", onLeave, { once: true });
    this.#shutdown?.addEventListener("abort", onShutdown, { once: true });
    if (request.signal.aborted) onLeave();
    let waiting = [...tokens];
    this.#inFlight += tokens.length;
    const add = (sign: 1 | -1) => {
      for (const count of waiting) this.#queuedTokens += sign * count;
    };
    add(1);
    return {
      signal: abort.signal,
      counted: (exact) => {
        add(-1);
        waiting = [...exact];
        add(1);
      },
      answered: (index) => {
        this.#queuedTokens -= waiting[index]!;
        waiting[index] = 0;
      },
      release: () => {
        request.signal.removeEventListener("abort", onLeave);
        this.#shutdown?.removeEventListener("abort", onShutdown);
        add(-1);
        this.#inFlight -= tokens.length;
        this.#departures = this.#recent() + tokens.length;
        this.#departedAt = this.#now();
      },
    };
  }

  /** Departures of the last seconds. */
  #recent(): number {
    return this.#departures * Math.exp((this.#departedAt - this.#now()) / rateSeconds);
  }

  /** Seconds in which half of the queue will have gone, at the rate of late. */
  #retryAfter(): number {
    // A server that has just begun has counted over a shorter time.
    const over = rateSeconds * (1 - Math.exp((this.#since - this.#now()) / rateSeconds));
    const perSecond = this.#recent() / over;
    return within((this.#inFlight - this.#llm.info.maxNumSeqs) / 2 / perSecond);
  }
}

function within(seconds: number): number {
  const { least, most } = limits.retryAfterSeconds;
  return Number.isNaN(seconds) ? most : Math.min(most, Math.max(least, Math.ceil(seconds)));
}
