/** The entry of the engine's thread: loads the model that the options name, then runs its engine behind messages.ts. */
import { parent } from "#thread";
import { failure, Host } from "./host.ts";
import type { FromEngine, ToEngine } from "./messages.ts";
import { openEngine, type EngineOptions, type Progress } from "./open.ts";

const thread = parent();
const post = (message: FromEngine): void => thread.post(message);
const now = (): number => performance.now() / 1000;

try {
  const onProgress: Progress = (stage, done, total) => post({ kind: "progress", stage, done, total });
  const { engine, info, release } = await openEngine(thread.data as EngineOptions, now, onProgress);
  post({ kind: "ready", info });
  const host = new Host(engine, { post, now });
  thread.onMessage((message) => host.receive(message as ToEngine));
  await host.ended;
  await release();
  post({ kind: "closed" });
} catch (error) {
  post(failure(error));
}
