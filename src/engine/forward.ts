/**
 * A loaded model as the engine's ForwardModel: writes a batch into the model's inputs, replays the recorded program and reads
 * the logits. The calls made here are the same for 2 layers and for 200. Knows no requests.
 */
import { type Backend, type Buffer, headerWord } from "../backend/backend.ts";
import { bytesPerElement } from "../core/dtype.ts";
import { invariant } from "../core/errors.ts";
import { type Model, writeWork } from "../model/load.ts";
import type { Batch } from "./batch.ts";
import type { ForwardModel } from "./run-ahead.ts";

export class ProgramModel implements ForwardModel {
  readonly vocabSize: number;
  readonly #backend: Backend;
  readonly #model: Model;
  readonly #header = new Int32Array(headerWord.words);

  constructor(backend: Backend, model: Model) {
    this.vocabSize = model.config.vocabSize;
    this.#backend = backend;
    this.#model = model;
  }

  async forward(batch: Batch): Promise<Float32Array> {
    const { batch: inputs, program, logits } = this.#model;
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
    // Where no logits are wanted one is read all the same: reading waits, and tells of a failure.
    const bytes = await this.#backend.read(logits, 0, Math.max(1, numLogits * this.vocabSize) * bytesPerElement.f32);
    return new Float32Array(bytes.buffer, bytes.byteOffset, numLogits * this.vocabSize);
  }

  #write(to: Buffer, words: Int32Array<ArrayBuffer>, count: number): void {
    if (count > 0) this.#backend.write(to, 0, new Uint8Array(words.buffer, words.byteOffset, count * bytesPerElement.i32));
  }
}
