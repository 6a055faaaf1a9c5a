import assert from "node:assert/strict";
import { test } from "node:test";
import { isRepeat } from "./signals.ts";

test("a signal that a launcher passed on counts once, and a second press counts however soon", () => {
  const first = { signal: "SIGINT", at: 10 };
  assert.equal(isRepeat(first, { signal: "SIGINT", at: 10.005 }), true);
  assert.equal(isRepeat(first, { signal: "SIGINT", at: 10.3 }), false);
  assert.equal(isRepeat(first, { signal: "SIGTERM", at: 10.3 }), true, "the launcher noticed that its shell is gone");
  assert.equal(isRepeat(first, { signal: "SIGTERM", at: 11 }), false);
});
