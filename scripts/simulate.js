/** `npm run simulate [-- --machine waited|ahead --seed N]`: the engine's core in simulation, seed after seed or one seed told operation by operation (docs/simulator.md). */
import { spawn } from "node:child_process";
import { install, root } from "./install.js";
import { findNode } from "./node.js";

install();
spawn(findNode(), [`${root}tests/simulator/main.ts`, ...process.argv.slice(2)], { stdio: "inherit" }).on("exit", (code) => process.exit(code ?? 1));
