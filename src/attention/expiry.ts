/**
 * From which position on nobody looks at a stretch of keys any more: what range analysis says of the masks of all layers together.
 *
 *              keys          a window of 4, stretches of 4: the last query that sees a key of 0 .. 3 is 6, so these expire at 7
 *   q = 6    · · · # # # #
 *   q = 7    · · · · # # # #
 *
 * Kernels read whole tiles of keys, and a masked key still multiplies its value by zero; so a stretch expires when every tile that it reaches into is
 * never asked for. A stretch that no proof is found for lasts for ever, which costs memory and nothing else. It knows no pages and no sequences.
 */
import { type Classifier, verdict } from "../ir/range.ts";
import type { WorkShape } from "./work-list.ts";

/** One mask and the kernel that reads by it. The mask does not ask which row of a batch it is in. */
export interface Reader {
  readonly mask: Classifier;
  readonly shape: Pick<WorkShape, "kvTile" | "numQueryHeads">;
}

/** In place of a position: the stretch lasts for ever. */
export const neverExpires = 2 ** 31 - 1;

/** Of positions 0 .. length - 1, in stretches of `size` keys: the first one from which on no query of any reader sees one of a stretch's tiles. */
export function expiryOf(readers: readonly Reader[], { size, length }: { readonly size: number; readonly length: number }): Int32Array {
  const expiry = new Int32Array(Math.ceil(length / size));
  for (const { mask, shape: { kvTile, numQueryHeads } } of readers) {
    // A window moves on with its queries: the tile before says where to look.
    for (let kv = 0, guess = 0; kv < length; kv += kvTile) {
      const last = Math.min(kv + kvTile, length) - 1;
      const isUnseenFrom = (q: number): boolean => mask.classify(0, 0, 0, numQueryHeads - 1, q, length - 1, kv, last) === verdict.never;
      const at = isUnseenFrom(length - 1) ? firstOf(isUnseenFrom, length - 1, guess) : neverExpires;
      if (at < neverExpires) guess = at + kvTile;
      for (let i = Math.floor(kv / size); i * size <= last; i++) expiry[i] = Math.max(expiry[i]!, at);
    }
  }
  return expiry;
}

/** The least q for which `holds`, which does from there to `most`; `guess` is asked first. */
function firstOf(holds: (q: number) => boolean, most: number, guess: number): number {
  let low = 0, high = most;
  for (const q of [guess, guess - 1]) {
    if (q < low || q >= high) continue;
    if (holds(q)) high = q;
    else low = q + 1;
  }
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (holds(middle)) high = middle;
    else low = middle + 1;
  }
  return high;
}
