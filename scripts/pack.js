/**
 * `npm pack` and `npm publish`: compiles src/ to dist/, and lets package.json's "imports" point there while the tarball is made.
 * In a checkout they point to the TypeScript sources, which Node runs as they are everywhere but inside node_modules.
 */
import { spawnSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { install, root } from "./install.js";

const file = `${root}package.json`;
const text = readFileSync(file, "utf8");
const [block] = /"imports": \{[\s\S]*?\n  \}/.exec(text);

if (process.argv[2] === "before") {
  install();
  rmSync(`${root}dist`, { recursive: true, force: true });
  const { status } = spawnSync(process.execPath, [`${root}node_modules/typescript/bin/tsc`, "-p", `${root}tsconfig.build.json`], { stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
  writeFileSync(file, text.replace(block, block.replaceAll("./src/", "./dist/").replaceAll('.ts"', '.js"')));
} else {
  writeFileSync(file, text.replace(block, block.replaceAll("./dist/", "./src/").replaceAll('.js"', '.ts"')));
}
