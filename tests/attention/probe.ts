/**
 * What a compiled mod gives at every (b, h, q, kv), read out of a backend's own kernel.
 *
 * With the identity as value and a weight instead of softmax, out[b, h, q, kv] is the weight of that key: 1 under a mask, or the score itself.
 * An output mod is read off rows whose elements are known. Head dim 1 makes the score before mods one rounded product.
 */
import { flexAttention, type Mod, tensor, type Tensor, weightMod } from "../../src/attention/index.ts";
import type { Backend } from "../../src/backend/backend.ts";

/** Sizes of every probe. */
export const sizes = { batch: 2, heads: 4, queries: 29, keys: 31 } as const;

const { batch, heads, queries, keys } = sizes;
const row = Float32Array.from({ length: batch * heads * queries }, (_, i) => Math.fround(2.5 * Math.sin(i + 1)));
const column = Float32Array.from({ length: keys }, (_, i) => Math.fround(1 + Math.cos(3 * i)));
const query = tensor(row, [batch, heads, queries, 1]), key = tensor(column, [1, 1, keys, 1]);
const identity = tensor(Float32Array.from({ length: keys * keys }, (_, i) => Number(i % (keys + 1) === 0)), [1, 1, keys, keys]);

const one = weightMod(() => 1), itself = weightMod((score) => score);

/** f32 [b, h, q, kv or d] as the kernel has it. */
export async function compiled(mod: Mod, backend: Backend): Promise<Tensor["data"]> {
  const options = { backend, scale: 1 };
  switch (mod.kind) {
    case "mask": return (await flexAttention(query, key, identity, { ...options, maskMod: mod, weightMod: one })).data;
    case "score": return (await flexAttention(query, key, identity, { ...options, scoreMod: mod, weightMod: itself })).data;
    case "weight": return (await flexAttention(query, key, identity, { ...options, weightMod: mod })).data;
    case "output": return (await flexAttention(query, key, identity, { ...options, weightMod: itself, outputMod: mod })).data;
    default: return mod satisfies never;
  }
}

/** The same from the function itself, in JavaScript's numbers. */
export function called(mod: Mod): Float64Array {
  const out = new Float64Array(batch * heads * queries * keys);
  let at = 0;
  for (let b = 0; b < batch; b++) for (let h = 0; h < heads; h++) for (let q = 0; q < queries; q++) for (let kv = 0; kv < keys; kv++) {
    const score = Math.fround(row[(b * heads + h) * queries + q]! * column[kv]!);
    out[at++] = mod.kind === "mask" ? Number(Boolean(mod(b, h, q, kv))) : mod(score, b, h, q, kv);
  }
  return out;
}
