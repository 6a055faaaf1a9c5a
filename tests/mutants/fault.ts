/** A fault to be planted in one file: text that stands there exactly once, and what is to stand there instead. */
import { fileURLToPath } from "node:url";

export interface Fault {
  /** Unique, short: "reserve-off-by-one". */
  readonly name: string;
  /** From the checkout's folder: "src/engine/scheduler.ts". */
  readonly file: string;
  readonly find: string;
  readonly replace: string;
  /** What goes wrong by it. */
  readonly why: string;
  /** Tests that look for it besides the usual ones. */
  readonly tests?: readonly string[];
}

export const root = fileURLToPath(new URL("../../", import.meta.url));

/** The file's text with the fault in it. @throws where the fault no longer fits the file */
export function planted({ name, file, find, replace }: Fault, text: string): string {
  const parts = text.split(find);
  if (parts.length !== 2) throw new Error(`fault ${name}: its text stands ${parts.length - 1} times in ${file}, not once; it must be written anew`);
  if (find === replace) throw new Error(`fault ${name} changes nothing`);
  return parts.join(replace);
}
