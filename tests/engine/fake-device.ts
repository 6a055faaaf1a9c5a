/**
 * The fake model on a machine that works while the host goes on, for tests of running ahead: launches are carried out in their order, some turns of the event loop after
 * they were given, and each finds its unknown tokens in what the one before has sampled. What fails leaves rubbish behind, as a machine does.
 */
import { setImmediate as turn } from "node:timers/promises";
import { answerWord } from "../../src/backend/backend.ts";
import { UsageError } from "../../src/core/errors.ts";
import { stream } from "../../src/core/random.ts";
import type { Batch } from "../../src/engine/batch.ts";
import type { EngineLimits } from "../../src/engine/engine.ts";
import type { Sampled } from "../../src/engine/run-ahead.ts";
import { Answers } from "../../src/sampling/logprobs.ts";
import type { SamplingBatch } from "../../src/sampling/sampling-batch.ts";
import { copyOf as copyOfWanted, type Wanted } from "./chooser.ts";
import { FakeModel } from "./fake-model.ts";

/** What a step reads of a batch, copied when it is launched. */
function copyOf({ numTokens, numSequences, numLogits, maxPagesPerSequence, ...batch }: Batch): Batch {
  const { tokens, positions, slots, blockTable, logitRows, firstRow, numRows, firstPosition, kvLength } = batch;
  const arrays = Object.entries({ tokens, positions, slots, blockTable, logitRows, firstRow, numRows, firstPosition, kvLength }).map(([name, array]) => [name, array.slice()]);
  return { numTokens, numSequences, numLogits, maxPagesPerSequence, ...Object.fromEntries(arrays) } as Batch;
}

export class FakeDevice extends FakeModel {
  override readonly runsAhead = true;
  readonly #random: () => number;
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
  }

  override launch(batch: Batch, wanted: SamplingBatch): Promise<Sampled> {
    const given = copyOf(batch), copy = copyOfWanted(wanted);
    this.numHostRows += copy.hostRows.length;
    const queued = this.#underWay++ > 0;
    if (queued) this.numQueued++;
    const result = this.#last.then((failed) => (queued && failed ? this.#rubbish(given, copy) : this.#run(given, copy))).finally(() => this.#underWay--);
    this.#last = result.then(() => false, () => true);
    return result;
  }

  /** A step behind one that has failed. */
  #rubbish(batch: Batch, { hostRows, numQuestions }: Wanted): Sampled {
    this.spoil(batch);
    if (this.#random() < 0.5) throw new UsageError("rubbish");
    return {
      tokens: Int32Array.from({ length: batch.numLogits }, () => Math.floor(this.#random() * this.vocabSize)),
      answers: new Answers(new Uint8Array(numQuestions * answerWord.words * 4)), logits: hostRows.map(() => new Float32Array(this.vocabSize)),
    };
  }

  async #run(batch: Batch, wanted: Wanted): Promise<Sampled> {
    for (let turns = Math.floor(this.#random() * 4); turns > 0; turns--) await turn();
    const { tokens, numTokens, numLogits } = batch, { sampled } = this.chooser;
    for (let r = 0; r < numTokens; r++) if (tokens[r]! < 0) tokens[r] = Math.max(0, sampled[-1 - tokens[r]!]!);
    let logits: Float32Array<ArrayBuffer>;
    try {
      logits = await this.forward(batch);
    } catch (error) {
      this.spoil(batch);
      for (let i = 0; i < sampled.length; i++) sampled[i] = Math.floor(this.#random() * this.vocabSize);
      throw error;
    }
    return this.chooser.choose(logits, numLogits, wanted);
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
