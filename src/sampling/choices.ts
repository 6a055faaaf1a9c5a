/**
 * How the tokens of a step are to be chosen, as the records that a backend reads (backend.ts, choiceWord). Random numbers are the host's. Knows no sequence.
 */
import { choiceWord } from "../backend/backend.ts";
import { uniform } from "../core/random.ts";
import { isGreedy, leastTemperature, type SamplingParams } from "./params.ts";

const doubles = choiceWord.words / 2;
/** No vocabulary has more, and a word holds no more. */
const mostTopK = 2 ** 31 - 1;

export class Choices {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly words: Int32Array<ArrayBuffer>;
  readonly #doubles: Float64Array<ArrayBuffer>;

  /** Room for `numRows` records. */
  constructor(numRows: number) {
    const memory = new ArrayBuffer(numRows * choiceWord.words * 4);
    this.bytes = new Uint8Array(memory);
    this.#doubles = new Float64Array(memory);
    this.words = new Int32Array(memory);
  }

  /** Record `row`: how `params` choose the token for `position`, its index in the sequence. */
  set(row: number, params: SamplingParams, seed: number, position: number): void {
    const greedy = isGreedy(params), at = row * doubles;
    this.#doubles[at + choiceWord.temperature / 2] = greedy ? 0 : Math.max(params.temperature, leastTemperature);
    this.#doubles[at + choiceWord.topP / 2] = params.topP;
    this.#doubles[at + choiceWord.minP / 2] = params.minP;
    this.#doubles[at + choiceWord.uniform / 2] = greedy ? 0 : uniform(seed, position);
    this.words[row * choiceWord.words + choiceWord.topK] = Math.min(Math.max(0, params.topK), mostTopK);
    this.words[row * choiceWord.words + choiceWord.skip] = 0;
  }

  /** Nobody samples row `row` by its record alone, whatever that says. */
  skip(row: number): void {
    this.words[row * choiceWord.words + choiceWord.skip] = 1;
  }
}
