import assert from "node:assert/strict";
import test from "node:test";
import { stream } from "../core/random.ts";
import { PageNeeds } from "../model/page-needs.ts";
import { defaultSampling, type SamplingParams } from "../sampling/params.ts";
import { type Answer, alone, drain } from "../../tests/engine/drain.ts";
import { FakeDevice, refuse } from "../../tests/engine/fake-device.ts";
import { plainExpiry, seesWindow } from "../../tests/engine/plain-expiry.ts";
import { FakeModel } from "../../tests/engine/fake-model.ts";
import { Engine, type EngineLimits, type ForwardModel } from "./engine.ts";

const limits: EngineLimits = { maxNumBatchedTokens: 16, maxNumSeqs: 4, pageSize: 4, maxModelLen: 64, numPages: 40 };
const vocabSize = 50, eos = 7, refused = 13;
const greedy: SamplingParams = { ...defaultSampling, temperature: 0, ignoreEos: true };
const engineOn = (model: ForwardModel, over: EngineLimits): Engine => new Engine(model, { limits: over, eosTokenIds: [eos] });

test("each step is started before the tokens of the one before are here, and none behind the last", async () => {
  const device = new FakeDevice(vocabSize, limits, 1);
  const engine = new Engine(device, { limits, eosTokenIds: [eos] });
  for (const id of ["a", "b"]) engine.submit(id, Int32Array.of(id.charCodeAt(0) - 90, 2), { ...greedy, maxTokens: 20 });
  const out = await drain(engine);
  const { numSteps, numStepsAhead, generationTokens } = engine.stats();
  assert.deepEqual([out.get("a")!.tokens.length, out.get("b")!.tokens.length, generationTokens], [20, 20, 40]);
  assert.deepEqual([numSteps, numStepsAhead, device.numQueued, device.numForwards], [20, 19, 19, 20], "who ends by length is known, and costs no row");
});

test("an end that nobody could know costs one row, which is dropped", async () => {
  const expected = await alone(engineOn(new FakeModel(vocabSize, limits), limits), Int32Array.of(3, 4), { ...greedy, maxTokens: 20 });
  const stop = expected.tokens.find((token, i) => i > 3 && expected.tokens.indexOf(token) === i)!;
  const device = new FakeDevice(vocabSize, limits, 1);
  const got = await alone(engineOn(device, limits), Int32Array.of(3, 4), { ...greedy, maxTokens: 20, stopTokenIds: [stop] });
  assert.deepEqual(got.tokens, expected.tokens.slice(0, expected.tokens.indexOf(stop) + 1));
  assert.deepEqual(got.end, { finish: "stop", stopTokenId: stop });
  assert.equal(device.numForwards, got.tokens.length + 1);
});

test("a step waits for the one before where it must know its tokens, and logits come to the host for functions alone", async () => {
  const ruled = { minTokens: 1, logitBias: new Map([[3, 1]]), allowedTokenIds: [3, 4, 5, 6], badWords: [[4]] };
  for (const [params, ahead, hostRows] of [
    [{}, 7, 0], [{ topK: 5, temperature: 1 }, 7, 0], [{ logprobs: 3 }, 7, 0], [ruled, 7, 0], [{ repetitionPenalty: 1.1 }, 0, 0], [{ presencePenalty: 1 }, 0, 0], [{ badWords: [[4, 5]] }, 0, 0],
    [{ logitsProcessors: [() => {}] }, 0, 8],
  ] as const) {
    const device = new FakeDevice(vocabSize, limits, 1);
    const engine = new Engine(device, { limits, eosTokenIds: [] });
    engine.submit("one", Int32Array.of(1, 2), { ...greedy, ...params, maxTokens: 8 });
    await drain(engine);
    assert.deepEqual([engine.stats().numStepsAhead, device.numQueued, device.numHostRows], [ahead, ahead, hostRows], Object.keys(params).join());
  }
});

test("what the host does while a step is under way is counted as hidden", async () => {
  let clock = 0;
  const engine = new Engine(new FakeDevice(vocabSize, limits, 1), { limits, eosTokenIds: [], now: () => clock++ });
  engine.submit("one", Int32Array.of(1, 2), { ...greedy, maxTokens: 8 });
  await drain(engine);
  const { hostSeconds, hiddenSeconds, waitSeconds } = engine.stats();
  assert.ok(waitSeconds >= 8, `${waitSeconds}`);
  assert.ok(hiddenSeconds > 0.7 * hostSeconds && hiddenSeconds < hostSeconds, `${hiddenSeconds} of ${hostSeconds}: the first start and the last tokens are not hidden`);
});

test("a machine that dies with a step behind the one that it dies of rejects once, and nothing is left unheard", async () => {
  const device = new FakeDevice(vocabSize, limits, 1);
  device.during = () => {
    if (device.numForwards >= 3) throw new Error("lightning");
  };
  const engine = new Engine(device, { limits, eosTokenIds: [] });
  engine.submit("one", Int32Array.of(1, 2), { ...greedy, maxTokens: 8 });
  await assert.rejects(drain(engine), /lightning/);
});

test("tokens, log-probabilities and ends are those of an engine that waits, whatever comes, leaves, is refused or preempted at any time", async () => {
  const random = stream(23);
  const int = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
  const reached = { ahead: 0, preemptions: 0, aborts: 0, stops: 0, eos: 0, lengths: 0, refused: 0, hits: 0, hostRows: 0, abortsUnderWay: 0, whole: 0, promptsRead: 0, expired: 0 };
  for (let round = 0; round < 120; round++) {
    let over: EngineLimits = {
      maxNumBatchedTokens: int(1, 20), maxNumSeqs: int(2, 6), pageSize: int(1, 5), numPages: round % 3 === 0 ? 100 : int(18, 26), maxModelLen: 18, enablePrefixCaching: random() < 0.7,
    };
    // Under every third model pages expire, and the pool has room for what one sequence holds at once, and a little more.
    const window = round % 3 === 1 ? 1 + (round % 6) : undefined, expiry = window === undefined ? undefined : plainExpiry(seesWindow(window), over.pageSize, over.maxModelLen);
    if (expiry) over = { ...over, numPages: new PageNeeds(over, expiry).mostHeld(over.maxModelLen) + (round % 4) };
    const withErrors = round % 2 === 0, withHost = round % 4 < 2;
    const beginning = Array.from({ length: 9 }, () => int(14, 49));
    const requests = Array.from({ length: 14 }, (_, i) => ({
      id: `${i}`, arrival: int(0, 12), leave: random() < 0.3 ? int(1, 25) : Infinity, leaveUnderWay: random() < 0.15 ? int(1, 25) : Infinity,
      prompt: Int32Array.from([...beginning.slice(0, int(0, 9)), ...Array.from({ length: int(1, 5) }, () => int(14, 49))]),
      params: {
        ...defaultSampling, seed: i, maxTokens: int(1, 12), temperature: i % 2 ? 0 : 0.4 + random(), ignoreEos: random() < 0.5, stopTokenIds: random() < 0.3 ? [int(14, 49), int(14, 49)] : [],
        topK: random() < 0.3 ? 8 : 0, topP: random() < 0.3 ? 0.8 : 1, minP: random() < 0.2 ? 0.05 : 0,
        ...(withHost && random() < 0.25 && { logprobs: 2 }), ...(withHost && random() < 0.2 && { frequencyPenalty: 0.4, logitBias: new Map([[int(14, 49), 3]]) }),
        ...(withHost && random() < 0.2 && { promptLogprobs: int(0, 2) }), ...(withHost && random() < 0.1 && { logitsProcessors: [(logits, { outputTokenIds }) => void (logits[14 + (outputTokenIds.at(-1) ?? 0)] = 4)] }),
      } satisfies SamplingParams,
    }));
    const expected = new Map<string, Answer>();
    for (const r of requests) {
      const model = new FakeModel(vocabSize, { ...over, numPages: 100 }, window);
      if (withErrors) refuse(model, refused);
      expected.set(r.id, await alone(engineOn(model, { ...over, numPages: 100 }), r.prompt, r.params));
    }

    const device = new FakeDevice(vocabSize, over, round, window);
    const engine = new Engine(device, { limits: over, eosTokenIds: [eos], ...(expiry && { expiry }) });
    device.during = () => {
      for (const r of requests) {
        if (r.leaveUnderWay !== device.numForwards) continue;
        engine.abort(r.id);
        reached.abortsUnderWay++;
      }
    };
    if (withErrors) refuse(device, refused);
    const out = await drain(engine, (step) => {
      for (const r of requests) {
        if (r.arrival === step) engine.submit(r.id, r.prompt, r.params);
        if (r.leave === step) engine.abort(r.id);
      }
      return step < 13;
    });
    for (const r of requests) {
      const got = out.get(r.id)!, want = expected.get(r.id)!, where = `round ${round}, request ${r.id}`;
      if (got.end.finish === "abort") {
        reached.aborts++;
        assert.deepEqual(got.tokens, want.tokens.slice(0, got.tokens.length), where);
        continue;
      }
      assert.deepEqual(got, want, where);
      reached.whole++;
      if (want.end.finish !== "error") assert.equal(got.promptLogprobs.length, r.params.promptLogprobs === undefined ? 0 : r.prompt.length - 1);
      if (got.promptLogprobs.length > 0) reached.promptsRead++;
      if (want.end.finish === "error") reached.refused++;
      else if (want.end.finish === "length") reached.lengths++;
      else if (want.end.stopTokenId !== undefined) reached.stops++;
      else reached.eos++;
    }
    const stats = engine.stats();
    assert.equal(stats.numFreePages, over.numPages);
    assert.equal(stats.numStepsAhead > 0, device.numQueued > 0);
    reached.ahead += stats.numStepsAhead;
    reached.expired += stats.numExpiredPages;
    reached.preemptions += stats.numPreemptions;
    reached.hits += stats.prefixCacheHits;
    reached.hostRows += device.numHostRows;
  }
  for (const [what, count] of Object.entries(reached)) assert.ok(count > 20, `${what}: ${JSON.stringify(reached)}`);
});
