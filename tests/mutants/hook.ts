/**
 * Loaded before anything else by a process that runs under a fault: the one file it is in is read with it. No file is written, so no tree is copied, and
 * processes and threads that this one starts have the fault too (NODE_OPTIONS).
 */
import { registerHooks } from "node:module";
import { pathToFileURL } from "node:url";
import { type Fault, planted, root } from "./fault.ts";

const fault = JSON.parse(process.env["TESSERA_FAULT"] ?? "null") as Fault | null;
if (fault) {
  const url = pathToFileURL(`${root}${fault.file}`).href;
  registerHooks({
    load(asked, context, next) {
      const loaded = next(asked, context);
      return asked === url ? { ...loaded, source: planted(fault, String(loaded.source)) } : loaded;
    },
  });
}
