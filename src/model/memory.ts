/**
 * Every allocation a model will make, computed from its config before anything is loaded.
 *
 * The loader takes its memory from this list and from nowhere else, so the plan is exact. It knows no backend.
 */
import { answerWord, type BufferUse, type Caps, choiceWord, editWord, headerWord, questionWord, ruleWord } from "../backend/backend.ts";
import { bytesPerElement } from "../core/dtype.ts";
import { UsageError } from "../core/errors.ts";
import { bytesPerKvElement } from "../ir/plan.ts";
import type { ModelConfig } from "./config.ts";
import { type ActivationShape, activationBytes, activationShapes } from "./decoder.ts";
import { listTensors, tensorBytes } from "./tensors.ts";

export interface ModelLimits {
  /** Most tokens of one sequence, prompt and output together. */
  readonly maxModelLen: number;
  readonly maxNumSeqs: number;
  /** Most tokens of one step. */
  readonly maxNumBatchedTokens: number;
  /** Tokens of one page. */
  readonly pageSize: number;
  readonly numPages: number;
  /** Most rows of one step whose logits are wanted. Default: one for each sequence. */
  readonly maxNumLogits?: number;
}

export type MemoryKind = "weights" | "kvCache" | "activations" | "rotary" | "inputs" | "workLists" | "modTables";

/** One allocation. */
export interface MemoryPart {
  readonly kind: MemoryKind;
  readonly name: string;
  /** A multiple of 64, as backends align. */
  readonly bytes: number;
  /** What the backend is told of it. Norms and biases are weights without a use: they are no matrices. */
  readonly use?: BufferUse;
}

export interface MemoryPlan {
  readonly parts: readonly MemoryPart[];
  readonly bytes: Readonly<Record<MemoryKind, number>>;
  readonly totalBytes: number;
}

const kinds: readonly MemoryKind[] = ["weights", "kvCache", "activations", "rotary", "inputs", "workLists", "modTables"];
const aligned = (bytes: number): number => Math.ceil(bytes / 64) * 64;
const i32Bytes = 4;
/** Room for bytes of the file on their way, while weights are loaded. */
export const stagingBytes = 2 ** 19;

/** Edits of logits that one run of `sampleRuled` takes; a step with more has several. One row's, at least, come together. */
const maxNumEdits = (vocabSize: number, numRows: number): number => Math.max(vocabSize, Math.min(numRows * vocabSize, 2 ** 18));

export const maxNumLogitsOf = (limits: Pick<ModelLimits, "maxNumSeqs" | "maxNumLogits">): number => limits.maxNumLogits ?? limits.maxNumSeqs;
export const maxPagesPerSequence = (limits: ModelLimits): number => Math.ceil(limits.maxModelLen / limits.pageSize);

/** Bytes of a page of keys, or of values, of one layer. */
const kvBytesOfPage = (config: ModelConfig, pageSize: number): number => pageSize * config.numKvHeads * config.headDim * bytesPerKvElement[config.kvFormat];

/** Bytes that one more page costs. */
export function bytesPerPage(config: ModelConfig, pageSize: number): number {
  return config.layers.length * 2 * kvBytesOfPage(config, pageSize);
}

/**
 * What a model with these limits needs on a device. `workWords` is the size of each work list, in the order of the attention groups, `tables` what the mods captured.
 * @throws UsageError when a limit is out of range, naming it.
 */
export function planMemory(config: ModelConfig, limits: ModelLimits, caps: Caps, workWords: readonly number[], tables: readonly { readonly name: string; readonly bytes: number }[] = []): MemoryPlan {
  checkLimits(config, limits);
  const { maxNumBatchedTokens: maxTokens, maxNumSeqs, numPages, pageSize } = limits;
  const rows = { tokens: maxTokens, logits: maxNumLogitsOf(limits) };
  const inputs = {
    header: headerWord.words, tokens: maxTokens, positions: maxTokens, slots: maxTokens, logitRows: rows.logits,
    blockTable: maxNumSeqs * maxPagesPerSequence(limits),
  };
  const numEdits = maxNumEdits(config.vocabSize, rows.logits);
  const sampling = {
    choices: rows.logits * choiceWord.words, sampled: rows.logits, ruled: headerWord.words, rules: rows.logits * ruleWord.words, edits: numEdits * editWord.words,
    edited: numEdits, asked: headerWord.words, questions: rows.logits * questionWord.words, answers: rows.logits * answerWord.words,
  };
  const kvBytes = numPages * kvBytesOfPage(config, pageSize);
  const part = (kind: MemoryKind, name: string, bytes: number, use?: BufferUse): MemoryPart => ({ kind, name, bytes: aligned(bytes), ...(use && { use }) });
  const parts = [
    ...listTensors(config).map((spec) => part("weights", spec.name, tensorBytes(spec), spec.columns > 1 ? "weights" : undefined)),
    ...config.layers.map((_, i) => part("kvCache", `layers.${i}.cache`, 2 * aligned(kvBytes), "kvCache")), // keys, then values
    ...Object.entries<ActivationShape>(activationShapes(config, caps)).map(([name, shape]) => part("activations", name, activationBytes(shape, rows[shape.rows]))),
    part("inputs", "staging", stagingBytes),
    part("rotary", "rotary", limits.maxModelLen * config.rope.rotaryDim * bytesPerElement.f32),
    ...(config.localRope ? [part("rotary", "localRotary", limits.maxModelLen * config.localRope.rotaryDim * bytesPerElement.f32)] : []),
    ...Object.entries(inputs).map(([name, words]) => part("inputs", `batch.${name}`, i32Bytes * words)),
    ...Object.entries(sampling).map(([name, words]) => part("inputs", `sampling.${name}`, i32Bytes * words)),
    ...workWords.map((words, i) => part("workLists", `work.${i}`, i32Bytes * words)),
    ...tables.map(({ name, bytes }) => part("modTables", name, Math.max(i32Bytes, bytes))),
  ];
  const sum = (kind: MemoryKind): number => parts.reduce((bytes, p) => bytes + (p.kind === kind ? p.bytes : 0), 0);
  const bytes = Object.fromEntries(kinds.map((kind) => [kind, sum(kind)])) as Record<MemoryKind, number>;
  return { parts, bytes, totalBytes: parts.reduce((total, p) => total + p.bytes, 0) };
}

function checkLimits(config: ModelConfig, limits: ModelLimits): void {
  for (const [name, value] of Object.entries(limits) as [string, number][]) {
    if (!Number.isSafeInteger(value) || value < 1) throw new UsageError(`${name} is ${value}; a whole number from 1 is needed`);
  }
  if (limits.maxModelLen > config.maxPositions) {
    throw new UsageError(`maxModelLen is ${limits.maxModelLen}, but the model was made for ${config.maxPositions} positions (max_position_embeddings); ask for at most that`);
  }
}

const labels: Readonly<Record<MemoryKind, string>> = {
  weights: "weights", kvCache: "KV cache", activations: "activations", rotary: "rotary table", inputs: "step inputs", workLists: "work lists", modTables: "mods' tables",
};

/** 1234567 as "1.18 MiB". */
export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = bytes < 1 ? 0 : Math.min(Math.floor(Math.log2(bytes) / 10), units.length - 1);
  return `${power === 0 ? bytes : (bytes / 1024 ** power).toFixed(2)} ${units[power]}`;
}

/** The plan as lines for people, biggest first, with their sum. */
export function describeMemory(plan: MemoryPlan): string {
  const rows: [string, number][] = kinds.map((kind) => [labels[kind], plan.bytes[kind]] as [string, number]).sort(([, a], [, b]) => b - a);
  rows.push(["total", plan.totalBytes]);
  return rows.map(([label, bytes]) => `${label.padEnd(14)}${formatBytes(bytes).padStart(12)}`).join("\n");
}
