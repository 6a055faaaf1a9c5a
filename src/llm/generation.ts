/**
 * One generation under way: a stream of deltas that is also awaitable for the whole result.
 *
 * It starts at once, so that several started together run as one batch. Leaving the loop early, `cancel()` or the caller's
 * AbortSignal ends the engine's side and frees its memory. It turns token ids into text and watches for stop strings; it does
 * not know how prompts are encoded or tokens are made.
 */
import { BadRequest } from "../core/errors.ts";
import { Queue } from "../core/queue.ts";
import type { Delta, FinishReason, TokenLogprobs } from "../engine/messages.ts";
import type { Spelling } from "./fields.ts";
import { StopStrings } from "./stop-strings.ts";

export interface GenerationDelta {
  /** May be "" while the start of a character or of a stop string is held back. */
  readonly text: string;
  readonly tokens: readonly number[];
  /** One for each token, where asked for. */
  readonly logprobs?: readonly TokenLogprobs[];
  /** With the first token: how long the engine let the request wait before a step first worked on it. */
  readonly queueSeconds?: number;
  /** With the first token: how many tokens of the prompt were in the cache, where any were. */
  readonly cachedTokens?: number;
  /** Set on the last delta only. */
  readonly finishReason?: FinishReason;
  /** The stop string or stop token id that ended it, where one did. */
  readonly stopReason?: string | number;
}

export interface Usage {
  readonly promptTokens: number;
  readonly completionTokens: number;
  readonly totalTokens: number;
  /** Tokens of the prompt that were in the cache and were not computed again. */
  readonly cachedTokens: number;
}

export interface GenerationResult {
  readonly text: string;
  readonly tokenIds: readonly number[];
  /** "stop": an end token, stop id or stop string; "length": maxTokens or the context; "abort": `cancel()` or an early break. */
  readonly finishReason: FinishReason;
  readonly stopReason?: string | number;
  readonly usage: Usage;
  readonly logprobs?: readonly TokenLogprobs[];
  readonly promptTokenIds: readonly number[];
}

/** Text from token ids that arrive in pieces; a character cut in two waits for its other half. */
export interface TokenDecoder {
  push(ids: readonly number[]): string;
  flush(): string;
}

export interface OutputOptions {
  /** undefined: token ids only, no text. */
  readonly decoder: TokenDecoder | undefined;
  readonly stop: readonly string[];
  readonly includeStopStrInOutput: boolean;
  /** In the text of so many tokens no stop string ends. */
  readonly minTokens: number;
  /** How the caller spells field names. */
  readonly spell: Spelling;
  /** Tokens that end the output and are no part of its text. */
  readonly endTokens: ReadonlySet<number>;
}

/** The engine failed while the request ran. Ours, not the caller's: the message is safe to show. */
export class GenerationFailed extends Error {
  override readonly name = "GenerationFailed";
}

/** Text and stop strings over the engine's deltas. Returning early (a stop string) ends the engine's request. */
export async function* readOutput(deltas: AsyncIterable<Delta>, options: OutputOptions): AsyncGenerator<GenerationDelta, void, void> {
  const stops = new StopStrings(options.stop, options.includeStopStrInOutput);
  let made = 0;
  for await (const delta of deltas) {
    if (delta.finish === "error" && delta.param !== undefined) throw new BadRequest(options.spell(delta.param), delta.message ?? `${options.spell(delta.param)} is refused`);
    if (delta.finish === "error") throw new GenerationFailed(delta.message ?? "the engine could not finish this request");
    const tokens: number[] = [];
    let text = "";
    for (const token of delta.tokens) {
      tokens.push(token);
      made++;
      const ends = delta.finish === "stop" && tokens.length === delta.tokens.length && options.endTokens.has(token);
      if (!options.decoder || (ends && !options.includeStopStrInOutput)) continue;
      const scan = stops.push(options.decoder.push([token]), made > options.minTokens);
      text += scan.text;
      if (scan.stop !== undefined) {
        yield output(text, tokens, delta, "stop", scan.stop);
        return;
      }
    }
    if (delta.finish === undefined) {
      yield output(text, tokens, delta);
      continue;
    }
    const scan = stops.push(options.decoder?.flush() ?? "", made > options.minTokens);
    text += scan.text;
    if (scan.stop !== undefined) yield output(text, tokens, delta, "stop", scan.stop);
    else yield output(text + stops.flush(), tokens, delta, delta.finish, delta.stopTokenId);
    return;
  }
}

function output(
  text: string, tokens: readonly number[], { logprobs, queueSeconds, cachedTokens }: Delta, finishReason?: FinishReason, stopReason?: string | number,
): GenerationDelta {
  return {
    text, tokens,
    ...(queueSeconds !== undefined && { queueSeconds }),
    ...(cachedTokens !== undefined && { cachedTokens }),
    ...(logprobs && { logprobs: logprobs.slice(0, tokens.length) }),
    ...(finishReason && { finishReason }),
    ...(stopReason !== undefined && { stopReason }),
  };
}

/** How a Generation gets its prompt and its output; both stop early when `signal` aborts. */
export interface Source {
  /** The checked prompt. Rejects with BadRequest when it does not fit. */
  encode(): Promise<Int32Array>;
  start(prompt: Int32Array, signal: AbortSignal): AsyncIterable<GenerationDelta>;
}

/**
 * `for await (const delta of generation)` streams; `await generation` gives the result; both may be used on one generation.
 * It can be iterated once. As it is awaitable, an async function that returns one returns its result.
 */
export class Generation implements AsyncIterable<GenerationDelta>, PromiseLike<GenerationResult> {
  /** The prompt's token ids, once it is known to be good: the engine gets it then. Rejects with BadRequest otherwise. */
  readonly prompt: Promise<Int32Array>;
  readonly #result: Promise<GenerationResult>;
  readonly #queue = new Queue<GenerationDelta>();
  readonly #abort = new AbortController();
  #cancelled = false;

  constructor(source: Source, signal?: AbortSignal) {
    this.prompt = source.encode();
    this.#result = this.#run(source, signal);
    // Whoever never awaits these must not bring the process down; whoever does still sees the rejection.
    this.prompt.catch(() => {});
    this.#result.catch(() => {});
  }

  /** Ends it now; the result so far resolves with finishReason "abort". */
  cancel(): void {
    this.#cancelled = true;
    this.#abort.abort();
  }

  then<A = GenerationResult, B = never>(
    onResult?: ((result: GenerationResult) => A | PromiseLike<A>) | null, onError?: ((error: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.#result.then(onResult, onError);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<GenerationDelta, void, void> {
    let ended = false;
    try {
      yield* this.#queue;
      ended = true;
    } finally {
      if (!ended) this.cancel();
    }
  }

  async #run(source: Source, signal: AbortSignal | undefined): Promise<GenerationResult> {
    const follow = () => this.#abort.abort(signal?.reason);
    signal?.addEventListener("abort", follow, { once: true });
    try {
      if (signal?.aborted) follow();
      const prompt = await this.prompt;
      const result = await this.#collect(source, prompt);
      this.#queue.end();
      return result;
    } catch (error) {
      this.#queue.fail(error);
      throw error;
    } finally {
      signal?.removeEventListener("abort", follow);
    }
  }

  async #collect(source: Source, prompt: Int32Array): Promise<GenerationResult> {
    let text = "";
    const tokenIds: number[] = [];
    const logprobs: TokenLogprobs[] = [];
    let last: GenerationDelta | undefined, cachedTokens = 0;
    const { signal } = this.#abort;
    if (!signal.aborted) {
      try {
        for await (const delta of source.start(prompt, signal)) {
          text += delta.text;
          tokenIds.push(...delta.tokens);
          cachedTokens += delta.cachedTokens ?? 0;
          if (delta.logprobs) logprobs.push(...delta.logprobs);
          last = delta;
          if (delta.finishReason !== "abort") this.#queue.push(delta);
        }
      } catch (error) {
        if (!signal.aborted) throw error;
      }
    }
    const finished = last?.finishReason === "abort" ? undefined : last?.finishReason;
    if (!finished && signal.aborted && !this.#cancelled) throw signal.reason;
    if (!finished && !signal.aborted) throw new GenerationFailed("the engine ended this request before it was finished");
    return {
      text, tokenIds,
      finishReason: finished ?? "abort",
      ...(last?.stopReason !== undefined && { stopReason: last.stopReason }),
      usage: { promptTokens: prompt.length, completionTokens: tokenIds.length, totalTokens: prompt.length + tokenIds.length, cachedTokens },
      ...(logprobs.length > 0 && { logprobs }),
      promptTokenIds: Array.from(prompt),
    };
  }
}
