/**
 * What a caller may ask of one generation, and the table of its bounds: the library and every route check against it.
 *
 * Names and meanings are vLLM's, in camelCase. Bounds are those of a caller, some narrower than what the engine can do
 * (sampling/params.ts). Nothing here knows how long the prompt is: `fitMaxTokens` is told.
 */
import { BadRequest } from "../core/errors.ts";
import { defaultSampling, isGreedy, maxLogprobs, type LogitsProcessor, type SamplingParams } from "../sampling/params.ts";
import { camelCase, fieldsOf, mustBe, type ListBounds, type NumberBounds, type Raw, type Spelling } from "./fields.ts";

export interface GenerateParams {
  /** Choices of the prompt, which is computed once; with a seed, choice i has seed + i. Above 1 only where tokens are sampled. Default 1. */
  readonly n?: number;
  /** 0 takes the likeliest token. Default 1. */
  readonly temperature?: number;
  /** Keep the likeliest tokens whose probabilities sum to this. In (0, 1]; default 1. */
  readonly topP?: number;
  /** Keep this many of the likeliest tokens; 0 or -1 keeps all. Default 0. */
  readonly topK?: number;
  /** Keep tokens at least this fraction as likely as the likeliest. In [0, 1]; default 0. */
  readonly minP?: number;
  /** Same seed, same prompt, same tokens. */
  readonly seed?: number;
  /** Divides positive logits of tokens that the prompt or the output has, multiplies others: above 1 they become rarer. Above 0; default 1. */
  readonly repetitionPenalty?: number;
  /** Taken from the logit of a token that the output has. In [-2, 2]; default 0. */
  readonly presencePenalty?: number;
  /** Taken from the logit of a token for each time that the output has it. In [-2, 2]; default 0. */
  readonly frequencyPenalty?: number;
  /** Added to the logits of these token ids: `{ 5: -100 }`. In [-100, 100]. */
  readonly logitBias?: Readonly<Record<number, number>>;
  /** Only these token ids may be generated. */
  readonly allowedTokenIds?: readonly number[];
  /** Texts that the output may not have: the last token of one is not generated after those before it. */
  readonly badWords?: readonly string[];
  /** Tokens before which neither an end token nor a stop id nor a stop string ends the output. Default 0. */
  readonly minTokens?: number;
  /** Functions that change the logits, where the engine runs in this thread (`LLM.load` with `inProcess`). sampling/params.ts says what they may do. */
  readonly logitsProcessors?: readonly LogitsProcessor[];
  /** Most tokens to generate. Default 16 for `generate`, the rest of the context for `chat`. */
  readonly maxTokens?: number;
  /** Texts that end the output; it ends just before the first of them. */
  readonly stop?: string | readonly string[];
  /** Token ids that end the output, besides the model's own end tokens. */
  readonly stopTokenIds?: readonly number[];
  /** The output keeps the stop string that ended it. Default false. */
  readonly includeStopStrInOutput?: boolean;
  /** Go on past the model's end tokens. Default false. */
  readonly ignoreEos?: boolean;
  /** Log-probabilities of the chosen token and of this many likeliest ones, for every token. */
  readonly logprobs?: number;
  /** The same for every token of the prompt but the first; the prompt is then computed whole, whatever the cache has of it. */
  readonly promptLogprobs?: number;
  /** Leave special tokens out of the text. Default true. */
  readonly skipSpecialTokens?: boolean;
  /** Put the model's begin token before a text prompt. Default true. */
  readonly addSpecialTokens?: boolean;
  /** Let "<|end|>" and the like in a text prompt become special tokens. Default false: text stays text. */
  readonly allowSpecial?: boolean;
  /** Share what the cache holds of a prompt only with requests of the same salt. Default: with all that have none. */
  readonly cacheSalt?: string;
  /** Lower runs earlier, equals in the order they come. Needs a model loaded with `schedulingPolicy: "priority"`. Default 0. */
  readonly priority?: number;
  /** Aborting it ends the generation, frees its memory in the engine, and rejects with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** Every name of `GenerateParams`, for callers whom no type checker helps. */
export const generateOptions: readonly string[] = Object.keys({
  n: true, temperature: true, topP: true, topK: true, minP: true, seed: true, repetitionPenalty: true, presencePenalty: true, frequencyPenalty: true, logitBias: true,
  allowedTokenIds: true, badWords: true, minTokens: true, logitsProcessors: true, maxTokens: true, stop: true, stopTokenIds: true, includeStopStrInOutput: true,
  ignoreEos: true, logprobs: true, promptLogprobs: true, skipSpecialTokens: true, addSpecialTokens: true, allowSpecial: true, cacheSalt: true, priority: true, signal: true,
} satisfies Readonly<Record<keyof GenerateParams, true>>);

const maxInt32 = 2 ** 31 - 1;

/** Bounds of every field, for the library and for all routes. */
export const limits = {
  n: { min: 1, max: 128 },
  temperature: { min: 0, max: 100 },
  topP: { above: 0, max: 1 },
  topK: { min: -1, max: maxInt32 },
  minP: { min: 0, max: 1 },
  seed: { min: Number.MIN_SAFE_INTEGER, max: Number.MAX_SAFE_INTEGER },
  repetitionPenalty: { above: 0, max: Infinity },
  presencePenalty: { min: -2, max: 2 },
  frequencyPenalty: { min: -2, max: 2 },
  logitBias: { min: -100, max: 100, maxItems: 16_384 },
  allowedTokenIds: { maxItems: 2 ** 20 },
  /** In all of them together no more characters than `maxCharacters`: each is encoded. */
  badWords: { maxItems: 1000, maxLength: 1024, maxCharacters: 2 ** 14 },
  minTokens: { min: 0, max: maxInt32 },
  logitsProcessors: { maxItems: 64 },
  maxTokens: { min: 1, max: maxInt32 },
  logprobs: { min: 0, max: maxLogprobs },
  promptLogprobs: { min: 0, max: maxLogprobs },
  stop: { maxItems: 64, maxLength: 1024 },
  stopTokenIds: { maxItems: 1024 },
  cacheSalt: { maxItems: 1, maxLength: 1024 },
  priority: { min: Number.MIN_SAFE_INTEGER, max: Number.MAX_SAFE_INTEGER },
} as const satisfies Readonly<Record<string, NumberBounds | ListBounds>>;

/** GenerateParams once checked: every default is filled in except `maxTokens`, which depends on the prompt. */
export interface CheckedParams {
  readonly n: number;
  readonly sampling: Omit<SamplingParams, "maxTokens" | "badWords">;
  /** Texts still: token ids once there is a tokenizer (bad-words.ts). */
  readonly badWords: readonly string[];
  readonly maxTokens: number | undefined;
  readonly stop: readonly string[];
  readonly includeStopStrInOutput: boolean;
  readonly skipSpecialTokens: boolean;
  readonly addSpecialTokens: boolean | undefined;
  readonly allowSpecial: boolean;
  readonly cacheSalt: string | undefined;
  readonly priority: number;
  /** How the caller spells field names, for errors found later. */
  readonly spell: Spelling;
}

/** Checks `raw` against `limits` and the vocabulary. Throws BadRequest naming the field in the caller's spelling. */
export function checkParams(raw: Raw, vocabSize: number, spell: Spelling = camelCase): CheckedParams {
  const fields = fieldsOf(raw, spell);
  const topK = fields.integer("topK", limits.topK) ?? defaultSampling.topK;
  const seed = fields.integer("seed", limits.seed);
  const n = fields.integer("n", limits.n) ?? 1;
  const temperature = fields.number("temperature", limits.temperature) ?? defaultSampling.temperature;
  if (n > 1 && isGreedy({ temperature })) throw mustBe(spell("n"), n, `1 where ${spell("temperature")} is 0, as every choice would be the same`);
  const lastSeed = limits.seed.max - (n - 1);
  if (seed !== undefined && seed > lastSeed) throw mustBe(spell("seed"), seed, `at most ${lastSeed}, as each of the ${n} choices has one more`);
  const promptLogprobs = fields.integer("promptLogprobs", limits.promptLogprobs);
  const logitsProcessors = fields.functions<LogitsProcessor>("logitsProcessors", limits.logitsProcessors) ?? [];
  const allowedTokenIds = fields.tokenIds("allowedTokenIds", vocabSize, limits.allowedTokenIds);
  if (allowedTokenIds?.length === 0) throw mustBe(spell("allowedTokenIds"), allowedTokenIds, "a list of at least one token id; leave it out to allow all");
  const badWords = fields.texts("badWords", limits.badWords) ?? [];
  const blank = badWords.findIndex((word) => word.trim() === "");
  const numCharacters = badWords.reduce((sum, { length }) => sum + length, 0);
  if (numCharacters > limits.badWords.maxCharacters) throw new BadRequest(spell("badWords"), `${spell("badWords")} has ${numCharacters} characters in all; it must have at most ${limits.badWords.maxCharacters}`);
  if (blank >= 0) throw mustBe(spell("badWords"), badWords[blank], "more than spaces", `${spell("badWords")}[${blank}]`);
  return {
    n,
    sampling: {
      temperature,
      topP: fields.number("topP", limits.topP) ?? defaultSampling.topP,
      topK: topK === -1 ? 0 : topK,
      minP: fields.number("minP", limits.minP) ?? defaultSampling.minP,
      // vLLM's clients send -1 for "no seed".
      seed: seed === -1 ? undefined : seed,
      repetitionPenalty: fields.number("repetitionPenalty", limits.repetitionPenalty) ?? defaultSampling.repetitionPenalty,
      presencePenalty: fields.number("presencePenalty", limits.presencePenalty) ?? defaultSampling.presencePenalty,
      frequencyPenalty: fields.number("frequencyPenalty", limits.frequencyPenalty) ?? defaultSampling.frequencyPenalty,
      logitBias: fields.tokenNumbers("logitBias", vocabSize, limits.logitBias),
      allowedTokenIds: allowedTokenIds && [...new Set(allowedTokenIds)],
      minTokens: fields.integer("minTokens", limits.minTokens) ?? defaultSampling.minTokens,
      ...(logitsProcessors.length > 0 && { logitsProcessors }),
      stopTokenIds: fields.tokenIds("stopTokenIds", vocabSize, limits.stopTokenIds) ?? [],
      ignoreEos: fields.boolean("ignoreEos") ?? false,
      logprobs: fields.integer("logprobs", limits.logprobs),
      ...(promptLogprobs !== undefined && { promptLogprobs }),
    },
    badWords,
    maxTokens: fields.integer("maxTokens", limits.maxTokens),
    stop: fields.texts("stop", limits.stop) ?? [],
    includeStopStrInOutput: fields.boolean("includeStopStrInOutput") ?? false,
    skipSpecialTokens: fields.boolean("skipSpecialTokens") ?? true,
    addSpecialTokens: fields.boolean("addSpecialTokens"),
    allowSpecial: fields.boolean("allowSpecial") ?? false,
    cacheSalt: checkSalt(fields.text("cacheSalt", limits.cacheSalt.maxLength), spell),
    priority: fields.integer("priority", limits.priority) ?? 0,
    spell,
  };
}

function checkSalt(salt: string | undefined, spell: Spelling): string | undefined {
  if (salt === "") throw mustBe(spell("cacheSalt"), salt, "a string of at least one character; leave it out to share with all that have none");
  return salt;
}

/**
 * The tokens that may be generated after a prompt of `promptTokens`: what was asked, or `fallback` cut to the rest of the context.
 * Throws BadRequest for the prompt when it leaves no room, for maxTokens when it asks for more than the rest, for minTokens above it.
 */
export function fitMaxTokens(
  promptTokens: number, params: CheckedParams, fallback: number, maxModelLen: number, promptField: string,
): number {
  const maxTokens = fit(promptTokens, params, fallback, maxModelLen, promptField);
  const { minTokens } = params.sampling;
  if (minTokens > maxTokens) {
    const field = params.spell("minTokens");
    throw new BadRequest(field, `${field} is ${minTokens}; it must be at most ${maxTokens}, which is all that may be generated (${params.spell("maxTokens")})`);
  }
  return maxTokens;
}

function fit(
  promptTokens: number, params: CheckedParams, fallback: number, maxModelLen: number, promptField: string,
): number {
  if (promptTokens === 0) throw new BadRequest(promptField, `${promptField} has no tokens; give at least one`);
  const room = maxModelLen - promptTokens;
  if (room < 1) {
    throw new BadRequest(promptField, `${promptField} has ${promptTokens} tokens; with at least one to generate it must have at most ` +
      `${maxModelLen - 1}, as the model's context is ${maxModelLen} tokens`);
  }
  if (params.maxTokens === undefined) return Math.min(fallback, room);
  if (params.maxTokens > room) {
    const field = params.spell("maxTokens");
    throw new BadRequest(field, `${field} is ${params.maxTokens}; it must be at most ${room}, as the prompt has ${promptTokens} tokens ` +
      `and the model's context is ${maxModelLen}`);
  }
  return params.maxTokens;
}
