/** Causal attention within chunks of fixed length (Llama 4's local layers). */
import { floorDiv } from "../language.ts";
import { type MaskMod, maskMod } from "../mod.ts";

/** floor(q / size) = floor(kv / size) and q >= kv */
export function chunked(size: number): MaskMod {
  return maskMod(({ size }) => (_b, _h, q, kv) => floorDiv(q, size) === floorDiv(kv, size) && q >= kv, { size });
}
