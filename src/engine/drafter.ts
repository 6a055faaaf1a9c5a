/**
 * Who guesses what tokens may follow, so that one step can compute several of a sequence. What a guess is worth shows when the model has sampled the
 * same positions: right ones are free, wrong ones cost their rows, and the tokens are those of an engine that never guesses.
 */
import type { Work } from "./scheduler.ts";
import type { Sequence } from "./sequence.ts";

export interface Drafter {
  /** Most tokens it proposes at once for a sequence. */
  readonly numTokens: number;
  /**
   * Proposes tokens for the work that has room for drafts (`addDrafts`, once for each). While it takes its time sequences may be aborted: those it leaves
   * alone. No other step uses the cache meanwhile.
   */
  propose(work: readonly Work[]): void | Promise<void>;
  /** The step that it last proposed for has given this sequence `numTokens` tokens; it had `numDrafts` drafts, 0 where the step was done again without. */
  decided(sequence: Sequence, numDrafts: number, numTokens: number): void;
}

/** Puts what was thought of, as far as there is room, behind the last token of the work, which grows by that. */
export function addDrafts(work: Work, drafts: readonly number[]): void {
  const fitting = drafts.length > work.numDrafts ? drafts.slice(0, work.numDrafts) : drafts;
  work.sequence.propose(fitting);
  work.numDrafts = fitting.length;
  work.numTokens += fitting.length;
  work.numLogits += fitting.length;
}
