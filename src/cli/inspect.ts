/** `tessera inspect my-mod.ts`: what the compiler makes of each mod in a file, what it costs, and how long it takes here. Of a GGUF file: what is in it. */
import { writeFileSync } from "node:fs";
import { explain } from "../attention/explain.ts";
import type { Device } from "../backend/registry.ts";
import { UsageError } from "../core/errors.ts";
import { isGgufPath } from "../weights/gguf-file.ts";
import { describeGguf } from "./inspect-model.ts";
import { loadMods } from "./mods.ts";

export interface InspectFlags {
  readonly lengths: readonly [queries: number, keys: number];
  readonly blockSize?: number;
  readonly heads: number;
  readonly headDim: number;
  readonly threads?: number;
  readonly export?: string;
  readonly svg?: string;
  readonly code?: "wasm" | "reference";
}

const devices: Readonly<Record<NonNullable<InspectFlags["code"]>, Device>> = { wasm: "cpu", reference: "reference" };

export async function runInspect(file: string, flags: InspectFlags): Promise<void> {
  if (isGgufPath(file)) {
    console.log(describeGguf(file).join("\n"));
    return;
  }
  const found = await loadMods(file, flags.export);
  const [queryLength, kvLength] = flags.lengths;
  const drawn = found.filter(({ mods }) => mods.maskMod);
  if (flags.svg !== undefined && drawn.length === 0) throw new UsageError(`${file} has no mask to draw: --svg is for masks`);
  for (const [i, { name, mods }] of found.entries()) {
    const e = await explain(mods, {
      queryLength, kvLength, blockSize: flags.blockSize, heads: flags.heads, headDim: flags.headDim, threads: flags.threads,
      device: devices[flags.code ?? "wasm"], clock: () => performance.now(), showCode: flags.code !== undefined,
    });
    console.log(`${i > 0 ? "\n\n" : ""}${title(name)}\n\n${e}`);
    if (flags.svg === undefined || !e.blocks) continue;
    const path = drawn.length === 1 ? flags.svg : flags.svg.replace(/(\.svg)?$/, `-${name.replace(/\W+/g, "-")}.svg`);
    writeFileSync(path, `${e.blocks.toSVG({ title: name })}\n`);
    console.log(`\npicture     ${path}`);
  }
  if (flags.code === undefined) console.log("\n--code wasm prints the kernel that was compiled; --svg FILE draws the blocks; --lengths 128x4096 asks about other sizes");
}

const title = (name: string): string => `== ${name} ${"=".repeat(Math.max(3, 76 - name.length))}`;
