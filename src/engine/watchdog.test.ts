import assert from "node:assert/strict";
import test from "node:test";
import { lookSeconds, Watchdog } from "./watchdog.ts";

/** Seconds until it is called stuck, at most 300. */
function secondsUntilStuck(watchdog: Watchdog): number {
  for (let looks = 1; looks * lookSeconds < 300; looks++) if (watchdog.look()) return looks * lookSeconds;
  return Infinity;
}
/** A step of so many seconds, with a message at its end: whether it passes. */
function step(watchdog: Watchdog, seconds: number): boolean {
  for (let at = 0; at < seconds; at += lookSeconds) if (watchdog.look()) return false;
  watchdog.sign();
  return !watchdog.look();
}

test("with a pulse: a step may take hours while the pulse moves, and four seconds without are noticed, in the first step too", () => {
  const pulse = [new Int32Array(1), new Int32Array(1)];
  const watchdog = new Watchdog(pulse);
  for (let looks = 0; looks < 20_000; looks++) {
    if (looks % 7 === 0) pulse[looks % 2]![0]!++;
    assert.equal(watchdog.look(), false);
  }
  pulse[0]![0]!++;
  watchdog.look();
  assert.ok(secondsUntilStuck(watchdog) < 5);
  assert.ok(secondsUntilStuck(new Watchdog([new Int32Array(1)])) < 5);
});

test("without one: the first step has a minute, later ones ten times the longest so far, and an engine of short steps is noticed within 5 s", () => {
  const watchdog = new Watchdog(undefined);
  assert.equal(secondsUntilStuck(watchdog), 60);
  const slow = new Watchdog(undefined);
  assert.ok(step(slow, 40), "it compiles");
  for (let i = 0; i < 100; i++) assert.ok(step(slow, 300), "seven times the longest");
  const fast = new Watchdog(undefined);
  for (let i = 0; i < 10; i++) assert.ok(step(fast, 0));
  assert.ok(step(fast, 2), "a long prompt after short steps");
  assert.equal(secondsUntilStuck(fast), 20);
  const quick = new Watchdog(undefined);
  for (let i = 0; i < 10; i++) assert.ok(step(quick, 0));
  assert.ok(secondsUntilStuck(quick) < 5);
});

test("an event loop that stops beating is noticed within 5 s, however long steps have been; one that beats is not, while a step takes its time", () => {
  const watchdog = new Watchdog(undefined), beatAndLook = (preparing = false): boolean => (watchdog.beat(preparing), watchdog.look());
  for (let i = 0; i < 40; i++) assert.equal(beatAndLook(), false, "the first step takes 20 s");
  watchdog.sign();
  for (let i = 0; i < 300; i++) assert.equal(beatAndLook(), false, "and the second 150");
  watchdog.sign();
  assert.equal(beatAndLook(), false);
  assert.ok(secondsUntilStuck(watchdog) < 5, "then it hangs");
});

test("what it takes to compile is no length of a step: a GPU that hangs later is noticed as soon as if it had never compiled; but compiling ends too", () => {
  const watchdog = new Watchdog(undefined), beatAndLook = (preparing: boolean): boolean => (watchdog.beat(preparing), watchdog.look());
  for (let round = 0; round < 3; round++) {
    for (let i = 0; i < 100; i++) assert.equal(beatAndLook(true), false, "50 s");
    watchdog.sign();
    assert.equal(beatAndLook(false), false);
  }
  let looks = 1;
  while (!beatAndLook(false)) assert.ok(looks++ < 12, "it beats, and no step ends");
  const endless = new Watchdog(undefined);
  for (looks = 1; !(endless.beat(true), endless.look()); looks++) assert.ok(looks < 130);
  assert.equal(looks * lookSeconds, 60);
});

test("what was quiet before there was work counts for nothing", () => {
  const watchdog = new Watchdog(undefined);
  watchdog.sign();
  watchdog.look();
  for (let i = 0; i < 7; i++) assert.equal(watchdog.look(), false);
  watchdog.start();
  for (let i = 0; i < 7; i++) assert.equal(watchdog.look(), false);
});
