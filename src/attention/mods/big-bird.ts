/** Window, global and random blocks together (BigBird, Zaheer et al., 2020). */
import { floorDiv } from "../language.ts";
import { type MaskMod, maskMod } from "../mod.ts";
import type { Tensor } from "../tensor.ts";

/**
 * With Q = floor(q / size) and K = floor(kv / size): |Q - K| <= near, or Q < globals, or K < globals, or picks[Q][K].
 * `picks` is [blocks, blocks] of 0 and 1: the random ones.
 */
export function bigBird(size: number, near: number, globals: number, picks: Tensor): MaskMod {
  return maskMod(({ size, near, globals, picks }) => (_b, _h, q, kv) => {
    const row = floorDiv(q, size), column = floorDiv(kv, size);
    return Math.abs(row - column) <= near || row < globals || column < globals || picks[row]![column] === 1;
  }, { size, near, globals, picks });
}
