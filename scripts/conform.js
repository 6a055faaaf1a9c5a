/** `npm run conform -- --backend wasm`: the conformance list over all its shapes on one backend. Arguments go through (npm run conform -- --help). */
import { spawn } from "node:child_process";
import { install, root } from "./install.js";
import { findNode } from "./node.js";

install();
spawn(findNode(), [`${root}tests/conformance/main.ts`, ...process.argv.slice(2)], { stdio: "inherit" }).on("exit", (code) => process.exit(code ?? 1));
