/** A prefix that sees itself whole, then causal attention: for prompts that are read before anything is written. */
import { type MaskMod, maskMod } from "../mod.ts";

/**
 * kv < lengths[b] or q >= kv. `lengths` holds the prefix of each sequence. The form (q < P and kv < P) or q >= kv, which others use,
 * is the same mask.
 */
export function prefixLm(lengths: Int32Array): MaskMod {
  return maskMod(({ lengths }) => (b, _h, q, kv) => kv < lengths[b]! || q >= kv, { lengths });
}

/** kv <= lasts[b] or q >= kv. `lasts` holds the last position of each prefix: the convention of FlexAttention's examples, one key more than `prefixLm`. */
export function prefixLmThrough(lasts: Int32Array): MaskMod {
  return maskMod(({ lasts }) => (b, _h, q, kv) => kv <= lasts[b]! || q >= kv, { lasts });
}
