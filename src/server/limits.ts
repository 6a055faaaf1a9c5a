/**
 * The table of limits that every route keeps, in one place: what a client may send, how much runs at once, how long anyone waits.
 *
 * What one generation may ask for (temperature, logprobs, stop strings) is the library's own table, llm/params.ts: it holds
 * without a server too. Nothing here computes.
 */
export const limits = {
  /** Bytes of a request's body, and how deep its JSON may go. */
  bodyBytes: 16 * 2 ** 20,
  bodyDepth: 64,
  /** Entries of `messages`, and of a list of prompts. */
  messages: 10_000,
  prompts: 1024,
  /** What one answer may say of its prompts: their tokens and the log-probabilities beside each, as often as they are repeated for choices. */
  promptEntries: 2 ** 18,
  /** Token ids that /tokenize answers with and /detokenize takes. */
  tokens: 2 ** 20,
  /** Generations (one for each choice of each prompt) and token jobs under way, over all routes. */
  requestsInFlight: 1024,
  /** What a refused client is told to wait. */
  retryAfterSeconds: 1,
  /** Bytes of a stream that wait for its client, and how long it may read nothing before it is cut off. */
  streamBytes: 64 * 1024,
  stallSeconds: 30,
  /** How long a client may take over its headers, and over its whole request. */
  headersMs: 10_000,
  requestMs: 60_000,
} as const;
