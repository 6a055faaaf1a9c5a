/**
 * Counter-based random numbers: the number is a function of its key and counter, with no state between calls.
 *
 * So the draw for (seed, position) is the same whatever else is in the batch, whichever order requests ran in,
 * and when a token is computed again. Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
 */

const mul0 = 0xd2511f53;
const mul1 = 0xcd9e8d57;
const weyl0 = 0x9e3779b9;
const weyl1 = 0xbb67ae85;

/** High 32 bits of the unsigned product a * b. */
function mulHigh(a: number, b: number): number {
  const a0 = a & 0xffff, a1 = a >>> 16, b0 = b & 0xffff, b1 = b >>> 16;
  const low = a0 * b0;
  const mid = a1 * b0 + (low >>> 16);
  const mid2 = a0 * b1 + (mid & 0xffff);
  return (a1 * b1 + Math.floor(mid / 65536) + Math.floor(mid2 / 65536)) >>> 0;
}

/** Philox4x32-10: four words of counter and two of key give four random words. */
export function philox(counter: readonly [number, number, number, number], key: readonly [number, number]): [number, number, number, number] {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const high0 = mulHigh(mul0, c0 >>> 0), low0 = Math.imul(mul0, c0);
    const high1 = mulHigh(mul1, c2 >>> 0), low1 = Math.imul(mul1, c2);
    [c0, c1, c2, c3] = [high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0];
    k0 = (k0 + weyl0) | 0;
    k1 = (k1 + weyl1) | 0;
  }
  return [c0 >>> 0, c1 >>> 0, c2 >>> 0, c3 >>> 0];
}

/** A uniform number in [0, 1) with 53 random bits, for the token at `position` under `seed` (any safe integer). */
export function uniform(seed: number, position: number): number {
  const [a, b] = philox([position | 0, 0, 0, 0], [seed | 0, Math.floor(seed / 2 ** 32) | 0]);
  return ((a >>> 5) * 2 ** 26 + (b >>> 6)) / 2 ** 53;
}

/** The seed of the request that came as number `number`, where it brought none and the engine's own is `seed`: 53 bits. */
export function seedOf(seed: number, number: number): number {
  return Math.floor(uniform(seed, number) * 2 ** 53);
}

/** A seeded stream of uniform numbers in [0, 1), for tests, simulations and synthetic weights. */
export function stream(seed: number): () => number {
  let position = 0;
  return () => uniform(seed, position++);
}
