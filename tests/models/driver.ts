/**
 * Runs token ids through a loaded model as an engine would: several sequences at once, in chunks, on pages in random order.
 *
 * Every slot of the KV cache is NaN before it is written, so that a kernel that reads a key it should not is caught.
 */
import assert from "node:assert/strict";
import type { Backend } from "../../src/backend/backend.ts";
import { stream } from "../../src/core/random.ts";
import { type Model, writeWork } from "../../src/model/load.ts";

/** Part of one step: the tokens of `sequence` from `position` on, of which the last `wanted` get logits. */
export interface Chunk {
  readonly sequence: number;
  readonly position: number;
  readonly ids: readonly number[];
  readonly wanted: number;
}

export class Driver {
  readonly #backend: Backend;
  readonly #model: Model;
  readonly #pages: readonly (readonly number[])[];

  constructor(backend: Backend, model: Model, seed = 1) {
    const { numPages, maxNumSeqs } = model.limits;
    const perSequence = model.batch.maxPagesPerSequence;
    assert.ok(numPages >= maxNumSeqs * perSequence, "every sequence needs its pages");
    const random = stream(seed);
    const pages = Array.from({ length: numPages }, (_, i) => i);
    for (let i = numPages - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [pages[i], pages[j]] = [pages[j]!, pages[i]!];
    }
    this.#backend = backend;
    this.#model = model;
    this.#pages = Array.from({ length: maxNumSeqs }, (_, s) => pages.slice(s * perSequence, (s + 1) * perSequence));
    for (const { key, value } of model.kv) {
      for (const { data } of [key, value]) backend.write(data, 0, new Uint8Array(data.bytes).fill(0xff));
    }
  }

  /** One step. The logits of the rows wanted, in the order of the chunks. */
  async step(chunks: readonly Chunk[]): Promise<Float32Array[]> {
    const { batch, limits, logits, config } = this.#model;
    const starts: number[] = [];
    const tokens = chunks.flatMap(({ ids }, i) => (starts.push(i === 0 ? 0 : starts[i - 1]! + chunks[i - 1]!.ids.length), ids));
    const positions = chunks.flatMap(({ ids, position }) => ids.map((_, i) => position + i));
    const slots = chunks.flatMap(({ ids, position, sequence }) =>
      ids.map((_, i) => this.#pages[sequence]![Math.floor((position + i) / limits.pageSize)]! * limits.pageSize + ((position + i) % limits.pageSize)),
    );
    const logitRows = chunks.flatMap(({ ids, wanted }, c) => Array.from({ length: wanted }, (_, i) => starts[c]! + ids.length - wanted + i));
    const write = (to: Parameters<Backend["write"]>[0], words: readonly number[]): void => this.#backend.write(to, 0, new Uint8Array(Int32Array.from(words).buffer));
    write(batch.header, [tokens.length, chunks.length, logitRows.length, 0]);
    write(batch.tokens, tokens);
    write(batch.positions, positions);
    write(batch.slots, slots);
    write(batch.blockTable, chunks.flatMap(({ sequence }) => this.#pages[sequence]!));
    write(batch.logitRows, logitRows);
    writeWork(this.#backend, this.#model, {
      numSequences: chunks.length, firstRow: Int32Array.from(starts), numRows: Int32Array.from(chunks, ({ ids }) => ids.length),
      firstPosition: Int32Array.from(chunks, ({ position }) => position), kvLength: Int32Array.from(chunks, ({ ids, position }) => position + ids.length),
    });
    this.#model.program.run({ numTokens: tokens.length, numSequences: chunks.length, numLogits: logitRows.length });
    const bytes = await this.#backend.read(logits, 0, 4 * logitRows.length * config.vocabSize);
    const all = new Float32Array(bytes.slice().buffer);
    return logitRows.map((_, i) => all.subarray(i * config.vocabSize, (i + 1) * config.vocabSize));
  }
}

export function argmax(values: Float32Array): number {
  return values.reduce((best, x, i) => (x > values[best]! ? i : best), 0);
}

/** The largest difference; Infinity where either is NaN. */
export function maxDifference(a: Float32Array, b: Float32Array): number {
  assert.equal(a.length, b.length);
  return a.reduce((max, x, i) => (Number.isNaN(x - b[i]!) ? Infinity : Math.max(max, Math.abs(x - b[i]!))), 0);
}
