/**
 * Attention for a served model: the nearest 256 tokens and the first four, which hold a place that heads like to look at.
 *
 *   tessera inspect examples/my-mod.ts                what it means and what it costs
 *   tessera chat --attention examples/my-mod.ts       the demo model with it
 */
import { maskMod, scoreMod } from "tessera-llm/attention";

export const nearAndFirst = maskMod(({ near, first }) => (b, h, q, kv) => q >= kv && (q - kv < near || kv < first), { near: 256, first: 4 });

/** Scores a little lower the farther away, in the upper half of the heads. */
export const fade = scoreMod(({ slope }) => (score, b, h, q, kv) => {
  if (h < 2) return score;
  return score - slope * Math.log(1 + (q - kv));
}, { slope: 0.05 });

export default { maskMod: nearAndFirst, layers: { 1: { scoreMod: fade } } };
