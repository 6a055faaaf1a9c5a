/**
 * Drafts by a second, smaller model of the same vocabulary. It has a KV cache of its own in pages of the same numbers: a page holds the same tokens in
 * both, so sharing, preemption and block tables are one matter. What the big model is about to compute it computes first; where there is room for drafts
 * it goes on, a token at a time, with what it would say itself.
 *
 *   known      5 6 7 8                 pass 1   row 8            says 4          all other work of the step is in this pass too
 *   drafts             4 4 9           pass 2   row 4            says 4
 *                                      pass 3   row 4            says 9          whose own row nobody has computed:
 *
 * were all three right it would be one token behind (`Sequence.numBehind`), and catches up in the next pass 1.
 *
 * Drafts are drawn by the request's parameters, with the random numbers that the big model will use at the same place. On a machine that does not run ahead
 * a pass may be spared: drafts end where two tokens are about as likely, as one would be wrong as often as right (docs/log.md).
 */
import { maxNumLogitsOf } from "../model/memory.ts";
import { SamplingBatch } from "../sampling/sampling-batch.ts";
import { Batch } from "./batch.ts";
import { addDrafts, type Drafter } from "./drafter.ts";
import type { ForwardModel, Sampled } from "./run-ahead.ts";
import type { SchedulerLimits, Work } from "./scheduler.ts";
import type { Sequence } from "./sequence.ts";

/** So far, at least, the likeliest token's logit is above the next one's where a draft is worth its row. */
const leastLead = 0.5;

/** One sequence's drafts in the making. */
interface Drafting {
  readonly work: Work;
  /** Where its tokens end before there are any. */
  readonly end: number;
  readonly tokens: number[];
}

export class DraftModel implements Drafter {
  readonly numTokens: number;
  readonly #model: ForwardModel;
  readonly #batch: Batch;
  readonly #wanted: SamplingBatch;
  readonly #leastLead: number;
  /** So many tokens of each sequence of the step it has computed. */
  readonly #reached = new Map<Sequence, number>();

  /** `lead` 0: drafts end nowhere for their own sake. */
  constructor(model: ForwardModel, numSpeculativeTokens: number, limits: SchedulerLimits, maxModelLen: number, lead = leastLead) {
    this.#leastLead = lead;
    this.numTokens = numSpeculativeTokens;
    this.#model = model;
    this.#batch = new Batch(limits, maxModelLen);
    this.#wanted = new SamplingBatch(maxNumLogitsOf(limits));
  }

  async propose(work: readonly Work[]): Promise<void> {
    if (work.length === 0) return;
    const drafting = work.filter(({ numDrafts }) => numDrafts > 0).map((one): Drafting => ({ work: one, end: one.sequence.numTokens, tokens: [] }));
    this.#batch.clear();
    this.#reached.clear();
    for (const { sequence, numTokens, numDrafts } of work) {
      const count = numDrafts > 0 ? numTokens + sequence.numBehind : numTokens;
      this.#add(sequence, sequence.numComputed - sequence.numBehind, count, numDrafts > 0 ? 1 : 0);
    }
    await (this.#model.runsAhead ? this.#launchAll(drafting) : this.#launchEach(drafting));
    for (const { work: one, tokens } of drafting) if (one.sequence.state === "running") addDrafts(one, tokens);
  }

  decided(sequence: Sequence): void {
    sequence.numBehind = Math.max(0, sequence.numSettled - this.#reached.get(sequence)!);
  }

  #add(sequence: Sequence, from: number, count: number, numLogits: number, token?: number): void {
    this.#batch.add(sequence, from, count, numLogits, token);
    this.#reached.set(sequence, from + count);
  }

  /** What pass `pass` is to draw: a draft for each. */
  #order(going: readonly Drafting[], pass: number): void {
    this.#wanted.clear();
    going.forEach(({ work: { sequence: { params, seed } }, end }, row) => this.#wanted.choose(row, params, seed, end + pass - 1));
  }

  /** The passes one after another: each with the tokens of the one before. */
  async #launchEach(drafting: readonly Drafting[]): Promise<void> {
    const numTop = Math.min(2, this.#model.vocabSize);
    let going = drafting;
    for (let pass = 1; ; pass++) {
      this.#order(going, pass);
      going.forEach((_, row) => this.#wanted.ask(row, numTop));
      const { tokens: drawn, answers } = await this.#model.launch(this.#batch, this.#wanted);
      going = going.filter(({ work: { sequence, numDrafts }, tokens }, row) => {
        if (sequence.state !== "running") return false;
        const [first, second] = answers.of(row, drawn[row]!, numTop)?.top ?? [];
        if (!first || (second && first.logprob - second.logprob < this.#leastLead)) return false;
        tokens.push(drawn[row]!);
        return pass < numDrafts;
      });
      if (going.length === 0) return;
      this.#batch.clear();
      for (const { work: { sequence }, end, tokens } of going) this.#add(sequence, end + pass - 1, 1, 1, tokens.at(-1));
    }
  }

  /** All passes at once, on a machine that runs ahead: each finds its tokens in what the one before has sampled. */
  async #launchAll(drafting: readonly Drafting[]): Promise<void> {
    const passes: { readonly going: readonly Drafting[]; readonly sampled: Promise<Sampled> }[] = [];
    for (let pass = 1, going = drafting; ; pass++) {
      this.#order(going, pass);
      passes.push({ going, sampled: this.#model.launch(this.#batch, this.#wanted) });
      const on = going.filter(({ work: { numDrafts } }) => pass < numDrafts);
      if (on.length === 0) break;
      this.#batch.clear();
      for (const one of on) this.#add(one.work.sequence, one.end + pass - 1, 1, 1, -1 - going.indexOf(one));
      going = on;
    }
    const results = await Promise.all(passes.map(({ sampled }) => sampled));
    for (const [pass, { going }] of passes.entries()) {
      // A row without a distribution ends its drafts: what follows it means nothing.
      for (const [row, { tokens }] of going.entries()) if (tokens.length === pass && results[pass]!.tokens[row]! >= 0) tokens.push(results[pass]!.tokens[row]!);
    }
  }
}
