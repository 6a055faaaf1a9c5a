/**
 * Makes sure that the checkout's packages are installed, and finds the Node that runs Tessera's sources.
 * Plain JavaScript that Node 20 runs: it is what runs before anything newer is there.
 */
import { spawnSync } from "node:child_process";
import { existsSync, lstatSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("..", import.meta.url));

/** Installs what package-lock.json says, unless that very lockfile is installed already. Never into another checkout's packages: npm would empty them first. */
export function install() {
  const lock = createHash("sha256").update(readFileSync(`${root}package-lock.json`)).digest("hex");
  const stamp = `${root}node_modules/.installed`;
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === lock) return;
  const modules = `${root}node_modules`;
  if (lstatSync(modules, { throwIfNoEntry: false })?.isSymbolicLink()) {
    console.error(`${modules} is a link to ${existsSync(modules) ? realpathSync(modules) : "a folder that is not there"}, which another package-lock.json was installed to. Run npm ci there, or remove the link to install here.`);
    process.exit(1);
  }
  console.error("Installing packages (Node 26 among them, about 60 MB to download) ...");
  const npm = process.platform === "win32" ? "npm.cmd" : "npm";
  const { status } = spawnSync(npm, ["ci", "--no-audit", "--no-fund", "--loglevel=error"], { cwd: root, stdio: "inherit", shell: process.platform === "win32" });
  if (status !== 0) {
    console.error("npm ci failed: see above. Is the npm registry reachable? Then run the same command again.");
    process.exit(status ?? 1);
  }
  writeFileSync(stamp, lock);
}
