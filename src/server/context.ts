/**
 * What every route shares, and the one gate that requests pass before anything is done for them: is there an engine, is the
 * server staying, is there room. It knows no route and no wire format.
 */
import type { LLM } from "../llm.ts";
import { HttpError } from "./errors.ts";
import { limits } from "./limits.ts";
import type { Metrics } from "./metrics.ts";

export interface Context {
  readonly llm: LLM;
  /** Names a request may use; the first is the one answers carry. */
  readonly modelNames: readonly string[];
  readonly metrics: Metrics;
  /** Seconds since 1970, with fractions; never runs backwards. */
  readonly now: () => number;
  /** Takes a line for each generation that ended; undefined where nobody wants them. Never holds what was asked or answered. */
  readonly logRequest: ((line: string) => void) | undefined;
  /** Whose request it is, by the key it brought: tenants share nothing in the cache. undefined: there are no keys. */
  readonly tenant?: string;
  /** A fresh id of a request, without a prefix. */
  readonly newId: () => string;
  /** Aborted when the server begins to stop: what runs goes on, nothing new is let in. */
  readonly draining: AbortSignal;
  /** Aborted when the server stops: what still runs is ended. */
  readonly shutdown: AbortSignal;
  /** A client that reads nothing for so long is cut off. */
  readonly stallSeconds: number;
  /** Requests in flight, for admission. */
  readonly load: { inFlight: number };
}

/** Why `count` more requests would be refused now; undefined: they would not. */
export function refusal({ llm, load, draining, shutdown }: Context, count: number): HttpError | undefined {
  const later = { "retry-after": String(limits.retryAfterSeconds) };
  if (draining.aborted || shutdown.aborted) return new HttpError(503, "the server is shutting down", null, later);
  if (!llm.alive) return new HttpError(503, "the engine has stopped; the server's log says why");
  if (load.inFlight + count <= limits.requestsInFlight) return undefined;
  return new HttpError(429, `${load.inFlight} requests are in flight, of at most ${limits.requestsInFlight}; try again later`, null, later);
}

export interface Admission {
  /** Aborted when the client leaves or the server stops, with the HttpError that says which. */
  readonly signal: AbortSignal;
  /** Gives the room back; to be called once, when nothing of it runs any more. */
  release(): void;
}

/** Lets `count` requests in. Throws HttpError 429 or 503 when there is no room. */
export function admit(context: Context, request: Request, count: number): Admission {
  const refused = refusal(context, count);
  if (refused) throw refused;
  const { load, shutdown } = context;
  const abort = new AbortController();
  const onLeave = () => abort.abort(new HttpError(499, "the client closed the connection"));
  const onShutdown = () => abort.abort(new HttpError(503, "the server is shutting down"));
  request.signal.addEventListener("abort", onLeave, { once: true });
  shutdown.addEventListener("abort", onShutdown, { once: true });
  if (request.signal.aborted) onLeave();
  load.inFlight += count;
  return {
    signal: abort.signal,
    release() {
      request.signal.removeEventListener("abort", onLeave);
      shutdown.removeEventListener("abort", onShutdown);
      load.inFlight -= count;
    },
  };
}
