/** Engines that die or get stuck: another takes their place, and no stream shows it. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { spawn, spawnProcess } from "#thread";
import { stream } from "../../src/core/random.ts";
import type { Thread } from "../../src/core/thread.ts";
import { clientOf, type EngineClient } from "../../src/engine/client.ts";
import { Engine } from "../../src/engine/engine.ts";
import type { Delta } from "../../src/engine/messages.ts";
import { startEngine } from "../../src/engine/start.ts";
import { type EngineEvent, supervise } from "../../src/engine/supervisor.ts";
import { defaultSampling, type SamplingParams } from "../../src/sampling/params.ts";
import { FakeModel } from "./fake-model.ts";
import { type FaultyData, info, limits, vocabSize } from "./faults.ts";
import { fixture } from "./tiny-model.ts";

const url = new URL("./faulty-engine.ts", import.meta.url);
const seconds = () => performance.now() / 1000;
const begin = { thread: spawn, process: spawnProcess } as const;
type Place = keyof typeof begin;

interface Watched {
  readonly engine: EngineClient;
  readonly events: (EngineEvent & { readonly at: number })[];
  /** The thread or process of now. */
  readonly thread: () => Thread;
}

/** An engine whose life number i comes to grief as `lives[i]` says; those after them do not. */
async function start(place: Place, lives: readonly FaultyData[], rest: FaultyData = {}): Promise<Watched> {
  const events: Watched["events"] = [];
  let life = 0, thread!: Thread;
  const next = () => (thread = begin[place](url, lives[life++] ?? rest));
  const engine = await supervise(next(), { again: next, seed: 5, stepsAreShort: true, onEvent: (event) => events.push({ ...event, at: seconds() }), now: seconds });
  return { engine, events, thread: () => thread };
}

interface Request {
  readonly prompt: Int32Array;
  readonly params: SamplingParams;
}

/** Of all kinds, without a seed each third one. Never token 49. */
function requests(count: number, seed: number, maxTokens = 120): Request[] {
  const random = stream(seed);
  const int = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
  const forbidden = new Map([[49, -100]]);
  return Array.from({ length: count }, (_, i) => ({
    prompt: Int32Array.from({ length: int(1, 60) }, () => int(1, 48)),
    params: {
      ...defaultSampling, maxTokens: int(30, maxTokens), seed: i % 3 ? i : undefined, temperature: i % 4 ? 0.7 : 0, ignoreEos: random() < 0.7, logitBias: forbidden, logprobs: i % 2 ? 2 : undefined, ...(i % 3 === 1 && { promptLogprobs: 1 }),
      ...(i % 2 && { minTokens: int(1, 30), repetitionPenalty: 1.3, presencePenalty: 0.4, frequencyPenalty: 0.2, badWords: [[int(1, 20)], [int(1, 48), int(1, 48)]] }),
      stopTokenIds: random() < 0.4 ? [int(1, 48)] : [],
    },
  }));
}

/** What a client has to be able to tell: nothing more, as steps may be cut otherwise. */
function answerOf(deltas: readonly Delta[]) {
  const { finish, stopTokenId, message } = deltas.at(-1)!;
  const promptLogprobs = deltas.flatMap(({ promptLogprobs: part }) => part?.logprobs.map((logprobs, i) => ({ position: part.from + i, logprobs })) ?? []);
  assert.deepEqual(promptLogprobs.map(({ position }) => position), promptLogprobs.map((_, i) => 1 + i), "each token of the prompt once");
  assert.ok(deltas.slice(0, -1).every((delta) => delta.finish === undefined), "one end");
  return { tokens: deltas.flatMap(({ tokens }) => tokens), logprobs: deltas.flatMap(({ logprobs }) => logprobs ?? []), promptLogprobs, finish, stopTokenId, message };
}

async function collect(deltas: AsyncIterable<Delta>): Promise<Delta[]> {
  const all: Delta[] = [];
  for await (const delta of deltas) all.push(delta);
  return all;
}
const ask = (engine: EngineClient, { prompt, params }: Request) => collect(engine.generate(prompt, params)).then(answerOf);
const askAll = (engine: EngineClient, all: readonly Request[]) => Promise.all(all.map((request) => ask(engine, request)));

/** What an engine that nothing happens to answers. */
async function undisturbed(all: readonly Request[]) {
  const engine = clientOf(new Engine(new FakeModel(vocabSize, limits), { limits, eosTokenIds: info.eosTokenIds, seed: 5 }), info, seconds);
  const answers = await askAll(engine, all);
  await engine.close();
  return answers;
}

/** Until it has nothing to do and has said so. */
async function idle(engine: EngineClient): Promise<void> {
  for (let i = 0; engine.stats.numRunning + engine.stats.numWaiting > 0 || engine.stats.numFreePages < limits.numPages; i++) {
    assert.ok(i < 500, `still held: ${JSON.stringify(engine.stats)}`);
    await sleep(5);
  }
}

describe("engines that die or get stuck", { concurrency: true }, () => {
  test("a thread that dies at any step, by an exit or an error: tokens, log-probabilities, ends and counts are as if nothing had happened", async () => {
    const all = requests(limits.maxNumSeqs, 3, 300);
    const want = await undisturbed(all);
    assert.ok(want.some(({ promptLogprobs }) => promptLogprobs.length > limits.maxNumBatchedTokens / 2), "some of a prompt is told and the rest is not when the first dies");
    // The last two come so soon one after the other that all are suspects, and tried one by one.
    const faults = [2, 60, 55, 70, 1].map((atStep, i): FaultyData => ({ fault: { kind: i % 2 ? "exit" : "throw", atStep } }));
    const { engine, events } = await start("thread", faults);
    assert.deepEqual(await askAll(engine, all), want);
    assert.ok(new Set(want.map(({ finish }) => finish)).size === 2, "some stop, some reach their length");
    await idle(engine);
    assert.equal(engine.stats.promptTokens, all.reduce((sum, { prompt }) => sum + prompt.length, 0), "each prompt counts once");
    assert.ok(engine.stats.generationTokens >= want.reduce((sum, { tokens }) => sum + tokens.length, 0));
    assert.equal(engine.restarts, faults.length);
    assert.deepEqual(events.map(({ kind }) => kind), faults.flatMap(() => ["died", "restarted"]));
    assert.match((events[0] as { reason: string }).reason, /the engine died: lightning/);
    assert.match((events[2] as { reason: string }).reason, /the engine died: exit code 7/);
    await engine.close();
  });

  test("a process that is killed from outside, at moments of chance: the same", async () => {
    const all = requests(8, 4).map(({ prompt, params }) => ({ prompt, params: { ...params, ignoreEos: true, stopTokenIds: [], maxTokens: 200 } }));
    const want = await undisturbed(all);
    const { engine, thread } = await start("process", [], { stepMs: 2 });
    const random = stream(2), told = all.map(() => 0);
    const asked = Promise.all(all.map(async ({ prompt, params }, i) => {
      const deltas: Delta[] = [];
      for await (const delta of engine.generate(prompt, params)) {
        deltas.push(delta);
        told[i]! += delta.tokens.length;
      }
      return answerOf(deltas);
    }));
    for (let i = 0; i < 4; i++) {
      // Each further than what makes suspects.
      for (const until = Math.min(...told) + 20 + 15 * random(); Math.min(...told) < until; ) await sleep(1);
      void thread().terminate();
      while (engine.alive) await sleep(1);
      while (!engine.alive) await sleep(1);
    }
    assert.deepEqual(await asked, want);
    assert.equal(engine.restarts, 4);
    await engine.close();
  });

  test("a request that kills every engine is refused, alone after two deaths and in company after three, and the others are answered as ever", async () => {
    const poison: Request = { prompt: Int32Array.of(3, 49), params: { ...defaultSampling, seed: 1, maxTokens: 20 } };
    const fault = { kind: "throw", atToken: 49 } as const;
    const { engine, events } = await start("thread", [], { fault });
    assert.deepEqual(await ask(engine, poison), { tokens: [], logprobs: [], promptLogprobs: [], finish: "error", stopTokenId: undefined, message: "the engine died 2 times over this request; it is not tried again" });
    assert.equal(events.filter((event) => event.kind === "died").length, 2);

    const all = requests(9, 6);
    // Seeds of requests without one are those of their place in the line.
    const want = (await undisturbed([{ ...poison, prompt: Int32Array.of(3) }, ...all.slice(0, 4), { ...poison, prompt: Int32Array.of(3) }, ...all.slice(4)])).filter((_, i) => i !== 0 && i !== 5);
    const asked = all.slice(0, 4).map((request) => ask(engine, request));
    const refused = ask(engine, poison);
    asked.push(...all.slice(4).map((request) => ask(engine, request)));
    assert.match((await refused).message!, /died 3 times over this request/);
    assert.deepEqual(await Promise.all(asked), want);
    const died = events.filter((event) => event.kind === "died");
    assert.deepEqual(died.map(({ refused }) => refused), [false, true, false, false, true]);
    await engine.close();
  });

  test("an engine that dies with nothing to do is replaced at once; what is asked meanwhile waits for the next", async () => {
    const { engine, events } = await start("process", [{ atOnce: true }]);
    while (engine.alive) await sleep(1);
    assert.equal(engine.restarting, true);
    const [request] = requests(1, 1);
    assert.deepEqual(await ask(engine, request!), (await undisturbed([request!]))[0]);
    assert.equal(events.length, 2);
    await engine.close();
  });

  for (const [name, place, life] of [
    ["a thread whose event loop does not turn", "thread", { fault: { kind: "spin", atStep: 30 } }],
    ["a process that is stopped", "process", { fault: { kind: "stop", atStep: 30 } }],
  ] as const satisfies readonly (readonly [string, Place, FaultyData])[]) test(`${name} is noticed within 5 s, ended and replaced, and no stream shows it`, async () => {
    const all = requests(5, 9);
    const pulse = place === "thread" ? { pulse: [new Int32Array(new SharedArrayBuffer(4))] } : {};
    const { engine, events } = await start(place, [{ ...life, ...pulse }]);
    let heardAt = 0;
    const answers = await Promise.all(all.map(async ({ prompt, params }) => {
      const deltas: Delta[] = [];
      for await (const delta of engine.generate(prompt, params)) {
        deltas.push(delta);
        if (engine.restarts === 0) heardAt = seconds();
      }
      return answerOf(deltas);
    }));
    assert.deepEqual(answers, await undisturbed(all));
    assert.match((events[0] as { reason: string }).reason, /it was stuck and has been ended/);
    const noticed = events[0]!.at - heardAt;
    assert.ok(noticed > 3 && noticed < 5.5, `ended ${noticed} s after it was last heard of, of which ending a thread takes some`);
    await engine.close();
  });

  test("closing does not wait for an engine that is stuck, nor for one that is being started", async () => {
    const { engine } = await start("thread", [{ fault: { kind: "spin", atStep: 2 }, pulse: [new Int32Array(new SharedArrayBuffer(4))] }]);
    const asked = collect(engine.generate(Int32Array.of(1), { ...defaultSampling, maxTokens: 300 }));
    await sleep(50);
    const from = seconds();
    await engine.close();
    assert.ok(seconds() - from < 6);
    assert.equal((await asked).at(-1)!.finish, "abort");

    const second = await start("thread", [{ fault: { kind: "exit", atStep: 2 } }]);
    const other = collect(second.engine.generate(Int32Array.of(1), { ...defaultSampling, maxTokens: 300 }));
    while (second.engine.alive) await sleep(1);
    await second.engine.close();
    assert.equal((await other).at(-1)!.finish, "abort");
  });

  test("a real model's engine is started again as large as it was, and goes on to the same bits", async () => {
    const options = { model: fixture("llama"), device: "cpu", maxModelLen: 128, maxNumSeqs: 4, threads: 2 } as const;
    const { prepareEngine } = await import("../../src/engine/start.ts");
    let thread!: Thread;
    const engine = await startEngine(options, { begin: () => (thread = prepareEngine(options)) });
    const all: Request[] = [0, 1].map((i) => ({ prompt: Int32Array.of(1, 5, 9 + i), params: { ...defaultSampling, temperature: i, seed: 4, logprobs: 1, ignoreEos: true, maxTokens: 100 } }));
    const want = await askAll(engine, all);
    const { numPages } = engine.stats;
    const streams = all.map(({ prompt, params }) => engine.generate(prompt, params)[Symbol.asyncIterator]());
    const got: Delta[][] = [[], []];
    for (let i = 0; i < 8; i++) for (const [at, deltas] of streams.entries()) got[at]!.push((await deltas.next()).value as Delta);
    void thread.terminate();
    for (const [at, deltas] of streams.entries()) for (let next = await deltas.next(); !next.done; next = await deltas.next()) got[at]!.push(next.value);
    assert.deepEqual(got.map(answerOf), want);
    assert.equal(engine.restarts, 1);
    assert.equal(engine.stats.numPages, numPages);
    await engine.close();
  });
});
