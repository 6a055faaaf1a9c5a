import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import test from "node:test";
import { spawn } from "#thread";
import { UsageError } from "../../src/core/errors.ts";
import { connect, startEngine } from "../../src/engine/client.ts";
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

test("an engine in a thread loads a model with progress, answers, drops whom it should, and closes", async () => {
  const progress: number[] = [];
  const engine = await startEngine({ model: folder, device, maxModelLen: 64, maxNumSeqs: 4 }, (_, done, total) => progress.push(done / total));
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
  await assert.rejects(startEngine({ model: folder, device: "abacus" as "cpu" }), (error) => error instanceof UsageError && /device "abacus" is unknown; use one of cpu, reference/.test(error.message));
});

test("when the engine's thread dies every stream rejects, and later ones too", async () => {
  for (const [how, reason] of [["exit", /the engine died: exit code 7/], ["throw", /the engine died: lightning/]] as const) {
    const engine = await connect(spawn(new URL("./dying-engine.ts", import.meta.url), how));
    assert.ok(engine.alive);
    const failures = await Promise.allSettled([0, 1].map(() => collect(engine.generate(Int32Array.of(1), params))));
    for (const f of failures) assert.match(String((f as PromiseRejectedResult).reason), reason);
    assert.equal(engine.alive, false);
    await assert.rejects(collect(engine.generate(Int32Array.of(1), params)), reason);
    await engine.close();
  }
});

test("a script waits for what it asked and then ends by itself, without closing the engine", () => {
  for (const maxTokens of [0, 5]) {
    const script = `
      const { startEngine } = await import(${JSON.stringify(new URL("../../src/engine/client.ts", import.meta.url).href)});
      const engine = await startEngine({ model: ${JSON.stringify(folder)}, device: "reference", maxModelLen: 64, maxNumSeqs: 1 });
      const params = ${JSON.stringify({ ...params, maxTokens })};
      let n = 0;
      if (params.maxTokens > 0) for await (const delta of engine.generate(Int32Array.of(1, 2), params)) n += delta.tokens.length;
      console.log("tokens", n);`;
    const { stdout, stderr, status } = spawnSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8", timeout: 20_000 });
    assert.deepEqual([status, stdout, stderr], [0, `tokens ${maxTokens}\n`, ""]);
  }
});
