/** Threads as browsers have them: module workers. The first message carries the data. */
import { UsageError } from "./errors.ts";
import type { Parent, Thread } from "./thread.ts";

/** What a worker's global scope offers, of which this project's types (a page's) know nothing. */
interface Scope {
  postMessage(message: unknown, transfer?: readonly ArrayBuffer[]): void;
  onmessage: ((event: { data: unknown }) => void) | null;
}

/** Starts the module at `url` in a worker, where `parent().data` is `data`. A browser's worker never ends by itself. */
export function spawn(url: URL, data: unknown): Thread {
  return threadOf(new Worker(url, { type: "module" }), data);
}

/** @throws UsageError: a page starts no processes */
export function spawnProcess(): Thread {
  throw new UsageError("this device runs in a process of its own, and a browser starts none; use another device");
}

/** A worker that was just made, as a thread. */
export function threadOf(worker: Worker, data: unknown): Thread {
  let exit: ((reason: string) => void) | undefined;
  worker.addEventListener("error", (event) => exit?.(event.message || "the worker's script failed to load"));
  worker.postMessage(data);
  return {
    post: (message, transfer) => worker.postMessage(message, [...(transfer ?? [])]),
    onMessage: (handler) => worker.addEventListener("message", (event) => handler(event.data)),
    onExit: (handler) => void (exit = handler),
    unref: () => {},
    ref: () => {},
    terminate: async () => worker.terminate(),
  };
}

const scope = globalThis as unknown as Scope;
// A module may await: whoever imports this one starts once the data has come.
const inWorker = typeof (globalThis as { WorkerGlobalScope?: unknown }).WorkerGlobalScope !== "undefined";
const data: unknown = inWorker ? await new Promise((resolve) => (scope.onmessage = (event) => resolve(event.data))) : undefined;
/** What came before somebody listened. */
const early: unknown[] = [];
if (inWorker) scope.onmessage = (event) => void early.push(event.data);

export function parent(): Parent {
  return {
    data,
    post: (message, transfer) => scope.postMessage(message, transfer),
    onMessage: (handler) => {
      scope.onmessage = (event) => handler(event.data);
      for (const message of early.splice(0)) handler(message);
    },
  };
}
