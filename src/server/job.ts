/**
 * One HTTP request's generations, from admission to the last token: started together, measured as they run, and ended
 * when the client leaves or the server shuts down. It knows no wire format.
 */
import { Queue } from "../core/queue.ts";
import type { FinishReason } from "../engine/messages.ts";
import type { Generation, GenerationDelta, GenerationResult } from "../llm/generation.ts";
import type { Context } from "./context.ts";
import { HttpError } from "./errors.ts";
import { limits } from "./limits.ts";

/** A generation that is to be started, with about how many tokens its prompt has. */
export interface Start {
  readonly tokens: number;
  start(signal: AbortSignal): Generation;
}

/** About how many tokens a prompt has, before anybody has counted. */
export const aboutTokens = (prompt: string | ArrayLike<number>): number => (typeof prompt === "string" ? Math.ceil(prompt.length / limits.charactersPerToken) : prompt.length);

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
  /**
   * Steps as they are made, of all choices mixed. Throws HttpError when the client left or the server stops, and when whoever reads them is further
   * behind than a client may be. To be read once.
   */
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
export async function openJob(context: Context, request: Request, { id, n, maxTokens, check }: Asked, starts: readonly Start[]): Promise<Job> {
  const { gate, metrics, now, logRequest, stallSeconds } = context;
  const arrivedAt = now();
  // A prompt is computed once for all its choices.
  const ofChoices = (tokens: readonly number[]): readonly number[] => tokens.flatMap((count) => [count, ...new Array<number>(n - 1).fill(0)]);
  const { signal, counted, answered, release } = gate.admit(request, ofChoices(starts.map(({ tokens }) => tokens)));
  const generations: Generation[] = [];
  const cancel = () => generations.forEach((generation) => generation.cancel());
  let prompts: readonly Int32Array[];
  try {
    for (const { start } of starts) generations.push(start(signal));
    prompts = await Promise.all(generations.map(({ prompt }) => prompt));
    check?.(prompts);
    counted(ofChoices(prompts.map(({ length }) => length)));
  } catch (error) {
    cancel();
    release();
    throw error;
  }

  const submittedAt = now();
  const steps = new Queue<Step & { readonly madeAt: number }>();
  let numRunning = generations.length, cachedTokens = 0, newest = submittedAt;
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
        newest = now();
        observer.delta(delta, newest);
        // What the later choices of a prompt find in the cache is what the first has computed.
        if (delta.index === 0) cachedTokens += delta.cachedTokens ?? 0;
        if (delta.tokens.length > 0) answered(prompt * n);
        steps.push({ prompt, index: prompt * n + delta.index, delta, madeAt: newest });
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
  const inTime = async function* (): AsyncGenerator<Step, void, void> {
    for await (const step of steps) {
      if (newest - step.madeAt > stallSeconds) throw new HttpError(499, `the client is more than ${stallSeconds} s behind what was made for it, and is cut off`);
      yield step;
    }
  };
  return { prompts, get cachedTokens() { return cachedTokens; }, steps: inTime(), cancel, results: () => Promise.all(generations) };
}
