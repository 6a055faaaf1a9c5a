/** The entry of a worker thread of the pool, in Node. */
import { parent } from "../../core/thread.node.ts";
import { ThreadRuntime } from "./thread.ts";

const { memories, thread } = parent().data as { memories: readonly WebAssembly.Memory[]; thread: number };
new ThreadRuntime(memories, thread).serve();
