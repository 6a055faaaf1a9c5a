/** `npm run kernels`: writes the snapshots of emitted kernels again; look at git diff afterwards. */
import { spawnSync } from "node:child_process";
import { install, root } from "./install.js";
import { findNode } from "./node.js";

install();
const { status } = spawnSync(findNode(), ["--test", `${root}tests/kernels/snapshots.test.ts`], { stdio: "inherit", env: { ...process.env, TESSERA_WRITE_KERNELS: "1" } });
process.exit(status ?? 1);
