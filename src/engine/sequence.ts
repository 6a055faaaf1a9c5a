/**
 * One request in the engine: its tokens, how many of them are computed (their K and V are in the cache), and its pages.
 *
 *   waiting ──admit──▶ running ──finish──▶ finished
 *      ▲                  │
 *      └─────preempt──────┘        (a waiting sequence may also finish: its client left)
 *
 *   0 <= numSettled <= numComputed < numTokens <= capacity         pages are held only while running, those that every token scheduled needs
 *
 * A step is started (`compute`) and later it has ended (`settle`). Between the two the token that it will give has its place already, so that the next
 * step can be started on it: it counts in numTokens, and reads as -1 - row, the row of that step's logits it is sampled from.
 *
 *   tokens   5 6 7 8 -3        numSettled 3, numKnown 4: a step is computing token 3, and what follows is sampled from its row 2
 *
 * Tokens that somebody proposes (`propose`: drafts) stand behind the known ones until the step that computes them has ended, and count in numTokens. What
 * that step samples decides: those that it agrees with are known tokens like others, and the rest was never there.
 *
 *   tokens   5 6 7 8 | 4 4 -5   numKnown 4, two drafts; the token behind them is sampled from row 4, and rows 2 and 3 say what tokens 4 and 5 really are
 *
 * Prompt and generated tokens are the same to all but the count: after a preemption both are computed again, but for pages that are still in the cache.
 * So are those of a request that another engine began and this one goes on with: its output so far is known from the start.
 * Knows no scheduler, no pool and no tensors.
 */
import { invariant } from "../core/errors.ts";
import type { SamplingParams } from "../sampling/params.ts";
import { nothingTold, type Told } from "./messages.ts";
import type { LogitRules } from "../sampling/rules.ts";

/** Steps. One wrong guess costs none, two cost 2, three 6, and then this. */
const longestRest = 14;

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
  /** Sequences with different salts share no pages; one with null shares none with anybody. */
  readonly salt: string | null;
  /** Lower runs earlier. */
  readonly priority: number;
  /** Its place among those of its priority. Set by the scheduler. */
  arrival = 0;
  /** How likely the first so many of the prompt's tokens are has been told, where the request wants to know. Changed by the engine; outlives a preemption. */
  numRead = 1;
  /** Page of logical block i: tokens i * pageSize and on; noPage (page-index.ts) where it has expired. Changed by the prefix cache only, as are the three counts. */
  readonly pages: number[] = [];
  /** So many of `pages` have expired: no step needs them any more. */
  numExpiredPages = 0;
  /** So many of `pages`, from the first on, others can find. */
  numListedPages = 0;
  /** So many of those are computed, and may be shared. */
  numReadyPages = 0;
  /** So many of the settled tokens, the last ones, a draft model has not computed yet. Changed by that only. */
  numBehind = 0;
  #tokens: Int32Array;
  #numTokens: number;
  #numKnown: number;
  #numDrafts = 0;
  /** How often in a row drafts were all wrong, and for how many steps there are to be none. */
  #numMisses = 0;
  #rest = 0;
  #numComputed = 0;
  #numSettled = 0;
  #numCachedTokens: number | undefined;
  #state: SequenceState = "waiting";

  constructor(
    id: string, prompt: Int32Array, params: SamplingParams, seed: number, maxModelLen: number, salt: string | null = "", rules?: LogitRules, priority = 0, told: Told = nothingTold,
  ) {
    this.id = id;
    this.params = params;
    this.seed = seed;
    this.rules = rules;
    this.salt = salt;
    this.priority = priority;
    this.numPromptTokens = prompt.length;
    this.capacity = Math.min(prompt.length + params.maxTokens, maxModelLen);
    const numKnown = prompt.length + told.tokens.length;
    const leavesRoom = prompt.length > 0 && numKnown < this.capacity;
    invariant(leavesRoom, `sequence ${id}: a prompt of ${prompt.length} tokens${told.tokens.length > 0 ? ` and ${told.tokens.length} of output` : ""} with room for ${this.capacity}`);
    this.#tokens = new Int32Array(Math.min(this.capacity, numKnown + 64));
    this.#tokens.set(prompt);
    this.#tokens.set(told.tokens, prompt.length);
    this.numRead = told.numRead;
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

  /** Tokens behind the known ones that were proposed and are not decided yet. */
  get numDrafts(): number {
    return this.#numDrafts;
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

  /** The token from which on every one's logits are wanted, as they say how likely the prompt's next is; Infinity: only the last one's are. */
  get logitsFrom(): number {
    return this.params.promptLogprobs !== undefined && this.numRead < this.numPromptTokens ? this.numRead - 1 : Infinity;
  }

  token(position: number): number {
    // The prefix cache asks for every token of a prompt: the message is made when it is wanted.
    if (!(position >= 0 && position < this.#numTokens)) invariant(false, `sequence ${this.id} has no token ${position}`);
    return this.#tokens[position]!;
  }

  /** The tokens that are known; valid until there are more. */
  known(): Int32Array {
    return this.#tokens.subarray(0, this.#numKnown);
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
    this.#numComputed = this.#numSettled = this.numBehind = 0;
  }

  /** Tokens that may follow the known ones, for the next step to decide. No step is under way, and the end is not among them. */
  propose(drafts: readonly number[]): void {
    const free = this.#state === "running" && this.#numKnown === this.#numTokens && this.#numTokens + drafts.length < this.capacity;
    invariant(free, `${this} takes ${drafts.length} drafts with ${this.#numTokens} of ${this.capacity} tokens`);
    for (const token of drafts) this.#push(token);
    this.#numDrafts = drafts.length;
  }

  /** Steps for which there are to be no drafts. */
  get rest(): number {
    return this.#rest;
  }

  /** Whether the next step is to have drafts. After steps whose drafts were all wrong there are none for a while, the longer the more of them there were. */
  wantsDrafts(): boolean {
    if (this.#rest === 0) return true;
    this.#rest--;
    return false;
  }

  /** A step was started that computes `count` more tokens. When the last one is among them, its logits are in `row` of that step. */
  compute(count: number, row: number | undefined): void {
    invariant(this.#state === "running" && count > 0 && count <= this.numUncomputed, `${this} computes ${count} of ${this.numUncomputed}`);
    invariant((row !== undefined) === (count === this.numUncomputed), `sequence ${this.id}: logits belong to the last token and to no other`);
    this.#numComputed += count;
    if (row === undefined) return;
    invariant(!this.isFull, `sequence ${this.id} is full`);
    this.#push(-1 - row);
  }

  /**
   * The oldest step under way, which computed `count` tokens, has ended. `next`: what it has sampled, where the last token was among them: the drafts that
   * it agrees with, in order, and one more.
   */
  settle(count: number, next: readonly number[]): void {
    const settled = this.#numSettled + count;
    invariant(this.#state === "running" && count > 0 && settled <= this.#numComputed, `${this} settles ${count} of ${this.#numComputed - this.#numSettled}`);
    const reachesEnd = settled === this.#numKnown + this.#numDrafts;
    invariant(reachesEnd === next.length > 0, `sequence ${this.id}: a token belongs to the last one computed and to no other`);
    this.#numSettled = settled;
    if (!reachesEnd) return;
    const agrees = next.length <= 1 + this.#numDrafts && next.every((token, i) => i === next.length - 1 || token === this.#tokens[this.#numKnown + i]);
    invariant(agrees && (this.#numDrafts === 0 || settled === this.#numComputed), `sequence ${this.id}: ${next} for ${this.#numDrafts} drafts`);
    this.#tokens.set(next, this.#numKnown);
    this.#numKnown += next.length;
    if (this.#numDrafts === 0) return;
    this.#numMisses = next.length > 1 ? 0 : this.#numMisses + 1;
    this.#rest = Math.max(0, Math.min(longestRest, 2 ** this.#numMisses - 2));
    this.#numSettled = this.#numKnown - 1;
    this.undo();
  }

  /** The steps under way have failed, or what they gave is not wanted: as if they had never been started, and nothing had been proposed. */
  undo(): void {
    this.#numComputed = this.#numSettled;
    this.#numTokens = this.#numKnown;
    this.#numDrafts = 0;
  }

  /** The end, for whatever reason. The scheduler has taken its pages. */
  finish(): void {
    invariant(this.#state !== "finished" && this.pages.length === 0, `${this} finished`);
    this.#state = "finished";
  }

  #push(token: number): void {
    if (this.#numTokens === this.#tokens.length) {
      const grown = new Int32Array(Math.min(this.capacity, 2 * this.#tokens.length));
      grown.set(this.#tokens);
      this.#tokens = grown;
    }
    this.#tokens[this.#numTokens++] = token;
  }

  /** For invariants: who, in which state, with how many pages. */
  toString(): string {
    return `sequence ${this.id} (${this.#state}, ${this.pages.length} pages)`;
  }
}
