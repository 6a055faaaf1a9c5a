import assert from "node:assert/strict";
import { test } from "node:test";
import { createProgress } from "./progress.ts";

function record(isTTY: boolean) {
  let written = "";
  let seconds = 0;
  const progress = createProgress({ isTTY, columns: 60, write: (text) => (written += text) }, () => seconds);
  return { progress, at: (time: number) => (seconds = time), written: () => written };
}

test("a terminal gets one line that redraws itself and is cleared at the end", () => {
  const { progress, at, written } = record(true);
  progress.report("download", 0, 4 * 2 ** 20);
  at(1);
  progress.report("download", 2 * 2 ** 20, 4 * 2 ** 20);
  progress.finish();
  assert.ok(!written().includes("\n"));
  assert.match(written(), /0% download 0\.0 of 4\.0 MiB[^]*50% download 2\.0 of 4\.0 MiB/);
  assert.ok(written().endsWith("\r\x1b[2K"));
  for (const line of written().split("\r\x1b[2K")) assert.ok(line.length < 60);
});

test("elsewhere each stage starts and ends with a plain line, and more come at most every two seconds", () => {
  const { progress, at, written } = record(false);
  for (let i = 0; i <= 50; i++) {
    at(i / 10);
    progress.report(i < 45 ? "load" : "compile", i * 2 ** 20, 50 * 2 ** 20);
  }
  progress.finish();
  assert.equal(written(), "load: 0.0 of 50.0 MiB\nload: 20.0 of 50.0 MiB\nload: 40.0 of 50.0 MiB\ncompile: 45.0 of 50.0 MiB\ncompile: 50.0 of 50.0 MiB\n");
  progress.report("compile", 50 * 2 ** 20, 50 * 2 ** 20);
  assert.ok(written().endsWith("45.0 of 50.0 MiB\ncompile: 50.0 of 50.0 MiB\n"), "the end is told once");
});

test("few bytes and many have the same unit", () => {
  const { progress, written } = record(false);
  progress.report("config.json", 300, 300);
  progress.report("weights", 2 ** 21, 2 ** 22);
  assert.equal(written(), "config.json: 0.001 of 0.001 MiB\nweights: 2.0 of 4.0 MiB\n");
});
