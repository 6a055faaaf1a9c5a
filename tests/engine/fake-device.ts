/**
 * The fake model on a machine that samples, for tests of running ahead: launches are carried out in their order, some turns of the event loop after
 * they were given, and each finds its unknown tokens in what the one before has sampled. What fails leaves rubbish behind, as a machine does.
 */
import { setImmediate as turn } from "node:timers/promises";
import { choiceWord } from "../../src/backend/backend.ts";
import { choose } from "../../src/backend/reference/sample.ts";
import { UsageError } from "../../src/core/errors.ts";
import { stream } from "../../src/core/random.ts";
import { maxNumLogitsOf } from "../../src/model/memory.ts";
import type { Batch } from "../../src/engine/batch.ts";
import type { EngineLimits } from "../../src/engine/engine.ts";
import type { Sampled } from "../../src/engine/run-ahead.ts";
import type { Choices } from "../../src/sampling/choices.ts";
import { FakeModel } from "./fake-model.ts";

/** What a step reads of a batch, copied when it is launched. */
function copyOf({ numTokens, numSequences, numLogits, maxPagesPerSequence, ...batch }: Batch): Batch {
  const { tokens, positions, slots, blockTable, logitRows, firstRow, numRows, firstPosition, kvLength } = batch;
  const arrays = Object.entries({ tokens, positions, slots, blockTable, logitRows, firstRow, numRows, firstPosition, kvLength }).map(([name, array]) => [name, array.slice()]);
  return { numTokens, numSequences, numLogits, maxPagesPerSequence, ...Object.fromEntries(arrays) } as Batch;
}

export class FakeDevice extends FakeModel {
  readonly #random: () => number;
  readonly #sampled: Int32Array;
  /** Ends with the last launch; whether it failed. */
  #last: Promise<boolean> = Promise.resolve(false);
  /** Launches that were given while another was under way. */
  numQueued = 0;
  #underWay = 0;
  /** Rows whose logits came to the host. */
  numHostRows = 0;

  constructor(vocabSize: number, limits: EngineLimits, seed: number, window?: number) {
    super(vocabSize, limits, window);
    this.#random = stream(seed);
    this.#sampled = new Int32Array(maxNumLogitsOf(limits));
  }

  launch(batch: Batch, choices: Choices, logitsOf: readonly number[]): Promise<Sampled> {
    const given = copyOf(batch), records = choices.bytes.slice();
    this.numHostRows += logitsOf.length;
    const queued = this.#underWay++ > 0;
    if (queued) this.numQueued++;
    const result = this.#last.then((failed) => (queued && failed ? this.#rubbish(given, logitsOf.length) : this.#run(given, records, [...logitsOf]))).finally(() => this.#underWay--);
    this.#last = result.then(() => false, () => true);
    return result;
  }

  /** A step behind one that has failed. */
  #rubbish(batch: Batch, numLogits: number): Sampled {
    this.spoil(batch);
    if (this.#random() < 0.5) throw new UsageError("rubbish");
    return { tokens: Int32Array.from({ length: batch.numLogits }, () => Math.floor(this.#random() * this.vocabSize)), logits: Array.from({ length: numLogits }, () => new Float32Array(this.vocabSize)) };
  }

  async #run(batch: Batch, records: Uint8Array, logitsOf: readonly number[]): Promise<Sampled> {
    for (let turns = Math.floor(this.#random() * 4); turns > 0; turns--) await turn();
    const { tokens, numTokens, numLogits } = batch, { vocabSize } = this;
    for (let r = 0; r < numTokens; r++) if (tokens[r]! < 0) tokens[r] = Math.max(0, this.#sampled[-1 - tokens[r]!]!);
    let logits: Float32Array;
    try {
      logits = await this.forward(batch);
    } catch (error) {
      this.spoil(batch);
      for (let i = 0; i < this.#sampled.length; i++) this.#sampled[i] = Math.floor(this.#random() * vocabSize);
      throw error;
    }
    const row = (i: number) => logits.subarray(i * vocabSize, (i + 1) * vocabSize);
    const view = new DataView(records.buffer);
    for (let i = 0; i < numLogits; i++) {
      const double = (word: number) => view.getFloat64((i * choiceWord.words + word) * 4, true);
      const topK = view.getInt32((i * choiceWord.words + choiceWord.topK) * 4, true);
      this.#sampled[i] = choose(row(i), { temperature: double(choiceWord.temperature), topP: double(choiceWord.topP), minP: double(choiceWord.minP), uniform: double(choiceWord.uniform), topK });
    }
    return { tokens: this.#sampled.slice(0, numLogits), logits: logitsOf.map((i) => row(i).slice()) };
  }
}

/** Has the model refuse a token, wherever it is computed, as a mod refuses an index. */
export function refuse(model: FakeModel, token: number): void {
  const forward = model.forward.bind(model);
  model.forward = async (batch) => {
    const logits = await forward(batch);
    if (batch.tokens.subarray(0, batch.numTokens).includes(token)) throw new UsageError(`token ${token} is outside the table`);
    return logits;
  };
}
