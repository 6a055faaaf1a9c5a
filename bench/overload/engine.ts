/** The thread of an engine of known speed: the engine is the real one, its model takes a fixed time for a step and always says the same token. */
import { setTimeout as sleep } from "node:timers/promises";
import { parent } from "#thread";
import { Engine, type EngineLimits, type ForwardModel } from "../../src/engine/engine.ts";
import { Host } from "../../src/engine/host.ts";
import { Answers } from "../../src/sampling/logprobs.ts";
import type { FromEngine, ToEngine } from "../../src/engine/messages.ts";

export interface Pace {
  readonly stepMs: number;
  readonly maxNumSeqs: number;
}

const vocabSize = 64;
const thread = parent();
const { stepMs, maxNumSeqs } = thread.data as Pace;
const limits: EngineLimits = { maxNumBatchedTokens: 4096, maxNumSeqs, pageSize: 16, maxModelLen: 128, numPages: maxNumSeqs * 8 };
const tokens = new Int32Array(maxNumSeqs), answers = new Answers(new Uint8Array(0));
let next = performance.now();
const model: ForwardModel = {
  vocabSize,
  runsAhead: false,
  async launch() {
    // By the clock and not by the timer, which is late now and then: a machine is not slower for it.
    const now = performance.now();
    next = Math.max(next + stepMs, now);
    if (next > now) await sleep(next - now);
    return { tokens, answers, logits: [] };
  },
};
const post = (message: FromEngine): void => thread.post(message);
const host = new Host(new Engine(model, { limits, eosTokenIds: [] }), { post, now: () => performance.now() / 1000 });
thread.onMessage((message) => host.receive(message as ToEngine));
post({
  kind: "ready",
  info: { ...limits, architecture: "Paced", backend: "none", dtype: "none", kvCacheDtype: "none", numParameters: 0, vocabSize, eosTokenIds: [], weightBytes: 0, kvBytes: 0, enablePrefixCaching: true, schedulingPolicy: "fcfs", loadSeconds: 0 },
});
