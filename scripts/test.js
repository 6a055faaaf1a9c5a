/**
 * `npm test`: installs what is missing, then types, lint and every test; ends with "N passed, N failed".
 * With --long, tests also run their long variants (TESSERA_LONG=1). Names of files after it run only those.
 */
import { spawn } from "node:child_process";
import { availableParallelism } from "node:os";
import { install, root } from "./install.js";
import { findNode } from "./node.js";

install();
const args = process.argv.slice(2);
const long = args.includes("--long");
const named = args.filter((a) => !a.startsWith("--"));
const node = findNode();

/** Runs a command in the checkout; gives its exit code and all it printed. */
function run(command, commandArgs, echo) {
  return new Promise((resolve) => {
    const child = spawn(command, commandArgs, { cwd: root, env: { ...process.env, ...(long ? { TESSERA_LONG: "1" } : {}) }, stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (data) => {
        text += data;
        if (echo) process.stdout.write(data);
      });
    }
    child.on("exit", (code) => resolve({ code, text }));
  });
}

const counts = { pass: 0, fail: 0, skipped: 0 };
async function check(name, commandArgs) {
  const { code, text } = await run(node, commandArgs, false);
  console.log(`${code === 0 ? "✔" : "✖"} ${name}${code === 0 ? "" : `\n${text}`}`);
  counts[code === 0 ? "pass" : "fail"]++;
}

if (named.length === 0) {
  await check("types: tsc", ["node_modules/typescript/bin/tsc", "--noEmit"]);
  await check("lint: oxlint", ["node_modules/oxlint/bin/oxlint"]);
}
const files = named.length > 0 ? named : ["src/**/*.test.ts", "tests/**/*.test.ts"];
const { code, text } = await run(node, ["--test", `--test-concurrency=${availableParallelism()}`, "--test-timeout=240000", "--test-reporter=spec", ...files], true);
const total = (word) => Number(new RegExp(`^ℹ ${word} (\\d+)`, "m").exec(text)?.[1] ?? NaN);
counts.pass += total("pass");
counts.fail += total("fail") + total("cancelled");
counts.skipped += total("skipped");
if (Number.isNaN(counts.pass + counts.fail)) {
  console.log("the test runner did not finish");
  counts.pass = Number.isNaN(counts.pass) ? 0 : counts.pass;
  counts.fail = 1;
} else if (code !== 0 && counts.fail === 0) counts.fail = 1;
console.log(`\n${counts.pass} passed, ${counts.fail} failed${counts.skipped ? `, ${counts.skipped} skipped` : ""}`);
process.exit(counts.fail === 0 ? 0 : 1);
