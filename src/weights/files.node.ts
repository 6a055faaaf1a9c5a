/** Files through node:fs. Synchronous: loading is one long job of the thread that does it. */
import fs from "node:fs";
import { homedir } from "node:os";
import { dirname, join, relative } from "node:path";
import { UsageError } from "../core/errors.ts";
import type { Files, GrowingFile, OpenFile } from "./files.ts";

/** One call of read(2) moves less than 2 GiB. */
const maxBytesPerRead = 256 * 2 ** 20;

function openFile(path: string): OpenFile {
  const fd = fs.openSync(path, "r");
  const bytes = fs.fstatSync(fd).size;
  return {
    path,
    bytes,
    read(into, position) {
      for (let done = 0; done < into.byteLength; ) {
        const count = fs.readSync(fd, into, done, Math.min(into.byteLength - done, maxBytesPerRead), position + done);
        if (count === 0) throw new UsageError(`${path} ends at byte ${position + done}, before byte ${position + into.byteLength}; was it cut short? Copy or download it again`);
        done += count;
      }
    },
    close: () => fs.closeSync(fd),
  };
}

function grow(path: string, hash: "sha256" | "sha1", prefix: string): GrowingFile {
  // Loaded when first needed: it takes longer than all the rest of this file's imports.
  const { createHash } = process.getBuiltinModule("node:crypto");
  const digest = createHash(hash).update(prefix);
  const fd = fs.openSync(path, "a+");
  let bytes = 0;
  const chunk = new Uint8Array(2 ** 20);
  for (let count; (count = fs.readSync(fd, chunk, 0, chunk.length, bytes)) > 0; bytes += count) digest.update(chunk.subarray(0, count));
  let open = true;
  const close = (): void => {
    if (open) fs.closeSync(fd);
    open = false;
  };
  return {
    get bytes() {
      return bytes;
    },
    append(data) {
      for (let done = 0; done < data.byteLength; ) done += fs.writeSync(fd, data, done);
      digest.update(data);
      bytes += data.byteLength;
    },
    finish() {
      close();
      return digest.digest("hex");
    },
    close,
  };
}

function isKind(path: string, kind: "isFile" | "isDirectory"): boolean {
  if (path.includes("\0")) return false; // no file system has such names, and node:fs throws at them
  try {
    return fs.statSync(path, { throwIfNoEntry: false })?.[kind]() ?? false;
  } catch (error) {
    if ((error as { code?: string }).code === "ENAMETOOLONG") return false; // a whole template, say, is no path
    throw error;
  }
}

export const files: Files = {
  openFile,
  grow,
  readText: (path) => (isKind(path, "isFile") ? fs.readFileSync(path, "utf8") : undefined),
  isFolder: (path) => isKind(path, "isDirectory"),
  isFile: (path) => isKind(path, "isFile"),
  list: (folder) => fs.readdirSync(folder).sort(),
  join: (...parts) => join(...parts),
  writeText(path, text) {
    fs.mkdirSync(dirname(path), { recursive: true });
    fs.writeFileSync(path, text);
  },
  makeFolder: (path) => void fs.mkdirSync(path, { recursive: true }),
  move: (from, to) => fs.renameSync(from, to),
  remove: (path) => fs.rmSync(path, { force: true }),
  link(target, path) {
    fs.rmSync(path, { force: true });
    try {
      fs.symlinkSync(relative(dirname(path), target), path);
    } catch {
      fs.copyFileSync(target, path);
    }
  },
  defaultHubCache() {
    const { HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME } = process.env;
    return HF_HUB_CACHE ?? join(HF_HOME ?? join(XDG_CACHE_HOME ?? join(homedir(), ".cache"), "huggingface"), "hub");
  },
};
