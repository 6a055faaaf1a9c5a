/** `npm run conform -- --backend wasm`: the conformance list on a backend, over all shapes of the list. Prints a table and one line of counts. */
import { parseArgs } from "node:util";
import { type Device, devices, openBackend } from "../../src/backend/registry.ts";
import { run, type Verdict } from "./run.ts";

const { values } = parseArgs({ options: {
  backend: { type: "string", default: "wasm" }, only: { type: "string" }, quick: { type: "boolean", default: false }, verbose: { type: "boolean", default: false }, compute: { type: "string" }, deterministic: { type: "boolean", default: false }, share: { type: "string", default: "0/1" }, help: { type: "boolean", default: false },
} });
if (values.help) {
  console.log("npm run conform -- [--backend wasm|reference|...] [--only M12,S8] [--compute bf16|f16: the tensors' type, on a backend of 16 bits] [--deterministic] [--quick: one shape of each kind] [--share 3/16: the trials of the fourth of sixteen processes] [--verbose: a line for each trial]");
  process.exit(0);
}
/** Backends go by their own names here; `--device` calls wasm "cpu". */
const device = values.backend === "wasm" ? "cpu" : values.backend;
if (!(devices as readonly string[]).includes(device)) {
  console.error(`backend ${JSON.stringify(values.backend)} is unknown; use one of ${devices.map((d) => (d === "cpu" ? "wasm" : d)).join(", ")}`);
  process.exit(2);
}
const backend = await openBackend(device as Device, { deterministic: values.deterministic });
const { compute = backend.caps.activationBits === 16 ? "bf16" : undefined } = values;
if (compute !== undefined && compute !== "bf16" && compute !== "f16") throw new Error(`--compute is ${compute}; use bf16 or f16`);
const [part = NaN, of = NaN] = /^\d+\/\d+$/.test(values.share) ? values.share.split("/").map(Number) : [];
if (!(part < of)) throw new Error(`--share is ${values.share}; use part/of with part from 0 to of - 1, like 3/16`);
const counts = { passed: 0, failed: 0, skipped: 0 };
/** Trials of one case, in order. */
let group: Verdict[] = [];
const flush = (): void => {
  const first = group[0];
  if (!first) return;
  const of = (status: Verdict["status"]): Verdict[] => group.filter((v) => v.status === status);
  const worst = Math.max(0, ...of("passed").map((v) => v.ratio ?? 0));
  const loose = group.flatMap((v) => v.loose ?? []);
  const columns = [first.id.padEnd(5), first.title.slice(0, 70).padEnd(70), `${of("passed").length}/${group.length}`.padStart(6), worst ? worst.toFixed(2).padStart(6) : "     -"];
  console.log(`${of("failed").length > 0 ? "✖" : of("passed").length > 0 ? "✔" : "-"} ${columns.join("  ")}${loose.length > 0 ? `  open without need ${loose.join(", ")}` : ""}`);
  for (const v of group) if (v.status === "failed" || values.verbose) console.log(`    ${v.trial}: ${v.status}${v.note && ` (${v.note})`}`);
  const reasons = new Set(of("skipped").map((v) => `${v.trial}: ${v.note}`));
  if (!values.verbose) for (const reason of reasons) console.log(`    skipped ${reason}`);
  group = [];
};

console.log(`${backend.name}: ${backend.description}\n  id     case${" ".repeat(68)}passed   worst (times what ${compute ?? "f32"} costs)`);
try {
  for await (const verdict of run(backend, { shapes: values.quick ? "quick" : "all", compute, share: { part, of }, only: values.only ? new Set(values.only.split(",")) : undefined })) {
    if (group[0] && (group[0].id !== verdict.id || group[0].title !== verdict.title)) flush();
    group.push(verdict);
    counts[verdict.status]++;
  }
  flush();
} finally {
  await backend.close();
}
console.log(`\n${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exitCode = counts.failed === 0 && (counts.passed > 0 || of > 1) ? 0 : 1;
