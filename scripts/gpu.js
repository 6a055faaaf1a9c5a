/** `npm run gpu -- device|ops|sample [--dry]`: the kernels of the fixed ops on this machine's GPU, checked and timed; dry: as far as that goes without one. */
import { spawn } from "node:child_process";
import { install, root } from "./install.js";
import { findNode } from "./node.js";

install();
// A kernel that never ends holds whoever waits for it, so the whole process goes.
const child = spawn(findNode(), [`${root}tests/gpu/main.ts`, ...process.argv.slice(2)], { stdio: "inherit", timeout: 600_000, killSignal: "SIGKILL" });
child.on("exit", (code, signal) => {
  if (signal !== null) console.log(`FAIL ended by ${signal}`);
  process.exit(code ?? 1);
});
