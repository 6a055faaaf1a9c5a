/**
 * From a checkpoint to a recorded forward pass: plan the memory, take exactly that, load the weights into it, compile
 * the attention, record the decoder once.
 */
import { files } from "#files";
import { expiryOf } from "../attention/expiry.ts";
import type { OwnAttention } from "../attention/override.ts";
import type { TypedArray } from "../attention/tensor.ts";
import { planWork, type WorkBatch, type WorkShape } from "../attention/work-list.ts";
import type { Activation, AttentionKernel, Backend, BatchInputs, Buffer, Caps, CaptureValue, KvCache, Program } from "../backend/backend.ts";
import { capsOf } from "../backend/registry.ts";
import { invariant, UsageError } from "../core/errors.ts";
import type { CaptureEnv } from "../ir/interpret.ts";
import type { RangeAnalysis } from "../ir/range.ts";
import { contentHash } from "../ir/table-stats.ts";
import { isGgufPath } from "../weights/gguf-file.ts";
import { openWeights, type WeightSource } from "../weights/source.ts";
import { type GroupPlan, ownAttention, planLayers } from "./attention.ts";
import { type ModelConfig, readConfig } from "./config.ts";
import { type Activations, type ActivationShape, activationShapes, answer, chooseRuled, decode, type DecoderMemory, type LayerAttention, type SamplingMemory } from "./decoder.ts";
import { dummyWeights } from "./dummy.ts";
import { chooseKvFormat, type KvCacheDType } from "./kv-format.ts";
import { type ChosenFormats, openGgufCheckpoint } from "./gguf.ts";
import { formatBytes, maxPagesPerSequence, type MemoryPlan, type ModelLimits, planMemory } from "./memory.ts";
import { PageNeeds } from "./page-needs.ts";
import { families } from "./registry.ts";
import { rotaryTable } from "./rotary.ts";
import { listTensors } from "./tensors.ts";
import { chooseWeightFormats, type LoadFormat, loadFormats, type Quantization, type WeightDTypeOption } from "./weight-formats.ts";
import { loadWeights } from "./weights.ts";

/** A captured table that other threads may write to. */
export interface SharedTable {
  readonly source: TypedArray;
  /** What the mask is bound to and the backend has. */
  readonly elements: Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>;
  readonly data: Buffer;
}

/** Layers that see the same keys: one work list serves them all. */
export interface AttentionGroup {
  /** Classifies blocks for `planWork`; its captures are bound to `values`. */
  readonly mask: RangeAnalysis;
  readonly values: CaptureEnv;
  readonly shared: readonly SharedTable[];
  readonly shape: WorkShape;
  /** Where the step's work list goes. */
  readonly work: Buffer;
  /** The size of `work` on this side, for `planWork` to write into. */
  readonly scratch: Int32Array<ArrayBuffer>;
}

/**
 * A model on a backend. A step: write `batch` and the work lists (`writeWork`), `program.run()`, read `sampling.sampled`.
 */
export interface Model {
  readonly config: ModelConfig;
  readonly limits: ModelLimits;
  readonly plan: MemoryPlan;
  readonly numParameters: number;
  readonly batch: BatchInputs;
  /** The forward pass, and behind it the tokens of rows with rules, and answers, where there are such. */
  readonly program: Program;
  readonly chooseRuled: Program;
  readonly answer: Program;
  /** f32 [maxNumLogits, vocabSize] */
  readonly logits: Buffer;
  readonly sampling: SamplingMemory;
  readonly attentionGroups: readonly AttentionGroup[];
  /** One pair for each layer. */
  readonly kv: DecoderMemory["kv"];
  /** Each kernel once. */
  readonly kernels: readonly AttentionKernel[];
}

export interface FormatOptions {
  /** What the device can that the model is for; the cpu's when left out. */
  readonly caps?: Caps;
  /** How matrices that are not quantised are kept. */
  readonly dtype?: WeightDTypeOption;
  readonly quantization?: Quantization;
  readonly kvCacheDtype?: KvCacheDType;
  /** "dummy": random weights of the shapes that config.json asks for, and no files of weights. Default "auto": the checkpoint's. */
  readonly loadFormat?: LoadFormat;
}


export interface Checkpoint {
  readonly config: ModelConfig;
  readonly source: WeightSource;
}

/**
 * Opens a folder in Hugging Face layout, or a GGUF file. Close the source when the model is loaded.
 * @throws UsageError when config.json or the weights are missing, broken or not supported.
 */
export function openCheckpoint(path: string, { caps = capsOf("cpu"), dtype = "auto", quantization = "auto", kvCacheDtype = "auto", loadFormat = "auto" }: FormatOptions = {}): Checkpoint {
  if (!loadFormats.includes(loadFormat)) throw new UsageError(`loadFormat (--load-format) is ${JSON.stringify(loadFormat)}; it must be one of ${loadFormats.join(", ")}`);
  const choose = (source: WeightSource): ChosenFormats => {
    const weights = chooseWeightFormats(source, dtype, quantization, caps);
    return { ...weights, kvFormat: chooseKvFormat(kvCacheDtype, weights.weightDType, caps) };
  };
  if (isGgufPath(path)) {
    if (loadFormat === "dummy") throw new UsageError(`loadFormat (--load-format) is dummy, which needs a folder with a config.json, and ${path} is a GGUF file; leave the option out`);
    return openGgufCheckpoint(path, choose);
  }
  const files = readConfigFiles(path);
  const source = loadFormat === "dummy" ? dummyWeights(readConfig({ ...files, weightDType: "f32" }, families), files.config) : openWeights(path);
  try {
    return { source, config: readConfig({ ...files, ...choose(source) }, families) };
  } catch (error) {
    source.close();
    throw error;
  }
}

/** The mods that each layer of the model at `path` has of itself, without reading its weights. @throws UsageError as `openCheckpoint` does */
export function readOwnAttention(path: string): readonly OwnAttention[] {
  if (!isGgufPath(path)) return ownAttention(readConfig({ ...readConfigFiles(path), weightDType: "f32" }, families));
  const { config, source } = openCheckpoint(path);
  source.close();
  return ownAttention(config);
}

function readConfigFiles(folder: string): { readonly config: unknown; readonly generation: unknown } {
  if (!files.isFolder(folder)) throw new UsageError(`${folder} is not a folder; give the folder of a checkpoint`);
  const config = readJson(folder, "config.json");
  if (config === undefined) throw new UsageError(`${folder} has no config.json; give the folder of a checkpoint in Hugging Face layout`);
  return { config, generation: readJson(folder, "generation_config.json") };
}

function readJson(folder: string, name: string): unknown {
  const path = files.join(folder, name);
  const text = files.readText(path);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UsageError(`${path} is not JSON (${(error as Error).message})`);
  }
}

/** Exact bytes of everything that `loadModel` will allocate on a device of these `caps`. @throws UsageError when a limit is out of range. */
export function planModel(config: ModelConfig, limits: ModelLimits, caps: Caps): MemoryPlan {
  const { groups } = planLayers(config, limits, caps);
  checkPool(limits, groups);
  const tables = groups.flatMap(({ captures }, g) => captures.flatMap((c) => (c.kind === "table" ? [{ name: tableName(g, c.name), bytes: c.elements.byteLength }] : [])));
  return planMemory(config, limits, caps, groups.map((group) => group.workWords), tables);
}

/** Where its pages expire a sequence never holds all of them. @throws UsageError where the pool is too small for one of maxModelLen tokens */
function checkPool(limits: ModelLimits, groups: readonly GroupPlan[]): void {
  const { maxModelLen, numPages, pageSize } = limits;
  if (numPages * pageSize >= maxModelLen || new PageNeeds(limits, pageExpiry(groups, limits)).mostHeld(maxModelLen) <= numPages) return;
  throw new UsageError(`the KV cache of ${numPages} pages of ${pageSize} tokens is too small for one sequence of maxModelLen ${maxModelLen}; lower --max-model-len or raise --kv-cache-memory-bytes`);
}

/** From which position on no layer of these sees a page's keys (attention/expiry.ts). What other threads may write to can say something else later. */
function pageExpiry(groups: readonly GroupPlan[], { pageSize, maxModelLen }: ModelLimits): Int32Array | undefined {
  const changes = groups.some(({ captures }) => captures.some((capture) => capture.kind === "table" && capture.source !== undefined));
  return changes ? undefined : expiryOf(groups, { size: pageSize, length: maxModelLen });
}

/** The same of models that run side by side over pages of the same numbers. @throws UsageError as `planModel` does */
export function planExpiry(configs: readonly ModelConfig[], limits: ModelLimits, caps: Caps): Int32Array | undefined {
  return pageExpiry(configs.flatMap((config) => planLayers(config, limits, caps).groups), limits);
}

const tableName = (group: number, capture: string): string => `attention.${group}.${capture}`;

/** Parameters of the model, tied ones once. */
export function countParameters(config: ModelConfig): number {
  return listTensors(config).reduce((sum, { rows, columns }) => sum + rows * columns, 0);
}

/**
 * Loads a model and records its forward pass. The KV cache is zeros.
 * @throws UsageError when the checkpoint does not fit the config, or the backend has not enough memory.
 */
export async function loadModel(
  backend: Backend, source: WeightSource, config: ModelConfig, limits: ModelLimits, onProgress: (stage: string, done: number, total: number) => void = () => {},
): Promise<Model> {
  const plan = planModel(config, limits, backend.caps);
  const left = new Map(plan.parts.map((part) => [part.name, part]));
  const alloc = (name: string): Buffer => {
    const part = left.get(name);
    invariant(part, `${name} is not in the memory plan, or was taken twice`);
    left.delete(name);
    try {
      return backend.alloc(part.bytes, part.use);
    } catch (error) {
      if (error instanceof UsageError) throw new UsageError(`no room for ${name} (${formatBytes(part.bytes)}): ${error.message}`);
      throw error;
    }
  };

  // Weights and caches come last: what has no use must lie together where a backend has several memories.
  const working = takeMemory(config, limits, backend.caps, alloc);
  for (const [to, rope] of [[working.rotary, config.rope], [working.localRotary, config.localRope]] as const) {
    if (to && rope) backend.write(to, 0, new Uint8Array(rotaryTable(rope, limits.maxModelLen).buffer));
  }

  const attention = planLayers(config, limits, backend.caps);
  const captures = attention.groups.map((group, g) => group.captures.map((capture): CaptureValue => {
    if (capture.kind === "uniform") return capture;
    const data = alloc(tableName(g, capture.name));
    backend.write(data, 0, bytesOf(capture.elements));
    return { kind: "table", data, shape: capture.shape };
  }));
  const attentionGroups = attention.groups.map((group, g): AttentionGroup => ({
    mask: group.mask, shape: group.shape, values: group.values, work: alloc(`work.${g}`), scratch: new Int32Array(group.workWords),
    shared: group.captures.flatMap((capture, i): SharedTable[] => {
      const value = captures[g]![i]!;
      return capture.kind === "table" && capture.source && value.kind === "table" ? [{ source: capture.source, elements: capture.elements, data: value.data }] : [];
    }),
  }));
  const kernels = new Map<string, AttentionKernel>();
  for (const group of attention.groups) {
    if (!kernels.has(group.plan.key)) kernels.set(group.plan.key, await backend.compile(group.plan));
  }
  const layers = attention.groupOfLayer.map((g): LayerAttention => {
    return { kernel: kernels.get(attention.groups[g]!.plan.key)!, captures: captures[g]!, work: attentionGroups[g]!.work };
  });
  // These take what memory their kernels work in, which as all that has no use comes before weights and caches.
  const programs = { chooseRuled: backend.record(() => chooseRuled(backend.ops, working)), answer: backend.record(() => answer(backend.ops, working)) };
  const weights = await loadWeights(backend, source, config, alloc, (done, total) => onProgress("loading weights", done, total));
  const memory: DecoderMemory = { ...working, kv: config.layers.map((_, i) => cachePair(config, limits, alloc(`layers.${i}.cache`))) };
  invariant(left.size === 0, `planned but not taken: ${[...left.keys()].join(", ")}`);

  return {
    config, limits, plan, attentionGroups, numParameters: countParameters(config), kernels: [...kernels.values()],
    program: backend.record(() => decode(backend.ops, config, weights, layers, memory)), ...programs,
    batch: memory.batch, kv: memory.kv, logits: memory.activations.logits.data, sampling: memory.sampling,
  };
}

function takeMemory(config: ModelConfig, limits: ModelLimits, caps: Caps, alloc: (name: string) => Buffer): Omit<DecoderMemory, "kv"> {
  return {
    batch: {
      header: alloc("batch.header"), tokens: alloc("batch.tokens"), positions: alloc("batch.positions"), slots: alloc("batch.slots"),
      blockTable: alloc("batch.blockTable"), logitRows: alloc("batch.logitRows"), maxPagesPerSequence: maxPagesPerSequence(limits),
    },
    activations: Object.fromEntries(Object.entries<ActivationShape>(activationShapes(config, caps)).map(([name, shape]) => [name, { data: alloc(name), ...shape }])) as unknown as Activations<Activation>,
    rotary: alloc("rotary"),
    ...(config.localRope && { localRotary: alloc("localRotary") }),
    sampling: {
      choices: alloc("sampling.choices"), sampled: alloc("sampling.sampled"),
      ruled: alloc("sampling.ruled"), rules: alloc("sampling.rules"), edits: alloc("sampling.edits"), edited: alloc("sampling.edited"),
      asked: alloc("sampling.asked"), questions: alloc("sampling.questions"), answers: alloc("sampling.answers"),
    },
  };
}

/** Keys and values of a layer: the two halves of `data`. */
function cachePair(config: ModelConfig, limits: ModelLimits, data: Buffer): DecoderMemory["kv"][number] {
  const half = data.bytes / 2;
  const cache = (offset: number): KvCache => ({ data: data.slice(offset, half), format: config.kvFormat, pageSize: limits.pageSize, numHeads: config.numKvHeads, headDim: config.headDim });
  return { key: cache(0), value: cache(half) };
}

/** Plans and writes the step's work list of every group, and the tables that were written to since the last step. */
export function writeWork(backend: Backend, model: Pick<Model, "attentionGroups">, batch: WorkBatch): void {
  for (const group of model.attentionGroups) {
    const { mask, shape, work, scratch } = group;
    if (group.shared.length > 0) takeChanges(backend, group);
    const list = planWork(mask, batch, shape, scratch);
    backend.write(work, 0, new Uint8Array(scratch.buffer, 0, list.byteLength));
  }
}

/** One reading of each shared table serves mask and kernel alike, whatever is written to it meanwhile. */
function takeChanges(backend: Backend, { shared, mask, values }: AttentionGroup): void {
  let changed = false;
  for (const { source, elements, data } of shared) {
    const before = contentHash(elements);
    elements.set(source);
    if (contentHash(elements) === before) continue;
    backend.write(data, 0, bytesOf(elements));
    changed = true;
  }
  if (changed) mask.bind(values);
}

const bytesOf = (x: Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>): Uint8Array<ArrayBuffer> => new Uint8Array(x.buffer, x.byteOffset, x.byteLength);

export { describeMemory, formatBytes } from "./memory.ts";
export type { MemoryPlan, ModelLimits } from "./memory.ts";
