/**
 * Compiled kernels on disk, so that the next start compiles nothing: `<key>.cubin`, and beside it `<key>.json` with what is known of it and its
 * checksum. The key says all that the machine code depends on. Files appear whole, by renaming; an entry that is not whole is as good as none.
 */
import { createHash, randomUUID } from "node:crypto";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";

export interface CubinCache {
  readonly folder: string;
  /** The key of what these texts, in this order, make. */
  key(...parts: readonly string[]): string;
  /** What was put, with the facts as they were given; undefined where there is nothing, or nothing whole. */
  get(key: string): Promise<{ readonly cubin: Uint8Array; readonly facts: unknown } | undefined>;
  /** `facts`: anything that JSON holds. @throws where the folder can not be written */
  put(key: string, cubin: Uint8Array, facts: unknown): Promise<void>;
}

/** In TESSERA_CACHE_DIR, by default ~/.cache/tessera: the folder `cubins`. */
export function openCubinCache(env: Readonly<Record<string, string | undefined>> = process.env): CubinCache {
  const folder = join(env["TESSERA_CACHE_DIR"] || join(env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "tessera"), "cubins");
  const files = (key: string): { readonly cubin: string; readonly json: string } => ({ cubin: join(folder, `${key}.cubin`), json: join(folder, `${key}.json`) });
  const appear = async (path: string, data: Uint8Array | string): Promise<void> => {
    const whole = `${path}.${randomUUID()}.tmp`;
    try {
      await writeFile(whole, data);
      await rename(whole, path);
    } catch (error) {
      await rm(whole, { force: true });
      throw error;
    }
  };
  return {
    folder,
    key: (...parts) => sha256(JSON.stringify(parts)),
    get: async (key) => {
      const { cubin, json } = files(key);
      try {
        const [bytes, text] = await Promise.all([readFile(cubin), readFile(json, "utf8")]);
        const { checksum, facts } = JSON.parse(text) as { checksum?: string; facts?: unknown };
        return checksum === sha256(bytes) ? { cubin: bytes, facts } : undefined;
      } catch {
        return undefined; // not there, or not JSON
      }
    },
    put: async (key, bytes, facts) => {
      const { cubin, json } = files(key);
      await mkdir(folder, { recursive: true });
      await appear(cubin, bytes);
      await appear(json, `${JSON.stringify({ checksum: sha256(bytes), facts })}\n`);
    },
  };
}

const sha256 = (data: string | Uint8Array): string => createHash("sha256").update(data).digest("hex");
