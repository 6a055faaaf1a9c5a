/**
 * The attention of each layer: which mods its config asks for, compiled by the same compiler as a user's own.
 *
 * Layers with the same mask share one work list. Knows no kernel.
 */
import { maxWorkWords, type WorkShape } from "../attention/work-list.ts";
import { binary, constant, index, score, unary, type Expr } from "../ir/expr.ts";
import type { AttentionPlan } from "../ir/plan.ts";
import { analyse, type RangeAnalysis } from "../ir/range.ts";
import type { CaptureValue } from "../backend/backend.ts";
import type { ModelConfig } from "./config.ts";
import type { ModelLimits } from "./memory.ts";

/** Most stretches of blocks of one work item: the masks of decoders need three (window's edge, inside, diagonal). */
const maxRuns = 8;

/** Layers with one mask. */
export interface GroupPlan {
  /** Its captures are bound. */
  readonly mask: RangeAnalysis;
  readonly shape: WorkShape;
  /** Size of its work list, in words. */
  readonly workWords: number;
}

export interface AttentionPlans {
  readonly groups: readonly GroupPlan[];
  readonly layers: readonly { readonly group: number; readonly plan: AttentionPlan; readonly captures: readonly CaptureValue[] }[];
}

export function planAttention(config: ModelConfig, limits: ModelLimits): AttentionPlans {
  const windows = [...new Set(config.layers.map((layer) => layer.window))];
  const shape: WorkShape = { queryTile: 16, kvTile: 32, numQueryHeads: config.numQueryHeads, maxRuns };
  const causal = binary("ge", index("q"), index("kv"));
  const masks = windows.map((w): Expr => (w === undefined ? causal : binary("and", causal, binary("lt", binary("sub", index("q"), index("kv")), constant("i32", w)))));
  const cap = config.attentionSoftCap;
  const scoreMod = cap === undefined ? score : binary("mul", constant("f32", cap), unary("tanh", binary("div", score, constant("f32", cap))));
  return {
    groups: masks.map((mask) => ({
      mask: analyse(mask).bind({ uniforms: {}, tables: {} }), shape,
      workWords: maxWorkWords({ maxRows: limits.maxNumBatchedTokens, maxSequences: limits.maxNumSeqs, maxKvLength: limits.maxModelLen }, shape),
    })),
    layers: config.layers.map(({ window }) => {
      const group = windows.indexOf(window);
      return {
        group, captures: [],
        plan: {
          key: JSON.stringify([scoreMod, masks[group]]), scoreMod, maskMod: masks[group], captures: [], headDimQk: config.headDim, headDimV: config.headDim,
          numQueryHeads: config.numQueryHeads, numKvHeads: config.numKvHeads, scale: config.attentionScale, queryTile: shape.queryTile, kvTile: shape.kvTile,
        },
      };
    }),
  };
}
