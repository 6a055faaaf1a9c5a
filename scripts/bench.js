/** `npm run bench [-- attention|decode|matmul|peers|batch|prefix|sampling|speculation|engine-host|overload|quality|cuda-attention|cuda-engine|cuda-page]`: measures the demo model (or what is named), one CSV row a case, appended to bench/results/<machine>.csv. Arguments go through (npm run bench -- --help). */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { install, root } from "./install.js";
import { findNode } from "./node.js";

install();
const [first = "", ...rest] = process.argv.slice(2);
const named = /^\w[\w-]*$/.test(first) && existsSync(`${root}bench/${first}.ts`);
spawn(findNode(), [`${root}bench/${named ? first : "main"}.ts`, ...(named ? rest : process.argv.slice(2))], { stdio: "inherit" }).on("exit", (code) => process.exit(code ?? 1));
