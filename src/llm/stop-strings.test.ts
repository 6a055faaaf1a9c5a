import assert from "node:assert/strict";
import { test } from "node:test";
import { stream } from "../core/random.ts";
import { StopStrings } from "./stop-strings.ts";

/** What a reader of the finished text would do: the match that ends first, but after `from`, of those the longest. */
function slow(text: string, stops: readonly string[], keep: boolean, from: number): { text: string; stop: string | undefined } {
  for (let end = from + 1; end <= text.length; end++) {
    const found = stops.filter((stop) => text.slice(0, end).endsWith(stop)).sort((a, b) => b.length - a.length)[0];
    if (found) return { text: text.slice(0, keep ? end : end - found.length), stop: found };
  }
  return { text, stop: undefined };
}

function scan(pieces: readonly string[], stops: readonly string[], keep: boolean, numSpared: number): { text: string; stop: string | undefined } {
  const scanner = new StopStrings(stops, keep);
  let text = "";
  for (const [i, piece] of pieces.entries()) {
    const result = scanner.push(piece, i >= numSpared);
    text += result.text;
    if (result.stop !== undefined) return { text, stop: result.stop };
  }
  return { text: text + scanner.flush(), stop: undefined };
}

test("any stop strings over any cut of any text give what a scan of the whole text gives, but for those that end in its first, spared pieces", () => {
  const random = stream(1);
  let spared = 0;
  const word = (length: number) => Array.from({ length }, () => "ab"[Math.floor(random() * 2)]).join("");
  for (let round = 0; round < 3000; round++) {
    const stops = Array.from({ length: 1 + Math.floor(random() * 3) }, () => word(1 + Math.floor(random() * 6)));
    const pieces = Array.from({ length: Math.floor(random() * 8) }, () => word(Math.floor(random() * 5)));
    const keep = random() < 0.5;
    const numSpared = random() < 0.5 ? 0 : Math.floor(random() * 5);
    const expected = slow(pieces.join(""), stops, keep, pieces.slice(0, numSpared).join("").length);
    assert.deepEqual(scan(pieces, stops, keep, numSpared), expected, JSON.stringify({ stops, pieces, keep, numSpared }));
    if (expected.stop !== slow(pieces.join(""), stops, keep, 0).stop) spared++;
  }
  assert.ok(spared > 100, `${spared} outputs went on past a stop string`);
});

test("text that cannot start a stop string is let out at once", () => {
  const scanner = new StopStrings(["</end>"]);
  assert.deepEqual(scanner.push("hello <"), { text: "hello " });
  assert.deepEqual(scanner.push("b"), { text: "<b" });
  assert.deepEqual(scanner.push("x</en"), { text: "x" });
  assert.equal(scanner.flush(), "</en");
});

test("a long stop string over a long text that almost matches everywhere takes linear time", () => {
  const scanner = new StopStrings(Array.from({ length: 64 }, (_, i) => "a".repeat(1000) + String(i)));
  const started = performance.now();
  for (let i = 0; i < 200; i++) scanner.push("a".repeat(100));
  assert.ok(performance.now() - started < 2000);
});
