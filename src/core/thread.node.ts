/** Threads as Node has them. */
import { parentPort, Worker, workerData } from "node:worker_threads";
import type { Parent, Thread } from "./thread.ts";

/** Starts the module at `url` in a thread of its own, where `parent().data` is `data`. */
export function spawn(url: URL, data: unknown): Thread {
  // A thread inherits the process's flags, and refuses to start on this one (node --input-type=module -e "...").
  const fromText = process.execArgv.some((flag) => flag.startsWith("--input-type"));
  const worker = new Worker(url, { workerData: data, ...(fromText && { execArgv: [] }) });
  let failure: string | undefined, ended: string | undefined;
  worker.on("error", (error: unknown) => (failure = error instanceof Error ? error.message : String(error)));
  worker.once("exit", (code) => (ended = failure ?? `exit code ${code}`));
  return {
    post: (message, transfer) => worker.postMessage(message, [...(transfer ?? [])]),
    onMessage: (handler) => void worker.on("message", handler),
    onExit: (handler) => void (ended === undefined ? worker.once("exit", () => handler(ended!)) : queueMicrotask(() => handler(ended!))),
    unref: () => worker.unref(),
    ref: () => worker.ref(),
    terminate: async () => void (await worker.terminate()),
  };
}

export function parent(): Parent {
  const port = parentPort!;
  return {
    data: workerData,
    post: (message, transfer) => port.postMessage(message, [...(transfer ?? [])]),
    onMessage: (handler) => void port.on("message", handler),
  };
}
