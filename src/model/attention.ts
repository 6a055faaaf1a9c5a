/**
 * The attention of each layer: what its config asks for, said in mods that a user could have written, through the same compiler;
 * or what the operator put in its place.
 *
 * Layers with the same mods share one work list; layers whose mods read the same share one kernel, whatever their windows, which are
 * captured numbers. Knows no kernel and no backend.
 */
import { readCaptures } from "../attention/captures.ts";
import { planAttention } from "../attention/compile.ts";
import { checkCausal, checkServable } from "../attention/decodable.ts";
import type { MaskMod, ScoreMod } from "../attention/mod.ts";
import { deserialiseMod, isShared, type ModData } from "../attention/mod-data.ts";
import { causal } from "../attention/mods/causal.ts";
import { slidingWindow } from "../attention/mods/sliding-window.ts";
import { softCap } from "../attention/mods/soft-cap.ts";
import type { OwnAttention } from "../attention/override.ts";
import type { TypedArray } from "../attention/tensor.ts";
import { maxWorkWords, type WorkShape } from "../attention/work-list.ts";
import type { Caps } from "../backend/backend.ts";
import { invariant } from "../core/errors.ts";
import type { CaptureEnv } from "../ir/interpret.ts";
import type { AttentionPlan } from "../ir/plan.ts";
import { analyse, type RangeAnalysis } from "../ir/range.ts";
import type { ModelConfig } from "./config.ts";
import { activationType } from "./decoder.ts";
import type { ModelLimits } from "./memory.ts";

/** Most stretches of blocks of one work item: the masks of decoders need three (the window's edge, its inside, the diagonal). */
const maxRuns = 8;
/** Of an operator's masks, which may be anything. */
const maxRunsOfOverride = 64;

/** A captured value: a number stays as it is for the model's life; a table has memory of its own on the backend. */
export type CapturePlan =
  | { readonly kind: "uniform"; readonly value: number }
  | {
      readonly kind: "table"; readonly name: string; readonly shape: readonly number[];
      /** A copy, as the kernel takes it. */
      readonly elements: Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>;
      /** The operator's array where other threads may still write to it. */
      readonly source: TypedArray | undefined;
    };

/** The attention of all layers with the same mods. */
export interface GroupPlan {
  readonly plan: AttentionPlan;
  readonly captures: readonly CapturePlan[];
  /** Classifies blocks; its captures are bound. */
  readonly mask: RangeAnalysis;
  /** What `mask` is bound to: the tables are `captures`' own. */
  readonly values: CaptureEnv;
  readonly shape: WorkShape;
  /** Size of its work list, in words. */
  readonly workWords: number;
}

export interface LayersAttention {
  readonly groups: readonly GroupPlan[];
  /** Each layer's group. */
  readonly groupOfLayer: readonly number[];
}

/** The mods of each layer as its config asks for them. Layers with the same are one object. */
export function ownAttention(config: ModelConfig): readonly OwnAttention[] {
  const scoreMod = config.attentionSoftCap === undefined ? undefined : softCap(config.attentionSoftCap);
  const known = new Map<number | undefined, OwnAttention>();
  return config.layers.map(({ window }) => {
    const own = known.get(window) ?? { scoreMod, maskMod: window === undefined ? causal : slidingWindow(window) };
    known.set(window, own);
    return own;
  });
}

/** @throws UsageError when the operator's mods cannot be served (attention/decodable.ts) */
export function planLayers(config: ModelConfig, limits: ModelLimits, caps: Caps): LayersAttention {
  const { override } = config;
  const distinct: { readonly own: OwnAttention; readonly of: number }[] = [];
  const groupOfLayer = ownAttention(config).map((own, layer) => {
    const of = override?.ofLayer[layer] ?? -1;
    const at = distinct.findIndex((other) => other.own === own && other.of === of);
    return at >= 0 ? at : distinct.push({ own, of }) - 1;
  });
  const groups = distinct.map(({ own, of }) => {
    const given = override?.mods[of];
    const maskMod = given?.maskMod && (modOf(given.maskMod) as MaskMod), scoreMod = given?.scoreMod && (modOf(given.scoreMod) as ScoreMod);
    if (scoreMod) checkServable(`the scoreMod of ${given.label}`, scoreMod);
    if (maskMod) {
      checkServable(`the maskMod of ${given.label}`, maskMod);
      checkCausal(`the maskMod of ${given.label}`, maskMod, { length: limits.maxModelLen, heads: config.numQueryHeads });
    }
    return planGroup(config, limits, caps, scoreMod ?? own.scoreMod, maskMod ?? own.maskMod, maskMod ? maxRunsOfOverride : maxRuns);
  });
  return { groups, groupOfLayer };
}

function planGroup(config: ModelConfig, limits: ModelLimits, caps: Caps, scoreMod: ScoreMod | undefined, maskMod: MaskMod, runs: number): GroupPlan {
  const { numQueryHeads, numKvHeads, headDim, kvFormat } = config;
  const { plan, bindings } = planAttention({
    scoreMod, maskMod, numQueryHeads, numKvHeads, headDimQk: headDim, headDimV: headDim, scale: config.attentionScale,
    queryFormat: activationType(config, caps), keyFormat: kvFormat, valueFormat: kvFormat, ...caps.tiles,
  });
  const given = readCaptures(bindings);
  const captures = plan.captures.map(({ kind, name, type }): CapturePlan => {
    if (kind === "uniform") return { kind, value: given.uniforms[name]! };
    const { data, shape } = given.tables[name]!;
    const source = ArrayBuffer.isView(data) && isShared(data as TypedArray) ? (data as TypedArray) : undefined;
    return { kind, name, shape, elements: type === "f32" ? Float32Array.from(data) : Int32Array.from(data), source };
  });
  const tables = Object.fromEntries(captures.flatMap((capture) => (capture.kind === "table" ? [[capture.name, { data: capture.elements, shape: capture.shape }]] : [])));
  const values = { uniforms: given.uniforms, tables };
  invariant(plan.maskMod, "a decoder's mask is at least causal");
  const shape: WorkShape = { queryTile: plan.queryTile, kvTile: plan.kvTile, numQueryHeads, maxRuns: runs };
  const workWords = maxWorkWords({ maxRows: limits.maxNumBatchedTokens, maxSequences: limits.maxNumSeqs, maxKvLength: limits.maxModelLen }, shape);
  return { plan, captures, mask: analyse(plan.maskMod).bind(values), values, shape, workWords };
}

/** Memory is planned several times over; an override's mods are read once. */
const read = new WeakMap<ModData, MaskMod | ScoreMod>();

function modOf(data: ModData): MaskMod | ScoreMod {
  const mod = read.get(data) ?? deserialiseMod(data);
  read.set(data, mod);
  return mod;
}
