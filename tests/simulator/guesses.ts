/** A drafter whose guesses are as good as the swarm says, and who takes its time: meanwhile requests come and go. */
import assert from "node:assert/strict";
import { addDrafts, type Drafter } from "../../src/engine/drafter.ts";
import type { Work } from "../../src/engine/scheduler.ts";
import type { Sequence } from "../../src/engine/sequence.ts";
import type { Dice } from "./dice.ts";
import type { Oracle } from "./oracle.ts";
import type { Swarm } from "./swarm.ts";

export class Guesses implements Drafter {
  readonly numTokens: number;
  readonly #swarm: Swarm;
  readonly #dice: Dice;
  readonly #oracleOf: (id: string) => Oracle;
  readonly #turn: () => void;
  /** So many of the drafts that a sequence was given last are right, from the first on. */
  readonly #numRight = new Map<Sequence, number>();
  /** How often in a row its drafts were all wrong. */
  readonly #numMisses = new Map<Sequence, number>();
  /** As stats count them. */
  numDrafts = 0;
  numDraftTokens = 0;
  readonly acceptedPerPosition: number[];

  constructor(swarm: Swarm, dice: Dice, oracleOf: (id: string) => Oracle, turn: () => void) {
    this.numTokens = swarm.limits.numSpeculativeTokens!;
    this.#swarm = swarm;
    this.#dice = dice;
    this.#oracleOf = oracleOf;
    this.#turn = turn;
    this.acceptedPerPosition = new Array<number>(this.numTokens).fill(0);
  }

  get numAccepted(): number {
    return this.acceptedPerPosition.reduce((sum, n) => sum + n, 0);
  }

  async propose(work: readonly Work[]): Promise<void> {
    for (const item of work) {
      if (item.numDrafts === 0) continue;
      for (let turns = this.#dice.int(0, this.#swarm.maxTurns); turns > 0; turns--) {
        await undefined;
        this.#turn();
      }
      if (item.sequence.state === "running") addDrafts(item, this.#guess(item.sequence, item.numDrafts));
    }
  }

  /** At times fewer than there is room for, at times more. */
  #guess(sequence: Sequence, most: number): number[] {
    const dice = this.#dice, oracle = this.#oracleOf(sequence.id), first = sequence.numKnown;
    const guesses = Array.from({ length: dice.int(0, most + 1) }, (_, i) =>
      dice.chance(this.#swarm.rightDrafts) && oracle.reaches(first + i) ? oracle.tokens[first + i]! : dice.int(0, this.#swarm.vocabSize - 1));
    const wrong = guesses.findIndex((token, i) => !oracle.reaches(first + i) || oracle.tokens[first + i] !== token);
    this.#numRight.set(sequence, wrong < 0 ? guesses.length : wrong);
    return guesses;
  }

  decided(sequence: Sequence, numDrafts: number, numTokens: number): void {
    if (numDrafts === 0) return;
    const numAccepted = Math.min(numDrafts, this.#numRight.get(sequence)!, numTokens);
    assert.ok(numTokens <= numAccepted + 1 && numTokens >= numAccepted, `request ${sequence.id} is given ${numTokens} tokens for ${numDrafts} drafts, of which ${numAccepted} are right`);
    const numMisses = numTokens > 1 ? 0 : (this.#numMisses.get(sequence) ?? 0) + 1;
    this.#numMisses.set(sequence, numMisses);
    assert.equal(sequence.rest, [0, 0, 2, 6][numMisses] ?? 14, `steps without drafts of request ${sequence.id}, wrong ${numMisses} times`);
    this.numDrafts++;
    this.numDraftTokens += numDrafts;
    for (let i = 0; i < numAccepted; i++) this.acceptedPerPosition[i]!++;
  }
}
