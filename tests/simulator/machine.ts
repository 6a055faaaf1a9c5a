/**
 * A machine without arithmetic. Its KV cache holds, for each slot, a hash of all tokens from the first to the one that was computed there, salt included;
 * the logits that follow are a function of that hash. What a step reads is compared, slot by slot, with what the sequence's own tokens demand, so a page
 * that is stale, or another's, or shared too early is seen at once, also where the tokens would be the same.
 *
 * Of both kinds: one that is waited for, and one that works while the host goes on, carries launches out in their order and finds tokens that were not known
 * yet in what the launch before has sampled. What fails leaves rubbish behind, and so does what was started behind it. Time passes only here, in turns of the event
 * loop that the run draws.
 */
import assert from "node:assert/strict";
import { answerWord } from "../../src/backend/backend.ts";
import { UsageError } from "../../src/core/errors.ts";
import type { Batch } from "../../src/engine/batch.ts";
import type { ForwardModel } from "../../src/engine/engine.ts";
import type { Sampled } from "../../src/engine/run-ahead.ts";
import { Answers } from "../../src/sampling/logprobs.ts";
import type { SamplingBatch } from "../../src/sampling/sampling-batch.ts";
import { Chooser, copyOf, type Wanted } from "../engine/chooser.ts";
import type { Dice } from "./dice.ts";
import type { Oracle } from "./oracle.ts";
import type { Swarm } from "./swarm.ts";

function mix(a: number, b: number): number {
  let h = Math.imul(a ^ Math.imul(b + 0x7f4a7c15, 0x9e3779b1), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}

/** In a slot: nothing that a sequence could want. */
const nothing = 0;
/** The hash of `hash`'s tokens and one more: 52 bits, as among millions of prefixes two would share 32. The logits are a function of the lower half. */
export function chain(hash: number, token: number): number {
  const low = (mix(hash | 0, token) || 1) >>> 0, high = (mix(Math.floor(hash / 2 ** 32) ^ 0x5bd1e995, token ^ low) >>> 0) % 2 ** 20;
  return high * 2 ** 32 + low;
}
/** The hash of no tokens. */
export const emptyPrefix = (salt: string): number => [...salt].reduce((hash, letter) => mix(hash, letter.charCodeAt(0)), 12345);

/** The logits that follow the tokens of `hash`, to out[at, at + vocabSize): between -4 and 4, or what the swarm has instead. */
export function writeLogits(out: Float32Array, at: number, hash: number, { vocabSize, grain, nanEvery, sparseEvery }: Swarm): void {
  const kind = mix(hash, -1) >>> 0, sparse = sparseEvery > 0 && kind % sparseEvery === 0;
  for (let id = 0; id < vocabSize; id++) {
    const bits = mix(hash, id), x = bits / 2 ** 29;
    out[at + id] = sparse && id !== kind % vocabSize && (bits & 3) > 0 ? -Infinity : grain ? Math.round(x / grain) * grain : x;
  }
  if (nanEvery > 0 && (kind >>> 8) % nanEvery === 0) out[at + (kind % vocabSize)] = kind & 1 ? NaN : Infinity;
}

export const refusal = (token: number): string => `token ${token} is outside the table`;

/** A step as it was given, and what became of it. */
export interface Launch extends Omit<Batch, "fill" | "add" | "clear"> {
  /** Whose rows they are, by sequence of the batch. */
  readonly owners: readonly Oracle[];
  /** The position from which on a sequence's tokens are guesses; Infinity where none are. */
  readonly firstGuess: readonly number[];
  /** What was under way, and not yet heard of, when it was started. */
  readonly behind: Launch | undefined;
  state: "under way" | "ended" | "failed" | "rubbish";
}

/** What the machine is in. */
export interface World {
  /** Whose sequences these are, and how many of their tokens are known. */
  ownersOf(batch: Batch): readonly { readonly oracle: Oracle; readonly numKnown: number }[];
  /** Whether what is launched now computes a part of a step again that has failed: whoever gives it has heard of all before. */
  readonly recomputing: boolean;
  /** A launch was given. */
  started(launch: Launch, wanted: Wanted): void;
  /** A turn of the event loop. */
  turn(): void;
}

export class Machine implements ForwardModel {
  readonly vocabSize: number;
  readonly runsAhead: boolean;
  /** The KV cache: a hash for each slot. */
  readonly slots: Float64Array;
  readonly #swarm: Swarm;
  readonly #dice: Dice;
  readonly #world: World;
  readonly #logits: Float32Array<ArrayBuffer>;
  readonly #chooser: Chooser;
  #last: Promise<unknown> = Promise.resolve();
  /** Launches that whoever gave them has not heard of, oldest first. */
  #unheard: Launch[] = [];
  /** Set to have the next launch, and all later ones, break down. */
  broken: Error | undefined;

  constructor(swarm: Swarm, dice: Dice, world: World) {
    const { limits: { numPages, pageSize, maxNumSeqs, maxNumLogits = maxNumSeqs }, vocabSize } = swarm;
    this.#swarm = swarm;
    this.#dice = dice;
    this.#world = world;
    this.vocabSize = vocabSize;
    this.slots = new Float64Array(numPages * pageSize).fill(nothing);
    this.#logits = new Float32Array(maxNumLogits * vocabSize);
    this.#chooser = new Chooser(vocabSize, maxNumLogits);
    this.runsAhead = swarm.runsAhead;
  }

  /** Whoever gave the launches has heard of the oldest, which is returned; where that one failed, of those behind it too. */
  heard(): Launch | undefined {
    const oldest = this.#unheard.shift();
    if (oldest?.state === "failed") this.#unheard = [];
    return oldest;
  }

  get numUnheard(): number {
    return this.#unheard.length;
  }

  /** Carried out behind the launches before it. */
  launch(batch: Batch, wanted: SamplingBatch): Promise<Sampled> {
    const launch = this.#copy(batch), copy = copyOf(wanted);
    if (!this.#world.recomputing) this.#unheard.push(launch);
    this.#world.started(launch, copy);
    const result = this.#last.then(() => this.#run(launch, copy));
    this.#last = result.catch(() => {});
    return result;
  }

  #copy(batch: Batch): Launch {
    const { numTokens, numSequences, numLogits, maxPagesPerSequence, tokens, positions, slots, blockTable, logitRows, firstRow, numRows, firstPosition, kvLength } = batch;
    const owners = this.#world.ownersOf(batch);
    const firstGuess = owners.map(({ numKnown }, s) => {
      const i = numKnown - firstPosition[s]!;
      return i >= 0 && i < numRows[s]! && tokens[firstRow[s]! + i]! >= 0 ? numKnown : Infinity;
    });
    return {
      numTokens, numSequences, numLogits, maxPagesPerSequence, owners: owners.map(({ oracle }) => oracle), firstGuess, behind: this.#world.recomputing ? undefined : this.#unheard.at(-1), state: "under way",
      tokens: tokens.slice(0, numTokens), positions: positions.slice(0, numTokens), slots: slots.slice(0, numTokens), logitRows: logitRows.slice(0, numLogits),
      blockTable: blockTable.slice(0, numSequences * maxPagesPerSequence), firstRow: firstRow.slice(0, numSequences), numRows: numRows.slice(0, numSequences),
      firstPosition: firstPosition.slice(0, numSequences), kvLength: kvLength.slice(0, numSequences),
    };
  }

  async #run(launch: Launch, wanted: Wanted): Promise<Sampled> {
    for (let turns = this.#dice.int(0, this.#swarm.maxTurns); turns > 0; turns--) {
      await undefined;
      this.#world.turn();
    }
    if (this.broken) throw this.broken;
    const { tokens, behind } = launch, { refused } = this.#swarm;
    if (behind?.state === "failed") {
      launch.state = "rubbish";
      this.#spoil(launch);
      if (this.#dice.chance(0.5)) throw new UsageError("rubbish");
      const answers = new Answers(new Uint8Array(4 * answerWord.words * wanted.numQuestions));
      return { tokens: this.#chooser.sampled.slice(0, launch.numLogits), answers, logits: wanted.hostRows.map(() => new Float32Array(this.vocabSize)) };
    }
    for (let row = 0; row < tokens.length; row++) if (tokens[row]! < 0) tokens[row] = Math.max(0, this.#chooser.sampled[-1 - tokens[row]!]!);
    for (let s = 0; s < launch.numSequences; s++) this.#checkReads(launch, s);
    for (let s = 0; s < launch.numSequences; s++) this.#write(launch, s);
    if (refused !== undefined && tokens.includes(refused)) {
      launch.state = "failed";
      this.#spoil(launch);
      throw new UsageError(refusal(refused));
    }
    for (let i = 0; i < launch.numLogits; i++) {
      writeLogits(this.#logits, i * this.vocabSize, this.slots[launch.slots[launch.logitRows[i]!]!]!, this.#swarm);
    }
    launch.state = "ended";
    return this.#chooser.choose(this.#logits, launch.numLogits, wanted);
  }

  #slot({ blockTable, maxPagesPerSequence }: Launch, s: number, position: number): number {
    const { pageSize } = this.#swarm.limits;
    return blockTable[s * maxPagesPerSequence + Math.floor(position / pageSize)]! * pageSize + (position % pageSize);
  }

  /** All that the sequence has computed before, as far as its window goes, is in the cache, and its own. */
  #checkReads(launch: Launch, s: number): void {
    const owner = launch.owners[s]!, end = launch.firstPosition[s]!;
    for (let position = Math.max(0, end + 1 - this.#swarm.window); position < end; position++) {
      // Behind its last token it has a row in vain, of tokens that nobody knows.
      if (!owner.reaches(position)) return;
      const slot = this.#slot(launch, s, position);
      if (this.slots[slot] !== owner.hash(position)) assert.fail(`request ${owner.id} finds at position ${position}, slot ${slot}, ${this.slots[slot] === nothing ? "nothing" : "what is not its own"}`);
    }
  }

  #write(launch: Launch, s: number): void {
    const { owners, firstGuess, firstRow, firstPosition, numRows, kvLength, tokens, positions, slots } = launch, owner = owners[s]!;
    for (let i = 0; i < numRows[s]!; i++) {
      const row = firstRow[s]! + i, position = firstPosition[s]! + i, slot = slots[row]!;
      if (positions[row] !== position || slot !== this.#slot(launch, s, position)) assert.fail(`row ${row} of request ${owner.id}: position ${positions[row]} in slot ${slot}, not ${position} in slot ${this.#slot(launch, s, position)}`);
      if (position < firstGuess[s]! && owner.reaches(position) && tokens[row] !== owner.tokens[position]) assert.fail(`request ${owner.id} computes another token at ${position}`);
      const before = position === 0 ? owner.empty : this.slots[this.#slot(launch, s, position - 1)]!;
      this.slots[slot] = chain(before, tokens[row]!);
    }
    if (kvLength[s] !== firstPosition[s]! + numRows[s]!) assert.fail(`request ${owner.id}: keys of length ${kvLength[s]}`);
  }

  /** What a step that fails may leave where its keys and values go, and of its tokens. */
  #spoil({ slots }: Launch): void {
    for (const slot of slots) this.slots[slot] = nothing;
    const { sampled } = this.#chooser;
    for (let i = 0; i < sampled.length; i++) sampled[i] = this.#dice.int(0, this.vocabSize - 1);
  }
}
