/**
 * From a model's folder to an engine that can step: read the config, plan the memory, load the weights, record the program.
 *
 * Runs on the engine's own thread. What the caller can mend (no such folder, a model that is not supported or does not fit) is a
 * UsageError, and all but a broken weights file is told before anything is loaded.
 */
import { files } from "#files";
import type { Backend } from "../backend/backend.ts";
import { type Device, openBackend } from "../backend/registry.ts";
import { UsageError } from "../core/errors.ts";
import { type ModelConfig, readConfig } from "../model/config.ts";
import { loadModel, planModel } from "../model/load.ts";
import { families } from "../model/registry.ts";
import { chooseDType } from "../model/weights.ts";
import { openWeights } from "../weights/source.ts";
import { Engine } from "./engine.ts";
import { ProgramModel } from "./forward.ts";
import { chooseLimits, type LimitOptions } from "./limits.ts";
import type { EngineInfo } from "./messages.ts";

export interface EngineOptions extends LimitOptions {
  /** The model's folder, in Hugging Face layout. */
  readonly model: string;
  readonly device: Device;
  /** How matrices of weights are kept. "auto" (the default): bfloat16 where the checkpoint is, else float32. */
  readonly dtype?: "auto" | "float32" | "bfloat16";
  /** Threads of the cpu device; all cores by default. */
  readonly threads?: number;
  /** Where the seeds of requests without one come from. Default 0. */
  readonly seed?: number;
}

export interface OpenEngine {
  readonly engine: Engine;
  readonly info: EngineInfo;
  /** Stops the backend's threads and frees its memory. The engine can not step afterwards. */
  release(): Promise<void>;
}

/** The wasm backend's addresses end at 4 GiB; kernels and scratch take a little of it. */
const cpuAddressBytes = 4 * 2 ** 30 - 64 * 2 ** 20;

/** `now` is in seconds. @throws UsageError */
export async function openEngine(options: EngineOptions, now: () => number, onProgress: (stage: string, done: number, total: number) => void = () => {}): Promise<OpenEngine> {
  const start = now();
  const { model: folder, device, dtype = "auto", seed = 0, threads } = options;
  if (!Number.isSafeInteger(seed)) throw new UsageError(`seed (--seed) is ${seed}; it must be a safe integer`);
  if (!files.isFolder(folder)) throw new UsageError(`${folder} is not a folder; pass the folder of a model in Hugging Face layout`);
  const source = openWeights(folder);
  let backend: Backend | undefined;
  try {
    const config: ModelConfig = readConfig({
      config: readJson(folder, "config.json", true),
      generation: readJson(folder, "generation_config.json", false),
      weightDType: chooseDType(source, dtype),
    }, families);
    const limits = chooseLimits(options, {
      maxPositions: config.maxPositions,
      availableBytes: Math.min(freeBytes(), device === "cpu" ? cpuAddressBytes : Infinity),
      plan: (limits) => {
        const plan = planModel(config, limits);
        return { kvBytes: plan.bytes.kvCache, totalBytes: plan.totalBytes };
      },
    });
    const plan = planModel(config, limits);
    backend = await openBackend(device, threads === undefined ? {} : { threads });
    const model = await loadModel(backend, source, config, limits, (done, total) => onProgress("load", done, total));
    const engine = new Engine(new ProgramModel(backend, model), { limits, eosTokenIds: config.eosTokenIds, seed, now });
    const info: EngineInfo = {
      architecture: config.architecture,
      backend: backend.description,
      dtype: config.weightDType === "bf16" ? "bfloat16" : "float32",
      numParameters: model.numParameters,
      vocabSize: config.vocabSize,
      eosTokenIds: config.eosTokenIds,
      ...limits,
      weightBytes: plan.bytes.weights,
      kvBytes: plan.bytes.kvCache,
      loadSeconds: now() - start,
    };
    const opened = backend;
    return { engine, info, release: () => opened.close() };
  } catch (error) {
    await backend?.close();
    throw error;
  } finally {
    source.close();
  }
}

function readJson(folder: string, name: string, needed: boolean): unknown {
  const path = files.join(folder, name);
  const text = files.readText(path);
  if (text === undefined) {
    if (needed) throw new UsageError(`${path} is not there; pass the folder of a model in Hugging Face layout`);
    return undefined;
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UsageError(`${path} is not valid JSON (${(error as Error).message})`);
  }
}

/** Bytes that this process may still take; no bound where the platform does not say. */
function freeBytes(): number {
  return (globalThis as { process?: { availableMemory?: () => number } }).process?.availableMemory?.() ?? Infinity;
}
