#!/usr/bin/env node
// The `tessera` command. Plain JavaScript that Node 20 runs: Tessera itself needs Node 24, so this finds one and hands over.
//
// In a Node that is new enough the command runs right here. Otherwise it runs in a child: signals and the exit code pass
// through, and the child hears when this process is gone (the channel between them closes), so that it is never left behind.
// npm starts commands through a shell that passes no signals on: when that shell is gone, this stops too.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import * as module from "node:module";
import { constants, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const minimum = 24;
const root = dirname(dirname(fileURLToPath(import.meta.url)));
const source = join(root, "src", "cli", "main.ts");
const entry = existsSync(source) ? source : join(root, "dist", "cli", "main.js");

/** Where Node keeps compiled sources from one start to the next: a third of the time to the first token. */
const compileCache = existsSync(source) ? join(root, "node_modules", ".cache", "compiled") : join(tmpdir(), "tessera-compiled");

/** The Node binary that npm's platform packages bring, in the package's own folder or one above it. */
function bundledNode() {
  const { platform, arch } = process;
  const binary = platform === "win32" ? "node.exe" : "node";
  const names = [`node-${platform}-${arch}`, `node-bin-${platform}-${arch}`, ...(platform === "win32" ? [`node-win-${arch}`] : [])];
  for (let folder = root; ; folder = dirname(folder)) {
    for (const name of names) {
      for (const path of [join(folder, "node_modules", name, "bin", binary), join(folder, "node_modules", name, binary)]) {
        if (existsSync(path)) return path;
      }
    }
    if (dirname(folder) === folder) return undefined;
  }
}

/** Calls `stop` when the shell that npm started this through has died. Without npm, outliving one's shell is the user's business. */
function watchNpm(stop) {
  if (!process.env.npm_command) return;
  const shell = process.ppid;
  const timer = setInterval(() => {
    if (process.ppid === shell) return;
    clearInterval(timer);
    stop();
  }, 200);
  timer.unref();
}

function handOver(node) {
  const child = spawn(node, [entry, ...process.argv.slice(2)], {
    stdio: ["inherit", "inherit", "inherit", "ipc"],
    env: { NODE_COMPILE_CACHE: compileCache, ...process.env, TESSERA_LAUNCHED: "1" },
  });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
  watchNpm(() => child.kill("SIGTERM"));
  child.on("error", (error) => {
    console.error(`tessera: ${node} does not start: ${error.message}`);
    process.exit(1);
  });
  child.on("exit", (code, signal) => process.exit(code ?? 128 + (constants.signals[signal] ?? 0)));
}

if (Number(process.versions.node.split(".")[0]) >= minimum) {
  watchNpm(() => process.kill(process.pid, "SIGTERM"));
  process.env.NODE_COMPILE_CACHE ??= compileCache; // for worker threads, which read it as they start
  module.enableCompileCache(process.env.NODE_COMPILE_CACHE);
  await import(pathToFileURL(entry).href);
} else {
  const node = bundledNode();
  if (node) handOver(node);
  else {
    console.error(
      `tessera: this is Node ${process.version}, and Tessera needs Node ${minimum} or newer.\n` +
      "Install one (https://nodejs.org), or in a checkout of Tessera run: npm install",
    );
    process.exit(1);
  }
}
