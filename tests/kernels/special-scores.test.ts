/** Scores that are no ordinary numbers, and lengths and tiles at their ends: the wasm kernel is NaN, zero or -Infinity where the reference is. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Backend } from "../../src/backend/backend.ts";
import { open as openReference } from "../../src/backend/reference/open.ts";
import { open as openWasm } from "../../src/backend/wasm/open.ts";
import { binary, constant, type Expr, index, score, select } from "../../src/ir/expr.ts";
import { attend, type Case } from "./attention-case.ts";

let reference: Backend, wasm: Backend;
before(async () => {
  reference = await openReference();
  wasm = await openWasm({ threads: 2 });
});
after(() => wasm.close());

const kv = index("kv"), q = index("q");
const real = (x: number): Expr => constant("f32", x);
const at = (n: number, x: number, otherwise: Expr = score): Expr => select(binary("eq", kv, constant("i32", n)), real(x), otherwise);

async function same(c: Case, what: string): Promise<void> {
  const [expected, actual] = [await attend(reference, c), await attend(wasm, c)];
  for (const part of ["out", "lse"] as const) actual[part].forEach((x, i) => {
    const e = expected[part][i]!;
    assert.ok(Object.is(x, e) || x === e || Math.abs(x - e) <= 2e-6 + 1e-5 * Math.abs(e), `${what}: ${part}[${i}] is ${x}, the reference ${e}`);
  });
}

const shape = { numQueryHeads: 3, numKvHeads: 1, headDimQk: 3, headDimV: 5, pageSize: 3, kvTile: 8, seed: 4 };
const sequences = [{ rows: 5, before: 0 }, { rows: 3, before: 20 }, { rows: 1, before: 7 }];

for (const [name, scoreMod] of Object.entries({
  "one NaN": at(2, NaN),
  "one NaN among -Infinity": at(2, NaN, real(-Infinity)),
  "one Infinity": at(2, Infinity),
  "one -Infinity": at(2, -Infinity),
  "all -Infinity": real(-Infinity),
  "all Infinity": real(Infinity),
  "a first block of -Infinity": select(binary("lt", kv, constant("i32", 8)), real(-Infinity), score),
  "the largest and the smallest float": at(2, 3.4028234663852886e38, at(0, -3.4028234663852886e38)),
  "the smallest float alone": real(-3.4028234663852886e38),
  "NaN only in the last block": at(22, NaN),
  "huge steps from block to block": binary("mul", score, select(binary("ge", kv, constant("i32", 16)), real(1e30), real(1))),
})) test(`scores with ${name} give what the reference gives`, () => same({ ...shape, scoreMod, sequences }, name));

test("a NaN score of a masked key is nothing, and of an allowed one is the row's", async () => {
  const c: Case = { ...shape, scoreMod: at(2, NaN), maskMod: binary("ge", q, kv), sequences };
  const { out } = await attend(wasm, c);
  assert.ok(out.subarray(0, 2 * 15).every((x) => Number.isFinite(x)) && out.subarray(2 * 15, 5 * 15).every((x) => Number.isNaN(x)));
  await same(c, "masked");
});

test("sequences without rows or keys, heads of 1 to 3 elements and pages of one token are the reference's", async () => {
  for (const [headDimQk, headDimV] of [[1, 1], [2, 3], [3, 2], [4, 1]] as const) for (const group of [1, 3, 7]) {
    const c: Case = { ...shape, headDimQk, headDimV, numQueryHeads: 2 * group, numKvHeads: 2, pageSize: 1, kvTile: 4, queryTile: 3, maskMod: binary("gt", q, kv), sequences: [{ rows: 0, before: 0 }, { rows: 1, before: 0 }, { rows: 4, before: 4 }, { rows: 0, before: 5 }] };
    await same(c, JSON.stringify([headDimQk, headDimV, group]));
  }
});

test("tiles that the kernel can not walk are refused", async () => {
  for (const wrong of [{ kvTile: 6 }, { kvTile: 0 }, { queryTile: 0 }, { numQueryHeads: 3, numKvHeads: 2 }]) {
    await assert.rejects(attend(wasm, { ...shape, ...wrong, sequences }), /an attention plan/);
  }
});
