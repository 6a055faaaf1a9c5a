/** Causal attention: a query sees its own position and those before. */
import { maskMod } from "../mod.ts";

/** q >= kv */
export const causal = maskMod((_b, _h, q, kv) => q >= kv);
