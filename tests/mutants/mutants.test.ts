/** That planting works: a fault is found and named, a change that is none is not, and one that does not fit is refused. All faults: npm run mutants. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { planted } from "./fault.ts";
import { faults } from "./faults.ts";
import { hunt, simulator } from "./hunt.ts";

test("a fault is found by the simulator, with the seed that shows it; what is no fault is not", async () => {
  const harmless = { name: "harmless", file: "src/engine/prefix-cache.ts", find: "Math.floor((sequence.numSettled - sequence.numBehind) /", replace: "Math.floor((0 + sequence.numSettled - sequence.numBehind) /", why: "nothing goes wrong by it" };
  const sent = [simulator(2000, 0)];
  const [found, none] = await Promise.all([hunt(faults.find(({ name }) => name === "page-kept-unsettled")!, sent), hunt(harmless, sent)]);
  assert.match(found.killedBy ?? "", /^simulator, 4000 operations: seed \d+ of the \w+ machine: /);
  assert.equal(none.killedBy, undefined);
});

test("every fault fits its file as it is now, and one that does not is refused", () => {
  for (const fault of faults) planted(fault, readFileSync(new URL(`../../${fault.file}`, import.meta.url), "utf8"));
  const fault = { name: "x", file: "f", find: "a", replace: "b", why: "" };
  assert.equal(planted(fault, "cad"), "cbd");
  assert.throws(() => planted(fault, "no such"), /stands 0 times in f/);
  assert.throws(() => planted(fault, "aa"), /stands 2 times in f/);
  assert.throws(() => planted({ ...fault, replace: "a" }, "a"), /changes nothing/);
});
