/** The texts of kernels/, read once each from beside this file. It knows no compiler. */
import { readFileSync } from "node:fs";

const read = new Map<string, string>();

/** kernels/`name`.cu, as it stands there. */
export function kernelText(name: string): string {
  let text = read.get(name);
  if (text === undefined) read.set(name, (text = readFileSync(new URL(`kernels/${name}.cu`, import.meta.url), "utf8")));
  return text;
}
