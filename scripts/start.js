/** `npm start`: installs what is missing, then serves the demo model. Flags go through: npm start -- --port 9000 */
import { spawn } from "node:child_process";
import { install, root } from "./install.js";

install();
const child = spawn(process.execPath, [`${root}bin/tessera.js`, "serve", ...process.argv.slice(2)], { stdio: "inherit" });
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => child.kill(signal));
// npm runs this through a shell that passes no signal on: when it is gone, so is whoever wanted the server. Told once: a second signal stops it at once.
const parent = process.ppid;
const looking = setInterval(() => {
  if (process.ppid === parent) return;
  clearInterval(looking);
  child.kill("SIGTERM");
}, 200).unref();
child.on("exit", (code, signal) => process.exit(code ?? (signal ? 1 : 0)));
