/**
 * An attention variant as ordinary functions: a causal window of 64 tokens under a soft cap, with a bias of our own.
 *
 *   node_modules/.bin/node examples/attention.ts
 */
import { and, createBlockMask, flexAttention, maskMod, scoreMod, tensor } from "../src/attention/index.ts";

const causal = maskMod((b, h, q, kv) => q >= kv);
const window = maskMod(({ size }) => (b, h, q, kv) => q - kv < size, { size: 64 });
const mine = scoreMod(({ slopes, cap }) => (score, b, h, q, kv) => cap * Math.tanh(score / cap) + slopes[h]! * (kv - q), {
  cap: 20, slopes: new Float32Array([0.5, 0.25, 0.125, 0.0625]),
});

const [batch, heads, length, dim] = [1, 4, 512, 64];
const noise = (seed: number) => tensor(Float32Array.from({ length: batch * heads * length * dim }, (_, i) => Math.sin(i * seed) * 2), [batch, heads, length, dim]);
const out = await flexAttention(noise(1.1), noise(1.7), noise(2.3), { scoreMod: mine, maskMod: and(causal, window) });

console.log(`out is ${out.dtype} [${out.shape.join(", ")}], out[0] = ${out.data[0]!.toFixed(6)}`);
console.log(mine(1.5, 0, 1, 10, 8), "is what the mod says of one score: it is a plain function");
console.log(createBlockMask(and(causal, window), { batch, heads: 1, queryLength: length, kvLength: length, blockSize: 32 }).toString());
