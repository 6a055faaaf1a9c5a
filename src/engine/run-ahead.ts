/**
 * Steps that were started and have not ended. On a machine that samples, the step after next can be started before this one's tokens are here:
 *
 *   host     schedule 2, start 2 │ tokens of 1 │ schedule 3, start 3 │ tokens of 2 │ ...
 *   machine  ──── step 1 ────▶──────── step 2 ────────▶──────── step 3 ────────▶
 *
 * A sequence that goes on has a place for the token it does not know yet (sequence.ts), and the machine reads it from what the step before has
 * sampled. One that turns out to have ended has a row of the next step in vain. What needs logits on the host, log-probabilities and rules, makes its
 * step one that nothing is started behind; on a machine that does not sample every step is such a one, and with speculation every step that gives tokens:
 * what may follow is guessed from them. Knows no scheduler and says nothing to clients.
 */
import { invariant, UsageError } from "../core/errors.ts";
import { maxNumLogitsOf } from "../model/memory.ts";
import { Choices } from "../sampling/choices.ts";
import { Batch } from "./batch.ts";
import type { SchedulerLimits, Work } from "./scheduler.ts";
import type { Sequence } from "./sequence.ts";

/** What a step gives. */
export interface Sampled {
  /** i32 [numLogits]: the token of each row; -1 where the logits are no distribution. Empty where the machine does not sample. */
  readonly tokens: Int32Array;
  /** f32 [vocabSize] of each row that was asked for, in that order. The caller may write to them. */
  readonly logits: readonly Float32Array[];
}

/** What the engine needs of a model. Either way a step's keys and values are in the cache before the next step begins. */
export interface ForwardModel {
  readonly vocabSize: number;
  /** Computes the batch's tokens. Resolves to f32 [batch.numLogits, vocabSize], row-major, valid until the next call; the engine may write to it. */
  forward(batch: Batch): Promise<Float32Array>;
  /**
   * Where the machine samples: starts to compute the batch's tokens, of which -1 - i stands for what row i of the launch before has sampled, and to
   * sample by a record of choices for each logits row. `logitsOf`: rows whose logits are wanted too. Another launch may follow before this one has
   * ended. Rejects as `forward` does, after which the tokens of a launch that followed mean nothing.
   */
  launch?(batch: Batch, choices: Choices, logitsOf: readonly number[]): Promise<Sampled>;
}

/** One sequence's part of a step. */
export interface Part {
  readonly sequence: Sequence;
  readonly numTokens: number;
  /** The logits of its last `numLogits` tokens are rows `firstRow` and on of the step's. */
  readonly firstRow: number;
  readonly numLogits: number;
  /** Whether its last token is in this step: then the next is sampled from the last of these rows. */
  readonly reachesEnd: boolean;
  /** So many of its tokens, the last ones, are drafts, each judged by the row before its own. */
  readonly numDrafts: number;
  /** Where the first of these rows is among the logits that come to the host, if they do: all of them or none. */
  readonly hostRow: number | undefined;
}

/** A step under way. */
export interface Flight {
  readonly parts: readonly Part[];
  readonly numTokens: number;
  readonly startedAt: number;
  /** Whether every token of it is sampled by the machine: then the next may be started before it has ended. */
  readonly mayBeFollowed: boolean;
  readonly sampled: Promise<Sampled>;
}

export class Launcher {
  readonly #model: ForwardModel;
  readonly #batch: Batch;
  readonly #choices: Choices;
  readonly #speculates: boolean;

  constructor(model: ForwardModel, limits: SchedulerLimits, maxModelLen: number) {
    this.#model = model;
    this.#speculates = (limits.numSpeculativeTokens ?? 0) > 0;
    this.#batch = new Batch(limits, maxModelLen);
    this.#choices = new Choices(maxNumLogitsOf(limits));
  }

  /** Starts a step of this work, at `startedAt`. */
  start(work: readonly Work[], startedAt: number): Flight {
    this.#batch.fill(work);
    const logitsOf: number[] = [];
    let row = 0;
    const parts = work.map(({ sequence, numTokens, numLogits, numDrafts }): Part => {
      const firstRow = row, reachesEnd = numTokens === sequence.numUncomputed;
      invariant(numLogits <= numTokens && (numLogits > 0 || !reachesEnd), `sequence ${sequence.id}: ${numLogits} rows of logits for ${numTokens} tokens`);
      invariant(numDrafts === sequence.numDrafts, `sequence ${sequence.id}: ${sequence.numDrafts} drafts in place of ${numDrafts}`);
      const hostRow = numLogits > 0 && (!this.#model.launch || needsLogits(sequence)) ? logitsOf.length : undefined;
      for (let position = sequence.numComputed + numTokens - numLogits + 1; row < firstRow + numLogits; row++, position++) {
        if (this.#model.launch) this.#choices.set(row, sequence.params, sequence.seed, position);
        if (hostRow !== undefined) logitsOf.push(row);
      }
      sequence.compute(numTokens, reachesEnd ? row - 1 : undefined);
      return { sequence, numTokens, firstRow, numLogits, reachesEnd, numDrafts, hostRow };
    });
    const sampled = this.#model.launch?.(this.#batch, this.#choices, logitsOf) ?? this.#forward(row);
    // Whoever awaits it hears of it; a step whose tokens nobody wants any more may fail unheard.
    sampled.catch(() => {});
    const mayBeFollowed = this.#model.launch !== undefined && logitsOf.length === 0 && !(this.#speculates && parts.some(({ reachesEnd }) => reachesEnd));
    return { parts, startedAt, numTokens: this.#batch.numTokens, mayBeFollowed, sampled };
  }

  async #forward(numLogits: number): Promise<Sampled> {
    const { vocabSize } = this.#model;
    const logits = await this.#model.forward(this.#batch);
    invariant(logits.length >= numLogits * vocabSize, `${logits.length} logits for ${numLogits} rows of ${vocabSize}`);
    return { tokens: noTokens, logits: Array.from({ length: numLogits }, (_, row) => logits.subarray(row * vocabSize, (row + 1) * vocabSize)) };
  }
}

const noTokens = new Int32Array(0);

/** Whether the host chooses its tokens, or shows how likely they, or those of its prompt, were. */
const needsLogits = ({ rules, params, logitsFrom }: Sequence): boolean => rules !== undefined || params.logprobs !== undefined || logitsFrom < Infinity;

/** Waits for a step whose tokens nobody wants. @throws what the machine died of; that the operator can mend is nothing here */
export async function drain({ sampled }: Flight): Promise<void> {
  try {
    await sampled;
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
  }
}
