import assert from "node:assert/strict";
import test from "node:test";
import { UsageError } from "../core/errors.ts";
import type { Thread } from "../core/thread.ts";
import { info } from "../../tests/engine/faults.ts";
import { defaultSampling } from "../sampling/params.ts";
import { failure } from "./host.ts";
import type { Delta, FromEngine } from "./messages.ts";
import { type EngineEvent, supervise } from "./supervisor.ts";

/** A thread by hand. */
class FakeThread implements Thread {
  readonly posted: unknown[] = [];
  refs = 1;
  #message: (message: unknown) => void = () => {};
  #exit: (reason: string) => void = () => {};
  terminated = false;
  post(message: unknown): void {
    this.posted.push(message);
  }
  onMessage(handler: (message: unknown) => void): void {
    this.#message = handler;
  }
  onExit(handler: (reason: string) => void): void {
    this.#exit = handler;
  }
  ref(): void {
    this.refs = 1;
  }
  unref(): void {
    this.refs = 0;
  }
  async terminate(): Promise<void> {
    this.terminated = true;
    this.exit("exit code 1");
  }
  say(message: FromEngine): void {
    this.#message(message);
  }
  exit(reason: string): void {
    this.#exit(reason);
  }
  ready(): this {
    this.say({ kind: "ready", info });
    return this;
  }
}

async function collect(deltas: AsyncIterable<Delta>): Promise<Delta[]> {
  const all: Delta[] = [];
  for await (const delta of deltas) all.push(delta);
  return all;
}

async function start(stepsAreShort = false) {
  const threads: FakeThread[] = [], events: EngineEvent[] = [];
  let seconds = 0;
  const begin = () => threads[threads.push(new FakeThread()) - 1]!;
  const client = supervise(begin(), { again: begin, seed: 0, stepsAreShort, onEvent: (event) => events.push(event), now: () => seconds });
  threads[0]!.ready();
  return { engine: await client, threads, events, pass: (more: number) => void (seconds += more), last: () => threads.at(-1)! };
}

test("clients that come and go do not make a stuck engine look well: it is ended while none has stayed", async (t) => {
  t.mock.timers.enable({ apis: ["setInterval", "setTimeout"] });
  const { engine, last, threads } = await start(true);
  last().say({ kind: "alive", preparing: false });
  for (let i = 0; i < 9 && threads.length === 1; i++) {
    const leaves = new AbortController();
    const asked = collect(engine.generate(Int32Array.of(1), defaultSampling, leaves.signal));
    t.mock.timers.tick(900);
    leaves.abort();
    await asked;
    t.mock.timers.tick(100);
    // The thread that is told to end does so in a turn of its own.
    for (let turn = 0; turn < 5; turn++) await undefined;
  }
  assert.deepEqual([threads.length, threads[0]!.terminated], [2, true]);
});

test("an engine that takes another's place and says nothing is given up, and the next one tried", async (t) => {
  t.mock.timers.enable({ apis: ["setInterval", "setTimeout"] });
  const { engine, last, threads, events } = await start();
  const asked = collect(engine.generate(Int32Array.of(1), defaultSampling));
  const turns = async (): Promise<void> => { for (let turn = 0; turn < 5; turn++) await undefined; };
  last().exit("exit code 5");
  t.mock.timers.tick(59_000);
  last().say({ kind: "progress", stage: "loading", done: 1, total: 2 });
  t.mock.timers.tick(59_000);
  await turns();
  assert.equal(threads.length, 2, "it has said something since");
  t.mock.timers.tick(2_000);
  await turns();
  assert.deepEqual([threads.length, threads[1]!.terminated], [3, true]);
  assert.match((events.at(-1) as { reason: string }).reason, /said nothing for 60 s while it was loading/);
  for (let i = 0; i < 2; i++) {
    t.mock.timers.tick(61_000);
    await turns();
  }
  await assert.rejects(asked, /said nothing for 60 s while it was loading \(3 times in a row before it was ready\)/);
});

test("ten deaths within ten minutes of being up are the end; spread over a longer time they are not", async () => {
  const often = await start();
  for (let i = 0; i < 9; i++) {
    often.pass(50);
    often.last().exit("exit code 5");
    assert.equal(often.engine.restarting, true);
    often.pass(1000); // it loads
    often.last().ready();
  }
  often.pass(50);
  often.last().exit("exit code 5");
  assert.deepEqual([often.engine.alive, often.engine.restarting, often.threads.length], [false, false, 10]);
  assert.deepEqual(often.events.at(-1), { kind: "ended", reason: "the engine died: exit code 5 (10 times within 500 s)" });
  await assert.rejects(collect(often.engine.generate(Int32Array.of(1), defaultSampling)), /10 times within 500 s/);
  await often.engine.close();

  const seldom = await start();
  for (let i = 0; i < 30; i++) {
    seldom.pass(70);
    seldom.last().exit("exit code 5");
    seldom.last().ready();
  }
  assert.deepEqual([seldom.engine.alive, seldom.engine.restarts], [true, 30]);
});

test("three engines in a row that die while loading are the end; what the operator has to mend is so at once", async () => {
  const { engine, last, events, threads } = await start();
  const asked = collect(engine.generate(Int32Array.of(1), defaultSampling));
  last().exit("ended by SIGKILL");
  assert.equal(last().refs, 1, "somebody waits for it");
  for (let i = 0; i < 3; i++) last().exit("exit code 3");
  await assert.rejects(asked, /the engine died: exit code 3 \(3 times in a row before it was ready\)/);
  assert.equal(threads.length, 4);
  assert.equal(events.at(-1)!.kind, "ended");

  const mend = await start();
  const waiting = collect(mend.engine.generate(Int32Array.of(1), defaultSampling));
  mend.last().exit("ended by SIGKILL");
  mend.last().say(failure(new UsageError("the folder is gone")));
  await assert.rejects(waiting, (error) => error instanceof UsageError && error.message === "the folder is gone");
  assert.deepEqual([mend.threads.length, mend.last().terminated], [2, true]);
});

test("an engine that fails is ended before another is started, which hears who is in flight, their seeds and what was told", async () => {
  const { engine, last, events, threads } = await start();
  const stream = engine.generate(Int32Array.of(7), { ...defaultSampling, maxTokens: 9 })[Symbol.asyncIterator]();
  const { id, params } = last().posted[0] as { id: string; params: { seed: number } };
  assert.ok(Number.isSafeInteger(params.seed));
  last().say({ kind: "deltas", deltas: [{ id, tokens: [3] }, { id, tokens: [4] }] });
  threads[0]!.say(failure(new Error("lightning")));
  assert.equal(threads[0]!.terminated, true);
  assert.deepEqual([threads.length, last().posted.length], [2, 0], "it loads");
  last().ready();
  const [again] = last().posted as { told: { tokens: number[] }; params: { seed: number } }[];
  assert.deepEqual([again!.told.tokens, again!.params.seed], [[3, 4], params.seed]);
  threads[0]!.say({ kind: "deltas", deltas: [{ id, tokens: [99] }] });
  last().say({ kind: "deltas", deltas: [{ id, tokens: [5], finish: "length" }] });
  const tokens: number[] = [];
  for (let next = await stream.next(); !next.done; next = await stream.next()) tokens.push(...next.value.tokens);
  assert.deepEqual(tokens, [3, 4, 5], "the dead have no say");
  assert.deepEqual(events.map(({ kind }) => kind), ["died", "restarted"]);
  assert.equal(last().refs, 0);
});

test("whoever left while there was no engine is nobody's request, and closing then ends the one that loads", async () => {
  const { engine, last } = await start();
  const stays = engine.generate(Int32Array.of(1), defaultSampling), controller = new AbortController();
  const leaves = collect(engine.generate(Int32Array.of(2), defaultSampling, controller.signal));
  last().exit("exit code 1");
  controller.abort();
  assert.deepEqual((await leaves).map(({ finish }) => finish), ["abort"]);
  last().ready();
  assert.deepEqual((last().posted as { kind: string; prompt?: Int32Array }[]).map(({ kind, prompt }) => [kind, prompt?.[0]]), [["submit", 1]]);
  const closed = engine.close();
  assert.equal((last().posted.at(-1) as { kind: string }).kind, "close");
  last().say({ kind: "closed" });
  await closed;
  assert.deepEqual((await collect(stays)).map(({ finish }) => finish), ["abort"]);
});

test("closing ends an engine that loads, which hears no message", async () => {
  const { engine, last } = await start();
  const stream = engine.generate(Int32Array.of(1), defaultSampling);
  last().exit("exit code 1");
  await engine.close();
  assert.equal(last().terminated, true);
  assert.deepEqual((await collect(stream)).map(({ finish }) => finish), ["abort"]);
});
