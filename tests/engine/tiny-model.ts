/** A tiny real checkpoint on a real backend, for tests of the engine. */
import type { Device } from "../../src/backend/registry.ts";
import { openBackend } from "../../src/backend/registry.ts";
import type { Batch } from "../../src/engine/batch.ts";
import type { EngineLimits, ForwardModel } from "../../src/engine/engine.ts";
import { ProgramModel } from "../../src/engine/forward.ts";
import { type FormatOptions, loadModel, openCheckpoint, planExpiry } from "../../src/model/load.ts";

export const device = (process.env["TESSERA_TEST_DEVICE"] ?? "cpu") as Device;

export interface TinyModel extends ForwardModel, AsyncDisposable {
  readonly eosTokenIds: readonly number[];
  /** From which position on nobody looks at a page. */
  readonly expiry: Int32Array | undefined;
  /** Steps so far: all, with several sequences, with a chunk of a longer gap, and with chunk and decode side by side. */
  readonly seen: { steps: number; batches: number; chunks: number; mixed: number };
}

/** Loads a folder. Engines of smaller limits (but the same page size and context) may run on it, one after another. */
export async function openTiny(folder: string, limits: EngineLimits, threads = 2, formats: FormatOptions = {}): Promise<TinyModel> {
  const { config, source } = openCheckpoint(folder, formats);
  const backend = await openBackend(device, { threads });
  const model = new ProgramModel(backend, await loadModel(backend, source, config, limits));
  source.close();
  const seen = { steps: 0, batches: 0, chunks: 0, mixed: 0 };
  const see = (batch: Batch): void => {
    seen.steps++;
    if (batch.numSequences > 1) seen.batches++;
    // A draft is a row with logits; what a prompt has before its last row are rows without.
    const wanted = new Set(batch.logitRows.subarray(0, batch.numLogits)), sequences = Array.from(batch.numRows.subarray(0, batch.numSequences), (count, s) => ({ first: batch.firstRow[s]!, count }));
    if (sequences.some(({ first, count }) => !wanted.has(first + count - 1))) seen.chunks++;
    if (sequences.some(({ first }) => wanted.has(first)) && sequences.some(({ first }) => !wanted.has(first))) seen.mixed++;
  };
  return {
    vocabSize: model.vocabSize, runsAhead: model.runsAhead, eosTokenIds: config.eosTokenIds, expiry: planExpiry([config], limits, backend.caps), seen,
    launch: (batch, wanted) => (see(batch), model.launch(batch, wanted)),
    [Symbol.asyncDispose]: () => backend.close(),
  };
}

export const fixture = (name: string): string => new URL(`../fixtures/hf/${name}`, import.meta.url).pathname;
