/** Token counts and token texts as OpenAI's API writes them. It knows no route. */
import type { TokenLogprobs } from "../engine/messages.ts";

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

/** The `logprobs` of a completion choice. `offset`: the characters of text that came before these tokens. */
export function completionLogprobs(logprobs: readonly TokenLogprobs[], text: TokenText, offset: number) {
  const tokens = logprobs.map(({ token }) => text(token));
  let at = offset;
  return {
    text_offset: tokens.map((token) => (at += token.length) - token.length),
    token_logprobs: logprobs.map(({ logprob }) => finite(logprob)),
    tokens,
    // The chosen token is always among them, as in vLLM.
    top_logprobs: logprobs.map(({ token, logprob, top }) => Object.fromEntries(
      [{ token, logprob }, ...top.filter((other) => other.token !== token)].map((other) => [text(other.token), finite(other.logprob)]),
    )),
  };
}
