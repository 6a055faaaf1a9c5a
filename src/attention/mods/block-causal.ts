/** Causal between blocks, all to all inside one: frames of a video, steps of a world model. */
import { floorDiv } from "../language.ts";
import { type MaskMod, maskMod } from "../mod.ts";

/** floor(q / size) >= floor(kv / size) */
export function blockCausal(size: number): MaskMod {
  return maskMod(({ size }) => (_b, _h, q, kv) => floorDiv(q, size) >= floorDiv(kv, size), { size });
}
