/** The nearest keys and the sequence's first: endless generation in a bounded cache (StreamingLLM, Xiao et al., 2024). */
import { type MaskMod, maskMod } from "../mod.ts";

/** kv <= q, and kv < sinks or q - kv < size. `sinks` first keys are always seen, besides `size` keys up to the query's own. */
export function sinkWindow(sinks: number, size: number): MaskMod {
  return maskMod(({ sinks, size }) => (_b, _h, q, kv) => q >= kv && (kv < sinks || q - kv < size), { sinks, size });
}
