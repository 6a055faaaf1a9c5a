/**
 * One generation under way: a stream of deltas that is also awaitable for the whole result. It has one choice, or several of one prompt, which run
 * beside each other and whose deltas are mixed.
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
  /** Of which choice: 0 to n - 1. */
  readonly index: number;
  /** May be "" while the start of a character or of a stop string is held back. */
  readonly text: string;
  readonly tokens: readonly number[];
  /** One for each token, where asked for. */
  readonly logprobs?: readonly TokenLogprobs[];
  /** With the first token of the first choice, where asked for: of the prompt's tokens, null for the very first, which nothing comes before. */
  readonly promptLogprobs?: readonly (TokenLogprobs | null)[];
  /** With the first token: how long the engine let the request wait before a step first worked on it. */
  readonly queueSeconds?: number;
  /** With the first token: how many tokens of the prompt were in the cache, where any were. */
  readonly cachedTokens?: number;
  /** Set on the last delta of a choice only. */
  readonly finishReason?: FinishReason;
  /** The stop string or stop token id that ended it, where one did. */
  readonly stopReason?: string | number;
}

export interface Usage {
  /** Counted once, however many choices there are. */
  readonly promptTokens: number;
  /** Of all choices. */
  readonly completionTokens: number;
  readonly totalTokens: number;
  /** Tokens of the prompt that were in the cache and were not computed again. */
  readonly cachedTokens: number;
}

/** One answer to a prompt. */
export interface Choice {
  readonly index: number;
  readonly text: string;
  readonly tokenIds: readonly number[];
  /** "stop": an end token, stop id or stop string; "length": maxTokens or the context; "abort": `cancel()` or an early break. */
  readonly finishReason: FinishReason;
  readonly stopReason?: string | number;
  readonly logprobs?: readonly TokenLogprobs[];
}

/** The first choice, and all of them. */
export interface GenerationResult extends Omit<Choice, "index"> {
  /** All `n` of them, the first included. */
  readonly choices: readonly [Choice, ...Choice[]];
  readonly usage: Usage;
  readonly promptTokenIds: readonly number[];
  /** One for each of the prompt's tokens, where asked for; null for the first, which nothing comes before. */
  readonly promptLogprobs?: readonly (TokenLogprobs | null)[];
}

/** Text from token ids that arrive in pieces; a character cut in two waits for its other half. */
export interface TokenDecoder {
  push(ids: readonly number[]): string;
  flush(): string;
}

export interface OutputOptions {
  /** Of which choice. Default 0. */
  readonly index?: number;
  /** undefined: token ids only, no text. */
  readonly decoder: TokenDecoder | undefined;
  readonly stop: readonly string[];
  readonly includeStopStrInOutput: boolean;
  /** Whether the prompt's log-probabilities were asked for. Default false. */
  readonly promptLogprobs?: boolean;
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
  // They come while the prompt is read, and go on with its first token.
  const prompt: (TokenLogprobs | null)[] = [null];
  let made = 0;
  const output = (text: string, tokens: readonly number[], delta: Delta, finish?: FinishReason, reason?: string | number): GenerationDelta =>
    outputOf(options.index ?? 0, text, tokens, delta, options.promptLogprobs && made === tokens.length && made > 0 ? prompt : undefined, finish, reason);
  for await (const delta of deltas) {
    if (delta.promptLogprobs) {
      for (const [i, known] of delta.promptLogprobs.logprobs.entries()) prompt[delta.promptLogprobs.from + i] = known;
      continue;
    }
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

function outputOf(
  index: number, text: string, tokens: readonly number[], { logprobs, queueSeconds, cachedTokens }: Delta, promptLogprobs: GenerationDelta["promptLogprobs"], finishReason?: FinishReason, stopReason?: string | number,
): GenerationDelta {
  return {
    index, text, tokens,
    ...(queueSeconds !== undefined && { queueSeconds }),
    ...(cachedTokens !== undefined && { cachedTokens }),
    ...(promptLogprobs && { promptLogprobs }),
    ...(logprobs && { logprobs: logprobs.slice(0, tokens.length) }),
    ...(finishReason && { finishReason }),
    ...(stopReason !== undefined && { stopReason }),
  };
}

/** How a Generation gets its prompt and its output; both stop early when `signal` aborts. */
export interface Source {
  /** The checked prompt. Rejects with BadRequest when it does not fit. */
  encode(): Promise<Int32Array>;
  /** How many choices it has. */
  readonly n: number;
  /** Starts choice `index` of them. */
  start(prompt: Int32Array, index: number, signal: AbortSignal): AsyncIterable<GenerationDelta>;
}

/** What has come of one choice. */
class Collected {
  text = "";
  readonly tokenIds: number[] = [];
  readonly logprobs: TokenLogprobs[] = [];
  promptLogprobs: GenerationDelta["promptLogprobs"];
  cachedTokens = 0;
  /** undefined: it was not finished. */
  finishReason: FinishReason | undefined;
  stopReason: string | number | undefined;

  add({ text, tokens, logprobs, promptLogprobs, cachedTokens = 0, finishReason, stopReason }: GenerationDelta): void {
    this.text += text;
    this.tokenIds.push(...tokens);
    if (logprobs) this.logprobs.push(...logprobs);
    this.promptLogprobs ??= promptLogprobs;
    this.cachedTokens += cachedTokens;
    this.finishReason = finishReason === "abort" ? undefined : finishReason;
    this.stopReason = stopReason;
  }

  choice(index: number): Choice {
    const { text, tokenIds, logprobs, finishReason = "abort", stopReason } = this;
    return { index, text, tokenIds, finishReason, ...(stopReason !== undefined && { stopReason }), ...(logprobs.length > 0 && { logprobs }) };
  }
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
    const all = Array.from({ length: source.n }, () => new Collected());
    const { signal } = this.#abort;
    if (!signal.aborted) await Promise.all(all.map((collected, index) => this.#follow(source.start(prompt, index, signal), collected)));
    if (signal.aborted && !this.#cancelled && all.some(({ finishReason }) => !finishReason)) throw signal.reason;
    const [first, ...more] = all.map((collected, index) => collected.choice(index));
    const { index: _, ...answer } = first!;
    const { promptLogprobs } = all[0]!;
    const completionTokens = all.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
    return {
      ...answer,
      choices: [first!, ...more],
      // What the later choices find in the cache is what the first has computed.
      usage: { promptTokens: prompt.length, completionTokens, totalTokens: prompt.length + completionTokens, cachedTokens: all[0]!.cachedTokens },
      promptTokenIds: Array.from(prompt),
      ...(promptLogprobs && { promptLogprobs }),
    };
  }

  /** Follows one choice to its end. One that fails ends the others, and its error is what the generation rejects with. */
  async #follow(deltas: AsyncIterable<GenerationDelta>, collected: Collected): Promise<void> {
    const { signal } = this.#abort;
    try {
      for await (const delta of deltas) {
        collected.add(delta);
        if (delta.finishReason !== "abort") this.#queue.push(delta);
      }
      if (!collected.finishReason && !signal.aborted) throw new GenerationFailed("the engine ended this request before it was finished");
    } catch (error) {
      this.#abort.abort(error);
    }
  }
}
