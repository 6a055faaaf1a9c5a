/** A window with holes: every n-th key near the query. */
import { type MaskMod, maskMod } from "../mod.ts";

/** |q - kv| <= reach and q - kv a multiple of `dilation`: both sides. */
export function dilatedWindow(reach: number, dilation: number): MaskMod {
  return maskMod(({ reach, dilation }) => (_b, _h, q, kv) => Math.abs(q - kv) <= reach && (q - kv) % dilation === 0, { reach, dilation });
}

/** 0 <= q - kv < size and q - kv a multiple of `dilation`. */
export function dilatedCausal(size: number, dilation: number): MaskMod {
  return maskMod(({ size, dilation }) => (_b, _h, q, kv) => q >= kv && q - kv < size && (q - kv) % dilation === 0, { size, dilation });
}
