/**
 * The table of limits that every route keeps, in one place: what a client may send, how much runs at once, how long anyone waits.
 *
 * What one generation may ask for (temperature, logprobs, stop strings) is the library's own table, llm/params.ts: it holds
 * without a server too. Nothing here computes.
 */
export const limits = {
  /** Bytes of a request's body, of all bodies that are being read at once, and how deep a body's JSON may go. */
  bodyBytes: 16 * 2 ** 20,
  bodiesBytes: 256 * 2 ** 20,
  /** Bodies that say they are no longer have as much again for themselves: whoever sends a few long ones, or never ends them, keeps nobody else out. */
  shortBodyBytes: 256 * 2 ** 10,
  bodyDepth: 64,
  /** Entries of `messages`, and of a list of prompts. */
  messages: 10_000,
  prompts: 1024,
  /** Choices of all prompts of one request. */
  choices: 1024,
  /** Entries of the lists (allowed ids, biases, stop ids, characters of bad words) that the choices of one request are started with, counted for each choice: each gets its own. */
  listEntries: 2 ** 22,
  /** What one answer may say of its prompts: their tokens and the log-probabilities beside each, as often as they are repeated for choices. */
  promptEntries: 2 ** 18,
  /** Token ids that /tokenize answers with and /detokenize takes. */
  tokens: 2 ** 20,
  /** Generations (one for each choice of each prompt) and token jobs that may wait beyond those that run, and tokens of their prompts, over all routes. */
  queuedRequests: 1024,
  queuedTokens: 2 ** 22,
  /** What a refused client is told to wait: an estimate, within these. */
  retryAfterSeconds: { least: 1, most: 60 },
  /** Characters that a token of a text stands for, where nobody has counted yet. */
  charactersPerToken: 4,
  /** Bytes of a stream that wait for its client, and how far behind it may be, or read nothing, before it is cut off. */
  streamBytes: 64 * 1024,
  stallSeconds: 30,
  /** Bytes of a request's headers. */
  headerBytes: 16 * 1024,
  /** How long a client may take over its headers, and over its whole request; how long a connection may idle between two; how often that is looked at. */
  headersMs: 10_000,
  requestMs: 60_000,
  idleMs: 5_000,
  lookMs: 1_000,
  /** Connections open at once: more are closed as they come. */
  connections: 16_384,
} as const;
