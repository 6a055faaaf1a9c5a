/** T5's relative bias: near distances have a bucket each, far ones share buckets that widen with the logarithm (Raffel et al., 2020). */
import { type ScoreMod, scoreMod } from "../mod.ts";
import type { Tensor } from "../tensor.ts";

export interface T5Options {
  /** Encoders tell keys before the query from those after it; decoders see only those before. */
  readonly bidirectional: boolean;
  /** Distances from here on share the last bucket; 128 in the published models. */
  readonly maxDistance?: number;
}

/** score + bias[h][bucket(kv - q)]. `bias` is [heads, buckets], the transpose of T5's relative_attention_bias. */
export function t5Bias(bias: Tensor, options: T5Options): ScoreMod {
  const buckets = t5Buckets(bias.shape[1]!, options), reach = (buckets.length - 1) / 2;
  return scoreMod(({ bias, buckets, reach }) => (score, _b, h, q, kv) => score + bias[h]![buckets[Math.min(Math.max(kv - q, -reach), reach) + reach]!]!, { bias, buckets, reach });
}

/**
 * The bucket of each distance kv - q from -maxDistance to maxDistance. With m the buckets of exact distances (half of those of
 * one side) and n the distance: n < m has bucket n, others m + floor(ln(n / m) / ln(maxDistance / m) (side - m)), at most the last.
 * Computed in f32 as the published models do, since a bucket's edge can fall on a whole number.
 */
export function t5Buckets(numBuckets: number, { bidirectional, maxDistance = 128 }: T5Options): Int32Array {
  const side = bidirectional ? numBuckets / 2 : numBuckets, exact = Math.floor(side / 2), f32 = Math.fround;
  return Int32Array.from({ length: 2 * maxDistance + 1 }, (_, i) => {
    const relative = i - maxDistance, n = bidirectional ? Math.abs(relative) : Math.max(-relative, 0);
    const far = exact + Math.trunc(f32(f32(f32(Math.log(f32(n / exact))) / f32(Math.log(maxDistance / exact))) * (side - exact)));
    return (bidirectional && relative > 0 ? side : 0) + (n < exact ? n : Math.min(far, side - 1));
  });
}
