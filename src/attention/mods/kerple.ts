/** Kerple (Chi et al., 2022): biases that fall with the distance by a learned kernel for each head. */
import { type ScoreMod, scoreMod } from "../mod.ts";

/** score - scales[h] ln(1 + rates[h] |q - kv|), the logarithmic kernel. Both hold one positive number for each query head. */
export function kerpleLog(scales: Float32Array, rates: Float32Array): ScoreMod {
  return scoreMod(({ scales, rates }) => (score, _b, h, q, kv) => score - scales[h]! * Math.log1p(rates[h]! * Math.abs(q - kv)), { scales, rates });
}

/** score - scales[h] |q - kv|^powers[h], the power kernel, powers in (0, 2]. */
export function kerplePower(scales: Float32Array, powers: Float32Array): ScoreMod {
  return scoreMod(({ scales, powers }) => (score, _b, h, q, kv) => score - scales[h]! * Math.abs(q - kv) ** powers[h]!, { scales, powers });
}
