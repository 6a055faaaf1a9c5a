import assert from "node:assert/strict";
import test from "node:test";
import { stream } from "../core/random.ts";
import { PageNeeds } from "../model/page-needs.ts";
import { defaultSampling, type SamplingParams } from "../sampling/params.ts";
import { type Answer, alone, drain } from "../../tests/engine/drain.ts";
import { FakeDevice, refuse } from "../../tests/engine/fake-device.ts";
import { plainExpiry, seesWindow } from "../../tests/engine/plain-expiry.ts";
import { FakeModel } from "../../tests/engine/fake-model.ts";
import type { Batch } from "./batch.ts";
import { DraftModel } from "./draft-model.ts";
import { addDrafts, type Drafter } from "./drafter.ts";
import { Engine, type EngineLimits, type ForwardModel } from "./engine.ts";
import { NgramDrafter } from "./ngram.ts";
import type { Work } from "./scheduler.ts";

const vocabSize = 50, eos = 7, refused = 13;
const limits: EngineLimits = { maxNumBatchedTokens: 32, maxNumSeqs: 4, maxNumLogits: 32, pageSize: 4, maxModelLen: 64, numPages: 40 };
const greedy: SamplingParams = { ...defaultSampling, temperature: 0, ignoreEos: true };
const engineOn = (model: ForwardModel, over: EngineLimits, drafter?: Drafter): Engine => new Engine(model, { limits: over, eosTokenIds: [eos], ...(drafter && { drafter }) });

/** Knows the answers, and gives each token of them away with this probability, else another. Takes some turns to think where it is `slow`. */
class Oracle implements Drafter {
  readonly numTokens: number;
  readonly #answers = new Map<string, readonly number[]>();
  readonly #random: () => number;
  readonly #right: number;
  during: () => void = () => {};

  constructor(numTokens: number, right: number, seed: number) {
    this.numTokens = numTokens;
    this.#right = right;
    this.#random = stream(seed);
  }

  learn(id: string, answer: readonly number[]): void {
    this.#answers.set(id, answer);
  }

  async propose(work: readonly Work[]): Promise<void> {
    await Promise.resolve();
    this.during();
    for (const one of work) {
      const { sequence, numDrafts } = one;
      if (numDrafts === 0 || sequence.state !== "running") continue;
      const next = this.#answers.get(sequence.id)!.slice(sequence.numGenerated, sequence.numGenerated + (this.#random() < 0.2 ? this.numTokens : numDrafts));
      addDrafts(one, next.map((token) => (this.#random() < this.#right ? token : (token + 1) % vocabSize)));
    }
  }

  decided(): void {}
}

const draftModel = (model: ForwardModel, over: EngineLimits, k: number) => new DraftModel(model, k, over, over.maxModelLen, 0);

test("right drafts come with the token behind them: a step for each k + 1 tokens, and none past the end", async () => {
  const prompt = Int32Array.of(3, 4), params = { ...greedy, maxTokens: 20 };
  const expected = await alone(engineOn(new FakeModel(vocabSize, limits), limits), prompt, params);
  const oracle = new Oracle(4, 1, 1), model = new FakeModel(vocabSize, limits);
  oracle.learn("alone", expected.tokens);
  const engine = engineOn(model, limits, oracle), got = await alone(engine, prompt, params);
  assert.deepEqual([got.tokens, got.end], [expected.tokens, expected.end]);
  // 1 by the prompt, 5 by each of three steps, and 4 by the last, which has room for 3 drafts.
  assert.equal(model.numForwards, 5);
  const { numDrafts, numDraftTokens, acceptedPerPosition, generationTokens } = engine.stats();
  assert.deepEqual([numDrafts, numDraftTokens, acceptedPerPosition, generationTokens], [4, 15, [4, 4, 4, 3], 20]);
});

test("wrong drafts cost rows and nothing else: one token a step, and their pages are free again", async () => {
  const prompt = Int32Array.of(3, 4, 5), params = { ...greedy, maxTokens: 12 };
  const expected = await alone(engineOn(new FakeModel(vocabSize, limits), limits), prompt, params);
  const oracle = new Oracle(6, 0, 1), model = new FakeModel(vocabSize, limits);
  oracle.learn("alone", expected.tokens);
  const engine = new Engine(model, { limits, eosTokenIds: [eos], drafter: oracle });
  engine.submit("alone", prompt, params);
  let steps = 0, tokens: number[] = [];
  for (; !engine.idle; steps++) for (const delta of await engine.step()) tokens = [...tokens, ...delta.tokens];
  assert.deepEqual([steps, tokens], [12, expected.tokens]);
  assert.deepEqual(engine.stats().acceptedPerPosition, [0, 0, 0, 0, 0, 0]);
  assert.equal(engine.stats().numFreePages, limits.numPages);
});

test("what ends a request ends it among right drafts too: nothing behind it is told", async () => {
  const prompt = Int32Array.of(3, 4), params = { ...greedy, maxTokens: 20 };
  const { tokens } = await alone(engineOn(new FakeModel(vocabSize, limits), limits), prompt, params);
  const stop = tokens.find((token, i) => i % 5 === 2 && i > 4 && tokens.indexOf(token) === i)!;
  const oracle = new Oracle(4, 1, 1);
  oracle.learn("alone", tokens);
  const got = await alone(engineOn(new FakeModel(vocabSize, limits), limits, oracle), prompt, { ...params, stopTokenIds: [stop], logprobs: 1 });
  assert.deepEqual([got.tokens, got.logprobs.length, got.end], [tokens.slice(0, tokens.indexOf(stop) + 1), tokens.indexOf(stop) + 1, { finish: "stop", stopTokenId: stop }]);
});

test("logits that are no numbers behind a right draft: the tokens before them are told, then the error", async () => {
  const prompt = Int32Array.of(3, 4), params = { ...greedy, maxTokens: 20 };
  const broken = (drafter?: Drafter) => {
    const model = new FakeModel(vocabSize, limits), forward = model.forward.bind(model);
    model.forward = async (batch) => {
      const logits = await forward(batch);
      for (let i = 0; i < batch.numLogits; i++) if (batch.positions[batch.logitRows[i]!] === 8) logits.fill(NaN, i * vocabSize, (i + 1) * vocabSize);
      return logits;
    };
    return alone(engineOn(model, limits, drafter), prompt, params);
  };
  const expected = await broken();
  assert.equal(expected.tokens.length, 7);
  const oracle = new Oracle(5, 1, 1);
  oracle.learn("alone", [...expected.tokens, 1, 2, 3, 4, 5, 6]);
  const got = await broken(oracle);
  assert.deepEqual([got.tokens, got.end], [expected.tokens, expected.end]);
  assert.match(got.end.message!, /logits for token 9 are not numbers/);
});

/** The fake model, most of the time: some rows, always the same, have other logits. */
class Doubtful extends FakeModel {
  override async forward(batch: Batch): Promise<Float32Array<ArrayBuffer>> {
    const logits = await super.forward(batch);
    for (let i = 0; i < batch.numLogits; i++) if (logits[i * vocabSize]! < -1.5) logits.subarray(i * vocabSize, (i + 1) * vocabSize).reverse();
    return logits;
  }
}

test("a draft model that is the model itself is always right, greedy and sampled, whatever is cut, shared, preempted or aborted: its cache is whole", async () => {
  const random = stream(5);
  const int = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
  const reached = { numDraftTokens: 0, numPreemptions: 0, prefixCacheHits: 0, aborts: 0, launched: 0 };
  for (let round = 0; round < 40; round++) {
    const k = int(1, 5), maxNumSeqs = int(2, 5);
    const over: EngineLimits = { maxNumBatchedTokens: int(maxNumSeqs, 24), maxNumSeqs, maxNumLogits: maxNumSeqs * (k + 1), pageSize: int(1, 5), numPages: 40, maxModelLen: 40 };
    const tight = { ...over, numPages: Math.ceil(40 / over.pageSize) + int(0, 2) };
    const ahead = round % 2 === 0;
    const model = ahead ? new FakeDevice(vocabSize, tight, round) : new FakeModel(vocabSize, tight);
    const draft = ahead ? new FakeDevice(vocabSize, tight, round + 1) : new FakeModel(vocabSize, tight);
    const engine = new Engine(model, { limits: tight, eosTokenIds: [eos], drafter: draftModel(draft, tight, k) });
    const beginning = Array.from({ length: 20 }, () => int(14, 49));
    const plans = Array.from({ length: 10 }, (_, i) => ({
      id: `${i}`, arrival: int(0, 20), leave: random() < 0.2 ? int(1, 40) : Infinity, prompt: Int32Array.from([...beginning.slice(0, int(0, 20)), int(14, 49)]),
      params: { ...defaultSampling, seed: i, ignoreEos: true, maxTokens: int(1, 19), temperature: i % 2, topK: i % 3 ? 0 : 9, topP: i % 4 ? 1 : 0.8 },
    }));
    await drain(engine, (step) => {
      for (const { id, arrival, leave, prompt, params } of plans) {
        if (arrival === step) engine.submit(id, prompt, params);
        if (leave === step) engine.abort(id);
      }
      return step < 42;
    });
    const { numDraftTokens, acceptedPerPosition, numPreemptions, prefixCacheHits } = engine.stats();
    assert.equal(acceptedPerPosition.reduce((a, b) => a + b), numDraftTokens, `round ${round}`);
    reached.numDraftTokens += numDraftTokens;
    reached.numPreemptions += numPreemptions;
    reached.prefixCacheHits += prefixCacheHits;
    reached.aborts += plans.filter(({ leave }) => leave < Infinity).length;
    if (ahead) reached.launched += draft.numForwards;
  }
  for (const [what, count] of Object.entries(reached)) assert.ok(count > 40, `${what}: ${JSON.stringify(reached)}`);
});

test("tokens, log-probabilities and ends are those of an engine that guesses nothing, whoever guesses, whatever comes, leaves, is refused or preempted at any time", async () => {
  const random = stream(29);
  const int = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
  const reached = { preemptions: 0, aborts: 0, abortsInDrafting: 0, stops: 0, lengths: 0, errors: 0, hits: 0, hostRows: 0, whole: 0, severalAtOnce: 0, expired: 0 };
  const drafts = { oracle: { drafted: 0, accepted: 0 }, ngram: { drafted: 0, accepted: 0 }, model: { drafted: 0, accepted: 0 } };
  const kinds = ["oracle", "ngram", "model"] as const;
  const [numRounds, numExpiring] = process.env["TESSERA_LONG"] ? [2000, 400] : [84, 18];
  for (let round = 0; round < numRounds + numExpiring; round++) {
    const kind = kinds[round % 3]!, ahead = round % 2 === 0, withErrors = round % 4 === 3;
    const k = int(1, 6), maxNumSeqs = int(2, 6);
    let over: EngineLimits = {
      maxNumBatchedTokens: int(maxNumSeqs, 26), maxNumSeqs, maxNumLogits: random() < 0.5 ? maxNumSeqs * (k + 1) : maxNumSeqs + int(0, 4), pageSize: int(1, 5),
      numPages: round % 5 === 0 ? 100 : int(22, 30), maxModelLen: 22, enablePrefixCaching: random() < 0.7,
    };
    const roomy = { ...over, numPages: 100 };
    // In the last rounds pages expire, and the pool has room for what one sequence holds at once, and a little more.
    const window = round >= numRounds ? 1 + (round % 6) : undefined, expiry = window === undefined ? undefined : plainExpiry(seesWindow(window), over.pageSize, over.maxModelLen);
    if (expiry) over = { ...over, numPages: new PageNeeds(over, expiry).mostHeld(over.maxModelLen) + (round % 4) };
    const beginning = Array.from({ length: 9 }, () => int(14, 49)), allowed = kind === "ngram" ? { topK: 1 } : {};
    const requests = Array.from({ length: 12 }, (_, i) => ({
      id: `${i}`, arrival: int(0, 12), leave: random() < 0.2 ? int(1, 25) : Infinity, leaveInDrafting: random() < 0.15 ? int(1, 25) : Infinity,
      prompt: Int32Array.from([...beginning.slice(0, int(0, 9)), ...Array.from({ length: int(1, 5) }, () => int(14, 49))]),
      params: {
        ...defaultSampling, seed: i, maxTokens: int(1, 16), temperature: i % 2 ? 0 : 0.4 + random(), ignoreEos: random() < 0.5, stopTokenIds: random() < 0.3 ? [int(14, 49), int(14, 49)] : [],
        topK: random() < 0.3 ? 8 : 0, topP: random() < 0.3 ? 0.8 : 1, minP: random() < 0.2 ? 0.05 : 0, ...allowed,
        ...(random() < 0.25 && { logprobs: 2 }), ...(random() < 0.2 && { frequencyPenalty: 0.4, logitBias: new Map([[int(14, 49), 3]]) }),
        ...(random() < 0.15 && { promptLogprobs: 1 }), ...(random() < 0.1 && { logitsProcessors: [(logits, { outputTokenIds }) => void (logits[14 + (outputTokenIds.at(-1) ?? 0) % 36] = 4)] }),
        ...(random() < 0.1 && { repetitionPenalty: 1.3, badWords: [[int(14, 49)], [3, 4]], minTokens: 1 }),
        // A few tokens only, so that what stood there before stands there again.
        ...(kind === "ngram" && random() < 0.7 && { allowedTokenIds: [15, 16] }),
      } satisfies SamplingParams,
    }));
    const expected = new Map<string, Answer>();
    for (const r of requests) {
      const model = new FakeModel(vocabSize, roomy, window);
      if (withErrors) refuse(model, refused);
      expected.set(r.id, await alone(engineOn(model, roomy), r.prompt, r.params));
    }

    const model = ahead ? new FakeDevice(vocabSize, over, round, window) : new FakeModel(vocabSize, over, window);
    const draft = new Doubtful(vocabSize, over, window);
    const oracle = new Oracle(k, 0.75, round);
    for (const [id, { tokens }] of expected) oracle.learn(id, tokens);
    const drafter = kind === "oracle" ? oracle : kind === "ngram" ? new NgramDrafter({ numSpeculativeTokens: k, promptLookupMin: 1, promptLookupMax: 3 }) : draftModel(draft, over, k);
    const engine = new Engine(model, { limits: over, eosTokenIds: [eos], drafter, ...(expiry && { expiry }) });
    let now = 0;
    oracle.during = draft.during = () => {
      for (const r of requests) {
        if (r.leaveInDrafting !== now) continue;
        engine.abort(r.id);
        reached.abortsInDrafting++;
      }
    };
    if (withErrors) refuse(model, refused);
    const out = await drain(engine, (step) => {
      now = step;
      for (const r of requests) {
        if (r.arrival === step) engine.submit(r.id, r.prompt, r.params, { priority: Number(r.id) % 3 });
        if (r.leave === step) engine.abort(r.id);
      }
      return step < 13;
    });
    for (const r of requests) {
      const got = out.get(r.id)!, want = expected.get(r.id)!, where = `round ${round} (${kind}), request ${r.id}`;
      if (got.end.finish === "abort") {
        reached.aborts++;
        assert.deepEqual(got.tokens, want.tokens.slice(0, got.tokens.length), where);
        continue;
      }
      assert.deepEqual(got, want, where);
      reached.whole++;
      if (want.end.finish === "error") reached.errors++;
      else if (want.end.finish === "length") reached.lengths++;
      else reached.stops++;
    }
    const stats = engine.stats();
    assert.equal(stats.numFreePages, over.numPages);
    const accepted = stats.acceptedPerPosition.reduce((a, b) => a + b);
    drafts[kind].drafted += stats.numDraftTokens;
    drafts[kind].accepted += accepted;
    reached.severalAtOnce += accepted;
    reached.preemptions += stats.numPreemptions;
    reached.expired += stats.numExpiredPages;
    reached.hits += stats.prefixCacheHits;
    if (model instanceof FakeDevice) reached.hostRows += model.numHostRows;
  }
  for (const [what, count] of Object.entries(reached)) assert.ok(count > 20, `${what}: ${JSON.stringify(reached)}`);
  for (const [kind, { drafted, accepted }] of Object.entries(drafts)) {
    assert.ok(accepted > 0.2 * drafted && accepted < 0.8 * drafted, `${kind}: ${accepted} of ${drafted} drafts accepted`);
  }
});
