/**
 * One request in the engine: its tokens, how many of them are computed (their K and V are in the cache), and its pages.
 *
 *   waiting ──admit──▶ running ──finish──▶ finished
 *      ▲                  │
 *      └─────preempt──────┘        (a waiting sequence may also finish: its client left)
 *
 *   0 <= numComputed < numTokens <= capacity         pages are held only while running, enough for every known token scheduled
 *
 * Prompt and generated tokens are the same to all but the count: after a preemption both are computed again, but for pages that are still in the cache.
 * Knows no scheduler, no pool and no tensors.
 */
import { invariant } from "../core/errors.ts";
import type { SamplingParams } from "../sampling/params.ts";
import type { LogitRules } from "../sampling/rules.ts";

export type SequenceState = "waiting" | "running" | "finished";

export class Sequence {
  readonly id: string;
  readonly params: SamplingParams;
  /** The seed its random numbers come from: the request's own, or one the engine drew. */
  readonly seed: number;
  /** What it changes in its logits, if anything. Outlives a preemption, as its tokens do. */
  readonly rules: LogitRules | undefined;
  readonly numPromptTokens: number;
  /** Known tokens at which it ends by length: prompt + maxTokens, or the context. */
  readonly capacity: number;
  /** Sequences with different salts share no pages. */
  readonly salt: string;
  /** Page of logical block i: tokens i * pageSize and on. Changed by the prefix cache only, as are the two counts. */
  readonly pages: number[] = [];
  /** So many of `pages`, from the first on, others can find. */
  numListedPages = 0;
  /** So many of those are computed, and may be shared. */
  numReadyPages = 0;
  #tokens: Int32Array;
  #numTokens: number;
  #numComputed = 0;
  #numCachedTokens: number | undefined;
  #state: SequenceState = "waiting";

  constructor(id: string, prompt: Int32Array, params: SamplingParams, seed: number, maxModelLen: number, salt = "", rules?: LogitRules) {
    this.id = id;
    this.params = params;
    this.seed = seed;
    this.rules = rules;
    this.salt = salt;
    this.numPromptTokens = prompt.length;
    this.capacity = Math.min(prompt.length + params.maxTokens, maxModelLen);
    const leavesRoom = prompt.length > 0 && prompt.length < this.capacity;
    invariant(leavesRoom, `sequence ${id}: a prompt of ${prompt.length} tokens with room for ${this.capacity}`);
    this.#tokens = new Int32Array(Math.min(this.capacity, prompt.length + 64));
    this.#tokens.set(prompt);
    this.#numTokens = prompt.length;
  }

  get state(): SequenceState {
    return this.#state;
  }

  /** Tokens known: the prompt and what has been generated. */
  get numTokens(): number {
    return this.#numTokens;
  }

  get numComputed(): number {
    return this.#numComputed;
  }

  /** What a step may compute: the gap that the scheduler closes. Never 0 before the end. */
  get numUncomputed(): number {
    return this.#numTokens - this.#numComputed;
  }

  get numGenerated(): number {
    return this.#numTokens - this.numPromptTokens;
  }

  /** Tokens that were in the cache when it was first admitted; undefined before. */
  get numCachedTokens(): number | undefined {
    return this.#numCachedTokens;
  }

  token(position: number): number {
    // The prefix cache asks for every token of a prompt: the message is made when it is wanted.
    if (!(position >= 0 && position < this.#numTokens)) invariant(false, `sequence ${this.id} has no token ${position}`);
    return this.#tokens[position]!;
  }

  /** Copies the tokens of positions from .. from + count - 1 to `out` at `at`. */
  copyTokens(out: Int32Array, at: number, from: number, count: number): void {
    for (let i = 0; i < count; i++) out[at + i] = this.token(from + i);
  }

  /** From waiting to running, the first `numComputed` tokens computed already: their pages were in the cache. */
  admit(numComputed = 0): void {
    invariant(this.#state === "waiting" && this.#numComputed === 0, `${this} admitted`);
    invariant(numComputed < this.#numTokens, `${this} admitted with ${numComputed} of ${this.#numTokens} tokens computed`);
    this.#numComputed = numComputed;
    this.#numCachedTokens ??= numComputed;
    this.#state = "running";
  }

  /** Back to waiting, with nothing computed. The scheduler has taken its pages. */
  preempt(): void {
    invariant(this.#state === "running" && this.pages.length === 0, `${this} preempted`);
    this.#state = "waiting";
    this.#numComputed = 0;
  }

  /** `count` more tokens are computed; `next` is the token sampled after the last known one, when that was among them. */
  advance(count: number, next: number | undefined): void {
    invariant(this.#state === "running" && count > 0 && count <= this.numUncomputed, `${this} advanced by ${count} of ${this.numUncomputed}`);
    invariant((next !== undefined) === (count === this.numUncomputed), `sequence ${this.id}: a token belongs to the last known one and to no other`);
    this.#numComputed += count;
    if (next === undefined) return;
    invariant(this.#numTokens < this.capacity, `sequence ${this.id} is full`);
    if (this.#numTokens === this.#tokens.length) {
      const grown = new Int32Array(Math.min(this.capacity, 2 * this.#tokens.length));
      grown.set(this.#tokens);
      this.#tokens = grown;
    }
    this.#tokens[this.#numTokens++] = next;
  }

  /** The end, for whatever reason. The scheduler has taken its pages. */
  finish(): void {
    invariant(this.#state !== "finished" && this.pages.length === 0, `${this} finished`);
    this.#state = "finished";
  }

  /** For invariants: who, in which state, with how many pages. */
  toString(): string {
    return `sequence ${this.id} (${this.#state}, ${this.pages.length} pages)`;
  }
}
