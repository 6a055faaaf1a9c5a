/** The slow, obvious oracle of attention/expiry.ts: which queries see which keys, asked at every point. */
import { neverExpires } from "../../src/attention/expiry.ts";

export type Sees = (q: number, kv: number) => boolean;

/** Under it nothing expires. */
export const seesAll: Sees = (q, kv) => q >= kv;
export const seesWindow = (size: number): Sees => (q, kv) => q >= kv && q - kv < size;
/** The keys of the query's own chunk. */
export const seesChunk = (size: number): Sees => (q, kv) => q >= kv && Math.floor(q / size) === Math.floor(kv / size);
/** A window, and the first few keys for ever. */
export const seesSink = (first: number, size: number): Sees => (q, kv) => q >= kv && (kv < first || q - kv < size);

/** For stretches of `size` keys: the position behind the last query of 0 .. length - 1 that sees a key of the tiles of `tile` keys that a stretch reaches into. */
export function plainExpiry(sees: Sees, size: number, length: number, tile = 1): Int32Array {
  return Int32Array.from({ length: Math.ceil(length / size) }, (_, block) => {
    const from = Math.floor((block * size) / tile) * tile, to = Math.min(Math.ceil(((block + 1) * size) / tile) * tile, length);
    for (let q = length - 1; q >= 0; q--) for (let kv = from; kv < to; kv++) if (sees(q, kv)) return q === length - 1 ? neverExpires : q + 1;
    return 0;
  });
}
