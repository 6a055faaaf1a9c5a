import assert from "node:assert/strict";
import { spawn as start, spawnSync } from "node:child_process";
import { once } from "node:events";
import test from "node:test";
import { spawn, spawnProcess } from "#thread";
import { UsageError } from "../../src/core/errors.ts";
import { startEngine } from "../../src/engine/start.ts";
import type { Delta } from "../../src/engine/messages.ts";
import { defaultSampling } from "../../src/sampling/params.ts";
import { device, fixture } from "./tiny-model.ts";

const folder = fixture("llama");
const params = { ...defaultSampling, temperature: 0, ignoreEos: true };
const collect = async (deltas: AsyncIterable<Delta>): Promise<Delta[]> => {
  const all: Delta[] = [];
  for await (const delta of deltas) all.push(delta);
  return all;
};

const worker = new URL("../../src/engine/worker.ts", import.meta.url);
/** Where an engine may run. */
const places = { thread: spawn, process: spawnProcess } as const;

for (const [place, begin] of Object.entries(places)) test(`an engine in a ${place} loads a model with progress, answers, drops whom it should, and closes`, async () => {
  const progress: number[] = [];
  const engine = await startEngine({ model: folder, device, maxModelLen: 64, maxNumSeqs: 4 }, { onProgress: (_, done, total) => progress.push(done / total), begin: () => begin(worker, { device }) });
  assert.ok(progress.length > 3 && progress.every((p, i) => i === 0 || p >= progress[i - 1]!) && progress.at(-1) === 1, String(progress));
  assert.deepEqual([engine.info.architecture, engine.info.maxModelLen, engine.info.numPages, engine.alive], ["LlamaForCausalLM", 64, 16, true]);
  const [a, b] = await Promise.all([1, 1].map(() => collect(engine.generate(Int32Array.of(1, 5, 9), params))));
  assert.equal(a!.length, 16);
  assert.deepEqual(a!.map((d) => d.tokens), b!.map((d) => d.tokens));
  for await (const delta of engine.generate(Int32Array.of(3), { ...params, maxTokens: 60 })) if (delta.tokens.length > 0) break;
  const controller = new AbortController();
  const aborted = collect(engine.generate(Int32Array.of(3), { ...params, maxTokens: 60 }, controller.signal));
  controller.abort();
  assert.equal((await aborted).at(-1)!.finish, "abort");
  const [wrong] = await collect(engine.generate(Int32Array.of(320), params));
  assert.deepEqual([wrong!.finish, wrong!.param], ["error", "prompt"]);
  for (let i = 0; engine.stats.numFreePages < 16 || engine.stats.numRunning > 0; i++) {
    assert.ok(i < 200, "pages are still held");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  const last = collect(engine.generate(Int32Array.of(3), { ...params, maxTokens: 60 }));
  await engine.close();
  assert.equal((await last).at(-1)!.finish, "abort");
  assert.equal(engine.alive, false);
});

test("what is wrong with the model is told before it starts, as the caller's to mend", async () => {
  await assert.rejects(startEngine({ model: "/nowhere/at/all", device: "cpu" }), (error) => error instanceof UsageError && /\/nowhere\/at\/all is not a folder/.test(error.message));
  await assert.rejects(startEngine({ model: folder, device: "reference", maxModelLen: 4096 }), (error) => error instanceof UsageError && /the model has 2048 positions/.test(error.message));
  await assert.rejects(startEngine({ model: folder, device: "abacus" as "cpu" }), (error) => error instanceof UsageError && /device "abacus" is unknown; use one of cpu, cuda, reference/.test(error.message));
  const inProcess = (options: { readonly model: string; readonly maxModelLen?: number }) => startEngine({ device: "reference", ...options }, { begin: () => spawnProcess(worker, { device: "reference" }) });
  await assert.rejects(inProcess({ model: "/nowhere/at/all" }), (error) => error instanceof UsageError && /\/nowhere\/at\/all is not a folder/.test(error.message));
  await assert.rejects(inProcess({ model: folder, maxModelLen: 4096 }), (error) => error instanceof UsageError && /the model has 2048 positions/.test(error.message));
});

/** What a script prints, and how it ends. `place`: where its engine runs. */
const script = (place: keyof typeof places, maxTokens: number) => `
  const { spawn, spawnProcess } = await import("#thread");
  const { startEngine } = await import(${JSON.stringify(new URL("../../src/engine/start.ts", import.meta.url).href)});
  const thread = ${places[place].name}(new URL(${JSON.stringify(worker.href)}), { device: "reference" });
  const engine = await startEngine({ model: ${JSON.stringify(folder)}, device: "reference", maxModelLen: 64, maxNumSeqs: 1 }, { thread });
  const params = ${JSON.stringify({ ...params, maxTokens })};
  let n = 0;
  if (params.maxTokens > 0) for await (const delta of engine.generate(Int32Array.of(1, 2), params)) n += delta.tokens.length;
  console.log("tokens", n);`;

for (const place of ["thread", "process"] as const) test(`a script waits for what it asked of an engine in a ${place} and then ends by itself, without closing it`, () => {
  for (const maxTokens of [0, 5]) {
    const { stdout, stderr, status } = spawnSync(process.execPath, ["--input-type=module", "-e", script(place, maxTokens)], { encoding: "utf8", timeout: 20_000 });
    assert.deepEqual([status, stdout, stderr], [0, `tokens ${maxTokens}\n`, ""]);
  }
});

test("a process hears nothing of the signals that stop its parent, has its data and messages of any kind, and ends with its parent, however that ends", async () => {
  const echo = new URL("./echo-process.ts", import.meta.url);
  const thread = spawnProcess(echo, { numbers: Int32Array.of(1, 2), none: undefined });
  const heard: unknown[] = [];
  let next = (): void => {};
  thread.onMessage((message) => {
    heard.push(message);
    next();
  });
  const wait = (count: number) => new Promise<void>((resolve) => (next = () => void (heard.length >= count && resolve())));
  await wait(1);
  const { pid, data } = heard[0] as { pid: number; data: unknown };
  assert.deepEqual(data, { numbers: Int32Array.of(1, 2), none: undefined });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.kill(pid, signal);
  thread.post({ tokens: Int32Array.of(7, 8), map: new Map([[5, -1]]) });
  await wait(2);
  assert.deepEqual(heard[1], { tokens: Int32Array.of(7, 8), map: new Map([[5, -1]]) });
  const exits: string[] = [];
  thread.onExit((reason) => exits.push(reason));
  await thread.terminate();
  assert.deepEqual(exits, ["ended by SIGKILL"]);
  thread.post("nobody is there");
  thread.onExit((reason) => exits.push(reason));
  await thread.terminate();
  assert.equal(exits.length, 2);

  // The process has its parent's output: that is closed once both are gone.
  const text = `const { spawnProcess } = await import("#thread"); spawnProcess(new URL(${JSON.stringify(echo.href)}), 1).onMessage(() => console.log("up"));`;
  for (const how of ["SIGKILL", "SIGTERM"] as const) {
    const parent = start(process.execPath, ["--input-type=module", "-e", text], { stdio: ["ignore", "pipe", "inherit"] });
    await once(parent.stdout, "data");
    parent.kill(how);
    assert.deepEqual(await Promise.race([once(parent, "close"), new Promise((resolve) => setTimeout(resolve, 10_000, "it lives on").unref())]), [null, how]);
  }
});
