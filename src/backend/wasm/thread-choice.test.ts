import assert from "node:assert/strict";
import { test } from "node:test";
import { ThreadChoice, type Threads } from "./thread-choice.ts";

/** Runs `count` steps of `rows` rows that take `milliseconds[choice]`; how often each was chosen. */
function runs(choice: ThreadChoice, rows: number, milliseconds: Readonly<Record<Threads, number>>, count: number): Record<Threads, number> {
  const chosen = { all: 0, one: 0 };
  for (let run = 0; run < count; run++) {
    const threads = choice.choose(rows);
    chosen[threads]++;
    choice.measured(rows, milliseconds[threads]);
  }
  return chosen;
}

test("the faster of all threads and one is found for each size of step, and tried again ever more rarely", () => {
  const choice = new ThreadChoice();
  assert.equal(choice.choose(1), "all");
  runs(choice, 1, { all: 1, one: 0.5 }, 100);
  assert.equal(choice.choose(1), "one");
  runs(choice, 300, { all: 2, one: 3.5 }, 100);
  assert.equal(choice.choose(300), "all");
  assert.equal(choice.choose(1), "one", "sizes do not mix");
  assert.ok(runs(choice, 1, { all: 1, one: 0.5 }, 20_000).all < 100);
  assert.ok(runs(choice, 300, { all: 2, one: 3.5 }, 20_000).one < 100);
});

test("what has become slower is left again", () => {
  const choice = new ThreadChoice();
  runs(choice, 1, { all: 1, one: 0.5 }, 1000);
  runs(choice, 1, { all: 0.3, one: 0.5 }, 2000);
  assert.equal(choice.choose(1), "all");
});

test("long steps stay on all threads, and a difference as small as noise changes nothing", () => {
  assert.equal(runs(new ThreadChoice(), 512, { all: 50, one: 40 }, 1000).one, 0);
  const choice = new ThreadChoice();
  runs(choice, 1, { all: 1, one: 0.97 }, 1000);
  assert.equal(choice.choose(1), "all");
});
