/**
 * An engine with a thread, or a process, of its own: what is started, with which options, and again when it has died (supervisor.ts).
 */
import { spawn, spawnProcess } from "#thread";
import { type AttentionOverrideData, sharedCapture } from "../attention/override.ts";
import { capsOf } from "../backend/caps.ts";
import { UsageError } from "../core/errors.ts";
import type { Thread } from "../core/thread.ts";
import { clientOf, type EngineClient } from "./client.ts";
import type { EngineInfo } from "./messages.ts";
import type { EngineOptions, Machine, Progress } from "./open.ts";
import { supervise, type EngineEvent } from "./supervisor.ts";

export type { EngineEvent, EngineOptions, Progress };

/** How an engine is started and who hears of it. */
export interface Starting {
  readonly onProgress?: Progress;
  readonly onEvent?: (event: EngineEvent) => void;
  /** Starts what `prepareEngine` does; called again when an engine has died. */
  readonly begin?: () => Thread;
  /** One that was begun already. */
  readonly thread?: Thread;
}

/** Engines of this process that have begun and not ended. */
let livingEngines = 0;

/** What an engine's thread must know before its model is found, of options that say more. */
export function machineOf({ device, threads, deterministic }: Machine): Machine {
  return { device, ...(threads !== undefined && { threads }), ...(deterministic !== undefined && { deterministic }) };
}

/**
 * A thread for `startEngine`, or a process, which opens `machine` meanwhile. Started before the model is found, it is ready when the model is.
 * @throws UsageError when there is no such device
 */
export function prepareEngine(options: Machine): Thread {
  const { ownProcess } = capsOf(options.device);
  // The sources run as they are and as compiled: the worker's file ends as this one does.
  const url = new URL(import.meta.url.endsWith(".ts") ? "./worker.ts" : "./worker.js", import.meta.url);
  // Wide code is compiled under flags of the whole process, which must not meet another engine's kernels on their way through V8's compiler.
  const machine: Machine = { ...machineOf(options), wideVectors: livingEngines === 0 };
  if (ownProcess) return spawnProcess(url, machine);
  const thread = spawn(url, machine);
  livingEngines++;
  thread.onExit(() => livingEngines--);
  return thread;
}

/**
 * As large as the one before: requests in flight were let in by what that one had room for. Memory may look a little otherwise now: of a GPU's, what was left
 * free then may be taken.
 */
const sizeOf = ({ maxModelLen, maxNumSeqs, maxNumBatchedTokens, pageSize, kvBytes }: EngineInfo, ownMemory: boolean) => ({
  maxModelLen, maxNumSeqs, maxNumBatchedTokens, blockSize: pageSize, kvCacheBytes: kvBytes, ...(ownMemory && { gpuMemoryUtilization: 1 }),
});

/**
 * Loads a model and runs its engine in a thread, or a process; when that dies, in another.
 * @throws UsageError for what the caller can mend: no such model, one that is not supported, one that does not fit.
 */
export async function startEngine(options: EngineOptions, starting: Starting = {}): Promise<EngineClient> {
  const { begin = () => prepareEngine(options), thread = begin(), onProgress, onEvent } = starting;
  const { ownProcess } = capsOf(options.device);
  if (ownProcess && options.attention) {
    try {
      refuseShared(options.device, options.attention);
    } catch (error) {
      await thread.terminate();
      throw error;
    }
  }
  thread.post(options);
  return supervise(thread, {
    again: (info) => {
      const next = begin();
      next.post({ ...options, ...sizeOf(info, ownProcess) } satisfies EngineOptions);
      return next;
    },
    seed: options.seed ?? 0,
    stepsAreShort: ownProcess,
    ...(onProgress && { onProgress }), ...(onEvent && { onEvent }),
    now: () => performance.now() / 1000,
  });
}

/**
 * Loads a model and runs its engine in this thread, which does nothing else while a step is computed. Functions reach it. When it dies no other takes its place.
 * @throws UsageError as `startEngine` does
 */
export async function startEngineHere(options: EngineOptions, onProgress?: Progress): Promise<EngineClient> {
  // Loaded when it is asked for: elsewhere this thread needs no backend.
  const { openEngine, openMachine } = await import("./open.ts");
  const now = (): number => performance.now() / 1000;
  const machine: Machine = { ...machineOf(options), wideVectors: livingEngines === 0 };
  livingEngines++;
  try {
    const { engine, info, release } = await openEngine(options, now, onProgress, openMachine(machine));
    return clientOf(engine, info, now, () => release().finally(() => livingEngines--));
  } catch (error) {
    livingEngines--;
    throw error;
  }
}

/** Shared memory does not cross to a process. */
function refuseShared(device: string, attention: AttentionOverrideData): void {
  const found = sharedCapture(attention);
  if (!found) return;
  const { mod, capture } = found;
  throw new UsageError(`${mod} captures ${capture} over a SharedArrayBuffer, and device ${device} computes in a process of its own, which shares no memory; give the mod an array of its own`);
}
