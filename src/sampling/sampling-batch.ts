/**
 * What is wanted of a step's rows of logits, as the records that a backend reads (backend.ts): for each how its token is chosen, for some what their
 * request's rules change first, and questions how likely tokens are. Some rows come to the host, where a request's own functions are.
 *
 *   row         0        1         2        3          four rows of logits
 *   choices     plain    skip      skip     plain      one for each
 *   rules                row 1                         with its edits
 *   host rows                      row 2
 *   questions   row 0    row 1                         answered once the tokens are chosen
 *
 * Filled anew each step. Knows no sequence and no backend.
 */
import { editWord, questionWord, ruleWord } from "../backend/backend.ts";
import { Choices } from "./choices.ts";
import type { SamplingParams } from "./params.ts";
import { Records } from "./records.ts";
import type { LogitRules } from "./rules.ts";

export class SamplingBatch {
  readonly choices: Choices;
  /** Rows whose logits come to the host, in that order. */
  readonly hostRows: number[] = [];
  readonly #rules = new Records(ruleWord.words);
  readonly #edits = new Records(editWord.words);
  readonly #questions = new Records(questionWord.words);

  /** Room for `numRows` rows. */
  constructor(numRows: number) {
    this.choices = new Choices(numRows);
  }

  clear(): void {
    this.hostRows.length = 0;
    for (const list of [this.#rules, this.#edits, this.#questions]) list.clear();
  }

  /** One record (`ruleWord`) for each row with rules, whose edits count from the first of the step. */
  get rules(): Int32Array<ArrayBuffer> {
    return this.#rules.words;
  }

  /** Records (`editWord`). */
  get edits(): Int32Array<ArrayBuffer> {
    return this.#edits.words;
  }

  /** Records (`questionWord`). */
  get questions(): Int32Array<ArrayBuffer> {
    return this.#questions.words;
  }

  get numQuestions(): number {
    return this.#questions.count;
  }

  /** No token is chosen from the row. */
  skip(row: number): void {
    this.choices.skip(row);
  }

  /** The row's token is the one that `params` choose for `position`, its index in the sequence, behind `numOutput` tokens of output, once `rules` have changed its logits. */
  choose(row: number, params: SamplingParams, seed: number, position: number, rules?: LogitRules, numOutput = 0): void {
    this.choices.set(row, params, seed, position);
    if (!rules) return;
    const first = this.#edits.count;
    rules.writeEdits(this.#edits, numOutput);
    // Rules that have nothing to say here: a minimum that is reached, words that have not begun.
    if (this.#edits.count === first && !rules.onlyEdited) return;
    this.choices.skip(row);
    const at = this.#rules.add(), { ints, doubles } = this.#rules;
    ints[at + ruleWord.row] = row;
    ints[at + ruleWord.firstEdit] = first;
    ints[at + ruleWord.numEdits] = this.#edits.count - first;
    ints[at + ruleWord.onlyEdited] = Number(rules.onlyEdited);
    doubles[(at + ruleWord.repetition) / 2] = params.repetitionPenalty;
    doubles[(at + ruleWord.frequency) / 2] = params.frequencyPenalty;
    doubles[(at + ruleWord.presence) / 2] = params.presencePenalty;
  }

  /** The row's logits come to the host, which chooses. */
  bring(row: number): void {
    this.choices.skip(row);
    this.hostRows.push(row);
  }

  /** One more question: how likely are `token`, or if that is -1 the one that is chosen from the row, and the `numTop` likeliest? */
  ask(row: number, numTop: number, token = -1): void {
    const at = this.#questions.add(), { ints } = this.#questions;
    ints[at + questionWord.row] = row;
    ints[at + questionWord.token] = token;
    ints[at + questionWord.numTop] = numTop;
  }
}
