import assert from "node:assert/strict";
import { test } from "node:test";
import { WordWrap } from "./wrap.ts";

function wrap(text: string, width: number | undefined, piece: number): string {
  const words = new WordWrap(() => width);
  let shown = "";
  for (let i = 0; i < text.length; i += piece) shown += words.push(text.slice(i, i + piece));
  return shown + words.flush();
}

test("lines break between words at the width, however the text is cut in pieces", () => {
  for (const piece of [1, 2, 3, 7, 100]) {
    assert.equal(wrap("one two three four", 9, piece), "one two\nthree\nfour");
    assert.equal(wrap("one  two\n\n  three\n", 20, piece), "one  two\n\n  three\n");
    assert.equal(wrap("ab 123456789012 c", 5, piece), "ab\n123456789012 c", "a word longer than the line is the terminal's to break");
    assert.equal(wrap("exact five", 5, piece), "exact\nfive");
    assert.equal(wrap("one two three four", undefined, piece), "one two three four");
  }
});

test("letters two cells wide break anywhere and count twice", () => {
  assert.equal(wrap("世界世界", 5, 4), "世界\n世界");
});

test("a word is shown once it has ended, not before", () => {
  const words = new WordWrap(() => 10);
  assert.deepEqual([words.push("he"), words.push("llo"), words.push(" wor"), words.flush()], ["", "", "hello", " wor"]);
});
