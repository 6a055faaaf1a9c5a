/** Starts a worker thread of the pool, in Node. */
import type { Thread } from "../../core/thread.ts";
import { spawn } from "../../core/thread.node.ts";

/** `data` is what the worker's entry wants: the memories and its number. */
export function startWorker(data: unknown): Thread {
  return spawn(new URL(import.meta.url.endsWith(".ts") ? "./worker.node.ts" : "./worker.node.js", import.meta.url), data);
}
