/** Attention by its formula in doubles: every pair of a query and a key, no blocks, mods interpreted. The last word on what is right. */
import type { MaskMod, ScoreMod, Tensor } from "../../src/attention/index.ts";
import { type Env, evaluator } from "../../src/ir/interpret.ts";

export interface Gold {
  /** [B, H, L, Dv] */
  readonly out: Float64Array;
  /** [B, H, L] */
  readonly lse: Float64Array;
}

export function gold(query: Tensor, key: Tensor, value: Tensor, mods: { readonly scoreMod?: ScoreMod; readonly maskMod?: MaskMod; readonly scale?: number }): Gold {
  const [B, H, L, D] = query.shape as [number, number, number, number];
  const [kvB, G, S] = key.shape as [number, number, number], Dv = value.shape[3]!;
  const out = new Float64Array(B * H * L * Dv), lse = new Float64Array(B * H * L);
  const at = { b: 0, h: 0, q: 0, kv: 0, score: 0 };
  const none = { uniforms: {}, tables: {} };
  const forScore: Env = Object.assign(Object.create(at) as typeof at, mods.scoreMod?.values() ?? none), forMask: Env = Object.assign(Object.create(at) as typeof at, mods.maskMod?.values() ?? none);
  const score = mods.scoreMod && evaluator(mods.scoreMod.expr(), "double"), mask = mods.maskMod && evaluator(mods.maskMod.expr());
  const scores = new Float64Array(S);
  for (at.b = 0; at.b < B; at.b++) for (at.h = 0; at.h < H; at.h++) for (at.q = 0; at.q < L; at.q++) {
    const row = (at.b * H + at.h) * L + at.q, keys = ((kvB === 1 ? 0 : at.b) * G + Math.floor(at.h / (H / G))) * S;
    let most = -Infinity;
    for (at.kv = 0; at.kv < S; at.kv++) {
      scores[at.kv] = -Infinity;
      if (mask && !mask(forMask)) continue;
      let dot = 0;
      for (let d = 0; d < D; d++) dot += query.data[row * D + d]! * key.data[(keys + at.kv) * D + d]!;
      at.score = dot * (mods.scale ?? 1 / Math.sqrt(D));
      scores[at.kv] = score ? score(forScore) : at.score;
      most = Math.max(most, scores[at.kv]!);
    }
    let total = 0;
    if (most > -Infinity) for (let kv = 0; kv < S; kv++) total += Math.exp(scores[kv]! - most);
    lse[row] = most + Math.log(total);
    if (total > 0) for (let kv = 0; kv < S; kv++) for (let d = 0; d < Dv; d++) out[row * Dv + d]! += (Math.exp(scores[kv]! - most) / total) * value.data[(keys + kv) * Dv + d]!;
  }
  return { out, lse };
}
