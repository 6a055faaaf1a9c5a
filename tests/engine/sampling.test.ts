/** Rules on logits through the engine: tokens are those of the definition, which computes every sequence from its start. */
import assert from "node:assert/strict";
import test from "node:test";
import { stream } from "../../src/core/random.ts";
import { Engine, type EngineLimits } from "../../src/engine/engine.ts";
import type { Delta } from "../../src/engine/messages.ts";
import { defaultSampling, type SamplingParams } from "../../src/sampling/params.ts";
import { LogitRules } from "../../src/sampling/rules.ts";
import { Sampler } from "../../src/sampling/sampler.ts";
import { FakeModel, fakeLogits } from "./fake-model.ts";

const vocabSize = 30;
const eos = 7;
const maxModelLen = 24;

interface Answer {
  readonly tokens: readonly number[];
  readonly logprobs: readonly number[];
  readonly finish: string | undefined;
}

/** Token by token, with rules made anew from prompt and output each time: what nothing remembers, no preemption can spoil. */
function definition(prompt: readonly number[], params: SamplingParams, seed: number): Answer {
  const output: number[] = [], logprobs: number[] = [];
  const sampler = new Sampler(vocabSize);
  for (;;) {
    const logits = fakeLogits([...prompt, ...output], vocabSize);
    const rules = LogitRules.of(params, Int32Array.from(prompt), new Set([eos]));
    for (const token of output) rules?.add(token);
    const token = sampler.sample(logits, params, seed, prompt.length + output.length, rules);
    if (token === undefined) return { tokens: output, logprobs, finish: "error" };
    output.push(token);
    logprobs.push(logits[token]! - Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0)));
    if ((token === eos && !params.ignoreEos) || params.stopTokenIds.includes(token)) return { tokens: output, logprobs, finish: "stop" };
    if (output.length === params.maxTokens || prompt.length + output.length === maxModelLen) return { tokens: output, logprobs, finish: "length" };
  }
}

function answerOf(deltas: readonly Delta[]): Answer {
  return { tokens: deltas.flatMap((d) => d.tokens), logprobs: deltas.flatMap((d) => d.logprobs ?? []).map((l) => l.logprob), finish: deltas.at(-1)?.finish };
}

test("tokens under rules, and the raw log-probabilities beside them, are the definition's among random arrivals, chunks and preemptions", async () => {
  const random = stream(23);
  const int = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
  const list = (length: number) => Array.from({ length }, () => int(0, vocabSize - 1));
  const maybe = (p: Partial<SamplingParams>): Partial<SamplingParams> => (random() < 0.4 ? p : {});
  const finishes = new Map<string, number>();
  let preemptions = 0, late = 0;
  for (let round = 0; round < 20; round++) {
    const pageSize = int(1, 4);
    // Room for the longest of them and a little more: whoever shares it is preempted sooner or later.
    const limits: EngineLimits = { maxNumBatchedTokens: int(2, 20), maxNumSeqs: int(2, 5), pageSize, numPages: Math.ceil(22 / pageSize) + int(0, 3), maxModelLen };
    const engine = new Engine(new FakeModel(vocabSize, limits), { limits, eosTokenIds: [eos] });
    const requests = Array.from({ length: 8 }, (_, i) => {
      const maxTokens = int(4, 16);
      const params: SamplingParams = {
        ...defaultSampling, maxTokens, seed: i, temperature: i % 2, logprobs: 0, ignoreEos: random() < 0.5, stopTokenIds: list(int(0, 1)),
        ...maybe({ repetitionPenalty: 1.5 }), ...maybe({ presencePenalty: 0.8 }), ...maybe({ frequencyPenalty: 0.6 }), ...maybe({ minTokens: int(1, maxTokens) }),
        ...maybe({ logitBias: new Map(list(3).map((id) => [id, random() * 8 - 4])) }), ...maybe({ badWords: [list(1), list(2), list(2)] }),
        ...(random() < 0.2 ? { allowedTokenIds: list(int(1, 12)) } : {}),
      };
      return { id: String(i), arrival: int(0, 6), prompt: list(int(1, 6)), params };
    });
    const out = new Map<string, Delta[]>();
    for (let step = 0; step <= 6 || !engine.idle; step++) {
      assert.ok(step < 2000, "never idle");
      for (const { id, arrival, prompt, params } of requests) if (arrival === step) engine.submit(id, Int32Array.from(prompt), params);
      const before = engine.stats().numPreemptions;
      for (const delta of await engine.step()) out.set(delta.id, [...(out.get(delta.id) ?? []), delta]);
      if (engine.stats().numPreemptions > before && [...out.values()].some((deltas) => !deltas.at(-1)!.finish)) late++;
    }
    for (const { id, prompt, params } of requests) {
      const got = answerOf(out.get(id)!), want = definition(prompt, params, params.seed!);
      assert.deepEqual([got.tokens, got.finish], [want.tokens, want.finish], `round ${round}, request ${id}`);
      for (const [i, logprob] of want.logprobs.entries()) assert.ok(Math.abs(got.logprobs[i]! - logprob) < 1e-5, `round ${round}, request ${id}: logprob ${i}`);
      finishes.set(want.finish!, (finishes.get(want.finish!) ?? 0) + 1);
    }
    preemptions += engine.stats().numPreemptions;
  }
  assert.ok(preemptions > 20 && late > 10, `${preemptions} preemptions, ${late} steps of them with output begun`);
  for (const finish of ["stop", "length"]) assert.ok((finishes.get(finish) ?? 0) > 2, `${finish}: ${finishes.get(finish)}`);
});

test("with ignore_eos the end token is held back for min_tokens and goes by afterwards; a stop id still ends", async () => {
  const limits: EngineLimits = { maxNumBatchedTokens: 16, maxNumSeqs: 2, pageSize: 4, numPages: 20, maxModelLen };
  const run = async (over: Partial<SamplingParams>) => {
    const engine = new Engine(new FakeModel(vocabSize, limits), { limits, eosTokenIds: [eos] });
    engine.submit("a", Int32Array.of(1, 2), { ...defaultSampling, temperature: 0, maxTokens: 8, logitBias: new Map([[eos, 100], [5, 50]]), ...over });
    const deltas: Delta[] = [];
    while (!engine.idle) deltas.push(...(await engine.step()));
    return { tokens: deltas.flatMap((d) => d.tokens), finish: deltas.at(-1)!.finish };
  };
  assert.deepEqual(await run({}), { tokens: [eos], finish: "stop" });
  assert.deepEqual(await run({ minTokens: 3 }), { tokens: [5, 5, 5, eos], finish: "stop" });
  assert.deepEqual(await run({ minTokens: 3, ignoreEos: true }), { tokens: [5, 5, 5, eos, eos, eos, eos, eos], finish: "length" });
  const stopped = await run({ minTokens: 3, ignoreEos: true, stopTokenIds: [5] });
  assert.ok(!stopped.tokens.slice(0, 3).some((token) => token === 5 || token === eos));
  assert.deepEqual([stopped.tokens.slice(3), stopped.finish], [[eos, eos, eos, eos, eos], "length"]);
  assert.deepEqual(await run({ minTokens: 8 }), { tokens: [5, 5, 5, 5, 5, 5, 5, 5], finish: "length" });
});

test("a request whose rules leave no token is told so, and which field did it", async () => {
  const limits: EngineLimits = { maxNumBatchedTokens: 16, maxNumSeqs: 2, pageSize: 4, numPages: 20, maxModelLen };
  const engine = new Engine(new FakeModel(vocabSize, limits), { limits, eosTokenIds: [eos] });
  engine.submit("a", Int32Array.of(1), { ...defaultSampling, allowedTokenIds: [4, eos], minTokens: 5, badWords: [[4, 4]] });
  const deltas: Delta[] = [];
  while (!engine.idle) deltas.push(...(await engine.step()));
  assert.deepEqual(deltas.map(({ tokens, finish, param }) => ({ tokens, finish, param })), [{ tokens: [4], finish: undefined, param: undefined }, { tokens: [], finish: "error", param: "allowedTokenIds" }]);
  assert.match(deltas[1]!.message!, /after 1 tokens of output no token is left/);
});
