/**
 * The entry of the engine's thread: opens the machine that its data names, loads the model of the first message (EngineOptions), then
 * runs its engine behind messages.ts.
 */
import { parent, spawn } from "#thread";
import { failure, Host } from "./host.ts";
import type { FromEngine, ToEngine } from "./messages.ts";
import type { Pulse } from "./pulse.ts";
import { lookSeconds } from "./watchdog.ts";
import { openEngine, openMachine, type EngineOptions, type Machine, type Progress } from "./open.ts";

const thread = parent();
const post = (message: FromEngine): void => thread.post(message);
const now = (): number => performance.now() / 1000;
/** Between two signs that the event loop turns. */
const beatMs = 500 * lookSeconds;

/** The words of a backend's pulse as others may hold them (pulse.ts); none where nothing can be shared. */
function shown(pulse: readonly Int32Array[] | undefined): readonly Int32Array[] | undefined {
  if (!pulse || typeof SharedArrayBuffer === "undefined" || (globalThis as { crossOriginIsolated?: boolean }).crossOriginIsolated === false) return undefined;
  const to = pulse.map(() => new Int32Array(new SharedArrayBuffer(4)));
  spawn(new URL(import.meta.url.endsWith(".ts") ? "./pulse.ts" : "./pulse.js", import.meta.url), { from: pulse, to } satisfies Pulse);
  return to;
}

try {
  const opening = openMachine(thread.data as Machine);
  opening.catch(() => {}); // openEngine says it
  const options = await new Promise<EngineOptions>((resolve) => thread.onMessage((message) => resolve(message as EngineOptions)));
  const onProgress: Progress = (stage, done, total) => post({ kind: "progress", stage, done, total });
  const { engine, info, pulse, preparing, release } = await openEngine(options, now, onProgress, opening);
  const words = shown(pulse);
  post({ kind: "ready", info, ...(words && { pulse: words }) });
  const beating = words ? undefined : setInterval(() => post({ kind: "alive", preparing: preparing() }), beatMs);
  const host = new Host(engine, { post, now });
  thread.onMessage((message) => host.receive(message as ToEngine));
  await host.ended;
  clearInterval(beating);
  await release();
  post({ kind: "closed" });
} catch (error) {
  post(failure(error));
}
