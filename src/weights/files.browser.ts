/** Where there is no file system: every use is refused. */
import { UsageError } from "../core/errors.ts";
import type { Files } from "./files.ts";

function refuse(): never {
  throw new UsageError("there are no files in this runtime: loading models works in Node; in a browser use tessera-llm/attention");
}

export const files: Files = {
  openFile: refuse, readText: refuse, isFolder: refuse, isFile: refuse, list: refuse, join: refuse, grow: refuse,
  writeText: refuse, makeFolder: refuse, move: refuse, remove: refuse, link: refuse, defaultHubCache: refuse,
};
