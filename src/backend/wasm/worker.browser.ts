/** The entry of a worker thread of the pool, in a browser. */
import { parent } from "../../core/thread.browser.ts";
import { ThreadRuntime } from "./thread.ts";

const { memory, thread } = parent().data as { memory: WebAssembly.Memory; thread: number };
new ThreadRuntime(memory, thread).serve();
