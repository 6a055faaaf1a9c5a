import assert from "node:assert/strict";
import test from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { defaultSampling } from "../sampling/params.ts";
import { FakeModel } from "../../tests/engine/fake-model.ts";
import { clientOf, type EngineClient } from "./client.ts";
import { Engine, type EngineLimits } from "./engine.ts";
import type { Delta, EngineInfo } from "./messages.ts";

const limits: EngineLimits = { maxNumBatchedTokens: 16, maxNumSeqs: 4, pageSize: 4, maxModelLen: 4000, numPages: 4000 };
const info: EngineInfo = {
  ...limits, architecture: "Fake", backend: "none", dtype: "f32", kvCacheDtype: "float32", numParameters: 0, vocabSize: 50, eosTokenIds: [], weightBytes: 0, kvBytes: 0, enablePrefixCaching: true, schedulingPolicy: "fcfs", loadSeconds: 0,
};
const params = { ...defaultSampling, temperature: 0 };
const long = { ...params, maxTokens: 3000 };
const prompt = Int32Array.of(1, 2, 3);
const seconds = () => performance.now() / 1000;

function start(): { model: FakeModel; client: EngineClient; released: () => boolean } {
  const model = new FakeModel(50, limits);
  let released = false;
  const client = clientOf(new Engine(model, { limits, eosTokenIds: [] }), info, seconds, async () => void (released = true));
  return { model, client, released: () => released };
}
const collect = async (deltas: AsyncIterable<Delta>): Promise<Delta[]> => {
  const all: Delta[] = [];
  for await (const delta of deltas) all.push(delta);
  return all;
};
/** Waits until the engine has nothing to do and has said so. */
const idle = async (client: EngineClient): Promise<void> => {
  for (let i = 0; client.stats.numRunning + client.stats.numWaiting > 0 || client.stats.numFreePages < limits.numPages; i++) {
    assert.ok(i < 500, "never idle");
    await sleep(2);
  }
};

test("a seed of 0 is a seed: the same tokens whenever it is asked for; without one each request has its own", async () => {
  const { client } = start();
  const tokens = async (more: object) => (await collect(client.generate(prompt, { ...defaultSampling, temperature: 1, maxTokens: 24, ...more }))).flatMap((delta) => delta.tokens).join();
  const zero = await tokens({ seed: 0 });
  assert.equal(await tokens({ seed: 0 }), zero);
  assert.notEqual(await tokens({ seed: 1 }), zero);
  assert.notEqual(await tokens({}), await tokens({}));
  await client.close();
});

test("streams of many requests end each after one delta with finish, and the counters tell the same", async () => {
  const { client, released } = start();
  const all = await Promise.all(Array.from({ length: 9 }, (_, i) => collect(client.generate(Int32Array.of(i + 1), params))));
  for (const deltas of all) {
    assert.equal(deltas.flatMap((d) => d.tokens).length, 16);
    assert.deepEqual(deltas.map((d) => d.finish), [...new Array<undefined>(15).fill(undefined), "length"]);
  }
  await idle(client);
  assert.equal(client.stats.generationTokens, 9 * 16);
  assert.equal(client.stats.promptTokens, 9);
  assert.ok(client.stats.numSteps > 15 && client.stats.numSteps < 80, `${client.stats.numSteps} steps: requests share them`);
  await client.close();
  assert.ok(released());
});

test("leaving the loop, or never entering it, or aborting the signal frees the pages", async () => {
  const { client, model } = start();
  for await (const delta of client.generate(prompt, long)) if (delta.tokens.length > 0) break;
  await client.generate(prompt, long)[Symbol.asyncIterator]().return!();
  const controller = new AbortController();
  const deltas: Delta[] = [];
  let stepsAtAbort = 0;
  for await (const delta of client.generate(prompt, long, controller.signal)) {
    deltas.push(delta);
    if (deltas.length !== 3) continue;
    controller.abort();
    stepsAtAbort = model.numForwards;
  }
  assert.deepEqual([deltas.length, deltas.at(-1)!.finish], [4, "abort"]);
  await idle(client);
  assert.ok(model.numForwards <= stepsAtAbort + 2, "freed within two steps");
  assert.deepEqual((await collect(client.generate(prompt, long, AbortSignal.abort()))).map((d) => d.finish), ["abort"]);
  await client.close();
});

test("an engine that dies fails every stream, those to come too, and is not alive", async () => {
  const { client, model } = start();
  model.during = () => {
    if (model.numForwards === 3) throw new Error("lightning");
  };
  const failures = await Promise.allSettled([collect(client.generate(prompt, long)), collect(client.generate(prompt, long))]);
  for (const f of failures) assert.match(String((f as PromiseRejectedResult).reason), /the engine died: lightning/);
  assert.equal(client.alive, false);
  await assert.rejects(collect(client.generate(prompt, params)), /the engine died: lightning/);
  await client.close();
});

test("closing ends what is running by abort, and later requests fail", async () => {
  const { client } = start();
  const running = collect(client.generate(prompt, long));
  await sleep(5);
  await client.close();
  assert.equal((await running).at(-1)!.finish, "abort");
  await assert.rejects(collect(client.generate(prompt, params)), /the engine is closed/);
  await client.close();
});

test("the event loop turns between steps: a timer is not starved by a long generation", async () => {
  const { client } = start();
  let running = true;
  const done = collect(client.generate(prompt, long)).finally(() => (running = false));
  const before = client.stats.numSteps;
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  while (running && ticks < 10) await sleep(5); // a busy machine gives both few turns
  clearInterval(timer);
  assert.ok(ticks >= 10, `${ticks} ticks before the generation had ended`);
  assert.ok(client.stats.numSteps > before, "and the engine went on");
  await client.close();
  await done;
});
