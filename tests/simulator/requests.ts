/** Random requests: beginnings that are shared, every kind of sampling parameter, and what a request can have wrong. */
import { uniform } from "../../src/core/random.ts";
import type { Standing } from "../../src/engine/messages.ts";
import { defaultSampling, type LogitsProcessor, type SamplingParams } from "../../src/sampling/params.ts";
import type { Dice } from "./dice.ts";
import type { Swarm } from "./swarm.ts";

export interface Request {
  readonly id: string;
  readonly prompt: Int32Array<ArrayBuffer>;
  readonly params: SamplingParams;
  readonly standing: Standing;
  /** With whom it may share pages. */
  readonly space: string;
  /** Its own, or the one that the engine will draw. */
  readonly seed: number;
  /** The field that the engine must refuse it for. */
  readonly wrong: string | undefined;
}

/** Functions that change logits; the last three end a request. */
const processors: readonly LogitsProcessor[] = [
  (logits, { outputTokenIds }) => void (logits[outputTokenIds.length % logits.length]! += 3),
  (logits, { promptTokenIds, outputTokenIds }) => void (logits[outputTokenIds.at(-1) ?? promptTokenIds.at(-1)!] = -Infinity),
  (logits) => void logits.reverse(),
  (logits, { outputTokenIds }) => void (outputTokenIds.length === 3 && logits.fill(-Infinity)),
  (_, { outputTokenIds }) => {
    if (outputTokenIds.length === 2) throw new Error("enough");
  },
  (logits, { outputTokenIds }) => (outputTokenIds.length === 4 ? (logits as unknown as undefined) : undefined),
];

/** What a request may ask for, by name. `maxTokens` is settled before. A new parameter is one more row. */
export const features = {
  greedy: () => ({ temperature: 0 }),
  temperature: (dice) => ({ temperature: dice.pick([1e-6, 0.001, 0.3, 0.7, 1.5, 4]) }),
  topK: (dice, n) => ({ topK: dice.pick([-1, 1, 2, 3, n, 1000]) }),
  topP: (dice) => ({ topP: dice.pick([1e-9, 0.1, 0.5, 0.9, 0.99]) }),
  minP: (dice) => ({ minP: dice.pick([0.02, 0.2, 1]) }),
  seed: (dice) => ({ seed: dice.pick([0, 1, -7, 2 ** 40 + 3, dice.int(0, 1000)]) }),
  repetitionPenalty: (dice) => ({ repetitionPenalty: dice.pick([0.5, 1.2, 3]) }),
  presencePenalty: (dice) => ({ presencePenalty: dice.pick([-2, 0.5, 2]) }),
  frequencyPenalty: (dice) => ({ frequencyPenalty: dice.pick([-0.3, 0.5, 2]) }),
  logitBias: (dice, n) => ({ logitBias: new Map(dice.ints(dice.int(1, 4), 0, n - 1).map((id) => [id, dice.pick([-100, -2, 3, 100])])) }),
  allowedTokenIds: (dice, n) => ({ allowedTokenIds: dice.ints(dice.int(1, n), 0, n - 1) }),
  badWords: (dice, n) => ({ badWords: Array.from({ length: dice.int(1, 4) }, () => dice.ints(dice.int(1, 3), 0, n - 1)) }),
  minTokens: (dice, _, maxTokens) => ({ minTokens: dice.int(0, maxTokens) }),
  stopTokenIds: (dice, n) => ({ stopTokenIds: dice.ints(dice.int(1, 2), 0, n - 1) }),
  ignoreEos: () => ({ ignoreEos: true }),
  logprobs: (dice) => ({ logprobs: dice.pick([0, 1, 3, 20]) }),
  promptLogprobs: (dice) => ({ promptLogprobs: dice.pick([0, 2]) }),
  logitsProcessors: (dice) => ({ logitsProcessors: Array.from({ length: dice.int(1, 2) }, () => dice.pick(processors)) }),
} satisfies Record<string, (dice: Dice, vocabSize: number, maxTokens: number) => Partial<SamplingParams>>;
export type Feature = keyof typeof features;

/** What a request may have wrong: the field, and how. A context or cache that is too small comes by itself. */
const faults: readonly (readonly [keyof SamplingParams, (vocabSize: number) => unknown])[] = [
  ["temperature", () => NaN], ["topP", () => 0], ["topK", () => -2], ["minP", () => 1.5], ["seed", () => 0.5], ["repetitionPenalty", () => 0],
  ["presencePenalty", () => 2.5], ["frequencyPenalty", () => NaN], ["logitBias", (n) => new Map([[n, 1]])], ["allowedTokenIds", () => []], ["badWords", () => [[]]],
  ["minTokens", () => -1], ["maxTokens", () => 0], ["stopTokenIds", (n) => [n]], ["ignoreEos", () => 1], ["logprobs", () => 21],
  ["promptLogprobs", () => -1], ["logitsProcessors", () => ["reverse"]],
];

export class Requests {
  readonly #swarm: Swarm;
  readonly #dice: Dice;
  #numDrawn = 0;

  constructor(swarm: Swarm, dice: Dice) {
    this.#swarm = swarm;
    this.#dice = dice;
  }

  /** A prompt that begins as others do, most often. */
  prompt(): number[] {
    const { beginnings, limits: { maxModelLen, pageSize }, vocabSize } = this.#swarm, dice = this.#dice;
    const shared = dice.chance(0.7) ? dice.int(0, Math.min(Math.floor(0.8 * maxModelLen), 12 * pageSize)) : 0;
    return [...dice.pick(beginnings).slice(0, shared), ...dice.ints(dice.int(0, dice.pick([1, 4, 12])), 0, vocabSize - 1)];
  }

  #params(): SamplingParams {
    const { vocabSize, features: possible, featureRate } = this.#swarm, dice = this.#dice;
    const maxTokens = dice.int(1, this.#swarm.maxTokens);
    const some = possible.filter(() => dice.chance(featureRate)).map((name) => features[name](dice, vocabSize, maxTokens));
    return Object.assign({ ...defaultSampling, maxTokens }, ...some) as SamplingParams;
  }

  draw(prompt = this.prompt()): Request {
    // An empty prompt is wrong, and not what is wanted here.
    return this.#request(prompt.length > 0 ? prompt : [0], this.#params());
  }

  /** Choices of one prompt, their seeds one apart. */
  drawChoices(): Request[] {
    const params = this.#params(), prompt = this.prompt(), family = `family ${this.#numDrawn}`, seed = this.#dice.int(0, 1000);
    const standing = { ...this.#standing(), family };
    return Array.from({ length: this.#dice.int(2, 4) }, (_, i) => this.#request(prompt.length > 0 ? prompt : [0], { ...params, seed: seed + i }, undefined, standing));
  }

  #standing(): Standing {
    const priority = this.#dice.pick(this.#swarm.priorities);
    return { salt: this.#dice.pick(this.#swarm.salts), ...(priority !== 0 && { priority }) };
  }

  drawWrong(): Request {
    const { vocabSize } = this.#swarm, dice = this.#dice, params = this.#params(), prompt = [0, ...this.prompt()];
    const kind = dice.int(-2, faults.length - 1);
    if (kind === -2) return this.#request([], params, "prompt");
    if (kind === -1) return this.#request([...prompt, dice.pick([-1, vocabSize])], params, "prompt");
    const [field, value] = faults[kind]!;
    return this.#request(prompt, { ...params, minTokens: 0, [field]: value(vocabSize) }, field);
  }

  #request(prompt: ArrayLike<number>, params: SamplingParams, fault?: string, standing = this.#standing()): Request {
    const { limits: { maxModelLen, numPages, enablePrefixCaching }, engineSeed, needs } = this.#swarm;
    const number = this.#numDrawn++;
    const fits = needs.mostHeld(Math.min(prompt.length + params.maxTokens, maxModelLen) - 1) <= numPages;
    const wrong = fault === "prompt" || prompt.length >= maxModelLen ? "prompt" : fault ?? (fits ? undefined : "maxTokens");
    return {
      id: String(number), prompt: Int32Array.from(prompt), params, standing, wrong,
      space: enablePrefixCaching ? standing.salt! : standing.family ?? `request ${number}`,
      seed: params.seed ?? Math.floor(uniform(engineSeed, number) * 2 ** 53),
    };
  }
}
