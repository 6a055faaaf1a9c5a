/**
 * The attention of each layer: what its config asks for, said in mods that a user could have written, through the same compiler.
 *
 * Layers with the same mask share one work list; layers whose mods read the same share one kernel, whatever their windows,
 * which are captured numbers. Knows no kernel and no backend.
 */
import { readCaptures } from "../attention/captures.ts";
import { planAttention } from "../attention/compile.ts";
import type { MaskMod } from "../attention/mod.ts";
import { causal } from "../attention/mods/causal.ts";
import { slidingWindow } from "../attention/mods/sliding-window.ts";
import { softCap } from "../attention/mods/soft-cap.ts";
import { maxWorkWords, type WorkShape } from "../attention/work-list.ts";
import type { CaptureValue } from "../backend/backend.ts";
import { invariant } from "../core/errors.ts";
import type { AttentionPlan } from "../ir/plan.ts";
import { analyse, type RangeAnalysis } from "../ir/range.ts";
import type { ModelConfig } from "./config.ts";
import type { ModelLimits } from "./memory.ts";

/** Most stretches of blocks of one work item: the masks of decoders need three (the window's edge, its inside, the diagonal). */
const maxRuns = 8;

/** The attention of all layers with one mask. */
export interface GroupPlan {
  readonly plan: AttentionPlan;
  readonly captures: readonly CaptureValue[];
  /** Classifies blocks; its captures are bound. */
  readonly mask: RangeAnalysis;
  readonly shape: WorkShape;
  /** Size of its work list, in words. */
  readonly workWords: number;
}

export interface LayersAttention {
  readonly groups: readonly GroupPlan[];
  /** Each layer's group. */
  readonly groupOfLayer: readonly number[];
}

export function planLayers(config: ModelConfig, limits: ModelLimits): LayersAttention {
  const windows = [...new Set(config.layers.map((layer) => layer.window))];
  const scoreMod = config.attentionSoftCap === undefined ? undefined : softCap(config.attentionSoftCap);
  const group = (maskMod: MaskMod): GroupPlan => {
    const { numQueryHeads, numKvHeads, headDim } = config;
    const { plan, bindings } = planAttention({ scoreMod, maskMod, numQueryHeads, numKvHeads, headDimQk: headDim, headDimV: headDim, scale: config.attentionScale });
    const values = readCaptures(bindings);
    const captures = plan.captures.map(({ kind, name }): CaptureValue => {
      invariant(kind === "uniform", `the mods of a model capture numbers alone, but ${name} is a table`);
      return { kind, value: values.uniforms[name]! };
    });
    invariant(plan.maskMod, "a decoder's mask is at least causal");
    const shape: WorkShape = { queryTile: plan.queryTile, kvTile: plan.kvTile, numQueryHeads, maxRuns };
    const workWords = maxWorkWords({ maxRows: limits.maxNumBatchedTokens, maxSequences: limits.maxNumSeqs, maxKvLength: limits.maxModelLen }, shape);
    return { plan, captures, mask: analyse(plan.maskMod).bind(values), shape, workWords };
  };
  return {
    groups: windows.map((window) => group(window === undefined ? causal : slidingWindow(window))),
    groupOfLayer: config.layers.map((layer) => windows.indexOf(layer.window)),
  };
}
