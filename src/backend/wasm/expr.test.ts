import assert from "node:assert/strict";
import { test } from "node:test";
import { binary, constant, type Expr, index, load, score, select } from "../../ir/expr.ts";
import { attentionModule } from "./attention.ts";

const x = load("f32", "t", [index("kv")]), one = constant("f32", 1);

/** Bytes of the kernel whose score mod adds what `refine` makes of a loaded value in so many steps. */
function bytesOf(steps: number, refine: (value: Expr, n: number) => Expr): number {
  const value = Array.from({ length: steps }, (_, n) => n).reduce<Expr>(refine, x);
  const plan = {
    key: "", scoreMod: binary("add", score, value), maskMod: undefined, captures: [{ kind: "table", name: "t", type: "f32", rank: 1 }],
    headDimQk: 4, headDimV: 4, numQueryHeads: 1, numKvHeads: 1, scale: 1, queryTile: 4, kvTile: 8,
  } as const;
  return attentionModule(plan).bytes().length;
}

for (const [name, refine] of Object.entries({
  "its own size": (value: Expr, n: number) => select(binary("gt", value, constant("f32", n)), binary("add", value, one), binary("sub", value, one)),
  "something else": (value: Expr, n: number) => select(binary("gt", index("q"), constant("i32", n)), binary("add", value, one), value),
})) test(`a loaded value refined by one choice after another by ${name} is written once for each, not once for each way through`, () => {
  const [four, eight, twelve] = [bytesOf(4, refine), bytesOf(8, refine), bytesOf(12, refine)];
  assert.ok(twelve - eight < 1.5 * (eight - four), `${four}, ${eight} and ${twelve} bytes for 4, 8 and 12 choices`);
});
