/**
 * A loaded model as the engine's ForwardModel: writes a batch into the model's inputs, plans the work list of each group of
 * layers with one mask, replays the recorded program and reads the logits.
 *
 * The calls made here are the same for 2 layers and for 200. Knows no requests.
 */
import { planWork } from "../attention/work-list.ts";
import { type Backend, type Buffer, headerWord } from "../backend/backend.ts";
import { invariant } from "../core/errors.ts";
import type { Model } from "../model/load.ts";
import type { Batch } from "./batch.ts";
import type { ForwardModel } from "./engine.ts";

const f32Bytes = 4;

export class ProgramModel implements ForwardModel {
  readonly vocabSize: number;
  readonly #backend: Backend;
  readonly #model: Model;
  readonly #header = new Int32Array(headerWord.words);
  readonly #work: readonly Int32Array[];

  constructor(backend: Backend, model: Model) {
    this.vocabSize = model.config.vocabSize;
    this.#backend = backend;
    this.#model = model;
    this.#work = model.attentionGroups.map(({ work }) => new Int32Array(work.bytes / Int32Array.BYTES_PER_ELEMENT));
  }

  async forward(batch: Batch): Promise<Float32Array> {
    const { batch: inputs, attentionGroups, program, logits } = this.#model;
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
    for (let i = 0; i < attentionGroups.length; i++) {
      const { mask, work } = attentionGroups[i]!;
      const list = planWork(mask.analysis, batch, mask.shape, this.#work[i]!);
      this.#write(work, list, list.length);
    }
    program.run();
    // Also where no logits are wanted: reading waits, and tells of a failure.
    const bytes = await this.#backend.read(logits, 0, Math.max(1, numLogits * this.vocabSize) * f32Bytes);
    return new Float32Array(bytes.buffer, bytes.byteOffset, numLogits * this.vocabSize);
  }

  #write(to: Buffer, words: Int32Array, count: number): void {
    if (count > 0) this.#backend.write(to, 0, new Uint8Array(words.buffer, words.byteOffset, count * Int32Array.BYTES_PER_ELEMENT));
  }
}
