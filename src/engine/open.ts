/**
 * From a model's files to an engine that can step: read the config, plan the memory, load the weights, record the program.
 *
 * Runs on the engine's own thread. What the caller can mend (no such folder, a model that is not supported or does not fit) is a
 * UsageError, and all but a broken weights file is told before anything is loaded.
 */
import type { AttentionOverrideData } from "../attention/override.ts";
import type { Backend, WeightDType } from "../backend/backend.ts";
import { addressableBytes, type BackendOptions, capsOf, type Device, openBackend } from "../backend/registry.ts";
import { UsageError } from "../core/errors.ts";
import type { ModelConfig } from "../model/config.ts";
import { type KvCacheDType, kvCacheDTypeOf } from "../model/kv-format.ts";
import { type Checkpoint, countParameters, loadModel, openCheckpoint, planExpiry, planModel } from "../model/load.ts";
import { PageNeeds } from "../model/page-needs.ts";
import { convertedFrom, isRoundedOnLoad, type LoadFormat, type Quantization, type WeightDTypeOption } from "../model/weight-formats.ts";
import type { WeightSource } from "../weights/source.ts";
import { DraftModel } from "./draft-model.ts";
import type { Drafter } from "./drafter.ts";
import { Engine, type EngineLimits } from "./engine.ts";
import { ProgramModel } from "./forward.ts";
import { chooseLimits, type LimitOptions } from "./limits.ts";
import { type EngineInfo, type SchedulingPolicy, schedulingPolicies } from "./messages.ts";
import { NgramDrafter } from "./ngram.ts";
import { readSpeculativeConfig, type SpeculativeConfig } from "./speculative-config.ts";

/** How far loading has come, in bytes of a stage. */
export type Progress = (stage: string, done: number, total: number) => void;

export interface EngineOptions extends LimitOptions {
  /** The model's folder, in Hugging Face layout, or its GGUF file. */
  readonly model: string;
  readonly device: Device;
  /** How matrices of weights are kept. "auto" (the default): bfloat16 where the checkpoint is, else float32; on cuda float16 where the checkpoint is, else bfloat16. */
  readonly dtype?: WeightDTypeOption;
  /** Weights of 8 or 4 bits. "auto" (the default): as the checkpoint has them, and int8 for models above 200M parameters that have none. */
  readonly quantization?: Quantization;
  /** How keys and values are kept. Default "auto" (model/kv-format.ts). */
  readonly kvCacheDtype?: KvCacheDType;
  /** "dummy": random weights of the shapes that config.json asks for, to measure by; no files of weights are needed. Default "auto": the checkpoint's. */
  readonly loadFormat?: LoadFormat;
  /** Of the memory of a GPU that is free, the part that the model may take, above 0 and at most 1. Default 0.9. Devices that have no memory of their own take none. */
  readonly gpuMemoryUtilization?: number;
  /** Threads of the cpu device; all cores by default. */
  readonly threads?: number;
  /**
   * On cuda: a request's bits do not depend on what else is in its steps, nor on how many rows they have; on how its prompt was cut into chunks they still may
   * (docs/backends.md). Slower. On cpu and reference that, and more, is so anyway. Default false.
   */
  readonly deterministic?: boolean;
  /** Where the seeds of requests without one come from. Default 0. */
  readonly seed?: number;
  /** End tokens besides those that the model's config names: its tokenizer's. */
  readonly eosTokenIds?: readonly number[];
  /**
   * Requests that begin alike share what is computed of that. Default true; not possible (and off) where mods read arrays that may be written to
   * while the model runs, as what was computed before would not be what is computed now.
   */
  readonly enablePrefixCaching?: boolean;
  /** Who is served first. Default "fcfs": requests with a priority are refused. */
  readonly schedulingPolicy?: SchedulingPolicy;
  /** Guesses of what may follow, which the model verifies several at once: the same tokens in fewer steps, where the guesses are good. Default: none. */
  readonly speculativeConfig?: SpeculativeConfig;
  /** Mods in place of the model's own, resolved for its layers (attention/override.ts). */
  readonly attention?: AttentionOverrideData;
}

export interface OpenEngine {
  readonly engine: Engine;
  readonly info: EngineInfo;
  /** The backend's (backend.ts). */
  readonly pulse: readonly Int32Array[] | undefined;
  /** Whether a step waits for kernels that are being compiled. */
  readonly preparing: () => boolean;
  /** Stops the backend's threads and frees its memory. The engine can not step afterwards. */
  release(): Promise<void>;
}

/** What people are told of a model's matrices. */
const dtypeNames: Readonly<Record<WeightDType, string>> = { f32: "float32", bf16: "bfloat16", f16: "float16", int8: "int8", uint8: "int8", int4: "int4", uint4: "int4" };

/** What a backend is opened by. It needs no model, so it can be opened while somebody still looks for one. */
export type Machine = Pick<EngineOptions, "device" | "threads" | "deterministic"> & Pick<BackendOptions, "wideVectors">;

export async function openMachine({ device, threads, deterministic, wideVectors }: Machine): Promise<Backend> {
  const given = Object.entries({ threads, deterministic, wideVectors }).filter(([, value]) => value !== undefined);
  return openBackend(device, { memoryBytes: availableBytes(device), ...Object.fromEntries(given) });
}

/** `now` is in seconds; `opening` is the backend, which is closed where the model cannot be loaded. @throws UsageError */
export async function openEngine(options: EngineOptions, now: () => number, onProgress: Progress = () => {}, opening = openMachine(options)): Promise<OpenEngine> {
  const start = now();
  // Whoever reads the model's files first says what is wrong with them before it says that there is no backend.
  opening.catch(() => {});
  const sources: WeightSource[] = [];
  try {
    const { model: path, device, dtype = "auto", quantization = "auto", kvCacheDtype = "auto", seed = 0 } = options;
    if (!Number.isSafeInteger(seed)) throw new UsageError(`seed (--seed) is ${seed}; it must be a safe integer`);
    for (const [name, flag] of [["enablePrefixCaching", "--enable-prefix-caching"], ["deterministic", "--deterministic"]] as const) {
      if (!["boolean", "undefined"].includes(typeof options[name])) throw new UsageError(`${name} (${flag}) is ${JSON.stringify(options[name])}; it must be true or false`);
    }
    const { schedulingPolicy = "fcfs" } = options;
    if (!schedulingPolicies.includes(schedulingPolicy)) throw new UsageError(`schedulingPolicy (--scheduling-policy) is ${JSON.stringify(schedulingPolicy)}; it must be ${schedulingPolicies.join(" or ")}`);
    const caps = capsOf(device);
    const speculation = options.speculativeConfig && readSpeculativeConfig(options.speculativeConfig);
    const open = (one: string): Checkpoint => {
      const opened = openCheckpoint(one, { caps, dtype, quantization, kvCacheDtype, ...(options.loadFormat !== undefined && { loadFormat: options.loadFormat }) });
      sources.push(opened.source);
      return opened;
    };
    const checkpoint = open(path), { source } = checkpoint;
    const draft = speculation?.method === "draft_model" ? open(speculation.model) : undefined;
    if (draft) checkDraft(draft.config, checkpoint.config, options.maxModelLen);
    const config = options.attention ? { ...checkpoint.config, override: options.attention } : checkpoint.config;
    const backend = await opening;
    const configs = [config, ...(draft ? [draft.config] : [])];
    const limits = chooseLimits(options, {
      maxPositions: Math.min(config.maxPositions, draft?.config.maxPositions ?? Infinity),
      defaults: caps.defaults,
      availableBytes: shareOf(backend, options.gpuMemoryUtilization) ?? availableBytes(device),
      plan: (tried) => {
        const plans = [planModel(config, tried, caps), ...(draft ? [planModel(draft.config, draftLimits(tried), caps)] : [])];
        return { kvBytes: sum(plans, (plan) => plan.bytes.kvCache), totalBytes: sum(plans, (plan) => plan.totalBytes) };
      },
      mostHeld: (tried) => new PageNeeds(tried, planExpiry(configs, tried, caps)).mostHeld(tried.maxModelLen),
      ...(speculation && { logitsOf: (maxNumSeqs) => maxNumSeqs * (1 + speculation.numSpeculativeTokens) }),
    });
    // The smaller model first: what has no use must lie together where a backend has several memories, and its weights leave room for that.
    const draftModel = draft && await loadModel(backend, draft.source, draft.config, draftLimits(limits), onProgress);
    const drafter: Drafter | undefined = draftModel ? new DraftModel(new ProgramModel(backend, draftModel), speculation!.numSpeculativeTokens, draftLimits(limits), limits.maxModelLen)
      : speculation?.method === "ngram" ? new NgramDrafter(speculation) : undefined;
    const model = await loadModel(backend, source, config, limits, onProgress);
    const eosTokenIds = [...new Set([...config.eosTokenIds, ...(options.eosTokenIds ?? [])])];
    const changing = model.attentionGroups.some(({ shared }) => shared.length > 0);
    if (changing && options.enablePrefixCaching) {
      throw new UsageError("enablePrefixCaching (--enable-prefix-caching) is true, but the mods of attention read arrays over a SharedArrayBuffer: what is computed of a prompt would change with them; leave the option out, or give the mods arrays of their own");
    }
    const enablePrefixCaching = options.enablePrefixCaching ?? !changing;
    const expiry = planExpiry(configs, limits, caps), needs = new PageNeeds(limits, expiry);
    const engine = new Engine(new ProgramModel(backend, model), { limits: { ...limits, enablePrefixCaching }, eosTokenIds, seed, now, ...(expiry && { expiry }), ...(drafter && { drafter }) });
    const converted = convertedFrom(source, config);
    const info: EngineInfo = {
      architecture: config.architecture,
      backend: backend.description,
      dtype: dtypeNames[config.weightDType],
      ...(isRoundedOnLoad(source, config) && { quantizedOnLoad: true as const }),
      ...(converted !== undefined && { convertedFrom: converted }),
      kvCacheDtype: kvCacheDTypeOf[config.kvFormat],
      numParameters: model.numParameters,
      vocabSize: config.vocabSize,
      eosTokenIds,
      ...limits,
      ...(needs.expires && { mostHeldPages: needs.mostHeld(limits.maxModelLen) }),
      weightBytes: model.plan.bytes.weights + (draftModel?.plan.bytes.weights ?? 0),
      enablePrefixCaching,
      schedulingPolicy,
      kvBytes: model.plan.bytes.kvCache + (draftModel?.plan.bytes.kvCache ?? 0),
      ...(speculation && { speculation: { ...speculation, ...(draft && { numParameters: countParameters(draft.config) }) } }),
      loadSeconds: now() - start,
    };
    return { engine, info, pulse: backend.pulse, preparing: () => backend.preparing === true, release: () => backend.close() };
  } catch (error) {
    await opening.then((backend) => backend.close(), () => {});
    throw error;
  } finally {
    for (const source of sources) source.close();
  }
}

/** A draft model computes what the model does, and wants the logits of one row of a sequence. */
const draftLimits = (limits: EngineLimits): EngineLimits => ({ ...limits, maxNumLogits: limits.maxNumSeqs });
const sum = <T>(items: readonly T[], of: (item: T) => number): number => items.reduce((total, item) => total + of(item), 0);

/** @throws UsageError where a token of one model means nothing, or something else, to the other, or a context is asked for that only one has */
function checkDraft(draft: ModelConfig, config: ModelConfig, maxModelLen = 0): void {
  if (maxModelLen > draft.maxPositions && maxModelLen <= config.maxPositions) {
    throw new UsageError(`maxModelLen (--max-model-len) is ${maxModelLen}, and speculativeConfig.model (--speculative-config model) has ${draft.maxPositions} positions; pass at most that, or a draft model with more`);
  }
  if (draft.vocabSize === config.vocabSize) return;
  throw new UsageError(
    `speculativeConfig.model (--speculative-config model) has a vocabulary of ${draft.vocabSize} tokens and the model one of ${config.vocabSize}; give a draft model with the model's own tokenizer`,
  );
}

/** What a model may take of memory that is the backend's own; undefined where it has none. @throws UsageError for a share that is none, or of nothing */
function shareOf(backend: Backend, asked: number | undefined): number | undefined {
  if (asked !== undefined && !(asked > 0 && asked <= 1)) throw new UsageError(`gpuMemoryUtilization (--gpu-memory-utilization) is ${asked}; it must be above 0 and at most 1`);
  const free = backend.availableBytes?.();
  if (free === undefined && asked !== undefined) {
    throw new UsageError(`gpuMemoryUtilization (--gpu-memory-utilization) is ${asked}, and device ${backend.caps.device} has no memory of its own; leave it out, or say how large the KV cache is (--kv-cache-memory-bytes)`);
  }
  return free === undefined ? undefined : Math.floor((asked ?? defaultUtilization) * free);
}

const defaultUtilization = 0.9;

/** What a page may count on: nobody tells it how much the machine has. */
const pageBytes = 3.5 * 2 ** 30;

/** Bytes that a model may take on a device: what the process may still have, as far as it can be addressed. */
function availableBytes(device: Device): number {
  const free = (globalThis as { process?: { availableMemory?: () => number } }).process?.availableMemory?.() ?? pageBytes;
  return Math.min(free, addressableBytes(device));
}
