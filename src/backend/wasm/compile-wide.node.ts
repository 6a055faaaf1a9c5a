/**
 * Compiles a module with V8's revectorisation, in Node: two instructions of 128 bits on neighbouring addresses become one of 256.
 *
 * The flags are experimental and the process's: what any thread compiles meanwhile comes under them. So they are set only while `wide` calls
 * the functions that shall have such code, and each of these is optimised when it is first called. All threads that compile the same bytes
 * later get that code. Whoever uses it checks the result (wide.ts).
 *
 * Not by way of --no-liftoff: with it V8 14 ends the process ("Check failed: function_feedback") where some thread compiles a module that
 * inlines calls. The mask, which is of the first 32 functions, takes a way that V8 has for functions which its first compiler refuses.
 */
import { setFlagsFromString } from "node:v8";

const optimised = { on: "--wasm-tier-mask-for-testing=-1", off: "--wasm-tier-mask-for-testing=0" };
const wideVectors = { on: "--experimental-wasm-revectorize", off: "--no-experimental-wasm-revectorize" };

function under<T>(flag: typeof optimised, body: () => T): T {
  setFlagsFromString(flag.on);
  try {
    return body();
  } finally {
    setFlagsFromString(flag.off);
  }
}

/**
 * The module, and what `wide` returned, which calls functions of it that shall have wide vectors; `narrow` calls those that shall be optimised
 * without. Undefined where the machine or the runtime has no such thing.
 */
export function compileWide<T>(
  bytes: Uint8Array<ArrayBuffer>, wide: (module: WebAssembly.Module) => T, narrow: (module: WebAssembly.Module) => void = () => {},
): { readonly module: WebAssembly.Module; readonly result: T } | undefined {
  const { v8, bun, deno } = process.versions;
  if (process.arch !== "x64" || v8 === undefined || bun !== undefined || deno !== undefined || process.env["TESSERA_WIDE_VECTORS"] === "0") return undefined;
  return under(optimised, () => {
    const compiled = under(wideVectors, () => {
      const module = new WebAssembly.Module(bytes);
      return { module, result: wide(module) };
    });
    narrow(compiled.module);
    return compiled;
  });
}
