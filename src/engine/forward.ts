/**
 * A loaded model as the engine's ForwardModel: writes a batch into the model's inputs, replays the recorded programs and reads the tokens that were
 * chosen, answers, and logits where the host wants them. The calls made here are the same for 2 layers and for 200. Knows no requests.
 */
import { answerWord, type Backend, type Buffer, choiceWord, editWord, headerWord, ruleWord } from "../backend/backend.ts";
import { bytesPerElement } from "../core/dtype.ts";
import { invariant } from "../core/errors.ts";
import { type Model, writeWork } from "../model/load.ts";
import { Answers } from "../sampling/logprobs.ts";
import type { SamplingBatch } from "../sampling/sampling-batch.ts";
import type { Batch } from "./batch.ts";
import type { ForwardModel, Sampled } from "./run-ahead.ts";

export class ProgramModel implements ForwardModel {
  readonly vocabSize: number;
  readonly runsAhead: boolean;
  readonly #backend: Backend;
  readonly #model: Model;
  readonly #header = new Int32Array(headerWord.words);

  constructor(backend: Backend, model: Model) {
    this.vocabSize = model.config.vocabSize;
    this.runsAhead = backend.caps.runsAhead;
    this.#backend = backend;
    this.#model = model;
  }

  /** All that is read is asked for at once, before any later step is started. */
  async launch(batch: Batch, wanted: SamplingBatch): Promise<Sampled> {
    const { numLogits } = batch, { sampling, logits } = this.#model, { hostRows, numQuestions } = wanted, rowBytes = this.vocabSize * bytesPerElement.f32;
    this.#write(sampling.choices, wanted.choices.words, numLogits * choiceWord.words);
    this.#start(batch);
    this.#chooseRuled(wanted);
    if (numQuestions > 0) this.#answer(wanted);
    // Where no tokens are wanted one is read all the same: reading waits, and tells of a failure.
    const [tokens, answers, ...rows] = await Promise.all([
      this.#backend.read(sampling.sampled, 0, Math.max(1, numLogits) * bytesPerElement.i32),
      numQuestions > 0 ? this.#backend.read(sampling.answers, 0, numQuestions * answerWord.words * bytesPerElement.i32) : nothing,
      ...hostRows.map((row) => this.#backend.read(logits, row * rowBytes, rowBytes)),
    ]);
    return {
      tokens: new Int32Array(tokens.buffer, tokens.byteOffset, numLogits), answers: new Answers(answers),
      logits: rows.map((bytes) => new Float32Array(bytes.buffer, bytes.byteOffset, this.vocabSize)),
    };
  }

  /** Writes the batch and starts the replay. */
  #start(batch: Batch): void {
    const { batch: inputs, program } = this.#model;
    const { numTokens, numSequences, numLogits, maxPagesPerSequence } = batch;
    invariant(maxPagesPerSequence === inputs.maxPagesPerSequence, `block tables of ${maxPagesPerSequence} and ${inputs.maxPagesPerSequence} pages`);
    this.#writeHeader(inputs.header, numTokens, numSequences, numLogits);
    this.#write(inputs.tokens, batch.tokens, numTokens);
    this.#write(inputs.positions, batch.positions, numTokens);
    this.#write(inputs.slots, batch.slots, numTokens);
    this.#write(inputs.blockTable, batch.blockTable, numSequences * maxPagesPerSequence);
    this.#write(inputs.logitRows, batch.logitRows, numLogits);
    writeWork(this.#backend, this.#model, batch);
    program.run({ numTokens, numSequences, numLogits });
  }

  /** The tokens of rows with rules: as many rows at a time as their edits find room. */
  #chooseRuled({ rules, edits }: SamplingBatch): void {
    const { sampling, chooseRuled } = this.#model, room = sampling.edits.bytes / bytesPerElement.i32 / editWord.words;
    for (let at = 0; at < rules.length;) {
      const from = at, firstEdit = rules[at + ruleWord.firstEdit]!;
      let numEdits = 0;
      for (; at < rules.length && numEdits + rules[at + ruleWord.numEdits]! <= room; at += ruleWord.words) {
        numEdits += rules[at + ruleWord.numEdits]!;
        rules[at + ruleWord.firstEdit]! -= firstEdit;
      }
      invariant(at > from, `${rules[at + ruleWord.numEdits]} edits of one row, room for ${room}`);
      const numRows = (at - from) / ruleWord.words;
      this.#writeHeader(sampling.ruled, numRows, numRows, numRows);
      this.#write(sampling.rules, rules.subarray(from, at), at - from);
      this.#write(sampling.edits, edits.subarray(firstEdit * editWord.words), numEdits * editWord.words);
      chooseRuled.run({ numTokens: numRows, numSequences: numRows, numLogits: numRows });
    }
  }

  #answer({ questions, numQuestions }: SamplingBatch): void {
    const { sampling, answer } = this.#model;
    this.#writeHeader(sampling.asked, numQuestions, numQuestions, numQuestions);
    this.#write(sampling.questions, questions, questions.length);
    answer.run({ numTokens: numQuestions, numSequences: numQuestions, numLogits: numQuestions });
  }

  #writeHeader(to: Buffer, numTokens: number, numSequences: number, numLogits: number): void {
    this.#header[headerWord.numTokens] = numTokens;
    this.#header[headerWord.numSequences] = numSequences;
    this.#header[headerWord.numLogits] = numLogits;
    this.#write(to, this.#header, headerWord.words);
  }

  #write(to: Buffer, words: Int32Array<ArrayBuffer>, count: number): void {
    if (count > 0) this.#backend.write(to, 0, new Uint8Array(words.buffer, words.byteOffset, count * bytesPerElement.i32));
  }
}

const nothing = new Uint8Array(0);
