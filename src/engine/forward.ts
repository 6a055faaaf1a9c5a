/**
 * A loaded model as the engine's ForwardModel: writes a batch into the model's inputs, replays the recorded program and reads
 * the logits, or the tokens where the device samples. The calls made here are the same for 2 layers and for 200. Knows no requests.
 */
import { type Backend, type Buffer, choiceWord, headerWord } from "../backend/backend.ts";
import { bytesPerElement } from "../core/dtype.ts";
import { invariant } from "../core/errors.ts";
import type { SamplingMemory } from "../model/decoder.ts";
import { type Model, writeWork } from "../model/load.ts";
import type { Choices } from "../sampling/choices.ts";
import type { Batch } from "./batch.ts";
import type { ForwardModel, Sampled } from "./run-ahead.ts";

export class ProgramModel implements ForwardModel {
  readonly vocabSize: number;
  readonly launch?: NonNullable<ForwardModel["launch"]>;
  readonly #backend: Backend;
  readonly #model: Model;
  readonly #header = new Int32Array(headerWord.words);

  constructor(backend: Backend, model: Model) {
    this.vocabSize = model.config.vocabSize;
    this.#backend = backend;
    this.#model = model;
    const { sampling } = model;
    if (sampling) this.launch = (batch, choices, logitsOf) => this.#launch(sampling, batch, choices, logitsOf);
  }

  async forward(batch: Batch): Promise<Float32Array> {
    this.#start(batch);
    const { numLogits } = batch;
    // Where no logits are wanted one is read all the same: reading waits, and tells of a failure.
    const bytes = await this.#backend.read(this.#model.logits, 0, Math.max(1, numLogits * this.vocabSize) * bytesPerElement.f32);
    return new Float32Array(bytes.buffer, bytes.byteOffset, numLogits * this.vocabSize);
  }

  /** All that is read is asked for at once, before any later step is started. */
  async #launch({ choices, sampled }: SamplingMemory, batch: Batch, records: Choices, logitsOf: readonly number[]): Promise<Sampled> {
    const { numLogits } = batch, rowBytes = this.vocabSize * bytesPerElement.f32;
    if (numLogits > 0) this.#backend.write(choices, 0, records.bytes.subarray(0, numLogits * choiceWord.words * bytesPerElement.i32));
    this.#start(batch);
    const [tokens, ...logits] = await Promise.all([
      this.#backend.read(sampled, 0, Math.max(1, numLogits) * bytesPerElement.i32),
      ...logitsOf.map((row) => this.#backend.read(this.#model.logits, row * rowBytes, rowBytes)),
    ]);
    return {
      tokens: new Int32Array(tokens.buffer, tokens.byteOffset, numLogits),
      logits: logits.map((bytes) => new Float32Array(bytes.buffer, bytes.byteOffset, this.vocabSize)),
    };
  }

  /** Writes the batch and starts the replay. */
  #start(batch: Batch): void {
    const { batch: inputs, program } = this.#model;
    const { numTokens, numSequences, numLogits, maxPagesPerSequence } = batch;
    invariant(maxPagesPerSequence === inputs.maxPagesPerSequence, `block tables of ${maxPagesPerSequence} and ${inputs.maxPagesPerSequence} pages`);
    this.#header[headerWord.numTokens] = numTokens;
    this.#header[headerWord.numSequences] = numSequences;
    this.#header[headerWord.numLogits] = numLogits;
    this.#write(inputs.header, this.#header, headerWord.words);
    this.#write(inputs.tokens, batch.tokens, numTokens);
    this.#write(inputs.positions, batch.positions, numTokens);
    this.#write(inputs.slots, batch.slots, numTokens);
    this.#write(inputs.blockTable, batch.blockTable, numSequences * maxPagesPerSequence);
    this.#write(inputs.logitRows, batch.logitRows, numLogits);
    writeWork(this.#backend, this.#model, batch);
    program.run({ numTokens, numSequences, numLogits });
  }

  #write(to: Buffer, words: Int32Array<ArrayBuffer>, count: number): void {
    if (count > 0) this.#backend.write(to, 0, new Uint8Array(words.buffer, words.byteOffset, count * bytesPerElement.i32));
  }
}
