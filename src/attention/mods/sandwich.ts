/** Sandwich (Chi et al., 2023): the inner product of sinusoidal position codes as a bias; a decay that models longer texts than it was trained on. */
import { type ScoreMod, scoreMod } from "../mod.ts";

/** score + cosines[q - kv + n] * slopes[h], slopes[h] = H / (8 (h + 1)), for positions below n. `cosines` is made by `sandwichTable`. */
export function sandwich(cosines: Float32Array, numHeads: number): ScoreMod {
  const slopes = Float32Array.from({ length: numHeads }, (_, h) => numHeads / (8 * (h + 1)));
  return scoreMod(({ cosines, slopes, n }) => (score, _b, h, q, kv) => score + cosines[q - kv + n]! * slopes[h]!, { cosines, slopes, n: (cosines.length - 1) / 2 });
}

/** T[d + n] = sum over i < dim / 2 of cos(|d| / 10000^(2 i / dim)), for distances d from -n to n. */
export function sandwichTable(n: number, dim: number): Float32Array {
  return Float32Array.from({ length: 2 * n + 1 }, (_, at) => {
    let sum = 0;
    for (let i = 0; i < dim / 2; i++) sum += Math.cos(Math.abs(at - n) / 10000 ** ((2 * i) / dim));
    return sum;
  });
}
