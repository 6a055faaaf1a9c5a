/** `npm run mutants [-- --only NAME]`: plants faults in the engine, one at a time, and says which test finds each (docs/simulator.md). */
import { spawn } from "node:child_process";
import { install, root } from "./install.js";
import { findNode } from "./node.js";

install();
spawn(findNode(), [`${root}tests/mutants/main.ts`, ...process.argv.slice(2)], { stdio: "inherit" }).on("exit", (code) => process.exit(code ?? 1));
