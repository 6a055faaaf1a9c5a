/** `npm run bench`: measures the demo model, one CSV row a case, appended to bench/results/<machine>.csv. Arguments go through (npm run bench -- --help). */
import { spawn } from "node:child_process";
import { install, root } from "./install.js";
import { findNode } from "./node.js";

install();
spawn(findNode(), [`${root}bench/main.ts`, ...process.argv.slice(2)], { stdio: "inherit" }).on("exit", (code) => process.exit(code ?? 1));
