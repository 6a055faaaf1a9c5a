/**
 * Steps that were started and have not ended. On a machine that works while the host goes on, the next step can be started before this one's tokens are here:
 *
 *   host     schedule 2, start 2 │ tokens of 1 │ schedule 3, start 3 │ tokens of 2 │ ...
 *   machine  ──── step 1 ────▶──────── step 2 ────────▶──────── step 3 ────────▶
 *
 * A sequence that goes on has a place for the token it does not know yet (sequence.ts), and the machine reads it from what the step before has
 * sampled. One that turns out to have ended has a row of the next step in vain. Nothing is started behind a step of which the next must know more: rules
 * that read the output, functions that get logits on the host, how far a prompt's log-probabilities have come; with speculation behind no step that gives tokens,
 * as what may follow is guessed from them. Knows no scheduler and says nothing to clients.
 */
import { invariant, UsageError } from "../core/errors.ts";
import { maxNumLogitsOf } from "../model/memory.ts";
import type { Answers } from "../sampling/logprobs.ts";
import { SamplingBatch } from "../sampling/sampling-batch.ts";
import { Batch } from "./batch.ts";
import type { SchedulerLimits, Work } from "./scheduler.ts";
import type { Sequence } from "./sequence.ts";

/** What a step gives. */
export interface Sampled {
  /** i32 [numLogits]: the token of each row from which one was to be chosen; -1 where the logits are no distribution, -2 where rules left none of one. */
  readonly tokens: Int32Array;
  readonly answers: Answers;
  /** f32 [vocabSize] of each row that was to come to the host, in that order. Tokens, answers and logits are valid until the next launch where the machine does not run ahead. */
  readonly logits: readonly Float32Array[];
}

/** What the engine needs of a model. Either way a step's keys and values are in the cache before the next step begins. */
export interface ForwardModel {
  readonly vocabSize: number;
  /** Whether another launch may follow before one has ended. */
  readonly runsAhead: boolean;
  /**
   * Starts to compute the batch's tokens, of which -1 - i, where the machine runs ahead, stands for what row i of the launch before has sampled, and to
   * choose the tokens that are wanted of its logits. Both arguments may be filled again when it returns. Once it rejects, the tokens of a launch that
   * followed mean nothing. @throws UsageError what the operator can mend, as a mod's index outside its table
   */
  launch(batch: Batch, wanted: SamplingBatch): Promise<Sampled>;
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
  /** Its tokens are chosen from the last 1 + numDrafts of its rows. Where the first of these is among the logits on the host, if the host chooses. */
  readonly hostRow: number | undefined;
  /** Its first question: those about its prompt, and then those about its tokens. */
  readonly firstQuestion: number;
  /** How many of the prompt's tokens there are questions about. */
  readonly numPromptQuestions: number;
}

/** A step under way. */
export interface Flight {
  readonly parts: readonly Part[];
  readonly numTokens: number;
  readonly startedAt: number;
  /** Whether the next may be started before it has ended. */
  readonly mayBeFollowed: boolean;
  readonly sampled: Promise<Sampled>;
}

export class Launcher {
  readonly #model: ForwardModel;
  readonly #batch: Batch;
  readonly #wanted: SamplingBatch;
  readonly #speculates: boolean;

  constructor(model: ForwardModel, limits: SchedulerLimits, maxModelLen: number) {
    this.#model = model;
    this.#speculates = (limits.numSpeculativeTokens ?? 0) > 0;
    this.#batch = new Batch(limits, maxModelLen);
    this.#wanted = new SamplingBatch(maxNumLogitsOf(limits));
  }

  /** Starts a step of this work, at `startedAt`. */
  start(work: readonly Work[], startedAt: number): Flight {
    this.#batch.fill(work);
    this.#wanted.clear();
    let row = 0, mayBeFollowed = this.#model.runsAhead;
    const parts = work.map(({ sequence, numTokens, numLogits, numDrafts }): Part => {
      const firstRow = row, reachesEnd = numTokens === sequence.numUncomputed, firstQuestion = this.#wanted.numQuestions;
      invariant(numLogits <= numTokens && (numLogits > 0 || !reachesEnd), `sequence ${sequence.id}: ${numLogits} rows of logits for ${numTokens} tokens`);
      invariant(numDrafts === sequence.numDrafts, `sequence ${sequence.id}: ${sequence.numDrafts} drafts in place of ${numDrafts}`);
      row += numLogits;
      const numChosen = reachesEnd ? 1 + numDrafts : 0;
      // The first row of logits says what follows the token before this position.
      this.#askOfPrompt(sequence, firstRow, numLogits - numChosen, sequence.numComputed + numTokens - numLogits + 1);
      const numPromptQuestions = this.#wanted.numQuestions - firstQuestion;
      const hostRow = numChosen > 0 ? this.#choose(sequence, row - numChosen, numDrafts) : undefined;
      if (sequence.logitsFrom < Infinity || (reachesEnd && (this.#speculates || sequence.rules?.needOutput))) mayBeFollowed = false;
      sequence.compute(numTokens, reachesEnd ? row - 1 : undefined);
      return { sequence, numTokens, firstRow, numLogits, reachesEnd, numDrafts, hostRow, firstQuestion, numPromptQuestions };
    });
    const sampled = this.#model.launch(this.#batch, this.#wanted);
    // Whoever awaits it hears of it; a step whose tokens nobody wants any more may fail unheard.
    sampled.catch(() => {});
    return { parts, startedAt, numTokens: this.#batch.numTokens, mayBeFollowed, sampled };
  }

  /** Of `count` rows from `firstRow` on, which say what follows at `position` and on, no token is chosen; those of the prompt are asked about. */
  #askOfPrompt(sequence: Sequence, firstRow: number, count: number, position: number): void {
    const { logitsFrom, numPromptTokens, params } = sequence;
    for (let i = 0; i < count; i++) {
      this.#wanted.skip(firstRow + i);
      if (logitsFrom < Infinity && position + i < numPromptTokens) this.#wanted.ask(firstRow + i, params.promptLogprobs!, sequence.token(position + i));
    }
  }

  /** The tokens of the rows from `row` on: one for each draft, as if those before it were there already, and one more. Returns the first one's place on the host, if that chooses. */
  #choose(sequence: Sequence, row: number, numDrafts: number): number | undefined {
    const { params, seed, rules, numPromptTokens } = sequence, { hostRows } = this.#wanted, hostRow = hostRows.length;
    if (rules?.haveProcessors) {
      for (let i = 0; i <= numDrafts; i++) this.#wanted.bring(row + i);
      return hostRow;
    }
    const from = sequence.numTokens - numDrafts;
    for (let i = 0; i <= numDrafts; i++) {
      this.#wanted.choose(row + i, params, seed, from + i, rules, from + i - numPromptTokens);
      if (params.logprobs !== undefined) this.#wanted.ask(row + i, params.logprobs);
      if (i < numDrafts) rules?.add(sequence.token(from + i));
    }
    for (let i = 0; i < numDrafts; i++) rules?.removeLast();
    return undefined;
  }
}

/** Waits for a step whose tokens nobody wants. @throws what the machine died of; that the operator can mend is nothing here */
export async function drain({ sampled }: Flight): Promise<void> {
  try {
    await sampled;
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
  }
}
