/** A learned number for each head and distance (Shaw et al., 2018, as a bias); distances beyond the table take its ends. */
import { type ScoreMod, scoreMod } from "../mod.ts";
import type { Tensor } from "../tensor.ts";

/** score + bias[h][clamp(q - kv, -R, R) + R]. `bias` is [heads, 2 R + 1]: column R is distance 0, the columns after it are keys before the query. */
export function relativeBias(bias: Tensor): ScoreMod {
  const reach = (bias.shape[1]! - 1) / 2;
  return scoreMod(({ bias, reach }) => (score, _b, h, q, kv) => score + bias[h]![Math.min(Math.max(q - kv, -reach), reach) + reach]!, { bias, reach });
}
