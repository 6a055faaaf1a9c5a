/** The nearest keys and the last few of every stretch before them (Sparse Transformer's fixed pattern, Child et al., 2019). */
import { type MaskMod, maskMod } from "../mod.ts";

/** q >= kv, and q - kv < stride or kv mod stride >= stride - summary */
export function strided(stride: number, summary: number): MaskMod {
  return maskMod(({ stride, summary }) => (_b, _h, q, kv) => q >= kv && (q - kv < stride || kv % stride >= stride - summary), { stride, summary });
}
