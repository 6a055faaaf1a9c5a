/**
 * Before `npm pack` and `npm publish`: compiles src/ to dist/, where the texts of CUDA kernels are copied to as they are. Package.json's "imports" point to the TypeScript sources, which Node runs
 * as they are everywhere but inside node_modules; dist/ gets a package.json of its own in which they point to what was compiled.
 */
import { spawnSync } from "node:child_process";
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { install, root } from "./install.js";

install();
rmSync(`${root}dist`, { recursive: true, force: true });
const { status } = spawnSync(process.execPath, [`${root}node_modules/typescript/bin/tsc`, "-p", `${root}tsconfig.build.json`], { stdio: "inherit" });
if (status !== 0) process.exit(status ?? 1);
cpSync(`${root}src/backend/cuda/kernels`, `${root}dist/backend/cuda/kernels`, { recursive: true });
const { type, imports, sideEffects } = JSON.parse(readFileSync(`${root}package.json`, "utf8"));
const compiled = JSON.parse(JSON.stringify(imports).replaceAll("./src/", "./").replaceAll('.ts"', '.js"'));
writeFileSync(`${root}dist/package.json`, `${JSON.stringify({ type, sideEffects, imports: compiled }, undefined, 2)}\n`);
