/** What a machine without arithmetic does with its logits: the definitions of a backend's operations, on a copy of what was wanted of a step. */
import { answerWord, type Activation, ruleWord } from "../../src/backend/backend.ts";
import { ReferenceBuffer } from "../../src/backend/reference/memory.ts";
import { logprobs, sample, sampleRuled } from "../../src/backend/reference/sample.ts";
import type { Sampled } from "../../src/engine/run-ahead.ts";
import { Answers } from "../../src/sampling/logprobs.ts";
import type { SamplingBatch } from "../../src/sampling/sampling-batch.ts";

/** What of a step's rows of logits is wanted; whoever launched it may go on. */
export interface Wanted {
  readonly words: Readonly<Record<"choices" | "rules" | "edits" | "questions", Int32Array<ArrayBuffer>>>;
  readonly numRules: number;
  readonly numQuestions: number;
  readonly hostRows: readonly number[];
}

export const copyOf = ({ choices, rules, edits, questions, numQuestions, hostRows }: SamplingBatch): Wanted => ({
  words: { choices: choices.words.slice(), rules: rules.slice(), edits: edits.slice(), questions: questions.slice() }, numRules: rules.length / ruleWord.words, numQuestions, hostRows: [...hostRows],
});

const over = (words: Int32Array<ArrayBuffer> | Float32Array<ArrayBuffer>): ReferenceBuffer => new ReferenceBuffer(words.buffer, words.byteOffset, words.byteLength);
const counting = (numLogits: number) => {
  const words = over(Int32Array.of(0, 0, numLogits, 0));
  return { header: words, tokens: words, positions: words, slots: words, blockTable: words, logitRows: words, maxPagesPerSequence: 1 };
};

export class Chooser {
  /** The token of each row of the step before, and then of this one. */
  readonly sampled: Int32Array<ArrayBuffer>;
  readonly #vocabSize: number;

  constructor(vocabSize: number, numRows: number) {
    this.#vocabSize = vocabSize;
    this.sampled = new Int32Array(numRows);
  }

  /** `values`: f32 [numLogits, vocabSize]. */
  choose(values: Float32Array<ArrayBuffer>, numLogits: number, { words: { choices, rules, edits, questions }, numRules, numQuestions, hostRows }: Wanted): Sampled {
    const columns = this.#vocabSize, logits: Activation = { data: over(values), rows: "logits", columns, stride: columns };
    const out = over(this.sampled), answers = new Int32Array(numQuestions * answerWord.words);
    sample({ logits, choices: over(choices), out, batch: counting(numLogits) });
    if (numRules > 0) sampleRuled({ logits, choices: over(choices), rules: over(rules), edits: over(edits), scratch: over(new Int32Array(edits.length)), out, batch: counting(numRules) });
    if (numQuestions > 0) logprobs({ logits, questions: over(questions), sampled: out, out: over(answers), batch: counting(numQuestions) });
    return {
      tokens: this.sampled.slice(0, numLogits), answers: new Answers(new Uint8Array(answers.buffer)),
      logits: hostRows.map((row) => values.slice(row * columns, (row + 1) * columns)),
    };
  }
}
