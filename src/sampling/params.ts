/** How the tokens of one request are chosen and when they end: vLLM's SamplingParams, its names (in camelCase) and defaults. */
import { mostTop } from "../backend/backend.ts";
import { BadRequest } from "../core/errors.ts";

/**
 * Changes the logits of one token of one request before it is chosen: after the request's allowed ids, bad words, min tokens and logit bias, before its
 * penalties and temperature. Called once for each token, several in their order.
 *
 * `logits`, f32 [vocabSize], may be written to during the call: any numbers, -Infinity where a token may not be generated. NaN, +Infinity, or no token
 * left that may be, ends the request with an error, as does a function that throws or returns anything; other requests never notice. Log-probabilities
 * are those of the model's own logits all the same. The same request gives the same bytes as long as the function is one of its arguments.
 */
export type LogitsProcessor = (logits: Float32Array, context: LogitsContext) => void;

/** What a logits processor may read, during the call. */
export interface LogitsContext {
  readonly promptTokenIds: Int32Array;
  /** What has been generated so far. */
  readonly outputTokenIds: readonly number[];
}

export interface SamplingParams {
  /** 0 (below 1e-5) takes the likeliest token. Default 1. */
  readonly temperature: number;
  /** Keep the likeliest tokens whose probabilities sum to this. In (0, 1]; default 1. */
  readonly topP: number;
  /** Keep this many of the likeliest tokens; 0 (or -1) keeps all. */
  readonly topK: number;
  /** Keep tokens at least this fraction as likely as the likeliest. In [0, 1]; default 0. */
  readonly minP: number;
  /** Same seed, same prompt, same tokens. Any safe integer; drawn by the engine's own seed when undefined. */
  readonly seed: number | undefined;
  /** Divides positive logits of tokens in prompt or output, multiplies others: above 1 they become rarer. Above 0; default 1. */
  readonly repetitionPenalty: number;
  /** Taken from the logits of tokens in the output. In [-2, 2]; default 0. */
  readonly presencePenalty: number;
  /** The same, for each time that a token stands in the output. In [-2, 2]; default 0. */
  readonly frequencyPenalty: number;
  /** Added to the logits of tokens, by id. In [-100, 100]. */
  readonly logitBias: ReadonlyMap<number, number> | undefined;
  /** Only these may be generated; undefined allows all. */
  readonly allowedTokenIds: readonly number[] | undefined;
  /** Runs of tokens that may not be generated. */
  readonly badWords: readonly (readonly number[])[];
  /** Tokens before which no end token and no stop id is generated. Default 0. */
  readonly minTokens: number;
  /** Functions that change the logits; only an engine in the same thread can be given them. */
  readonly logitsProcessors?: readonly LogitsProcessor[];
  /** Most tokens to generate. */
  readonly maxTokens: number;
  /** Token ids that end the output, besides the model's own end tokens. */
  readonly stopTokenIds: readonly number[];
  /** Go on past the model's end tokens. */
  readonly ignoreEos: boolean;
  /** Log-probabilities of this many likeliest tokens beside the chosen one; undefined gives none. */
  readonly logprobs: number | undefined;
  /** The same for the tokens of the prompt, but for its first, which nothing comes before. */
  readonly promptLogprobs?: number;
}

export const defaultSampling: SamplingParams = {
  temperature: 1, topP: 1, topK: 0, minP: 0, seed: undefined, repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0, logitBias: undefined,
  allowedTokenIds: undefined, badWords: [], minTokens: 0, maxTokens: 16, stopTokenIds: [], ignoreEos: false, logprobs: undefined,
};

/** Whether the likeliest token is taken. */
export const isGreedy = ({ temperature }: Pick<SamplingParams, "temperature">): boolean => temperature < 1e-5;
/** The least temperature of those that are not greedy: a smaller one is raised to it, as in vLLM. */
export const leastTemperature = 0.01;

/** Most log-probabilities of a token, as in vLLM. */
export const maxLogprobs = mostTop;

const count = (value: number): boolean => Number.isSafeInteger(value) && value >= 0;
const within = (value: number, bound: number): boolean => value >= -bound && value <= bound;
const ids = (list: readonly number[], vocabSize: number): boolean => list.every((id) => count(id) && id < vocabSize);

/** One row for each field: what it must be, and whether it is. */
const bounds: Readonly<Record<keyof SamplingParams, readonly [expected: string, (p: SamplingParams, vocabSize: number) => boolean]>> = {
  temperature: ["a number from 0", (p) => p.temperature >= 0 && p.temperature < Infinity],
  topP: ["above 0 and at most 1", (p) => p.topP > 0 && p.topP <= 1],
  topK: ["an integer from 0 (or -1)", (p) => count(p.topK) || p.topK === -1],
  minP: ["from 0 to 1", (p) => p.minP >= 0 && p.minP <= 1],
  seed: ["a safe integer", (p) => p.seed === undefined || Number.isSafeInteger(p.seed)],
  logitsProcessors: ["a list of functions", ({ logitsProcessors = [] }) => logitsProcessors.every((processor) => typeof processor === "function")],
  repetitionPenalty: ["a number above 0", (p) => p.repetitionPenalty > 0 && p.repetitionPenalty < Infinity],
  presencePenalty: ["from -2 to 2", (p) => within(p.presencePenalty, 2)],
  frequencyPenalty: ["from -2 to 2", (p) => within(p.frequencyPenalty, 2)],
  logitBias: ["token ids with numbers from -100 to 100", ({ logitBias = new Map() }, vocabSize) => ids([...logitBias.keys()], vocabSize) && [...logitBias.values()].every((bias) => within(bias, 100))],
  allowedTokenIds: ["a list of at least one token id", ({ allowedTokenIds }, vocabSize) => allowedTokenIds === undefined || (allowedTokenIds.length > 0 && ids(allowedTokenIds, vocabSize))],
  badWords: ["lists of token ids", (p, vocabSize) => p.badWords.every((word) => word.length > 0 && ids(word, vocabSize))],
  minTokens: ["an integer from 0 to maxTokens", (p) => count(p.minTokens) && p.minTokens <= p.maxTokens],
  maxTokens: ["an integer from 1", (p) => count(p.maxTokens) && p.maxTokens > 0],
  stopTokenIds: ["a list of token ids", (p, vocabSize) => ids(p.stopTokenIds, vocabSize)],
  ignoreEos: ["true or false", (p) => typeof p.ignoreEos === "boolean"],
  logprobs: [`an integer from 0 to ${maxLogprobs}`, (p) => p.logprobs === undefined || (count(p.logprobs) && p.logprobs <= maxLogprobs)],
  promptLogprobs: [`an integer from 0 to ${maxLogprobs}`, (p) => p.promptLogprobs === undefined || (count(p.promptLogprobs) && p.promptLogprobs <= maxLogprobs)],
};

/** The first field of `params` that is out of its bounds, as the error for whoever sent it. */
export function checkSampling(params: SamplingParams, vocabSize: number): BadRequest | undefined {
  for (const [field, [expected, holds]] of Object.entries(bounds)) {
    if (holds(params, vocabSize)) continue;
    return new BadRequest(field, `${field} is ${String(params[field as keyof SamplingParams])}; it must be ${expected}`);
  }
  return undefined;
}
