/**
 * `npm run kernels`: writes the snapshots of emitted kernels again and, where CUDA's compiler is installed, what its kernels take; look at git diff
 * afterwards. With TESSERA_LONG=1 also what those of the whole conformance list take, which compiles for a quarter of an hour.
 */
import { spawnSync } from "node:child_process";
import { install, root } from "./install.js";
import { findNode } from "./node.js";

install();
const files = ["snapshots", "cuda-compile"].map((name) => `${root}tests/kernels/${name}.test.ts`);
const { status } = spawnSync(findNode(), ["--test", ...files], { stdio: "inherit", env: { ...process.env, TESSERA_WRITE_KERNELS: "1" } });
process.exit(status ?? 1);
