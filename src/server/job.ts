/**
 * One HTTP request's generations, from admission to the last token: started together, measured as they run, and ended
 * when the client leaves or the server shuts down. It knows no wire format.
 */
import { Queue } from "../core/queue.ts";
import type { Generation, GenerationDelta, GenerationResult } from "../llm/generation.ts";
import type { LLM } from "../llm.ts";
import { HttpError } from "./errors.ts";
import type { Metrics } from "./metrics.ts";
import { requestLimits } from "./schema.ts";

/** What every route shares. */
export interface Context {
  readonly llm: LLM;
  /** Names a request may use; the first is the one answers carry. */
  readonly modelNames: readonly string[];
  readonly metrics: Metrics;
  /** Seconds since 1970, with fractions; never runs backwards. */
  readonly now: () => number;
  /** A fresh id of a request, without a prefix. */
  readonly newId: () => string;
  /** Aborted when the server stops: what still runs is ended. */
  readonly shutdown: AbortSignal;
  /** A client that reads nothing for so long is cut off. */
  readonly stallSeconds: number;
  /** Requests in flight, for admission. */
  readonly load: { inFlight: number };
}

/** One step of one of the job's generations. */
export interface Step {
  readonly index: number;
  readonly delta: GenerationDelta;
}

export interface Job {
  /** The prompts' token ids, in order. */
  readonly prompts: readonly Int32Array[];
  /** Steps as they are made, of all generations mixed. Throws HttpError when the client left or the server stops. To be read once. */
  readonly steps: AsyncIterable<Step>;
  /** The results; ready once `steps` has ended. */
  results(): Promise<readonly GenerationResult[]>;
  /** Ends all of it; nothing when it has ended by itself. */
  cancel(): void;
}

/**
 * Starts one generation for each of `starts` and waits until all prompts are known to be good.
 * Throws BadRequest when one is not (and ends the others), HttpError 429 or 503 when there is no room.
 */
export async function openJob(context: Context, request: Request, starts: readonly ((signal: AbortSignal) => Generation)[]): Promise<Job> {
  const { llm, load, metrics, now, shutdown } = context;
  const arrivedAt = now();
  if (shutdown.aborted) throw new HttpError(503, "the server is shutting down");
  if (!llm.alive) throw new HttpError(503, "the engine has stopped; the server's log says why");
  if (load.inFlight + starts.length > requestLimits.requestsInFlight) {
    const message = `${load.inFlight} requests are in flight, of at most ${requestLimits.requestsInFlight}; try again later`;
    throw new HttpError(429, message, null, { "retry-after": "1" });
  }

  const abort = new AbortController();
  const onLeave = () => abort.abort(new HttpError(499, "the client closed the connection"));
  const onShutdown = () => abort.abort(new HttpError(503, "the server is shutting down"));
  request.signal.addEventListener("abort", onLeave, { once: true });
  shutdown.addEventListener("abort", onShutdown, { once: true });
  if (request.signal.aborted) onLeave();
  load.inFlight += starts.length;
  const release = () => {
    request.signal.removeEventListener("abort", onLeave);
    shutdown.removeEventListener("abort", onShutdown);
    load.inFlight -= starts.length;
  };

  const generations: Generation[] = [];
  const cancel = () => generations.forEach((generation) => generation.cancel());
  let prompts: readonly Int32Array[];
  try {
    for (const start of starts) generations.push(start(abort.signal));
    prompts = await Promise.all(generations.map(({ prompt }) => prompt));
  } catch (error) {
    cancel();
    release();
    throw error;
  }

  const steps = new Queue<Step>();
  let running = generations.length;
  const follow = async (generation: Generation, index: number): Promise<void> => {
    const observer = metrics.observe(arrivedAt);
    const promptTokens = prompts[index]!.length;
    try {
      for await (const delta of generation) {
        observer.delta(delta);
        steps.push({ index, delta });
      }
      const { finishReason } = await generation;
      observer.end(finishReason, promptTokens);
    } catch (error) {
      observer.end(abort.signal.aborted ? "abort" : "error", promptTokens);
      steps.fail(error);
      cancel();
    } finally {
      if (--running === 0) {
        steps.end();
        release();
      }
    }
  };
  generations.forEach((generation, index) => void follow(generation, index));
  return { prompts, steps, cancel, results: () => Promise.all(generations) };
}
