/**
 * One HTTP request's generations, from admission to the last token: started together, measured as they run, and ended
 * when the client leaves or the server shuts down. It knows no wire format.
 */
import { Queue } from "../core/queue.ts";
import type { FinishReason } from "../engine/messages.ts";
import type { Generation, GenerationDelta, GenerationResult } from "../llm/generation.ts";
import { admit, type Context } from "./context.ts";

/** One step of one of the job's generations. */
export interface Step {
  readonly index: number;
  readonly delta: GenerationDelta;
}

/** What a job is called, and what is measured of it. */
export interface Asked {
  readonly id: string;
  /** Most tokens of each generation; undefined: the request did not say. */
  readonly maxTokens: number | undefined;
}

export interface Job {
  /** The prompts' token ids, in order. */
  readonly prompts: readonly Int32Array[];
  /** Tokens of the prompts that were in the cache, as far as it is known: when a prompt's first token has come. */
  readonly cachedTokens: number;
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
export async function openJob(context: Context, request: Request, { id, maxTokens }: Asked, starts: readonly ((signal: AbortSignal) => Generation)[]): Promise<Job> {
  const { metrics, now, logRequest } = context;
  const arrivedAt = now();
  const { signal, release } = admit(context, request, starts.length);
  const generations: Generation[] = [];
  const cancel = () => generations.forEach((generation) => generation.cancel());
  let prompts: readonly Int32Array[];
  try {
    for (const start of starts) generations.push(start(signal));
    prompts = await Promise.all(generations.map(({ prompt }) => prompt));
  } catch (error) {
    cancel();
    release();
    throw error;
  }

  const submittedAt = now();
  const steps = new Queue<Step>();
  let running = generations.length, cachedTokens = 0;
  const follow = async (generation: Generation, index: number): Promise<void> => {
    const promptTokens = prompts[index]!.length;
    const observer = metrics.observe({ arrivedAt, submittedAt, promptTokens, maxTokens });
    const end = (finish: FinishReason): void => {
      const { tokens, firstTokenSeconds, seconds } = observer.end(finish);
      const first = firstTokenSeconds === undefined ? "" : `first after ${firstTokenSeconds.toFixed(3)} s, `;
      logRequest?.(`${id}${prompts.length > 1 ? `-${index}` : ""}: ${promptTokens} prompt tokens, ${tokens} generated, ${first}${finish} after ${seconds.toFixed(3)} s`);
    };
    try {
      for await (const delta of generation) {
        observer.delta(delta);
        cachedTokens += delta.cachedTokens ?? 0;
        steps.push({ index, delta });
      }
      const { finishReason } = await generation;
      end(finishReason);
    } catch (error) {
      end(signal.aborted ? "abort" : "error");
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
  return { prompts, get cachedTokens() { return cachedTokens; }, steps, cancel, results: () => Promise.all(generations) };
}
