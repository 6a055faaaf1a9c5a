/**
 * One HTTP request's generations, from admission to the last token: started together, measured as they run, and ended
 * when the client leaves or the server shuts down. It knows no wire format.
 */
import { Queue } from "../core/queue.ts";
import type { FinishReason } from "../engine/messages.ts";
import type { Generation, GenerationDelta, GenerationResult } from "../llm/generation.ts";
import { admit, type Context } from "./context.ts";

/** One step of one choice of one of the job's prompts. */
export interface Step {
  /** Of which prompt. */
  readonly prompt: number;
  /** Of which choice, counted over all prompts: those of the first, then those of the second. */
  readonly index: number;
  readonly delta: GenerationDelta;
}

/** What a job is called, and what is measured of it. */
export interface Asked {
  readonly id: string;
  /** Choices of each prompt. */
  readonly n: number;
  /** Most tokens of each choice; undefined: the request did not say. */
  readonly maxTokens: number | undefined;
  /** Refuses what only the prompts' tokens show to be too much. */
  readonly check?: (prompts: readonly Int32Array[]) => unknown;
}

export interface Job {
  /** The prompts' token ids, in order. */
  readonly prompts: readonly Int32Array[];
  /** Tokens of the prompts that were in the cache, as far as it is known: when a prompt's first token has come. */
  readonly cachedTokens: number;
  /** Steps as they are made, of all choices mixed. Throws HttpError when the client left or the server stops. To be read once. */
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
export async function openJob(context: Context, request: Request, { id, n, maxTokens, check }: Asked, starts: readonly ((signal: AbortSignal) => Generation)[]): Promise<Job> {
  const { metrics, now, logRequest } = context;
  const arrivedAt = now();
  const { signal, release } = admit(context, request, n * starts.length);
  const generations: Generation[] = [];
  const cancel = () => generations.forEach((generation) => generation.cancel());
  let prompts: readonly Int32Array[];
  try {
    for (const start of starts) generations.push(start(signal));
    prompts = await Promise.all(generations.map(({ prompt }) => prompt));
    check?.(prompts);
  } catch (error) {
    cancel();
    release();
    throw error;
  }

  const submittedAt = now();
  const steps = new Queue<Step>();
  let numRunning = generations.length, cachedTokens = 0;
  const follow = async (generation: Generation, prompt: number): Promise<void> => {
    const promptTokens = prompts[prompt]!.length;
    const observer = metrics.observe({ arrivedAt, submittedAt, promptTokens, maxTokens, n });
    const running = new Set(Array.from({ length: n }, (_, choice) => choice));
    const end = (choice: number, finish: FinishReason): void => {
      if (!running.delete(choice)) return;
      const { tokens, firstTokenSeconds, seconds } = observer.end(choice, finish);
      const first = firstTokenSeconds === undefined ? "" : `first after ${firstTokenSeconds.toFixed(3)} s, `;
      logRequest?.(`${id}${n * prompts.length > 1 ? `-${prompt * n + choice}` : ""}: ${promptTokens} prompt tokens, ${tokens} generated, ${first}${finish} after ${seconds.toFixed(3)} s`);
    };
    try {
      for await (const delta of generation) {
        observer.delta(delta);
        // What the later choices of a prompt find in the cache is what the first has computed.
        if (delta.index === 0) cachedTokens += delta.cachedTokens ?? 0;
        steps.push({ prompt, index: prompt * n + delta.index, delta });
        if (delta.finishReason) end(delta.index, delta.finishReason);
      }
      for (const { index, finishReason } of (await generation).choices) end(index, finishReason);
    } catch (error) {
      for (const choice of running) end(choice, signal.aborted ? "abort" : "error");
      steps.fail(error);
      cancel();
    } finally {
      if (--numRunning === 0) {
        steps.end();
        release();
      }
    }
  };
  generations.forEach((generation, prompt) => void follow(generation, prompt));
  return { prompts, get cachedTokens() { return cachedTokens; }, steps, cancel, results: () => Promise.all(generations) };
}
