/** What `import ... from "tessera-llm/attention"` gives: mods, their algebra, block masks, and the call. */
export { flexAttention, type FlexAttentionOptions, type WithAux } from "./attention.ts";
export { BlockMask, type BlockMaskOptions, blockMaskOf, blockState, createBlockMask } from "./block-mask.ts";
export { type Captures, type Cell, fixed, type Fixed, type Seen } from "./captures.ts";
export { type AttentionSpec, compileAttention, type CompiledAttention, planAttention } from "./compile.ts";
export { explain } from "./explain.ts";
export { clamp, floorDiv, floorMod } from "./language.ts";
export { and, type MaskFunction, type MaskMod, maskMod, not, offset, or, type ScoreFunction, type ScoreMod, scoreMod } from "./mod.ts";
export { type CallSite, ModError } from "./mod-error.ts";
export { alibi, alibiSlopes } from "./mods/alibi.ts";
export { causal } from "./mods/causal.ts";
export { document } from "./mods/document.ts";
export { prefixLm } from "./mods/prefix-lm.ts";
export { slidingWindow, windowLeft } from "./mods/sliding-window.ts";
export { softCap } from "./mods/soft-cap.ts";
export { type Tensor, tensor, type TensorDType, type TypedArray } from "./tensor.ts";
export { maxWorkWords, planWork, type WorkBatch, type WorkShape } from "./work-list.ts";
