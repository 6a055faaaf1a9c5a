/**
 * What a request changes in its logits before a token is chosen: vLLM's logits processors, in its order, before temperature and
 * for the likeliest token too.
 *
 *   allowed ids            every other token: -Infinity
 *   bad words              the last token of a word, where the output ends with what comes before it: -Infinity
 *   min tokens             what would end the output, until there are so many: -Infinity
 *   logit bias             added
 *   repetition             a token of prompt or output: a positive logit is divided by it, another is multiplied
 *   frequency, presence    a token of the output: minus frequency times its count, minus presence
 *
 * Only tokens that a rule names are touched: penalties cost by distinct tokens seen, and a request without rules has no object.
 * A changed logit is computed in doubles and rounded to f32 once. Where a token is forbidden all else about it is moot, so here
 * that is written last. What has been put out is counted, not read again: a preemption changes nothing. Knows no batch.
 */
import type { SamplingParams } from "./params.ts";

const greatest = 3.4028234663852886e38;

/** The rules of one sequence, and what they remember of it. */
export class LogitRules {
  readonly #params: SamplingParams;
  /** Tokens that end the output. */
  readonly #ends: readonly number[];
  readonly #bias: ReadonlyMap<number, number>;
  readonly #penalises: boolean;
  /** Distinct tokens under penalty; #counts[i] is how often #seen[i] stands in the output, 0 where only the prompt has it. */
  readonly #seen: number[] = [];
  readonly #counts: number[] = [];
  readonly #places = new Map<number, number>();
  readonly #output: number[] = [];
  /** What `apply` wrote over, oldest first. */
  readonly #touched: number[] = [];
  readonly #before: number[] = [];

  private constructor(params: SamplingParams, prompt: Int32Array, endTokens: ReadonlySet<number>) {
    const { repetitionPenalty, frequencyPenalty, presencePenalty, minTokens, stopTokenIds, logitBias } = params;
    this.#params = params;
    // The model's end tokens are held back even where they would be ignored, as in vLLM.
    this.#ends = minTokens > 0 ? [...new Set([...endTokens, ...stopTokenIds])] : [];
    this.#bias = logitBias ?? new Map();
    this.#penalises = repetitionPenalty !== 1 || frequencyPenalty !== 0 || presencePenalty !== 0;
    // The other penalties know only the output.
    if (repetitionPenalty !== 1) for (const token of prompt) this.#count(token, 0);
  }

  /** The rules of a request with this prompt, where it has any. `endTokens`: the model's own. */
  static of(params: SamplingParams, prompt: Int32Array, endTokens: ReadonlySet<number>): LogitRules | undefined {
    const { repetitionPenalty, frequencyPenalty, presencePenalty, minTokens, logitBias, allowedTokenIds, badWords } = params;
    const none = repetitionPenalty === 1 && frequencyPenalty === 0 && presencePenalty === 0 && minTokens === 0 && badWords.length === 0 &&
      allowedTokenIds === undefined && (logitBias?.size ?? 0) === 0;
    return none ? undefined : new LogitRules(params, prompt, endTokens);
  }

  /** The next token of the output. */
  add(token: number): void {
    this.#output.push(token);
    if (this.#penalises) this.#count(token, 1);
  }

  /**
   * The logits under the rules: `logits` itself, changed until `restore`, or `scratch`. Both f32 [vocabSize]. Tokens that the model
   * gave no number stay without one.
   */
  apply(logits: Float32Array, scratch: Float32Array): Float32Array {
    const { allowedTokenIds, minTokens } = this.#params;
    let row = logits;
    if (allowedTokenIds !== undefined) {
      row = scratch.fill(-Infinity);
      for (const id of allowedTokenIds) row[id] = logits[id]!;
    }
    for (const [id, bias] of this.#bias) if (!this.#places.has(id)) this.#write(row, id, finite(row[id]! + bias, row[id]!));
    for (let i = 0; i < this.#seen.length; i++) {
      const id = this.#seen[i]!;
      this.#write(row, id, this.#penalised(row[id]!, this.#bias.get(id) ?? 0, this.#counts[i]!));
    }
    if (this.#output.length < minTokens) for (const id of this.#ends) this.#write(row, id, -Infinity);
    for (const word of this.#params.badWords) if (this.#wouldEnd(word)) this.#write(row, word.at(-1)!, -Infinity);
    return row;
  }

  /** Gives `row`, which `apply` returned, back as it was. */
  restore(row: Float32Array): void {
    for (let i = this.#touched.length - 1; i >= 0; i--) row[this.#touched[i]!] = this.#before[i]!;
    this.#touched.length = 0;
    this.#before.length = 0;
  }

  #penalised(raw: number, bias: number, count: number): number {
    const { repetitionPenalty, frequencyPenalty, presencePenalty } = this.#params;
    const biased = raw + bias;
    const repeated = biased > 0 ? biased / repetitionPenalty : biased * repetitionPenalty;
    return finite(count > 0 ? repeated - frequencyPenalty * count - presencePenalty : repeated, raw);
  }

  /** Whether the word's last token would complete it. */
  #wouldEnd(word: readonly number[]): boolean {
    const from = this.#output.length - (word.length - 1);
    if (from < 0) return false;
    for (let i = word.length - 2; i >= 0; i--) if (this.#output[from + i] !== word[i]) return false;
    return true;
  }

  #count(token: number, times: number): void {
    const place = this.#places.get(token);
    if (place !== undefined) this.#counts[place]! += times;
    else {
      this.#places.set(token, this.#seen.length);
      this.#seen.push(token);
      this.#counts.push(times);
    }
  }

  #write(row: Float32Array, id: number, value: number): void {
    this.#touched.push(id);
    this.#before.push(row[id]!);
    row[id] = value;
  }
}

/** `x` as f32 can hold it: an extreme penalty makes no infinity of a logit that was none. */
const finite = (x: number, raw: number): number => (Number.isFinite(raw) ? Math.min(Math.max(x, -greatest), greatest) : x);
