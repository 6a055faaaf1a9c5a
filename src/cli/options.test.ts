import assert from "node:assert/strict";
import { test } from "node:test";
import { loadOptions, parseBytes, parseInteger, parseNumber, samplingParams } from "./options.ts";

test("sizes read as vLLM reads them: capital units are binary, small ones decimal", () => {
  for (const [text, bytes] of [["0", 0], ["1000", 1000], ["64M", 64 * 2 ** 20], ["64m", 64e6], ["1.5G", 1.5 * 2 ** 30], ["1GiB", 2 ** 30], ["2k", 2000]] as const) assert.equal(parseBytes(text), bytes);
  for (const text of ["", "-1", "1T", "M", "1e6", "64 M"]) assert.throws(() => parseBytes(text), /bytes/);
});

test("numbers are numbers to the last character", () => {
  assert.equal(parseInteger("-5"), -5);
  for (const text of ["", "5x", "1.5", "1e3"]) assert.throws(() => parseInteger(text), /integer/);
  assert.equal(parseNumber("0.5"), 0.5);
  for (const text of ["", " ", "x", "0.5x", "NaN"]) assert.throws(() => parseNumber(text), /number/);
});

test("flags that were not given set nothing, so that the library's own defaults hold", () => {
  assert.deepEqual(loadOptions({}, {}), {});
  assert.deepEqual(loadOptions({ kvCacheMemoryBytes: 5, maxModelLen: 7 }, {}), { kvCacheBytes: 5, maxModelLen: 7 });
  assert.deepEqual(loadOptions({ hfToken: "hf_x" }, { HF_ENDPOINT: "http://hub" }), { hub: { token: "hf_x", hubUrl: "http://hub" } });
  assert.deepEqual(samplingParams({ temperature: 0, stop: ["x"] }), { temperature: 0, stop: ["x"] });
});
