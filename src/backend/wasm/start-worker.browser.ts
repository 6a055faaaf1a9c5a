/**
 * Starts a worker thread of the pool, in a browser. The worker's file stands in `new Worker(new URL(...))` letter by letter, which is how
 * bundlers find it; and it imports by relative paths alone, as import maps do not reach workers.
 */
import type { Thread } from "../../core/thread.ts";
import { threadOf } from "../../core/thread.browser.ts";

/** `data` is what the worker's entry wants: the memories and its number. */
export function startWorker(data: unknown): Thread {
  return threadOf(new Worker(new URL("./worker.browser.js", import.meta.url), { type: "module" }), data);
}
