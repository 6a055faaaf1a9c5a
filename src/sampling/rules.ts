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
 * The arithmetic is the backend's (backend.ts, editWord): here is which tokens are concerned. Only tokens that a rule names are touched: penalties cost by
 * distinct tokens seen, and a request without rules has no object. Functions are in this process and so are, for them alone, the logits: their request's rules
 * are applied here, in a row of its own, in doubles that are rounded to f32 where functions see them and in the end. What has been put out is counted, not read
 * again: a preemption changes nothing. Knows no batch.
 */
import { editWord } from "../backend/backend.ts";
import { greatestFloat32 } from "../core/dtype.ts";
import { BadRequest, invariant } from "../core/errors.ts";
import type { LogitsProcessor, SamplingParams } from "./params.ts";
import { Records } from "./records.ts";

/** What an edit's count is before there is any output; `byOutput`: only the output brings the edit. */
const byOutput = -2, notSeen = -1, inPrompt = 0;

/** The rules of one sequence, and what they remember of it. */
export class LogitRules {
  readonly #params: SamplingParams;
  /** Tokens that end the output. */
  readonly #ends: readonly number[];
  readonly #penalises: boolean;
  /** What is to be done to each token that is allowed where only some are, else biased or under penalty; those that the output brought come last. */
  readonly #edits = new Records(editWord.words);
  /** Which edit is a token's, where they do not stand in the order of tokens; and of each edit what its count was at first. */
  readonly #places = new Map<number, number>();
  readonly #inOrder: boolean;
  readonly #atFirst: number[] = [];
  readonly #output: number[] = [];
  readonly #processors: readonly LogitsProcessor[];
  readonly #prompt: Int32Array;
  /** Where the processors write. */
  #row: Float32Array | undefined;

  private constructor(params: SamplingParams, prompt: Int32Array, endTokens: ReadonlySet<number>) {
    const { repetitionPenalty, frequencyPenalty, presencePenalty, minTokens, stopTokenIds, logitBias = new Map<number, number>(), allowedTokenIds } = params;
    this.#params = params;
    this.#processors = params.logitsProcessors ?? [];
    this.#prompt = prompt;
    // The model's end tokens are held back even where they would be ignored, as in vLLM.
    this.#ends = minTokens > 0 ? [...new Set([...endTokens, ...stopTokenIds])] : [];
    this.#penalises = repetitionPenalty !== 1 || frequencyPenalty !== 0 || presencePenalty !== 0;
    // Functions may bring in others than the allowed ones, which then come last.
    this.#inOrder = allowedTokenIds !== undefined && this.#processors.length === 0;
    const allowed = allowedTokenIds && Int32Array.from(allowedTokenIds).sort();
    for (const token of allowed?.filter((id, i) => id !== allowed[i - 1]) ?? logitBias.keys()) this.#edit(token, notSeen, logitBias.get(token) ?? 0);
    // The other penalties know only the output.
    if (repetitionPenalty !== 1) for (const token of prompt) this.#see(token, inPrompt);
  }

  /** The rules of a request with this prompt, where it has any. `endTokens`: the model's own. */
  static of(params: SamplingParams, prompt: Int32Array, endTokens: ReadonlySet<number>): LogitRules | undefined {
    const { repetitionPenalty, frequencyPenalty, presencePenalty, minTokens, logitBias, allowedTokenIds, badWords } = params;
    const none = repetitionPenalty === 1 && frequencyPenalty === 0 && presencePenalty === 0 && minTokens === 0 && badWords.length === 0 &&
      allowedTokenIds === undefined && (logitBias?.size ?? 0) === 0 && (params.logitsProcessors?.length ?? 0) === 0;
    return none ? undefined : new LogitRules(params, prompt, endTokens);
  }

  /** Whether there are functions among them, which only `apply` can call. */
  get haveProcessors(): boolean {
    return this.#processors.length > 0;
  }

  /** Whether they must know which tokens have been put out, not only how many. */
  get needOutput(): boolean {
    return this.#penalises || this.#processors.length > 0 || this.#params.badWords.some((word) => word.length > 1);
  }

  /** Whether no token may be generated but those that are edited. */
  get onlyEdited(): boolean {
    return this.#params.allowedTokenIds !== undefined;
  }

  /** The next token of the output. */
  add(token: number): void {
    this.#output.push(token);
    if (!this.#penalises) return;
    this.#see(token, byOutput);
    const place = this.#placeOf(token);
    if (place !== undefined) this.#edits.ints[place * editWord.words + editWord.count] = 1 + Math.max(0, this.#countAt(place));
  }

  /** Takes the last token of the output back. */
  removeLast(): void {
    const token = this.#output.pop()!, place = this.#penalises ? this.#placeOf(token) : undefined;
    if (place === undefined) return;
    const count = this.#countAt(place) - 1, atFirst = this.#atFirst[place]!;
    this.#edits.ints[place * editWord.words + editWord.count] = count > 0 ? count : atFirst;
    if (count > 0 || atFirst !== byOutput) return;
    // What the output brought stands in the order in which it came.
    this.#places.delete(token);
    this.#atFirst.pop();
    this.#edits.removeLast();
  }

  /**
   * Adds to `edits` (backend.ts, editWord) what is to be done to each token that a rule names, for the token behind `numOutput` of output (those that were
   * added, where the rules need them): no token twice, ascending where only these may be chosen.
   */
  writeEdits(edits: Records, numOutput: number): void {
    invariant(!this.needOutput || numOutput === this.#output.length, `rules that know ${this.#output.length} tokens of output are asked what follows ${numOutput}`);
    const from = edits.add(this.#edits.count);
    edits.ints.set(this.#edits.words, from);
    for (const token of this.#forbidden(numOutput)) {
      const place = this.#placeOf(token);
      if (place === undefined && this.onlyEdited) continue;
      const at = place === undefined ? edits.add() : from + place * editWord.words;
      edits.ints[at + editWord.token] = token;
      edits.ints[at + editWord.count] = notSeen;
      edits.doubles[(at + editWord.bias) / 2] = -Infinity;
    }
  }

  /**
   * The logits under the rules, where these have functions: f32 [vocabSize], an array of the request's own. `logits` are left as they are. Tokens that the
   * model gave no number stay without one. @throws BadRequest when a logits processor fails
   */
  apply(logits: Float32Array): Float32Array {
    // A function may have given away the array of the token before.
    if (this.#row?.length !== logits.length) this.#row = new Float32Array(logits.length);
    const row = this.#row, { repetitionPenalty, frequencyPenalty, presencePenalty, allowedTokenIds, logitBias } = this.#params;
    if (allowedTokenIds) {
      row.fill(-Infinity);
      for (const id of allowedTokenIds) row[id] = logits[id]!;
    } else row.set(logits);
    for (const [id, bias] of logitBias ?? []) row[id] = finite(row[id]! + bias, row[id]!);
    for (const id of this.#forbidden(this.#output.length)) row[id] = -Infinity;
    this.#process(row);
    for (let place = 0; place < this.#edits.count; place++) {
      const id = this.#tokenAt(place), count = this.#countAt(place), raw = row[id]!;
      if (count < 0) continue;
      const repeated = raw > 0 ? raw / repetitionPenalty : raw * repetitionPenalty;
      row[id] = finite(count > 0 ? repeated - frequencyPenalty * count - presencePenalty : repeated, raw);
    }
    return row;
  }

  #process(row: Float32Array): void {
    const { length } = row;
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
      if (row.length !== length) fail("gave the logits away");
    }
  }

  /** Tokens that may not follow `numOutput` of output, and would not be forbidden for others. */
  #forbidden(numOutput: number): ReadonlySet<number> {
    const { minTokens, badWords } = this.#params;
    if (numOutput >= minTokens && badWords.length === 0) return nothing;
    const forbidden = new Set(numOutput < minTokens ? this.#ends : []);
    for (const word of badWords) if (this.#wouldEnd(word)) forbidden.add(word.at(-1)!);
    return forbidden;
  }

  /** Whether the word's last token would complete it. */
  #wouldEnd(word: readonly number[]): boolean {
    if (word.length === 1) return true;
    const from = this.#output.length - (word.length - 1);
    if (from < 0) return false;
    for (let i = word.length - 2; i >= 0; i--) if (this.#output[from + i] !== word[i]) return false;
    return true;
  }

  /** A token is under penalty from now on; `atFirst`: what its count is, or was before the output brought it. */
  #see(token: number, atFirst: typeof inPrompt | typeof byOutput): void {
    const place = this.#placeOf(token);
    if (place === undefined) {
      if (!this.#inOrder) this.#edit(token, atFirst, 0);
    } else if (atFirst === inPrompt) this.#atFirst[place] = this.#edits.ints[place * editWord.words + editWord.count] = inPrompt;
  }

  #edit(token: number, count: number, bias: number): void {
    const at = this.#edits.add();
    this.#edits.ints[at + editWord.token] = token;
    this.#edits.ints[at + editWord.count] = count;
    this.#edits.doubles[(at + editWord.bias) / 2] = bias;
    const place = this.#atFirst.push(count) - 1;
    if (!this.#inOrder) this.#places.set(token, place);
  }

  #placeOf(token: number): number | undefined {
    if (!this.#inOrder) return this.#places.get(token);
    let low = 0, high = this.#edits.count;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#tokenAt(middle) < token) low = middle + 1;
      else high = middle;
    }
    return low < this.#edits.count && this.#tokenAt(low) === token ? low : undefined;
  }

  #tokenAt(place: number): number {
    return this.#edits.ints[place * editWord.words + editWord.token]!;
  }

  #countAt(place: number): number {
    return this.#edits.ints[place * editWord.words + editWord.count]!;
  }
}

const nothing: ReadonlySet<number> = new Set();

/** `x` as f32 can hold it: an extreme penalty makes no infinity of a logit that was none. */
const finite = (x: number, raw: number): number => (Number.isFinite(raw) ? Math.min(Math.max(x, -greatestFloat32), greatestFloat32) : x);
