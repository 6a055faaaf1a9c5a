/** What `import ... from "tessera-llm/attention"` gives: mods, their algebra, block masks, and the call. */
export { type Aux, type FlexAttentionOptions } from "./arguments.ts";
export { flexAttention, type WithAux } from "./attention.ts";
export { type BlockLists, blockMaskFromDense, blockMaskFromLists, blockMaskOf, type GivenOptions, toLists } from "./block-lists.ts";
export { BlockMask, type BlockMaskOptions, type BlockState, blockState, createBlockMask } from "./block-mask.ts";
export { type Captures, type Cell, fixed, type Fixed, type Seen } from "./captures.ts";
export { type AttentionSpec, compileAttention, type CompiledAttention, planAttention } from "./compile.ts";
export { explain, type Explanation, type ExplainOptions, type ModExplanation, type Mods, type Timing } from "./explain.ts";
export { clamp, floorDiv, floorMod } from "./language.ts";
export { type AttentionState, mergeStates } from "./merge.ts";
export {
  and, type MaskFunction, type MaskMod, maskMod, type Mod, not, offset, or, type OutputFunction, type OutputMod, outputMod, type ScoreFunction, type ScoreMod, scoreMod,
  type WeightFunction, type WeightMod, weightMod, xor,
} from "./mod.ts";
export { deserialiseMod, type ModData, serialiseMod } from "./mod-data.ts";
export { type CallSite, ModError } from "./mod-error.ts";
export { alibi, alibiSlopes } from "./mods/alibi.ts";
export { bigBird } from "./mods/big-bird.ts";
export { blockCausal } from "./mods/block-causal.ts";
export { blockDiffusion } from "./mods/block-diffusion.ts";
export { causal } from "./mods/causal.ts";
export { chunked } from "./mods/chunked.ts";
export { dilatedCausal, dilatedWindow } from "./mods/dilated.ts";
export { document } from "./mods/document.ts";
export { kerpleLog, kerplePower } from "./mods/kerple.ts";
export { longformer } from "./mods/longformer.ts";
export { multiScale, scaleLevels } from "./mods/multi-scale.ts";
export { type Axis, neighborhood1d, neighborhood2d, neighborhood3d } from "./mods/neighborhood.ts";
export { packedDocuments, packing, withinDocuments } from "./mods/packed-documents.ts";
export { prefixLm, prefixLmThrough } from "./mods/prefix-lm.ts";
export { relativeBias } from "./mods/relative-bias.ts";
export { sandwich, sandwichTable } from "./mods/sandwich.ts";
export { sharedPrefix } from "./mods/shared-prefix.ts";
export { shiftedWindow } from "./mods/shifted-window.ts";
export { sinkWindow } from "./mods/sink-window.ts";
export { slidingTile2d, slidingTile3d, type TileAxis } from "./mods/sliding-tile.ts";
export { slidingWindow, windowLeft } from "./mods/sliding-window.ts";
export { softCap } from "./mods/soft-cap.ts";
export { strided } from "./mods/strided.ts";
export { type T5Options, t5Bias, t5Buckets } from "./mods/t5-bias.ts";
export { imageEnds, transfusion } from "./mods/transfusion.ts";
export { ancestorBits, tree } from "./mods/tree.ts";
export { windowPerHead, windowPerToken } from "./mods/varying-window.ts";
export type { AttentionOverride, LayerOverride, OwnAttention } from "./override.ts";
export { openPagedKvCache, type PagedAttentionOptions, PagedKvCache, type PagedKvOptions, type PagedRows } from "./paged.ts";
export { contiguous, type Tensor, tensor, type TensorDType, type TensorOptions, type TypedArray } from "./tensor.ts";
export { maxWorkWords, planWork, type WorkBatch, type WorkShape } from "./work-list.ts";
