import assert from "node:assert/strict";
import test from "node:test";
import { fakeLLM } from "../../tests/api/fakes.ts";
import type { HttpError } from "./errors.ts";
import { Gate, type GateOptions } from "./gate.ts";
import { limits } from "./limits.ts";

/** The fake engine runs 64 at once. */
function start(options: GateOptions = {}) {
  const { llm, engine } = fakeLLM();
  let seconds = 0;
  return { gate: new Gate(llm, () => seconds, options), engine, pass: (more: number) => void (seconds += more) };
}
const request = () => new Request("http://test/");
function refused(gate: Gate, tokens: readonly number[]): HttpError {
  let error: unknown;
  assert.throws(() => gate.admit(request(), tokens), (thrown) => (error = thrown, true));
  return error as HttpError;
}

test("the queue is bounded by requests, beyond those that run, and room is given back", () => {
  const { gate } = start({ maxNumQueuedReqs: 6 });
  const all = Array.from({ length: 70 }, () => gate.admit(request(), [1]));
  assert.equal(refused(gate, [1]).status, 429);
  assert.equal(gate.refused.get("requests"), 1);
  all.pop()!.release();
  gate.admit(request(), [1]).release();
  assert.equal(refused(gate, [1, 1]).status, 429, "one that brings two has no room where there is room for one");
  for (const { release } of all) release();
  assert.deepEqual([gate.inFlight, gate.queuedTokens], [0, 0]);
});

test("the queue is bounded by tokens: an estimate until they are counted, gone with the first token of an answer", () => {
  const { gate } = start({ maxNumQueuedTokens: 100 });
  const first = gate.admit(request(), [30, 30]);
  assert.equal(refused(gate, [50]).status, 429);
  assert.deepEqual([...gate.refused].filter(([, count]) => count > 0), [["tokens", 1]]);
  first.counted([40, 45]);
  assert.equal(gate.queuedTokens, 85);
  assert.equal(refused(gate, [16]).status, 429);
  first.answered(0);
  first.answered(0);
  assert.equal(gate.queuedTokens, 45);
  const second = gate.admit(request(), [50]);
  first.release();
  assert.equal(gate.queuedTokens, 50);
  second.release();
  assert.equal(gate.queuedTokens, 0);
});

test("one that is larger than the whole queue is let in when there is no other", () => {
  const { gate } = start({ maxNumQueuedReqs: 0, maxNumQueuedTokens: 10 });
  const large = gate.admit(request(), Array<number>(100).fill(50));
  assert.equal(refused(gate, [1]).status, 429);
  large.release();
  gate.admit(request(), [1]).release();
});

test("Retry-After is when half of the queue will have gone at the rate of late, within bounds", () => {
  const { gate, pass } = start({ maxNumQueuedReqs: 200 });
  const all = Array.from({ length: 264 }, () => gate.admit(request(), [1]));
  const retryAfter = () => Number(refused(gate, [1]).headers["retry-after"]);
  assert.equal(retryAfter(), limits.retryAfterSeconds.most, "nobody has left yet");
  // Ten leave each second, and as many come.
  for (let i = 0; i < 300; i++) {
    pass(0.1);
    all.shift()!.release();
    all.push(gate.admit(request(), [1]));
  }
  assert.ok(Math.abs(retryAfter() - 10) <= 1, `${retryAfter()} s for 100 of 200 at 10 a second`);
  pass(100);
  assert.equal(retryAfter(), limits.retryAfterSeconds.most, "it has come to a standstill");
  for (let i = 0; i < 60; i++) all.shift()!.release();
  for (let i = 0; i < 60; i++) gate.admit(request(), [1]);
  assert.ok(retryAfter() < limits.retryAfterSeconds.most);
});

test("no engine, one that is being started again, a server that stops: 503, with when to come again where there will be one", () => {
  const draining = new AbortController(), shutdown = new AbortController();
  const { gate, engine } = start({ draining: draining.signal, shutdown: shutdown.signal });
  engine.alive = false;
  engine.restarting = true;
  assert.deepEqual([refused(gate, [1]).status, refused(gate, [1]).headers["retry-after"]], [503, "1"]);
  engine.restarting = false;
  assert.deepEqual([refused(gate, [1]).status, refused(gate, [1]).headers["retry-after"]], [503, undefined]);
  engine.alive = true;
  const running = gate.admit(request(), [1]);
  draining.abort();
  assert.equal(refused(gate, [1]).status, 503);
  assert.equal(running.signal.aborted, false);
  shutdown.abort();
  assert.match(String(running.signal.reason), /shutting down/);
  assert.deepEqual([...gate.refused].filter(([, count]) => count > 0), [["engine", 4], ["stopping", 1]]);
});

test("bodies that never end keep no short one out", async () => {
  const { llm } = fakeLLM(), gate = new Gate(llm, () => 0), ends: (() => void)[] = [];
  const endless = Array.from({ length: limits.bodiesBytes / limits.bodyBytes }, () => gate.reading(limits.bodyBytes, () => new Promise<void>((resolve) => ends.push(resolve))));
  await assert.rejects(gate.reading(limits.bodyBytes, async () => {}), /are being read/);
  assert.equal(await gate.reading(limits.shortBodyBytes, async () => 5), 5);
  for (const end of ends) end();
  await Promise.all(endless);
});

test("bodies that are being read are bounded together, and a full server reads none", async () => {
  const { gate } = start({ maxNumQueuedReqs: 0 });
  let finish = (): void => {};
  const reading = gate.reading(limits.bodiesBytes, () => new Promise<void>((resolve) => (finish = resolve)));
  await assert.rejects(gate.reading(limits.bodyBytes, async () => assert.fail("it is read")), { status: 429 });
  finish();
  await reading;
  await gate.reading(limits.bodyBytes, async () => {});
  await assert.rejects(gate.reading(1, async () => { throw new Error("cut off"); }), /cut off/);
  await gate.reading(limits.bodiesBytes, async () => {});
  for (let i = 0; i < 64; i++) gate.admit(request(), [1]);
  await assert.rejects(gate.reading(1, async () => assert.fail("it is read")), { status: 429 });
});
