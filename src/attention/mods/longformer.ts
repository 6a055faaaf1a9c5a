/** A window for all, and some positions that see everything and are seen by all (Longformer, Beltagy et al., 2020). */
import { type MaskMod, maskMod } from "../mod.ts";

/** |q - kv| <= reach, or globals[q], or globals[kv]. `globals` holds 1 for the positions that are global. */
export function longformer(reach: number, globals: Uint8Array): MaskMod {
  return maskMod(({ reach, globals }) => (_b, _h, q, kv) => Math.abs(q - kv) <= reach || globals[q] === 1 || globals[kv] === 1, { reach, globals });
}
