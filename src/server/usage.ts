/** Token counts, token texts and log-probabilities as OpenAI's API writes them. It knows no route. */
import { BadRequest } from "../core/errors.ts";
import type { TokenLogprobs } from "../engine/messages.ts";
import type { LLM } from "../llm.ts";
import { limits } from "./limits.ts";

export interface WireUsage {
  readonly prompt_tokens: number;
  readonly total_tokens: number;
  readonly completion_tokens: number;
  readonly prompt_tokens_details: { readonly cached_tokens: number };
}

/** Usage of one request: its prompts, how much of them was in the cache, and all that was generated for them. */
export function wireUsage({ prompts, cachedTokens }: { readonly prompts: readonly Int32Array[]; readonly cachedTokens: number }, completionTokens: number): WireUsage {
  const promptTokens = prompts.reduce((sum, { length }) => sum + length, 0);
  return {
    prompt_tokens: promptTokens, total_tokens: promptTokens + completionTokens, completion_tokens: completionTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
  };
}

/** JSON has no infinity: vLLM's stand-in for a probability of 0. */
const lowest = -9999;
const finite = (logprob: number) => Math.max(logprob, lowest);

/** A token as it is shown beside its log-probability. */
export type TokenText = (token: number) => string;

const encoder = new TextEncoder();
const chatToken = (text: TokenText, token: number, logprob: number) => {
  const shown = text(token);
  return { token: shown, logprob: finite(logprob), bytes: Array.from(encoder.encode(shown)) };
};

/** The `logprobs` of a chat choice. */
export function chatLogprobs(logprobs: readonly TokenLogprobs[], text: TokenText) {
  return {
    content: logprobs.map(({ token, logprob, top }) => ({
      ...chatToken(text, token, logprob),
      top_logprobs: top.map((other) => chatToken(text, other.token, other.logprob)),
    })),
  };
}

/** A token of a text; undefined: nothing is known of how likely it was, as nothing comes before it. */
export type ShownToken = Pick<TokenLogprobs, "token"> & { readonly [K in "logprob" | "top"]: TokenLogprobs[K] | undefined };

/** The `logprobs` of a completion choice. `offset`: the characters of text that came before these tokens. */
export function completionLogprobs(logprobs: readonly ShownToken[], text: TokenText, offset: number) {
  const tokens = logprobs.map(({ token }) => text(token));
  let at = offset;
  return {
    text_offset: tokens.map((token) => (at += token.length) - token.length),
    token_logprobs: logprobs.map(({ logprob }) => (logprob === undefined ? null : finite(logprob))),
    tokens,
    // The chosen token is always among them, as in vLLM.
    top_logprobs: logprobs.map(({ token, logprob, top }) => (logprob === undefined || top === undefined ? null : Object.fromEntries(
      [{ token, logprob }, ...top.filter((other) => other.token !== token)].map((other) => [text(other.token), finite(other.logprob)]),
    ))),
  };
}

/** A prompt's tokens as `completionLogprobs` takes them, with `numTop` likeliest ones at most. */
export function shownPrompt(prompt: Int32Array, logprobs: PromptLogprobs, numTop: number): ShownToken[] {
  return logprobs.map((known, i) => (known ? { ...known, top: known.top.slice(0, numTop) } : { token: prompt[i]!, logprob: undefined, top: undefined }));
}

export type PromptLogprobs = readonly (TokenLogprobs | null)[];

/** Text of a token; null where there is no tokenizer. */
export const decodedBy = (llm: LLM) => (token: number): string | null => (llm.hasTokenizer ? llm.tokenText(token) : null);

/** `prompt_logprobs` as vLLM writes them: for each token of the prompt null, or what is known of it and of the likeliest ones in its place, by id. */
export function wirePromptLogprobs(logprobs: PromptLogprobs, decoded: (token: number) => string | null) {
  const entry = ({ token, logprob }: { readonly token: number; readonly logprob: number }, rank: number) => [token, { logprob: finite(logprob), rank, decoded_token: decoded(token) }] as const;
  return logprobs.map((known) => known && Object.fromEntries([...known.top.map((other, i) => entry(other, i + 1)), entry(known, known.rank)]));
}

/** @throws BadRequest when an answer would say more of its prompts than it may: each token with `numTop` others, `copies` times, as `field` asks for */
export function checkPromptEntries(prompts: readonly Int32Array[], numTop: number, copies: number, field: string): void {
  const tokens = prompts.reduce((sum, { length }) => sum + length, 0), count = tokens * (numTop + 1) * copies;
  if (count <= limits.promptEntries) return;
  throw new BadRequest(field, `${field} gives back ${tokens} tokens of prompt with ${numTop} others beside each, ${copies} times, which makes ${count}; this server gives at most ${limits.promptEntries}`);
}
