/** Attention with linear biases: each head prefers near keys by a slope of its own (Press et al., 2022). */
import { type ScoreMod, scoreMod } from "../mod.ts";

/** score + slopes[h] (kv - q). `slopes` holds one positive number for each query head. */
export function alibi(slopes: Float32Array): ScoreMod {
  return scoreMod(({ slopes }) => (score, _b, h, q, kv) => score + slopes[h]! * (kv - q), { slopes });
}

/**
 * The slopes of the paper: 2^(-8 (h + 1) / H) when H is a power of two; else those of the power of two below, then every
 * second one of the power of two above.
 */
export function alibiSlopes(numHeads: number): Float32Array {
  const whole = 2 ** Math.floor(Math.log2(numHeads));
  return Float32Array.from({ length: numHeads }, (_, h) => (h < whole ? 2 ** ((-8 * (h + 1)) / whole) : 2 ** ((-8 * (2 * (h - whole) + 1)) / (2 * whole))));
}
