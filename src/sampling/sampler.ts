/**
 * Logits -> token on the host, for requests whose own functions change their logits there; all others' tokens are chosen by the backend (backend.ts, SamplingOps).
 * vLLM V1's order: the request's rules (rules.ts), temperature, min-p, top-k, top-p, then one draw.
 *
 *   order    tokens by logit, likeliest first, equal logits by lowest id: a strict order, so every set below is exact
 *   top-k    the first k                     min-p   those with p >= minP * p(first)
 *   top-p    of what is left, renormalised: a token stays while the mass before it is below topP
 *   draw     the token at which the running sum, in order of ids, passes uniform * mass
 *
 * Each filter keeps a prefix of the order, so they are found by partial selection (a quickselect that adds up mass) and the
 * vocabulary is never sorted; and as prefixes intersect, top-k, which needs no exponentials, may come first. All arithmetic is in
 * doubles. The token is a function of the arguments alone; backend/reference/sample.ts is the same without haste. Knows no requests, batches or vocabularies' meaning.
 */
import { uniform } from "../core/random.ts";
import { isGreedy, leastTemperature, type SamplingParams } from "./params.ts";
import type { LogitRules } from "./rules.ts";

/** A range this short is sorted. */
const shortRange = 24;

export class Sampler {
  /** Candidate ids; every filter moves what it keeps to the front. */
  readonly #ids: Int32Array;
  /** exp((logit - max) / temperature) of token id, where id is a candidate. */
  readonly #mass: Float64Array;

  constructor(vocabSize: number) {
    this.#ids = new Int32Array(vocabSize);
    this.#mass = new Float64Array(vocabSize);
  }

  /**
   * The token for `position` (its index in the sequence), or undefined where the logits have no distribution: one is NaN or
   * +Infinity, or all are -Infinity, perhaps by the `rules`, which have functions among them. `logits`: f32 [vocabSize].
   */
  sample(logits: Float32Array, params: SamplingParams, seed: number, position: number, rules?: LogitRules): number | undefined {
    if (rules === undefined) return this.#choose(logits, params, seed, position);
    // What is no number may be that of a token which the rules forbid: what remains would look well, and its log-probabilities are none.
    if (argmax(logits) === undefined) return undefined;
    return this.#choose(rules.apply(logits), params, seed, position);
  }

  #choose(logits: Float32Array, params: SamplingParams, seed: number, position: number): number | undefined {
    const best = argmax(logits);
    if (best === undefined || isGreedy(params)) return best;
    const ids = this.#ids, mass = this.#mass;
    const max = logits[best]!;
    const rate = 1 / Math.max(params.temperature, leastTemperature);

    let kept = logits.length;
    for (let id = 0; id < kept; id++) ids[id] = id;
    if (params.topK > 0 && params.topK < kept) kept = firstByCount(ids, kept, logits, params.topK);

    let total = 0, survivors = 0;
    for (let i = 0; i < kept; i++) {
      const id = ids[i]!;
      const m = Math.exp((logits[id]! - max) * rate);
      if (m === 0 || m < params.minP) continue;
      mass[id] = m;
      total += m;
      ids[survivors++] = id;
    }
    kept = survivors;
    if (params.topP < 1) kept = firstByMass(ids, kept, logits, mass, params.topP * total);
    const chosenFrom = ids.subarray(0, kept);
    if (params.topK > 0 || params.topP < 1) chosenFrom.sort();
    return draw(chosenFrom, mass, uniform(seed, position));
  }
}

/** The likeliest token, lowest id of equals; undefined where there is none. */
export function argmax(logits: Float32Array): number | undefined {
  let best = 0, max = -Infinity;
  for (let id = 0; id < logits.length; id++) {
    const x = logits[id]!;
    // What is not a number stands in the way of every comparison.
    if (x <= max) continue;
    if (!(x < Infinity)) return undefined;
    max = x;
    best = id;
  }
  return max === -Infinity ? undefined : best;
}

/** Whether token a comes before token b. */
const before = (logits: Float32Array, a: number, b: number): boolean => {
  const x = logits[a]!, y = logits[b]!;
  return x > y || (x === y && a < b);
};

/** Reorders ids[0, length) so that the first `k` of the order stand in front; returns k. 0 < k < length. */
function firstByCount(ids: Int32Array, length: number, logits: Float32Array, k: number): number {
  let low = 0, high = length;
  while (high - low > shortRange) {
    const middle = partition(ids, low, high, logits);
    if (k <= middle) high = middle;
    else low = middle;
  }
  sortShort(ids, low, high, logits);
  return k;
}

/** Reorders ids[0, length) so that the shortest prefix of the order with `target` of mass stands in front; returns its length. */
function firstByMass(ids: Int32Array, length: number, logits: Float32Array, mass: Float64Array, target: number): number {
  let low = 0, high = length, massBefore = 0;
  while (high - low > shortRange) {
    const middle = partition(ids, low, high, logits);
    let upper = 0;
    for (let i = low; i < middle; i++) upper += mass[ids[i]!]!;
    if (massBefore + upper >= target) high = middle;
    else [low, massBefore] = [middle, massBefore + upper];
  }
  sortShort(ids, low, high, logits);
  while (low < high && (massBefore < target || low === 0)) massBefore += mass[ids[low++]!]!;
  return low;
}

/**
 * Splits ids[low, high), longer than 2, at a pivot (Hoare): all before the returned index come before all from it on. The pivot is
 * the median of three different tokens, so neither side is empty.
 */
function partition(ids: Int32Array, low: number, high: number, logits: Float32Array): number {
  const a = ids[low]!, b = ids[(low + high) >>> 1]!, c = ids[high - 1]!;
  const ab = before(logits, a, b), bc = before(logits, b, c), ac = before(logits, a, c);
  const pivot = ab === bc ? b : ab === ac ? c : a;
  let i = low - 1, j = high;
  for (;;) {
    do i++; while (before(logits, ids[i]!, pivot));
    do j--; while (before(logits, pivot, ids[j]!));
    if (i >= j) return j + 1;
    const swap = ids[i]!;
    ids[i] = ids[j]!;
    ids[j] = swap;
  }
}

/** Insertion sort of a short range. */
function sortShort(ids: Int32Array, low: number, high: number, logits: Float32Array): void {
  for (let i = low + 1; i < high; i++) {
    const id = ids[i]!;
    let j = i;
    for (; j > low && before(logits, id, ids[j - 1]!); j--) ids[j] = ids[j - 1]!;
    ids[j] = id;
  }
}

/** The token of ascending `ids` at which the running sum of mass passes u * (sum of all). */
function draw(ids: Int32Array, mass: Float64Array, u: number): number {
  let total = 0;
  for (const id of ids) total += mass[id]!;
  const target = u * total;
  let sum = 0;
  for (const id of ids) if ((sum += mass[id]!) > target) return id;
  // u * total may round up to total.
  return ids[ids.length - 1]!;
}
