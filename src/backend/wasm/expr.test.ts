import assert from "node:assert/strict";
import { test } from "node:test";
import { binary, constant, type Expr, index, load, score, select } from "../../ir/expr.ts";
import { attentionModule } from "./attention.ts";

test("a loaded value that one choice after another refines is written once each time, not once for each way through", () => {
  const one = constant("f32", 1);
  const bytesOf = (choices: number): number => {
    let x: Expr = load("f32", "t", [index("kv")]);
    for (let n = 0; n < choices; n++) x = select(binary("gt", x, constant("f32", n)), binary("add", x, one), binary("sub", x, one));
    const plan = {
      key: "", scoreMod: binary("add", score, x), maskMod: undefined, captures: [{ kind: "table", name: "t", type: "f32", rank: 1 }],
      headDimQk: 4, headDimV: 4, numQueryHeads: 1, numKvHeads: 1, scale: 1, queryTile: 4, kvTile: 8,
    } as const;
    return attentionModule(plan).bytes().length;
  };
  const [four, eight, twelve] = [bytesOf(4), bytesOf(8), bytesOf(12)];
  assert.ok(twelve - eight < 1.5 * (eight - four), `${four}, ${eight} and ${twelve} bytes for 4, 8 and 12 choices`);
});
