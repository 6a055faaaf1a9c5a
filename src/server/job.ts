/**
 * One HTTP request's generations, from admission to the last token: started together, measured as they run, and ended
 * when the client leaves or the server shuts down. It knows no wire format.
 */
import { Queue } from "../core/queue.ts";
import type { Generation, GenerationDelta, GenerationResult } from "../llm/generation.ts";
import { admit, type Context } from "./context.ts";

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
  const { metrics, now } = context;
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
      observer.end(signal.aborted ? "abort" : "error", promptTokens);
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
