/** The conformance list, one shape of each kind, on every backend that is here; `npm run conform` runs it over all shapes. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { Backend } from "../../src/backend/backend.ts";
import { open as openReference } from "../../src/backend/reference/open.ts";
import { open as openWasm } from "../../src/backend/wasm/open.ts";
import { maskMod, scoreMod } from "../../src/attention/mod.ts";
import { causal } from "../../src/attention/mods/causal.ts";
import { geometryOf, type Mods, sequence, type Shape } from "./case.ts";
import { agreements, cases, composites } from "./cases/index.ts";
import { classifyAll } from "./classify.ts";
import { answers, judge, makeData } from "./oracle.ts";
import { run, type RunOptions, type Verdict } from "./run.ts";

const backends: Readonly<Record<string, { readonly open: () => Promise<Backend>; readonly shapes: RunOptions["shapes"] }>> = {
  wasm: { open: () => openWasm({ threads: 2 }), shapes: "quick" }, reference: { open: openReference, shapes: "paged" },
};

for (const [name, { open, shapes }] of Object.entries(backends)) {
  test(`${name} conforms to the list: every mask, score, row and layout case`, async (t) => {
    const backend = await open(), found: Verdict[] = [];
    try {
      for await (const verdict of run(backend, { shapes, host: name === "wasm" })) found.push(verdict);
    } finally {
      await backend.close();
    }
    const failures = found.filter((v) => v.status === "failed").map((v) => `${v.id} ${v.title}, ${v.trial}: ${v.note}`);
    assert.deepEqual(failures, []);
    const skipped = found.filter((v) => v.status === "skipped");
    assert.deepEqual(skipped, []);
    assert.ok(found.length >= cases.length + composites.length + agreements.length, `${found.length} verdicts for ${cases.length} cases`);
    t.diagnostic(`${found.length} trials`);
  });
}

test("the list has every M, S, R and W of the design page that is not refused", () => {
  const have = new Set([...cases, ...composites, ...agreements].map((c) => c.id));
  const range = (letter: string, from: number, to: number): string[] => Array.from({ length: to - from + 1 }, (_, i) => `${letter}${from + i}`);
  const wanted = [...range("M", 1, 45), "M1'", "M4'", "M6'", "M31'", ...range("S", 0, 24), "S5'", "R1", "R2", "R3", "R5", "R6", "R7", "R8", ...range("W", 1, 6)];
  assert.deepEqual(wanted.filter((id) => !have.has(id)), []);
});

describe("the judge", () => {
  let backend: Backend;
  before(async () => { backend = await openReference(); });
  after(() => backend.close());
  const shape: Shape = { heads: 2, kvHeads: 1, dim: 8, valueDim: 8, sequences: [sequence(0, 20, 40)] };

  test("finds an error of one part in 10,000, one wrong element, a NaN, and a row that should be empty", () => {
    const pairs = Array.from({ length: 1000 }, (_, i) => [Math.sin(i), Math.fround(Math.sin(i)), Math.fround(Math.sin(i))] as [number, number, number]);
    assert.equal(judge(pairs, "out", 10).problem, undefined);
    assert.match(judge(pairs.map(([g, s, x]) => [g, s, x * 1.0001] as const), "out", 10).problem!, /mean error .* times what the type costs/);
    assert.match(judge([...pairs, [0.5, 0.5, 0.50001]], "out", 10).problem!, /largest error 1.00e-5 is over/);
    assert.match(judge([...pairs, [0.5, 0.5, NaN]], "out", 10).problem!, /out is NaN where it must be 0.5/);
    assert.match(judge([...pairs, [-Infinity, -Infinity, -1e30]], "lse", 10).problem!, /lse is -1e\+30 where it must be -Infinity/);
  });

  test("the oracle is attention: one key gives its value, equal scores give the mean", () => {
    const rowsOf = (mods: Mods): ReturnType<typeof answers> => answers(shape, mods, data);
    const data = makeData(shape, {});
    const own = rowsOf({ maskMod: maskMod((_b, _h, q, kv) => q === kv) });
    own.forEach((r) => assert.deepEqual([...r.gold.out], [...data.value[0]!.subarray((20 + r.row) * 8, (21 + r.row) * 8)]));
    const level = rowsOf({ scoreMod: scoreMod((_score, b) => b) })[0]!;
    assert.ok(Math.abs(level.gold.lse - Math.log(40)) < 1e-12);
    assert.ok(Math.abs(level.gold.out[3]! - Array.from({ length: 40 }, (_, t) => data.value[0]![t * 8 + 3]!).reduce((a, b) => a + b) / 40) < 1e-12);
    assert.ok(rowsOf({ maskMod: maskMod((_b, _h, _q, kv) => kv < 0) }).every((r) => r.empty && r.gold.lse === -Infinity));
  });

  test("a classification that says too much is caught", () => {
    const wrong = Object.assign((_b: number, _h: number, q: number, kv: number) => q > kv, causal);
    assert.match(classifyAll(wrong, geometryOf(shape), [[8, 8]]).problem!, /the function says false at/);
  });
});
