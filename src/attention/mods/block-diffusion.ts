/** Training a block diffusion model (BD3-LM, Arriola et al., 2025): the noised sequence, then the clean one, in a single pass. */
import { floorDiv } from "../language.ts";
import { type MaskMod, maskMod } from "../mod.ts";

/**
 * Positions 0..n-1 are noised, n..2n-1 clean; Q and K are the blocks of `size` that q and kv stand in. A query sees its own block of
 * its own half, or earlier clean blocks: (Q = K and same half) or (Q > K, noised q, clean kv) or (Q >= K, both clean).
 */
export function blockDiffusion(n: number, size: number): MaskMod {
  return maskMod(({ n, size }) => (_b, _h, q, kv) => {
    const noisedQuery = q < n, noisedKey = kv < n;
    const row = floorDiv(q % n, size), column = floorDiv(kv % n, size);
    return (row === column && noisedQuery === noisedKey) || (row > column && noisedQuery && !noisedKey) || (row >= column && !noisedQuery && !noisedKey);
  }, { n, size });
}
