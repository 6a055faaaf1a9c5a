/** An engine in the caller's own thread: the same answers as from a thread of its own, and functions that change the logits. */
import assert from "node:assert/strict";
import test from "node:test";
import { BadRequest, UsageError } from "../../src/core/errors.ts";
import { LLM } from "../../src/llm.ts";
import { fixture } from "../engine/tiny-model.ts";

const tiny = { skipTokenizerInit: true, threads: 2, maxNumSeqs: 4, maxModelLen: 64, blockSize: 4 } as const;
const folder = fixture("llama");
const prompt = Array.from({ length: 13 }, (_, i) => (i * 37) % 50);

test("an engine in this thread gives the bytes of one in its own, takes functions, and shares its steps with requests that have none", async () => {
  await using apart = await LLM.load(folder, tiny);
  const stages: string[] = [];
  await using here = await LLM.load(folder, { ...tiny, inProcess: true, onProgress: (stage) => stages.push(stage) });
  assert.ok(stages.includes("loading weights"));
  assert.deepEqual({ ...here.info, loadSeconds: 0 }, { ...apart.info, loadSeconds: 0 });
  const ask = (llm: LLM) => llm.generate(prompt, { n: 3, seed: 5, maxTokens: 9, ignoreEos: true, logprobs: 2 });
  const plain = await ask(apart);
  assert.deepEqual(await ask(here), plain);
  assert.equal(new Set(plain.choices.map(({ tokenIds }) => tokenIds.join())).size, 3);
  for (const llm of [here, apart]) assert.ok(llm.stats.prefixCacheHits >= 2 * 12, "the later choices found the first one's pages");

  const banned = new Set<number>();
  const options = { seed: 5, maxTokens: 9, ignoreEos: true, logprobs: 0 } as const;
  const neighbour = here.generate(prompt, options);
  const never = here.generate(prompt, {
    ...options, logitsProcessors: [(logits, { outputTokenIds }) => {
      for (const id of outputTokenIds) banned.add(id);
      for (const id of banned) logits[id] = -Infinity;
    }],
  });
  const failing = here.generate(prompt, { ...options, logitsProcessors: [() => { throw new Error("mine"); }] });
  await assert.rejects(Promise.resolve(failing), (error) => error instanceof BadRequest && error.param === "logitsProcessors" && /logitsProcessors\[0\] threw Error: mine, after 0 tokens/.test(error.message));
  assert.equal(new Set((await never).tokenIds).size, 9, "no token twice");
  assert.deepEqual((await neighbour).tokenIds, plain.tokenIds, "its neighbours did not matter");
  assert.throws(() => apart.generate(prompt, { logitsProcessors: [() => {}] }),
    (error) => error instanceof BadRequest && error.param === "logitsProcessors" && /a thread of its own, to which they do not cross; load the model with inProcess: true$/.test(error.message));
  assert.throws(() => here.generate(prompt, { logitsProcessors: ["x" as never] }), /logitsProcessors is a list of 1; it must be a list of at most 64 functions/);

  const cut = here.generate(prompt, { maxTokens: 40, ignoreEos: true });
  for await (const _ of cut) break;
  assert.equal((await cut).finishReason, "abort");
  const before = here.close();
  await before;
  assert.equal(here.alive, false);
});

test("what is wrong with a model is told the same way", async () => {
  await assert.rejects(LLM.load(folder, { ...tiny, inProcess: true, maxModelLen: 10 ** 6 }), (error) => error instanceof UsageError && /maxModelLen/.test(error.message));
  await assert.rejects(LLM.load(folder, { ...tiny, inProcess: true, schedulingPolicy: "lottery" as "fcfs" }), /schedulingPolicy \(--scheduling-policy\) is "lottery"; it must be fcfs or priority/);
});
