import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";

test("docs/attention.md shows what the pipeline example prints, up to the generated code", () => {
  const printed = execFileSync(process.execPath, ["examples/attention-pipeline.ts"], { encoding: "utf8", cwd: new URL("..", import.meta.url) });
  const stages = printed.slice(0, printed.indexOf("--- emit"));
  assert.match(stages, /--- plan/);
  const page = readFileSync(new URL("../docs/attention.md", import.meta.url), "utf8");
  assert.ok(page.includes(stages), "docs/attention.md differs from `node examples/attention-pipeline.ts`; paste its output there");
});
