/** Causal windows that are not the same for all: one for each head, or one for each token. */
import { type MaskMod, maskMod } from "../mod.ts";

/** 0 <= q - kv < sizes[h]. `sizes` holds the keys that each query head sees, its own included. */
export function windowPerHead(sizes: Int32Array): MaskMod {
  return maskMod(({ sizes }) => (_b, h, q, kv) => q >= kv && q - kv < sizes[h]!, { sizes });
}

/** 0 <= q - kv <= lefts[q]. `lefts` holds how many keys besides its own each position sees. */
export function windowPerToken(lefts: Int32Array): MaskMod {
  return maskMod(({ lefts }) => (_b, _h, q, kv) => kv <= q && q - kv <= lefts[q]!, { lefts });
}
