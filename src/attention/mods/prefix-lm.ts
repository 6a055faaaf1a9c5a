/** A prefix that sees itself whole, then causal attention: for prompts that are read before anything is written. */
import { type MaskMod, maskMod } from "../mod.ts";

/** kv < lengths[b] or q >= kv. `lengths` holds the prefix of each sequence. */
export function prefixLm(lengths: Int32Array): MaskMod {
  return maskMod(({ lengths }) => (b, _h, q, kv) => kv < lengths[b]! || q >= kv, { lengths });
}
