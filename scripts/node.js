/** Where Node 24 or newer is: this process itself, or the platform package that the checkout brings. Plain JavaScript that Node 20 runs. */
import { existsSync } from "node:fs";
import { root } from "./install.js";

export const minimum = 24;

export function findNode() {
  if (Number(process.versions.node.split(".")[0]) >= minimum) return process.execPath;
  const exe = process.platform === "win32" ? "node.exe" : "bin/node";
  for (const name of [`node-${process.platform}-${process.arch}`, `node-bin-${process.platform}-${process.arch}`, `node-win-${process.arch}`]) {
    const path = `${root}node_modules/${name}/${exe}`;
    if (existsSync(path)) return path;
  }
  console.error(`Tessera needs Node ${minimum} or newer; this is ${process.version}, and the checkout brings none for ${process.platform}-${process.arch}. Install one from nodejs.org.`);
  process.exit(1);
}
