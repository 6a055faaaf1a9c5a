/** Faults in how a token is chosen, and in what is said of it. */
import type { Fault } from "./fault.ts";

export const sampling: readonly Fault[] = [
  {
    name: "penalty-of-prompt", file: "src/sampling/rules.ts",
    find: "count > 0 ? repeated - frequencyPenalty",
    replace: "count >= 0 ? repeated - frequencyPenalty",
    why: "the presence penalty is taken from tokens of the prompt too",
  },
  {
    name: "top-p-drops-the-crossing-token", file: "src/sampling/sampler.ts",
    find: "while (low < high && (massBefore < target || low === 0)) massBefore += mass[ids[low++]!]!;",
    replace: "while (low < high && (massBefore + mass[ids[low]!]! <= target || low === 0)) massBefore += mass[ids[low++]!]!;",
    why: "top-p leaves out the token with which the mass passes topP: less than topP of the mass is left",
  },
  {
    name: "top-p-one-more-at-equality", file: "src/sampling/sampler.ts",
    find: "(massBefore < target || low === 0)",
    replace: "(massBefore <= target || low === 0)",
    why: "top-p keeps one token more where the mass before it is exactly topP, as with equal logits",
  },
  {
    name: "min-p-before-temperature", file: "src/sampling/sampler.ts",
    find: "if (m === 0 || m < params.minP) continue;",
    replace: "if (m === 0 || Math.exp(logits[id]! - max) < params.minP) continue;",
    why: "min-p judges probabilities at temperature 1: too many are left at low temperatures, too few at high ones",
  },
  {
    name: "ties-in-no-order", file: "src/sampling/sampler.ts",
    find: "return x > y || (x === y && a < b);",
    replace: "return x > y;",
    why: "top-k and top-p with equal logits in a vocabulary of more than 24 keep whichever the partition left in front, not the lowest ids",
  },
  {
    name: "zero-temperature-is-a-small-one", file: "src/sampling/sampler.ts",
    find: "if (best === undefined || isGreedy(params)) return best;",
    replace: "if (best === undefined) return best;",
    why: "temperature 0 draws between tokens that are about as likely",
  },
  {
    name: "draw-in-order-of-likelihood", file: "src/sampling/sampler.ts",
    find: "if (params.topK > 0 || params.topP < 1) chosenFrom.sort();",
    replace: "if (params.topK > 0) chosenFrom.sort();",
    why: "with top-p alone the host draws in another order than a device that samples: other tokens for the same seed",
  },
  {
    name: "nan-is-passed-over", file: "src/sampling/sampler.ts",
    find: "if (x <= max) continue;",
    replace: "if (!(x > max)) continue;",
    why: "a NaN among the logits goes unnoticed and a token is told, where the request should end with an error",
  },
  {
    name: "restored-in-the-wrong-order", file: "src/sampling/rules.ts",
    find: "for (let i = this.#touched.length - 1; i >= 0; i--) row[",
    replace: "for (let i = 0; i < this.#touched.length; i++) row[",
    why: "a token that two rules changed (a bias or penalty, then bad words or min tokens) keeps the first change: the log-probabilities are not the model's",
  },
  {
    name: "bias-after-the-penalties", file: "src/sampling/rules.ts",
    find: "    const biased = raw + bias;\n    const repeated = biased > 0 ? biased / repetitionPenalty : biased * repetitionPenalty;\n",
    replace: "    const repeated = (raw > 0 ? raw / repetitionPenalty : raw * repetitionPenalty) + bias;\n",
    why: "the bias of a token that was seen is not divided by the repetition penalty",
  },
  {
    name: "bias-twice-for-seen-tokens", file: "src/sampling/rules.ts",
    find: "if (!this.#places.has(id)) this.#add(row, id, bias);",
    replace: "this.#add(row, id, bias);",
    why: "under a penalty, a token that has been seen gets its logit bias twice",
  },
  {
    name: "bias-twice-behind-processors", file: "src/sampling/rules.ts",
    find: "this.#penalise(row, i, 0);",
    replace: "this.#penalise(row, i, this.#bias.get(this.#seen[i]!) ?? 0);",
    why: "a request with a logits processor, a penalty and a bias: tokens that were seen get the bias before the processors and again after them",
  },
  {
    name: "sign-before-the-bias", file: "src/sampling/rules.ts",
    find: "const repeated = biased > 0 ?",
    replace: "const repeated = raw > 0 ?",
    why: "where a bias changes the sign of a logit, the repetition penalty makes the token likelier, not rarer",
  },
  {
    name: "prompt-counts-for-the-frequency", file: "src/sampling/rules.ts",
    find: "for (const token of prompt) this.#count(token, 0);",
    replace: "for (const token of prompt) this.#count(token, 1);",
    why: "with a repetition penalty, the frequency and presence penalties count the prompt's tokens too",
  },
  {
    name: "min-tokens-one-too-many", file: "src/sampling/rules.ts",
    find: "if (this.#output.length < this.#params.minTokens)",
    replace: "if (this.#output.length <= this.#params.minTokens)",
    why: "the first token behind the minimum can not be an end token",
  },
  {
    name: "min-tokens-forgets-the-stop-ids", file: "src/sampling/rules.ts",
    find: "[...new Set([...endTokens, ...stopTokenIds])]",
    replace: "[...endTokens]",
    why: "a stop token id ends the output before minTokens",
  },
  {
    name: "bad-words-first-token-not-compared", file: "src/sampling/rules.ts",
    find: "for (let i = word.length - 2; i >= 0; i--) if (this.#output",
    replace: "for (let i = word.length - 2; i > 0; i--) if (this.#output",
    why: "a bad word's last token is forbidden wherever all but the word's first token came before it: a word of two loses its last token everywhere",
  },
  {
    name: "bad-words-only-at-the-start", file: "src/sampling/rules.ts",
    find: "    if (from < 0) return false;\n",
    replace: "    if (from < 0 || (from > 0 && word.length > 1)) return false;\n",
    why: "a bad word of several tokens is held back only as the very beginning of the output",
  },
  {
    name: "rank-breaks-ties", file: "src/sampling/logprobs.ts",
    find: "if (x > chosen) rank++;",
    replace: "if (x > chosen || (x === chosen && id < token)) rank++;",
    why: "of tokens with equal logits those with higher ids get a worse rank",
  },
  {
    name: "top-ties-by-highest-id", file: "src/sampling/logprobs.ts",
    find: "while (at > 0 && x > logits[top[at - 1]!]!) at--;",
    replace: "while (at > 0 && x >= logits[top[at - 1]!]!) at--;",
    why: "top log-probabilities: of equal logits the highest id stands first, and the lowest falls out",
  },
  {
    name: "top-k-of-the-row-before", file: "src/sampling/choices.ts",
    find: "    this.#words[row * choiceWord.words + choiceWord.topK] = Math.max(0, params.topK);",
    replace: "    if (params.topK > 0) this.#words[row * choiceWord.words + choiceWord.topK] = params.topK;",
    why: "on a device that samples, a request without top-k has that of whoever had its row before",
  },
  {
    name: "tiny-temperature-is-not-greedy", file: "src/sampling/params.ts",
    find: "temperature < 1e-5;",
    replace: "temperature === 0;",
    why: "a temperature between 0 and 1e-5 draws between tokens that are about as likely",
  },
  {
    name: "seed-cut-to-32-bits", file: "src/core/random.ts", tests: ["src/core/random.test.ts"],
    find: "[seed | 0, Math.floor(seed / 2 ** 32) | 0]",
    replace: "[seed | 0, 0]",
    why: "seeds that differ by 2^32 give the same tokens",
  },
];
