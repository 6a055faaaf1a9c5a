/**
 * The entry of the engine's thread: opens the machine that its data names, loads the model of the first message (EngineOptions), then
 * runs its engine behind messages.ts.
 */
import { parent } from "#thread";
import { failure, Host } from "./host.ts";
import type { FromEngine, ToEngine } from "./messages.ts";
import { openEngine, openMachine, type EngineOptions, type Machine, type Progress } from "./open.ts";

const thread = parent();
const post = (message: FromEngine): void => thread.post(message);
const now = (): number => performance.now() / 1000;

try {
  const opening = openMachine(thread.data as Machine);
  opening.catch(() => {}); // openEngine says it
  const options = await new Promise<EngineOptions>((resolve) => thread.onMessage((message) => resolve(message as EngineOptions)));
  const onProgress: Progress = (stage, done, total) => post({ kind: "progress", stage, done, total });
  const { engine, info, pulse, release } = await openEngine(options, now, onProgress, opening);
  post({ kind: "ready", info, ...(pulse && { pulse }) });
  const host = new Host(engine, { post, now });
  thread.onMessage((message) => host.receive(message as ToEngine));
  await host.ended;
  await release();
  post({ kind: "closed" });
} catch (error) {
  post(failure(error));
}
