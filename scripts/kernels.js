/**
 * `npm run kernels`: writes the snapshots of emitted kernels again and, where CUDA's compiler is installed, what its kernels take; look at git diff
 * afterwards. With TESSERA_LONG=1 also what those of the whole conformance list take, which compiles for a quarter of an hour.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { install, root } from "./install.js";
import { findNode } from "./node.js";

install();
/** The compiler that the gate has fetched, if it has: what it compares with should be written by it. */
const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "tessera");
const fetched = (existsSync(cache) ? readdirSync(cache) : []).filter((name) => name.startsWith("nvrtc-")).map((name) => join(cache, name, "nvidia/cu13/lib")).filter((folder) => existsSync(folder)).at(-1);
const files = ["snapshots", "cuda-compile"].map((name) => `${root}tests/kernels/${name}.test.ts`);
const { status } = spawnSync(findNode(), ["--test", ...files], { stdio: "inherit", env: { ...(fetched && { TESSERA_CUDA_PATH: fetched }), ...process.env, TESSERA_WRITE_KERNELS: "1" } });
process.exit(status ?? 1);
