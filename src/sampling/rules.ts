/**
 * What a request changes in its logits before a token is chosen: vLLM's logits processors, in its order, before temperature and
 * for the likeliest token too.
 *
 *   allowed ids            every other token: -Infinity
 *   bad words              the last token of a word, where the output ends with what comes before it: -Infinity
 *   min tokens             what would end the output, until there are so many: -Infinity
 *   logit bias             added
 *   logits processors      the request's own functions (params.ts says what they may do)
 *   repetition             a token of prompt or output: a positive logit is divided by it, another is multiplied
 *   frequency, presence    a token of the output: minus frequency times its count, minus presence
 *
 * Only tokens that a rule names are touched: penalties cost by distinct tokens seen, and a request without rules has no object.
 * A changed logit is computed in doubles and rounded to f32 once. Where a token is forbidden all else about it is moot, so here
 * that is written last; where there are processors, which see that it is forbidden, and may allow it, it is written before them. They get a row of their
 * request's own: whatever becomes of it, nobody else reads it. What has been put out is counted, not read again: a preemption changes nothing. Knows no batch.
 */
import { BadRequest } from "../core/errors.ts";
import type { LogitsProcessor, SamplingParams } from "./params.ts";

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
  readonly #processors: readonly LogitsProcessor[];
  readonly #prompt: Int32Array;
  /** Where the processors write. */
  #row: Float32Array | undefined;
  /** What `apply` wrote over, oldest first. */
  readonly #touched: number[] = [];
  readonly #before: number[] = [];

  private constructor(params: SamplingParams, prompt: Int32Array, endTokens: ReadonlySet<number>) {
    const { repetitionPenalty, frequencyPenalty, presencePenalty, minTokens, stopTokenIds, logitBias } = params;
    this.#params = params;
    this.#processors = params.logitsProcessors ?? [];
    this.#prompt = prompt;
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
      allowedTokenIds === undefined && (logitBias?.size ?? 0) === 0 && (params.logitsProcessors?.length ?? 0) === 0;
    return none ? undefined : new LogitRules(params, prompt, endTokens);
  }

  /** The next token of the output. */
  add(token: number): void {
    this.#output.push(token);
    if (this.#penalises) this.#count(token, 1);
  }

  /**
   * The logits under the rules: `logits` itself, changed until `restore`, or `scratch`, or an array of the request's own. All f32 [vocabSize]. Tokens
   * that the model gave no number stay without one. @throws BadRequest when a logits processor fails
   */
  apply(logits: Float32Array, scratch: Float32Array): Float32Array {
    if (this.#processors.length > 0) return this.#process(logits);
    const row = this.#allowed(logits, scratch);
    for (const [id, bias] of this.#bias) if (!this.#places.has(id)) this.#add(row, id, bias);
    for (let i = 0; i < this.#seen.length; i++) this.#penalise(row, i, this.#bias.get(this.#seen[i]!) ?? 0);
    this.#forbid(row);
    return row;
  }

  /** `apply` where functions stand in the middle. */
  #process(logits: Float32Array): Float32Array {
    // A function may have given away the array of the token before.
    if (this.#row?.length !== logits.length) this.#row = new Float32Array(logits.length);
    const row = this.#row;
    if (this.#allowed(logits, row) === logits) row.set(logits);
    for (const [id, bias] of this.#bias) this.#add(row, id, bias);
    this.#forbid(row);
    for (const [i, processor] of this.#processors.entries()) {
      const fail = (what: string): never => {
        throw new BadRequest("logitsProcessors", `logitsProcessors[${i}] ${what}, after ${this.#output.length} tokens of output`);
      };
      let result: unknown;
      try {
        result = processor(row, { promptTokenIds: this.#prompt, outputTokenIds: this.#output });
      } catch (error) {
        fail(`threw ${error instanceof Error ? `${error.name}: ${error.message}` : typeof error === "string" ? error : `a value of type ${typeof error}`}`);
      }
      if (result !== undefined) {
        // What an async one rejects with is not heard of a second time.
        Promise.resolve(result).catch(() => {});
        fail("returned something; it must write to the logits it is given, at once, and return nothing");
      }
      if (row.length !== logits.length) fail("gave the logits away");
    }
    for (let i = 0; i < this.#seen.length; i++) this.#penalise(row, i, 0);
    return row;
  }

  /** Gives `row`, which `apply` returned, back as it was. */
  restore(row: Float32Array): void {
    for (let i = this.#touched.length - 1; i >= 0; i--) row[this.#touched[i]!] = this.#before[i]!;
    this.#touched.length = 0;
    this.#before.length = 0;
  }

  /** `logits`, or where only some tokens are allowed these, in `scratch`. */
  #allowed(logits: Float32Array, scratch: Float32Array): Float32Array {
    const { allowedTokenIds } = this.#params;
    if (allowedTokenIds === undefined) return logits;
    scratch.fill(-Infinity);
    for (const id of allowedTokenIds) scratch[id] = logits[id]!;
    return scratch;
  }

  #add(row: Float32Array, id: number, bias: number): void {
    this.#write(row, id, finite(row[id]! + bias, row[id]!));
  }

  /** Adds `bias` to the token at place `i` of those seen, and then what its penalties are. */
  #penalise(row: Float32Array, i: number, bias: number): void {
    const { repetitionPenalty, frequencyPenalty, presencePenalty } = this.#params;
    const id = this.#seen[i]!, count = this.#counts[i]!, raw = row[id]!;
    const biased = raw + bias;
    const repeated = biased > 0 ? biased / repetitionPenalty : biased * repetitionPenalty;
    this.#write(row, id, finite(count > 0 ? repeated - frequencyPenalty * count - presencePenalty : repeated, raw));
  }

  #forbid(row: Float32Array): void {
    if (this.#output.length < this.#params.minTokens) for (const id of this.#ends) this.#write(row, id, -Infinity);
    for (const word of this.#params.badWords) if (this.#wouldEnd(word)) this.#write(row, word.at(-1)!, -Infinity);
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
