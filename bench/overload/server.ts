/**
 * A real server before an engine of known speed (engine.ts), in a process of its own, which runs with --expose-gc. The parent is told the port, and when it asks,
 * what memory there is: of the process, and what the heap holds that is in use. To know that, garbage is collected, for which all requests wait.
 */
import { spawn } from "#thread";
import { supervise } from "../../src/engine/supervisor.ts";
import { LLM } from "../../src/llm.ts";
import { serve } from "../../src/server/node.ts";
import type { Pace } from "./engine.ts";

export interface ServerOptions extends Pace {
  /** The server's default where it is not said. */
  readonly maxNumQueuedReqs?: number;
}

/** What the parent hears. */
export type FromServer = { readonly port: number } | { readonly residentBytes: number; readonly heapBytes: number };

const options = JSON.parse(process.argv[2]!) as ServerOptions;
const begin = () => spawn(new URL("engine.ts", import.meta.url), options);
const engine = await supervise(begin(), { again: begin, seed: 0, stepsAreShort: true, now: () => performance.now() / 1000 });
const { maxNumQueuedReqs } = options;
const server = await serve(new LLM({ name: "paced", engine, text: undefined }), { port: 0, ...(maxNumQueuedReqs !== undefined && { maxNumQueuedReqs }) });
const tell = (message: FromServer): void => void process.send?.(message);
tell({ port: server.port });
const collectGarbage = (globalThis as { gc?: () => void }).gc!;
process.on("message", () => {
  collectGarbage();
  const { rss, heapUsed } = process.memoryUsage();
  tell({ residentBytes: rss, heapBytes: heapUsed });
});
process.once("disconnect", () => process.exit());
