/**
 * What a run is like: its limits, its model, and how often each operation comes. Every seed draws its own, and leaves features out: what hides a fault
 * (a cache that is always large enough, requests that always stop early) is missing in some runs ("swarm testing", Groce et al. 2012).
 */
import type { EngineLimits } from "../../src/engine/engine.ts";
import { PageNeeds } from "../../src/model/page-needs.ts";
import { plainExpiry, seesWindow } from "../engine/plain-expiry.ts";
import { Dice } from "./dice.ts";
import { type Feature, features } from "./requests.ts";
import type { OperationName } from "./simulator.ts";

export interface Swarm {
  readonly seed: number;
  /** Steps are started ahead; else the machine is waited for. */
  readonly runsAhead: boolean;
  readonly limits: EngineLimits;
  readonly vocabSize: number;
  readonly eosTokenIds: readonly number[];
  /** The seed that the engine draws requests' seeds from. */
  readonly engineSeed: number;
  /** Hashes of the prefix cache are nearly all alike. */
  readonly collisions: boolean;
  /** Logits come in multiples of this, so that many are equal; 0: hardly any are. */
  readonly grain: number;
  /** One row of logits in so many has an entry that is no number, or has few tokens that are possible; 0: none. */
  readonly nanEvery: number;
  readonly sparseEvery: number;
  /** A token that a mod refuses to compute. */
  readonly refused: number | undefined;
  /** Turns of the event loop that a step takes at most, and how likely in each somebody does something. */
  readonly maxTurns: number;
  readonly busy: number;
  /** The machine breaks down in the end. */
  readonly dies: boolean;
  readonly salts: readonly string[];
  /** Of requests; [0]: first come, first served. */
  readonly priorities: readonly number[];
  /** How likely a draft is what the model says; there are drafts where limits.numSpeculativeTokens is above 0. */
  readonly rightDrafts: number;
  /** What prompts begin with. */
  readonly beginnings: readonly (readonly number[])[];
  readonly features: readonly Feature[];
  /** How likely a request has one of them. */
  readonly featureRate: number;
  readonly maxTokens: number;
  /** Most requests that are open at once. */
  readonly maxOpen: number;
  readonly weights: Readonly<Record<OperationName, number>>;
  /** So many keys a query sees in every layer, where pages expire; Infinity: all. */
  readonly window: number;
  /** What follows from it. */
  readonly needs: PageNeeds;
}

export function drawSwarm(seed: number, runsAhead: boolean): Swarm {
  const dice = new Dice(seed * 2 + Number(runsAhead));
  // Long outputs in a pool that is soon full: somebody is preempted all the time.
  const isTight = dice.chance(0.3);
  const pageSize = isTight ? dice.int(1, 3) : dice.pick([1, 2, 3, 4, 5, 8, 16]), vocabSize = dice.pick([5, 12, 20, 33]);
  const maxModelLen = isTight ? dice.pick([24, 48]) : dice.pick([8, 24, 48, 96]);
  // From hardly one sequence to all of them.
  const least = Math.max(2, Math.ceil(maxModelLen / pageSize / 2));
  const maxNumSeqs = dice.pick([1, 2, 3, 5, 8, 12]), numSpeculativeTokens = dice.pick([0, 0, 1, 3, 5]);
  const limits: EngineLimits = {
    pageSize, maxModelLen, numPages: Math.min(64, dice.int(least, (isTight ? 3 : dice.pick([2, 4, 8])) * least)), maxNumSeqs,
    maxNumBatchedTokens: dice.pick(isTight ? [2, 3, 5, 8, 16] : [1, 2, 5, 8, 16, 33, 64]), enablePrefixCaching: dice.chance(0.8),
    maxNumLogits: maxNumSeqs + dice.pick([0, 1, 4, 30]), numSpeculativeTokens,
  };
  const drawn = {
    seed, runsAhead, limits, vocabSize, engineSeed: dice.pick([0, seed, -seed]), collisions: dice.chance(0.3),
    eosTokenIds: dice.ints(isTight ? 0 : dice.pick([0, 1, 2]), 0, vocabSize - 1),
    grain: dice.pick([0, 0, 0.5, 2]), nanEvery: dice.chance(isTight ? 0 : 0.3) ? 100 : 0, sparseEvery: dice.chance(0.3) ? 5 : 0,
    refused: dice.chance(isTight ? 0.05 : 0.3) ? dice.int(0, vocabSize - 1) : undefined,
    maxTurns: dice.pick([0, 1, 3]), busy: dice.pick([0, 0.05, 0.3]), dies: dice.chance(0.1),
    salts: ["", "a", "b", "ab"].slice(0, dice.pick([1, 1, 2, 4])),
    priorities: dice.pick([[0], [0], [0, -1, 2]]), rightDrafts: dice.pick([0.2, 0.7, 1]),
    beginnings: Array.from({ length: dice.int(1, 3) }, () => dice.ints(maxModelLen, 0, vocabSize - 1)),
    features: (Object.keys(features) as Feature[]).filter((name) => dice.chance(isTight && name === "promptLogprobs" ? 0.7 : 0.3)),
    featureRate: dice.pick([0.15, 0.4, 0.9]),
    maxTokens: isTight ? 200 : dice.pick([1, 4, 12, 40, 200]), maxOpen: dice.pick([2, 6, 10, 16]),
    weights: {
      step: dice.pick([2, 6, 12]), submit: dice.pick([1, 3]), burst: dice.pick([0, 0, 1]), choices: dice.pick([0, 0.3]), again: dice.pick([0, 0.5, 2]), wrong: dice.pick([0, 0, 0.3]),
      abort: dice.pick([0, 0.2, 0.6]), abortAll: dice.pick([0, 0, 0.02]), wait: dice.pick([0, 0.5, 2]),
    },
  };
  if (dice.chance(0.7)) return { ...drawn, window: Infinity, needs: new PageNeeds(limits) };
  const window = dice.int(1, Math.ceil(maxModelLen / 2)), expiry = plainExpiry(seesWindow(window), pageSize, maxModelLen, dice.pick([1, 4]));
  // Most often a pool that is shorter than the context.
  const own = { ...limits, numPages: dice.int(2, limits.numPages) };
  return { ...drawn, limits: own, window, needs: new PageNeeds(own, expiry) };
}
