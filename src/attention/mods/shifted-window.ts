/**
 * Windows of an image, shifted by half in every second layer (Swin, Liu et al., 2021). The image need not be rolled: the mask looks
 * where a position would stand.
 */
import { floorDiv, floorMod } from "../language.ts";
import { type MaskMod, maskMod } from "../mod.ts";

/** With r(i) = (i - shift) mod length: floor(r(q) / window) = floor(r(kv) / window), and both or neither went round the edge (r >= length - shift). */
function alongAxis(length: number, window: number, shift: number): MaskMod {
  return maskMod(({ length, window, shift }) => (_b, _h, q, kv) => {
    const row = floorMod(q - shift, length), column = floorMod(kv - shift, length);
    return floorDiv(row, window) === floorDiv(column, window) && (row >= length - shift) === (column >= length - shift);
  }, { length, window, shift });
}

/** Same window along both axes; position = row * width + column, `window` divides both sides. Shift 0 is the plain window. */
export function shiftedWindow(height: number, width: number, window: number, shift: number): MaskMod {
  return maskMod(({ width, inRows, inColumns }) => (b, h, q, kv) =>
    inRows(b, h, floorDiv(q, width), floorDiv(kv, width)) && inColumns(b, h, q % width, kv % width),
  { width, inRows: alongAxis(height, window, shift), inColumns: alongAxis(width, window, shift) });
}
