/**
 * Compiles a module with V8's revectorisation, in Node: two instructions of 128 bits on neighbouring addresses become one of 256.
 *
 * The flag is experimental and the process's, so it is set for the time of this one compilation, in which the optimising compiler
 * compiles every function at once; all threads that compile the same bytes later get that code. Whoever uses it checks the result (wide.ts).
 */
import { setFlagsFromString } from "node:v8";

const flags = ["experimental-wasm-revectorize", "no-liftoff", "no-wasm-lazy-compilation"];
const opposite = (flag: string): string => (flag.startsWith("no-") ? flag.slice(3) : `no-${flag}`);

/** Undefined where the machine or the runtime has no such thing. */
export function compileWide(bytes: Uint8Array<ArrayBuffer>): WebAssembly.Module | undefined {
  if (process.arch !== "x64" || process.versions.v8 === undefined || process.env["TESSERA_WIDE_VECTORS"] === "0") return undefined;
  try {
    for (const flag of flags) setFlagsFromString(`--${flag}`);
    return new WebAssembly.Module(bytes);
  } finally {
    for (const flag of flags) setFlagsFromString(`--${opposite(flag)}`);
  }
}
