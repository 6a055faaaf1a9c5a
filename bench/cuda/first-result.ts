/**
 * From a call with a new mod to its result, in a process of its own: this file is both who asks (`firstResults`) and the process. The device is open, the mod
 * was never seen; whether its kernels are on disk is the asker's choice, by the folder of TESSERA_CACHE_DIR.
 */
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { and, causal, flexAttention, maskMod, type Mods, scoreMod, tensor } from "../../src/attention/index.ts";
import { openBackend } from "../../src/backend/registry.ts";
import { toBf16 } from "../../src/core/dtype.ts";
import { stream } from "../../src/core/random.ts";

const heads = 8, length = 1024, dim = 128;

/** Mods as somebody tries them out. The first call of a process finds nothing of attention compiled by V8 either. */
const mods: readonly Mods[] = [
  { maskMod: and(causal, maskMod((_b, _h, q, kv) => q - kv < 200)) },
  { maskMod: causal, scoreMod: scoreMod((score, _b, h, q, kv) => score - (0.01 * (q - kv)) / (h + 1)) },
  { maskMod: maskMod((_b, _h, q, kv) => q % 3 === kv % 3), scoreMod: scoreMod((score) => 20 * Math.tanh(score / 20)) },
];

export interface FirstResults {
  /** Milliseconds of the first call of each process, and of the later ones, each with a mod of its own. */
  readonly first: number[];
  readonly later: number[];
}

/** NVRTC and the driver keep what they compiled in the home folder: nobody may have been there. */
const fresh = (folder: string): Readonly<Record<string, string>> => ({ HOME: folder, CUDA_CACHE_PATH: join(folder, "driver"), CUDA_CACHE_DISABLE: "1" });

/** What one process printed. @throws with what it said on stderr */
async function valuesOf(folder: string): Promise<number[]> {
  try {
    const { stdout } = await promisify(execFile)(process.execPath, [fileURLToPath(import.meta.url)], { env: { ...process.env, TESSERA_CACHE_DIR: folder, ...fresh(folder) } });
    return JSON.parse(stdout) as number[];
  } catch (error) {
    const said = (error as { stderr?: string }).stderr ?? "";
    throw new Error(said.split("\n").find((line) => /Error: /.test(line)) ?? (error as Error).message, { cause: error });
  }
}

/** Milliseconds with nothing on disk, and with everything: `rounds` processes of each, one after another. */
export async function firstResults(rounds: number): Promise<{ readonly cold: FirstResults; readonly warm: FirstResults }> {
  const results = { cold: { first: [] as number[], later: [] as number[] }, warm: { first: [] as number[], later: [] as number[] } };
  for (let round = 0; round < rounds; round++) {
    const folder = mkdtempSync(join(tmpdir(), "first-result-"));
    try {
      for (const these of [results.cold, results.warm]) {
        const [first, ...later] = await valuesOf(folder);
        these.first.push(first!);
        these.later.push(...later);
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }
  return results;
}

if (import.meta.main) {
  const random = stream(3), shape = [1, heads, length, dim];
  const normal = () => tensor(Uint16Array.from({ length: heads * length * dim }, () => toBf16(2 * random() - 1)), shape, "bf16");
  const [query, key, value] = [normal(), normal(), normal()] as const;
  const backend = await openBackend("cuda"), ms: number[] = [];
  for (const one of mods) {
    const start = performance.now();
    const out = await flexAttention(query, key, value, { ...one, backend });
    ms.push(performance.now() - start);
    if (!out.data.some((bits) => bits !== 0)) throw new Error("attention gave zeros");
  }
  await backend.close();
  console.log(JSON.stringify(ms));
}
