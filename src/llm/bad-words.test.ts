import assert from "node:assert/strict";
import { test } from "node:test";
import { demoFiles } from "../../tests/fixtures/tokenizers/load.ts";
import { startText } from "../tokenizer/text.ts";
import { badWordIds } from "./bad-words.ts";

/** A tokenizer of one's own: text to ids, by a table. */
const table = (ids: Readonly<Record<string, readonly number[]>>) => ({ encode: async (text: string) => Int32Array.from(ids[text]!) });

test("a word counts after a space too, unless the space is a token of its own or dropped", async () => {
  assert.deepEqual(await badWordIds(table({ "fox": [1], " fox": [2] }), ["fox"]), [[1], [2]]);
  assert.deepEqual(await badWordIds(table({ "fox": [1], " fox": [2] }), ["  fox"]), [[1], [2]], "spaces before a word do not matter");
  assert.deepEqual(await badWordIds(table({ "fox": [1], " fox": [9, 1] }), ["fox"]), [[1]], "a space that is a token of its own");
  assert.deepEqual(await badWordIds(table({ "fox": [1, 5], " fox": [1, 6] }), ["fox"]), [[1, 5]], "a space that the tokenizer drops");
  assert.deepEqual(await badWordIds(table({ "fox": [1, 5], " fox": [2] }), ["fox"]), [[1, 5], [2]], "a whole token only after a space");
  assert.deepEqual(await badWordIds(table({ "fox": [1], " fox": [2, 5] }), ["fox"]), [[1], [2, 5]], "a whole token only without one");
  assert.deepEqual(await badWordIds(table({ "fox": [1], " fox": [2], "red hen": [3, 4], " red hen": [5, 4] }), ["fox", "red hen"]), [[1], [2], [3, 4], [5, 4]]);
});

test("with a real tokenizer the runs say the words, and a special token's text is that token", async () => {
  const text = await startText(demoFiles, { inProcess: true });
  const runs = await badWordIds(text, ["fox", "lantern", "<end_of_turn>"]);
  const said = new Set(runs.map((run) => text.decode(run, { skipSpecialTokens: false, continues: true }).trim()));
  assert.deepEqual(said, new Set(["fox", "lantern", "<end_of_turn>"]));
  assert.ok(runs.some((run) => run.length === 1 && text.decode(run) === ""), "one special token");
});
