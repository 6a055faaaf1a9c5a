/** An engine's thread, or process, with a real engine over the fake model, that comes to grief as its parent's data says (faults.ts). */
import { parent } from "#thread";
import { Engine } from "../../src/engine/engine.ts";
import { Host } from "../../src/engine/host.ts";
import type { FromEngine, ToEngine } from "../../src/engine/messages.ts";
import { FakeModel } from "./fake-model.ts";
import { type Fault, type FaultyData, info, limits, vocabSize } from "./faults.ts";

const thread = parent();
const { fault, atOnce, pulse, stepMs } = thread.data as FaultyData;
const post = (message: FromEngine): void => thread.post(message);
const faults: Readonly<Record<Fault["kind"], () => unknown>> = {
  exit: () => process.exit(7),
  throw: () => {
    throw new Error("lightning");
  },
  spin: () => {
    for (;;);
  },
  stop: () => process.kill(process.pid, "SIGSTOP"),
};

const model = new FakeModel(vocabSize, limits);
const forward = model.forward.bind(model);
model.forward = async (batch) => {
  if (pulse) Atomics.add(pulse[0]!, 0, 1);
  if (stepMs) await new Promise((resolve) => setTimeout(resolve, stepMs));
  const { tokens, numTokens } = batch;
  const isNow = model.numForwards === fault?.atStep || (fault?.atToken !== undefined && tokens.subarray(0, numTokens).includes(fault.atToken));
  if (isNow) await faults[fault.kind]();
  return forward(batch);
};
const host = new Host(new Engine(model, { limits, eosTokenIds: info.eosTokenIds }), { post, now: () => performance.now() / 1000 });
thread.onMessage((message) => host.receive(message as ToEngine));
post({ kind: "ready", info, ...(pulse && { pulse }) });
if (atOnce) setTimeout(() => process.exit(4), 5);
await host.ended;
post({ kind: "closed" });
