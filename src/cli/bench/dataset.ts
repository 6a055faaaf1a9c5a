/**
 * What a benchmark sends: prompts of random token ids, the same for the same seed wherever they are drawn.
 *
 * Token ids instead of text make a prompt's length exact without knowing the server's tokenizer.
 */
import { UsageError } from "../../core/errors.ts";
import { stream } from "../../core/random.ts";

export interface Sample {
  readonly prompt: readonly number[];
  /** Most tokens to generate. */
  readonly outputTokens: number;
}

export interface RandomOptions {
  readonly numPrompts: number;
  /** Tokens of each prompt behind the prefix, and of each answer. */
  readonly inputTokens: number;
  readonly outputTokens: number;
  /** Tokens that all prompts begin with. */
  readonly prefixTokens: number;
  /** Lengths are drawn evenly from length * (1 - ratio) to length * (1 + ratio). In [0, 1). */
  readonly rangeRatio: number;
  /** Ids are drawn below this, and not below `firstId`. */
  readonly vocabSize: number;
  readonly seed: number;
}

/** Vocabularies begin with tokens such as <pad> and <eos>: a prompt of noise holds none. */
export const firstId = 16;

/** Draws `numPrompts` samples. Throws UsageError for options that leave nothing to draw from. */
export function randomSamples({ numPrompts, inputTokens, outputTokens, prefixTokens, rangeRatio, vocabSize, seed }: RandomOptions): Sample[] {
  if (vocabSize <= firstId) throw new UsageError(`the vocabulary has ${vocabSize} tokens; random prompts take ids from ${firstId} on, so it must be larger`);
  const random = stream(seed);
  const below = (count: number) => Math.floor(random() * count);
  const ids = (count: number) => Array.from({ length: count }, () => firstId + below(vocabSize - firstId));
  const length = (middle: number) => {
    const least = Math.max(1, Math.floor(middle * (1 - rangeRatio)));
    return least + below(Math.ceil(middle * (1 + rangeRatio)) - least + 1);
  };
  const prefix = ids(prefixTokens);
  return Array.from({ length: numPrompts }, () => ({ prompt: [...prefix, ...ids(length(inputTokens))], outputTokens: length(outputTokens) }));
}

/**
 * When each of `count` requests is sent, in seconds from the start: all at once for an infinite rate, else with gaps from a gamma
 * distribution of shape `burstiness` (1: a Poisson process; below: in bursts; above: evenly), scaled so that the last is sent at
 * count / rate, as vLLM's client does.
 */
export function arrivals(count: number, perSecond: number, burstiness: number, seed: number): number[] {
  if (perSecond === Infinity) return new Array<number>(count).fill(0);
  const random = stream(seed);
  let at = 0;
  const times = Array.from({ length: count }, () => (at += gamma(burstiness, random)));
  const scale = at > 0 ? count / perSecond / at : 0;
  return times.map((time) => time * scale);
}

/** A draw from the gamma distribution of this shape and scale 1 (Marsaglia and Tsang 2000). */
function gamma(shape: number, random: () => number): number {
  if (shape < 1) return gamma(shape + 1, random) * (1 - random()) ** (1 / shape);
  const d = shape - 1 / 3, c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const normal = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    const v = (1 + c * normal) ** 3;
    if (v > 0 && Math.log(1 - random()) < normal * normal / 2 + d - d * v + d * Math.log(v)) return d * v;
  }
}
