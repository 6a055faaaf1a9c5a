/**
 * A model without arithmetic, for the engine's tests: its KV cache holds the tokens themselves, and its logits are a hash of all
 * tokens of the sequence (or of its window), found through the block table. A wrong page, slot, position or order gives other logits.
 */
import assert from "node:assert/strict";
import { philox } from "../../src/core/random.ts";
import { maxNumLogitsOf } from "../../src/model/memory.ts";
import type { Batch } from "../../src/engine/batch.ts";
import type { EngineLimits, ForwardModel } from "../../src/engine/engine.ts";
import type { Sampled } from "../../src/engine/run-ahead.ts";
import type { SamplingBatch } from "../../src/sampling/sampling-batch.ts";
import { Chooser, copyOf } from "./chooser.ts";

export class FakeModel implements ForwardModel {
  readonly vocabSize: number;
  readonly runsAhead: boolean = false;
  readonly chooser: Chooser;
  readonly #pageSize: number;
  readonly #window: number;
  /** Token and position of each slot, or -1. */
  readonly #cache: Int32Array;
  readonly #logits: Float32Array<ArrayBuffer>;
  /** Called while a step is running. */
  during: () => void | Promise<void> = () => {};
  numForwards = 0;

  /** `window`: so many tokens it sees, the last one included. */
  constructor(vocabSize: number, limits: EngineLimits, window = Infinity) {
    this.vocabSize = vocabSize;
    this.#window = window;
    this.#pageSize = limits.pageSize;
    this.#cache = new Int32Array(limits.numPages * limits.pageSize * 2).fill(-1);
    this.#logits = new Float32Array(maxNumLogitsOf(limits) * vocabSize);
    this.chooser = new Chooser(vocabSize, maxNumLogitsOf(limits));
  }

  async launch(batch: Batch, wanted: SamplingBatch): Promise<Sampled> {
    const copy = copyOf(wanted);
    return this.chooser.choose(await this.forward(batch), batch.numLogits, copy);
  }

  /** The logits of the rows that want them, one after another. */
  async forward(batch: Batch): Promise<Float32Array<ArrayBuffer>> {
    this.numForwards++;
    const { tokens, positions, slots, firstRow, numRows, kvLength, logitRows, blockTable, maxPagesPerSequence } = batch;
    for (let row = 0; row < batch.numTokens; row++) {
      this.#cache[2 * slots[row]!] = tokens[row]!;
      this.#cache[2 * slots[row]! + 1] = positions[row]!;
    }
    await this.during();
    for (let i = 0, s = 0; i < batch.numLogits; i++) {
      while (firstRow[s]! + numRows[s]! <= logitRows[i]!) s++;
      const last = positions[logitRows[i]!]!;
      assert.equal(last, kvLength[s]! - (firstRow[s]! + numRows[s]! - logitRows[i]!));
      const first = Math.max(0, last + 1 - this.#window);
      const seen = Array.from({ length: last + 1 - first }, (_, i) => {
        const position = first + i;
        const slot = blockTable[s * maxPagesPerSequence + Math.floor(position / this.#pageSize)]! * this.#pageSize + (position % this.#pageSize);
        assert.equal(this.#cache[2 * slot + 1], position, "the cache holds another position there");
        return this.#cache[2 * slot]!;
      });
      this.#logits.set(fakeLogits(seen, this.vocabSize), i * this.vocabSize);
    }
    return this.#logits;
  }

  /** What a step that fails may leave where its keys and values go. */
  spoil({ slots, numTokens }: Batch): void {
    for (let row = 0; row < numTokens; row++) this.#cache.fill(-1, 2 * slots[row]!, 2 * slots[row]! + 2);
  }
}

/** The logits that follow `tokens`: between -4 and 4, all different from those of any other tokens. */
export function fakeLogits(tokens: readonly number[], vocabSize: number): Float32Array {
  let key: [number, number] = [1, 2];
  for (const token of tokens) {
    const [a, b] = philox([token, 0, 0, 0], key);
    key = [a, b];
  }
  return Float32Array.from({ length: vocabSize }, (_, id) => philox([id, 1, 0, 0], key)[0] / 2 ** 29 - 4);
}
