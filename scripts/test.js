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
        if (echo) process.stdout.write(String(data).replace(/^\n?counts \{.*\}\n/m, ""));
      });
    }
    child.on("exit", (code) => resolve({ code, text }));
  });
}

const counts = { passed: 0, failed: 0, skipped: 0 };
const broken = [];
async function check(name, commandArgs) {
  const { code, text } = await run(node, commandArgs, false);
  console.log(`${code === 0 ? "✔" : "✖"} ${name}`);
  counts[code === 0 ? "passed" : "failed"]++;
  if (code !== 0) broken.push(`\n✖ ${name}\n${text}`);
}

if (named.length === 0) {
  await check("types: tsc", ["node_modules/typescript/bin/tsc", "--noEmit"]);
  await check("lint: oxlint", ["node_modules/oxlint/bin/oxlint"]);
}
const files = named.length > 0 ? named : ["src/**/*.test.ts", "tests/**/*.test.ts"];
const { code, text } = await run(node, ["--test", `--test-concurrency=${availableParallelism()}`, `--test-timeout=${long ? 1_200_000 : 240_000}`, `--test-reporter=${root}scripts/reporter.js`, ...files], true);
const found = /^counts (\{.*\})$/m.exec(text)?.[1];
for (const [kind, n] of Object.entries(found ? JSON.parse(found) : {})) counts[kind] += n;
if (!found || (code !== 0 && counts.failed === 0)) {
  broken.push(`\n✖ the test runner ended with ${code} and without a result`);
  counts.failed++;
}
for (const failure of broken) console.log(failure);
console.log(`\n${counts.passed} passed, ${counts.failed} failed${counts.skipped ? `, ${counts.skipped} skipped` : ""}`);
process.exit(counts.failed === 0 ? 0 : 1);
