/** `npm run gallery`: draws the pictures of docs/masks again; look at git diff afterwards. */
import { spawnSync } from "node:child_process";
import { install, root } from "./install.js";
import { findNode } from "./node.js";

install();
const { status } = spawnSync(findNode(), ["--test", `${root}tests/attention/gallery.test.ts`], { stdio: "inherit", env: { ...process.env, TESSERA_WRITE_GALLERY: "1" } });
process.exit(status ?? 1);
