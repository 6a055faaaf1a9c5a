/** What `import ... from "tessera-llm"` gives: the LLM class, what it takes and what it returns. */
export { LLM, type ChatParams, type LoadOptions, type Parts, type Prompt } from "./llm.ts";
export type { AttentionOverride, LayerOverride, OwnAttention } from "./attention/override.ts";
export { Generation, GenerationFailed, type Choice, type GenerationDelta, type GenerationResult, type Usage } from "./llm/generation.ts";
export { limits, type GenerateParams } from "./llm/params.ts";
export { BadRequest, UsageError } from "./core/errors.ts";
export type { LogitsContext, LogitsProcessor } from "./sampling/params.ts";
export type { EngineInfo, FinishReason, SchedulingPolicy, Stats, TokenLogprobs } from "./engine/messages.ts";
export type { ChatMessage } from "./tokenizer/text.ts";
