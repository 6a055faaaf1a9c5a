/**
 * One request in the engine: its tokens, how many of them are computed (their K and V are in the cache), and its pages.
 *
 *   waiting ──admit──▶ running ──finish──▶ finished
 *      ▲                  │
 *      └─────preempt──────┘        (a waiting sequence may also finish: its client left)
 *
 *   0 <= numSettled <= numComputed < numTokens <= capacity         pages are held only while running, enough for every token scheduled
 *
 * A step is started (`compute`) and later it has ended (`settle`). Between the two the token that it will give has its place already, so that the next
 * step can be started on it: it counts in numTokens, and reads as -1 - row, the row of that step's logits it is sampled from.
 *
 *   tokens   5 6 7 8 -3        numSettled 3, numKnown 4: a step is computing token 3, and what follows is sampled from its row 2
 *
 * Prompt and generated tokens are the same to all but the count: after a preemption both are computed again, but for pages that are still in the cache.
 * So are those of a request that another engine began and this one goes on with: its output so far is known from the start.
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
  /** Tokens at which it ends by length: prompt + maxTokens, or the context. */
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
  #numKnown: number;
  #numComputed = 0;
  #numSettled = 0;
  #numCachedTokens: number | undefined;
  #state: SequenceState = "waiting";

  constructor(id: string, prompt: Int32Array, params: SamplingParams, seed: number, maxModelLen: number, salt = "", rules?: LogitRules, output: readonly number[] = []) {
    this.id = id;
    this.params = params;
    this.seed = seed;
    this.rules = rules;
    this.salt = salt;
    this.numPromptTokens = prompt.length;
    this.capacity = Math.min(prompt.length + params.maxTokens, maxModelLen);
    const numKnown = prompt.length + output.length;
    const leavesRoom = prompt.length > 0 && numKnown < this.capacity;
    invariant(leavesRoom, `sequence ${id}: a prompt of ${prompt.length} tokens${output.length > 0 ? ` and ${output.length} of output` : ""} with room for ${this.capacity}`);
    this.#tokens = new Int32Array(Math.min(this.capacity, numKnown + 64));
    this.#tokens.set(prompt);
    this.#tokens.set(output, prompt.length);
    this.#numTokens = this.#numKnown = numKnown;
  }

  get state(): SequenceState {
    return this.#state;
  }

  /** The prompt, what has been generated, and what the steps under way will give. */
  get numTokens(): number {
    return this.#numTokens;
  }

  /** Of these, the ones whose ids are known. */
  get numKnown(): number {
    return this.#numKnown;
  }

  /** Tokens whose K and V are in the cache once the steps that were started have ended. */
  get numComputed(): number {
    return this.#numComputed;
  }

  /** Of these, the ones of steps that have ended. */
  get numSettled(): number {
    return this.#numSettled;
  }

  /** What a step may compute: the gap that the scheduler closes. Never 0 before the end. */
  get numUncomputed(): number {
    return this.#numTokens - this.#numComputed;
  }

  get numGenerated(): number {
    return this.#numKnown - this.numPromptTokens;
  }

  /** Whether it ends with the step that is under way, at the latest: nothing is left to compute. */
  get isFull(): boolean {
    return this.#numTokens === this.capacity;
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
    this.#numComputed = this.#numSettled = numComputed;
    this.#numCachedTokens ??= numComputed;
    this.#state = "running";
  }

  /** Back to waiting, with nothing computed and no step under way. The scheduler has taken its pages. */
  preempt(): void {
    invariant(this.#state === "running" && this.pages.length === 0 && this.#numKnown === this.#numTokens, `${this} preempted`);
    this.#state = "waiting";
    this.#numComputed = this.#numSettled = 0;
  }

  /** A step was started that computes `count` more tokens. When the last one is among them, its logits are in `row` of that step. */
  compute(count: number, row: number | undefined): void {
    invariant(this.#state === "running" && count > 0 && count <= this.numUncomputed, `${this} computes ${count} of ${this.numUncomputed}`);
    invariant((row !== undefined) === (count === this.numUncomputed), `sequence ${this.id}: logits belong to the last token and to no other`);
    this.#numComputed += count;
    if (row === undefined) return;
    invariant(!this.isFull, `sequence ${this.id} is full`);
    if (this.#numTokens === this.#tokens.length) {
      const grown = new Int32Array(Math.min(this.capacity, 2 * this.#tokens.length));
      grown.set(this.#tokens);
      this.#tokens = grown;
    }
    this.#tokens[this.#numTokens++] = -1 - row;
  }

  /** The oldest step under way, which computed `count` tokens, has ended; `next` is the token sampled after the last one, when that was among them. */
  settle(count: number, next: number | undefined): void {
    const settled = this.#numSettled + count;
    invariant(this.#state === "running" && count > 0 && settled <= this.#numComputed, `${this} settles ${count} of ${this.#numComputed - this.#numSettled}`);
    const expects = settled === this.#numKnown;
    invariant(expects === (next !== undefined), `sequence ${this.id}: a token belongs to the last one computed and to no other`);
    this.#numSettled = settled;
    if (next !== undefined) this.#tokens[this.#numKnown++] = next;
  }

  /** The steps under way have failed, or what they gave is not wanted: as if they had never been started. */
  undo(): void {
    this.#numComputed = this.#numSettled;
    this.#numTokens = this.#numKnown;
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
