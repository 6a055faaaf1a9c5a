/** The peers of bench/peers: PyTorch in a process of its own, and the rows that it writes. */
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** A line of a peer's file: what all have, and what differs by script. */
export type PeerRow = { readonly case: string; readonly peer: string; readonly error?: string | null } & Readonly<Record<string, unknown>>;

/**
 * Rows of a script of bench/peers, whose first is of the machine. What it prints is printed.
 * @throws where `python` has no torch, or the script ends before its first row
 */
export async function runPeers(python: string, script: "attention.py" | "decode_loop.py", args: readonly string[]): Promise<PeerRow[]> {
  const has = await exitOf(python, ["-c", "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"]);
  if (has !== 0) throw new Error(`the peers are not there: ${has === undefined ? `no program ${python}` : `${python} has no torch`} (--python names another)`);
  const folder = mkdtempSync(join(tmpdir(), "peers-"));
  try {
    const file = join(folder, "rows.jsonl");
    const code = await exitOf(python, [fileURLToPath(new URL(`../peers/${script}`, import.meta.url)), ...args, "--json", file]);
    let text: string;
    try {
      text = readFileSync(file, "utf8");
    } catch {
      throw new Error(`${script} ended with ${code} before its first row`);
    }
    return text.split("\n").filter((line) => line !== "").map((line) => JSON.parse(line) as PeerRow);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** undefined: there is no such program. */
function exitOf(program: string, args: readonly string[]): Promise<number | null | undefined> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ["ignore", "inherit", "inherit"] });
    child.on("error", (error: NodeJS.ErrnoException) => (error.code === "ENOENT" ? resolve(undefined) : reject(error)));
    child.on("exit", resolve);
  });
}
