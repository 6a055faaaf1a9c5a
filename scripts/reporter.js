/** How `npm test` shows node's test runner: a line for each file as it ends, failures in full at the end, then the counts for scripts/test.js. */
import { relative } from "node:path";
import { root } from "./install.js";

const line = (file, { passed, failed, skipped, reasons }, seconds) =>
  `${failed ? "✖" : "✔"} ${relative(root, file)}  ${passed} passed${failed ? `, ${failed} failed` : ""}${skipped ? `, ${skipped} skipped` : ""}  ${seconds.toFixed(1)} s\n` +
  reasons.map((reason) => `    skipped ${reason}\n`).join("");

export default async function* report(events) {
  const total = { passed: 0, failed: 0, skipped: 0 };
  const failures = [];
  let file, counts, milliseconds;
  for await (const { type, data } of events) {
    if (type === "test:stdout" || type === "test:stderr") yield data.message;
    if (type !== "test:pass" && type !== "test:fail") continue;
    // Results of a file come together, whatever runs at the same time.
    if (data.file !== file) {
      if (counts) yield line(file, counts, milliseconds / 1000);
      file = data.file;
      counts = { passed: 0, failed: 0, skipped: 0, reasons: [] };
      milliseconds = 0;
    }
    if (data.nesting === 0) milliseconds += data.details.duration_ms;
    // A suite is counted by the tests in it, unless it failed by itself.
    if (data.details.type === "suite" && (type === "test:pass" || data.details.error.failureType === "subtestsFailed")) continue;
    const kind = type === "test:fail" ? "failed" : data.skip === undefined ? "passed" : "skipped";
    counts[kind]++;
    total[kind]++;
    if (kind === "skipped" && typeof data.skip === "string") counts.reasons.push(`${data.name}: ${data.skip}`);
    if (kind === "failed") failures.push({ file, name: data.name, error: data.details.error });
  }
  if (counts) yield line(file, counts, milliseconds / 1000);
  for (const { file, name, error } of failures) {
    const cause = error?.cause ?? error;
    yield `\n✖ ${relative(root, file ?? "")}: ${name}\n${String(cause?.stack ?? cause).replace(/^/gm, "    ")}\n`;
  }
  yield `\ncounts ${JSON.stringify(total)}\n`;
}
