/** The pulse of a real engine: it moves while it computes, whatever the step, and what is watched is not the model's memory. */
import assert from "node:assert/strict";
import test from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { prepareEngine } from "../../src/engine/start.ts";
import type { FromEngine } from "../../src/engine/messages.ts";
import { defaultSampling } from "../../src/sampling/params.ts";
import { fixture } from "./tiny-model.ts";

test("an engine on the cpu shows a pulse that moves while a step is computed and stands still while there is none", async () => {
  const options = { device: "cpu", model: fixture("llama"), maxModelLen: 2048, maxNumSeqs: 1, maxNumBatchedTokens: 2048, threads: 2 } as const;
  const thread = prepareEngine(options);
  try {
    const heard: FromEngine[] = [];
    thread.onMessage((message) => heard.push(message as FromEngine));
    thread.post(options);
    while (heard.at(-1)?.kind !== "ready") await sleep(5);
    const { pulse } = heard.at(-1) as FromEngine & { kind: "ready" };
    assert.ok(pulse!.every(({ buffer }) => buffer instanceof SharedArrayBuffer && buffer.byteLength === 4), "words of their own");
    const seen = () => pulse!.map((word) => Atomics.load(word, 0)).join();
    await sleep(250);
    const atRest = seen();
    await sleep(250);
    assert.equal(seen(), atRest);
    const before = heard.length, values = new Set<string>();
    // One long step after another, so that in between nothing is said.
    thread.post({ kind: "submit", id: "a", prompt: new Int32Array(2040).fill(7), params: { ...defaultSampling, maxTokens: 4 }, standing: {} });
    for (let i = 0; i < 400 && !heard.slice(before).some((message) => message.kind === "deltas" && message.deltas.some(({ finish }) => finish)); i++) {
      await sleep(20);
      values.add(seen());
    }
    await sleep(150);
    values.add(seen());
    assert.ok(values.size > 1, "it has moved");
  } finally {
    await thread.terminate();
  }
});
