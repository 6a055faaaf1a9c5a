/** Next-scale prediction (VAR, Tian et al., 2024): an image as grids from coarse to fine, each seeing itself and all coarser ones. */
import { type MaskMod, maskMod } from "../mod.ts";

/** levels[q] >= levels[kv]. `levels` holds the scale of each position. */
export function multiScale(levels: Int32Array): MaskMod {
  return maskMod(({ levels }) => (_b, _h, q, kv) => levels[q]! >= levels[kv]!, { levels });
}

/** The scale of each position for square grids of these sides, coarse to fine. */
export function scaleLevels(sides: readonly number[]): Int32Array {
  return Int32Array.from(sides.flatMap((side, level) => new Array<number>(side * side).fill(level)));
}
