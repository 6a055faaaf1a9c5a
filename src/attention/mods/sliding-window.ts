/**
 * Causal attention over the nearest keys. Two conventions of "window" are in use, one key apart; each has its name here.
 */
import { type MaskMod, maskMod } from "../mod.ts";

/** 0 <= q - kv < size: `size` keys, the query's own included. The convention of Hugging Face configs (`sliding_window`) and vLLM. */
export function slidingWindow(size: number): MaskMod {
  return maskMod(({ size }) => (_b, _h, q, kv) => q >= kv && q - kv < size, { size });
}

/** 0 <= q - kv <= left: `left` keys besides the query's own. The convention of FlashAttention (`window_size = (left, 0)`) and attention-gym. */
export function windowLeft(left: number): MaskMod {
  return maskMod(({ left }) => (_b, _h, q, kv) => q >= kv && q - kv <= left, { left });
}
