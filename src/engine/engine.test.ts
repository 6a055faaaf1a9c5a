import assert from "node:assert/strict";
import test from "node:test";
import { stream } from "../core/random.ts";
import { defaultSampling, type SamplingParams } from "../sampling/params.ts";
import { FakeModel, fakeLogits } from "../../tests/engine/fake-model.ts";
import { Engine, type EngineLimits } from "./engine.ts";
import type { Delta } from "./messages.ts";

const limits: EngineLimits = { maxNumBatchedTokens: 16, maxNumSeqs: 4, pageSize: 4, maxModelLen: 64, numPages: 40 };
const make = (over: Partial<EngineLimits> = {}, eosTokenIds: readonly number[] = [], seed = 0) => {
  const all = { ...limits, ...over };
  const model = new FakeModel(50, all);
  return { model, engine: new Engine(model, { limits: all, eosTokenIds, seed }) };
};
const greedy = { ...defaultSampling, temperature: 0 };

/** Steps until idle; the deltas of each request joined. */
async function drain(engine: Engine, during: (step: number) => void = () => {}): Promise<Map<string, Delta & { tokens: number[] }>> {
  const out = new Map<string, Delta & { tokens: number[] }>();
  for (let step = 0; !engine.idle; step++) {
    assert.ok(step < 5000, "never idle");
    during(step);
    for (const delta of await engine.step()) {
      const before = out.get(delta.id);
      assert.ok(!before?.finish, `${delta.id} goes on after its end`);
      out.set(delta.id, { ...before, ...delta, tokens: [...(before?.tokens ?? []), ...delta.tokens], logprobs: [...(before?.logprobs ?? []), ...(delta.logprobs ?? [])],
        ...((before?.promptLogprobs ?? delta.promptLogprobs) && { promptLogprobs: { from: 1, logprobs: [...(before?.promptLogprobs?.logprobs ?? []), ...(delta.promptLogprobs?.logprobs ?? [])] } }) });
    }
  }
  return out;
}
const one = async (engine: Engine, prompt: readonly number[], params: SamplingParams) => {
  engine.submit("one", Int32Array.from(prompt), params);
  return (await drain(engine)).get("one")!;
};

/** What a request must give: the definition, without pages, batches or chunks. */
function continuation(prompt: readonly number[], length: number): number[] {
  const all = [...prompt];
  for (let i = 0; i < length; i++) {
    const logits = fakeLogits(all, 50);
    all.push(logits.indexOf(Math.max(...logits)));
  }
  return all.slice(prompt.length);
}

test("greedy tokens are those of the definition, in any chunks, and end by length", async () => {
  for (const maxNumBatchedTokens of [1, 3, 16]) {
    const got = await one(make({ maxNumBatchedTokens }).engine, [3, 1, 4, 1, 5, 9, 2, 6, 5], { ...greedy, maxTokens: 20 });
    assert.deepEqual(got.tokens, continuation([3, 1, 4, 1, 5, 9, 2, 6, 5], 20));
    assert.equal(got.finish, "length");
  }
});

test("the context ends a request by length", async () => {
  const got = await one(make().engine, [1, 2, 3], { ...greedy, maxTokens: 1000 });
  assert.equal(got.tokens.length, 61);
  assert.equal(got.finish, "length");
});

test("an end token stops unless ignored, and a stop id says which it was", async () => {
  const tokens = continuation([7, 7], 16);
  const eos = tokens.find((token, i) => i > 3 && tokens.indexOf(token) === i)!;
  const ended = tokens.slice(0, tokens.indexOf(eos) + 1);
  const byEos = await one(make({}, [eos]).engine, [7, 7], greedy);
  assert.deepEqual([byEos.tokens, byEos.finish, byEos.stopTokenId], [ended, "stop", undefined]);
  const ignored = await one(make({}, [eos]).engine, [7, 7], { ...greedy, ignoreEos: true });
  assert.deepEqual([ignored.tokens, ignored.finish], [tokens, "length"]);
  const byId = await one(make().engine, [7, 7], { ...greedy, stopTokenIds: [eos] });
  assert.deepEqual([byId.tokens, byId.finish, byId.stopTokenId], [ended, "stop", eos]);
});

test("a request that is wrong, or could never fit, is answered with the field and the numbers, and nothing else stops", async () => {
  const { engine } = make({ numPages: 10 });
  const cases: readonly (readonly [string, number[], Partial<SamplingParams>, string, RegExp])[] = [
    ["empty", [], {}, "prompt", /empty/],
    ["vocabulary", [1, 50], {}, "prompt", /prompt\[1\] is 50; it must be a token id from 0 to 49/],
    ["negative", [-1], {}, "prompt", /prompt\[0\] is -1/],
    ["long", new Array<number>(64).fill(1), {}, "prompt", /64 tokens; the model's context is 64/],
    ["topP", [1], { topP: 0 }, "topP", /topP is 0/],
    ["stop", [1], { stopTokenIds: [50] }, "stopTokenIds", /stopTokenIds is 50/],
    ["pool", [1, 2], { maxTokens: 40 }, "maxTokens", /make 42 tokens; the KV cache has room for 40 \(10 pages of 4\)/],
  ];
  for (const [id, prompt, over] of cases) engine.submit(id, Int32Array.from(prompt), { ...greedy, ...over });
  engine.submit("good", Int32Array.of(1, 2), { ...greedy, maxTokens: 39 });
  const out = await drain(engine);
  for (const [id, , , param, message] of cases) {
    const delta = out.get(id)!;
    assert.deepEqual([delta.finish, delta.param, delta.tokens], ["error", param, []], id);
    assert.match(delta.message!, message);
  }
  assert.equal(out.get("good")!.tokens.length, 39);
});

test("logits that are not numbers end their request alone", async () => {
  const { engine, model } = make();
  const forward = model.forward.bind(model);
  model.forward = async (batch) => {
    const logits = await forward(batch);
    if (batch.kvLength[0] === 5) logits[3] = NaN;
    return logits;
  };
  engine.submit("bad", Int32Array.of(1, 2), defaultSampling);
  engine.submit("good", Int32Array.of(1, 2, 3), greedy);
  const out = await drain(engine);
  assert.equal(out.get("bad")!.finish, "error");
  assert.equal(out.get("bad")!.tokens.length, 3);
  assert.match(out.get("bad")!.message!, /logits for token 5 are not numbers/);
  assert.deepEqual(out.get("good")!.tokens, continuation([1, 2, 3], 16));
  assert.equal(engine.stats().numFreePages, limits.numPages);
});

test("an abort while the model is running frees the pages at once and spares the others", async () => {
  const { engine, model } = make();
  for (const id of ["a", "b", "c"]) engine.submit(id, Int32Array.of(id.charCodeAt(0) - 90, 2), greedy);
  model.during = () => {
    if (model.numForwards !== 4) return;
    engine.abort("a");
    engine.abort("c");
    engine.abort("nobody");
    assert.equal(engine.stats().numFreePages, limits.numPages - 2);
  };
  const out = await drain(engine);
  assert.deepEqual([...out].map(([id, d]) => [id, d.finish, d.tokens.length]), [["a", "abort", 3], ["b", "length", 16], ["c", "abort", 3]]);
  assert.deepEqual(out.get("b")!.tokens, continuation([8, 2], 16));
  assert.equal(engine.stats().numFreePages, limits.numPages);
});

test("logprobs come with every token where asked, and agree with the definition", async () => {
  const got = await one(make().engine, [4, 2], { ...greedy, logprobs: 2, maxTokens: 3 });
  assert.equal(got.logprobs!.length, 3);
  const first = got.logprobs![0]!;
  assert.deepEqual([first.token, first.rank, first.top[0]!.token, first.top.length], [got.tokens[0], 1, got.tokens[0], 2]);
  const logits = [...fakeLogits([4, 2], 50)];
  const expected = Math.max(...logits) - Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0));
  assert.ok(Math.abs(first.logprob - expected) < 1e-12);
});

test("the prompt's tokens have the log-probabilities of the definition, whatever the chunks, and logits that are no numbers end the request", async () => {
  const prompt = [4, 2, 9, 9, 7];
  for (const over of [{}, { maxNumBatchedTokens: 2 }, { maxNumSeqs: 1 }, { maxNumLogits: 5, maxNumBatchedTokens: 4 }]) {
    const { engine, model } = make(over);
    const { promptLogprobs } = await one(engine, prompt, { ...greedy, promptLogprobs: 1, maxTokens: 2 });
    assert.equal(promptLogprobs!.logprobs.length, 4);
    for (const [i, known] of promptLogprobs!.logprobs.entries()) {
      const logits = [...fakeLogits(prompt.slice(0, i + 1), 50)], token = prompt[i + 1]!;
      assert.deepEqual([known.token, known.rank, known.top.length], [token, 1 + logits.filter((x) => x > logits[token]!).length, 1]);
      assert.ok(Math.abs(known.logprob - (logits[token]! - Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0)))) < 1e-12);
    }
    const forward = model.forward.bind(model);
    model.forward = async (batch) => {
      const logits = await forward(batch);
      const bad = batch.logitRows.subarray(0, batch.numLogits).findIndex((row) => batch.positions[row] === 2);
      if (bad >= 0) logits[50 * bad] = NaN;
      return logits;
    };
    const { finish, tokens, message } = await one(engine, prompt, { ...greedy, promptLogprobs: 1 });
    assert.deepEqual([finish, tokens], ["error", []]);
    assert.match(message!, /logits for token 3 are not numbers/);
    assert.equal(engine.stats().numFreePages, 40);
  }
});

test("requests without a seed differ from each other, and a second engine with the same seed repeats them all", async () => {
  const run = async (seed: number) => {
    const { engine } = make({}, [], seed);
    for (const id of ["a", "b"]) engine.submit(id, Int32Array.of(1, 2, 3), defaultSampling);
    const out = await drain(engine);
    return ["a", "b"].map((id) => out.get(id)!.tokens);
  };
  const [a, b] = await run(5);
  assert.notDeepEqual(a, b);
  assert.deepEqual(await run(5), [a, b]);
  assert.notDeepEqual(await run(6), [a, b]);
});

test("choices of one prompt compute its full pages once, with a prefix cache and without, and without it nobody else finds them", async () => {
  const prompt = Int32Array.from({ length: 22 }, (_, i) => (i * 7) % 50);
  for (const enablePrefixCaching of [true, false]) for (const maxNumBatchedTokens of [5, 64]) {
    const { engine, model } = make({ enablePrefixCaching, maxNumBatchedTokens, maxNumSeqs: 3, numPages: 60 });
    let numPromptTokens = 0;
    const forward = model.forward.bind(model);
    model.forward = (batch) => {
      for (let row = 0; row < batch.numTokens; row++) if (batch.positions[row]! < prompt.length) numPromptTokens++;
      return forward(batch);
    };
    const run = async (family: string, ids: readonly string[]) => {
      numPromptTokens = 0;
      for (const [i, id] of ids.entries()) engine.submit(id, prompt, { ...defaultSampling, seed: i, maxTokens: 3 + i }, { family });
      return drain(engine);
    };
    const out = await run("first", ["a", "b", "c", "d", "e"]);
    assert.equal(numPromptTokens, 22 + 4 * 2, "five pages and two tokens");
    for (const [i, id] of ["a", "b", "c", "d", "e"].entries()) {
      assert.deepEqual(out.get(id)!.tokens, (await one(make().engine, [...prompt], { ...defaultSampling, seed: i, maxTokens: 3 + i })).tokens);
    }
    await run("second", ["f"]);
    assert.equal(numPromptTokens, enablePrefixCaching ? 2 : 22);
    engine.submit("g", prompt, greedy);
    engine.submit("h", prompt, greedy);
    numPromptTokens = 0;
    await drain(engine);
    assert.equal(numPromptTokens, enablePrefixCaching ? 4 : 44);
    assert.equal(engine.stats().numFreePages, 60);
  }
});

test("a logits processor chooses tokens, sees the raw logits, is called once a token in spite of preemption, and ends nobody but its own request", async () => {
  const { engine, model } = make({ numPages: 7, maxModelLen: 27 });
  const calls: number[][] = [];
  const shift: SamplingParams = {
    ...greedy, maxTokens: 12, logprobs: 0,
    logitsProcessors: [(logits, { promptTokenIds, outputTokenIds }) => {
      calls.push([...promptTokenIds, ...outputTokenIds]);
      logits.fill(-Infinity);
      logits[outputTokenIds.length] = 1;
    }],
  };
  engine.submit("good", Int32Array.of(1, 2, 3), { ...greedy, maxTokens: 20 });
  engine.submit("sampled", Int32Array.of(4, 5), { ...defaultSampling, seed: 3, maxTokens: 8 });
  engine.submit("shift", Int32Array.of(9), shift);
  const failing = (id: string, logitsProcessors: SamplingParams["logitsProcessors"] & object) => engine.submit(id, Int32Array.of(7, 8), { ...greedy, logitsProcessors });
  failing("throws", [(_, { outputTokenIds }) => { if (outputTokenIds.length === 2) throw new Error("two are enough"); }]);
  failing("nan", [(logits) => void (logits[3] = NaN)]);
  failing("nothing", [(logits) => void logits.fill(-Infinity)]);
  const out = await drain(engine);
  assert.deepEqual(out.get("good")!.tokens, continuation([1, 2, 3], 20));
  assert.deepEqual(out.get("sampled")!.tokens, (await one(make().engine, [4, 5], { ...defaultSampling, seed: 3, maxTokens: 8 })).tokens);
  const tokens = Array.from({ length: 12 }, (_, i) => i);
  assert.deepEqual([out.get("shift")!.tokens, out.get("shift")!.finish], [tokens, "length"]);
  assert.deepEqual(calls, tokens.map((i) => [9, ...tokens.slice(0, i)]));
  assert.ok(engine.stats().numPreemptions > 0, "somebody was preempted");
  const logits = [...fakeLogits([9], 50)];
  const raw = logits[0]! - Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0));
  assert.ok(Math.abs(out.get("shift")!.logprobs![0]!.logprob - raw) < 1e-6, "log-probabilities are the model's");
  for (const [id, length, message] of [["throws", 2, /logitsProcessors\[0\] threw Error: two are enough, after 2 tokens/], ["nan", 0, /no token .*NaN/], ["nothing", 0, /left no token/]] as const) {
    const { tokens, finish, param, message: got } = out.get(id)!;
    assert.deepEqual([tokens.length, finish, param], [length, "error", "logitsProcessors"], id);
    assert.match(got!, message);
  }
  assert.equal(engine.stats().numFreePages, 7);
  assert.ok(model.numForwards > 0);
});

test("a logits processor may abort its own request, others and submit new ones in the middle of a step", async () => {
  const { engine } = make();
  const at = (count: number, act: () => void, then: () => void = () => {}): SamplingParams => ({
    ...greedy, logitsProcessors: [(_, { outputTokenIds }) => {
      if (outputTokenIds.length !== count) return;
      act();
      then();
    }],
  });
  engine.submit("own", Int32Array.of(1, 2), at(2, () => engine.abort("own")));
  engine.submit("late", Int32Array.of(5, 6), { ...greedy, maxTokens: 9 });
  engine.submit("other", Int32Array.of(1, 3), at(3, () => engine.abort("late")));
  engine.submit("thrower", Int32Array.of(1, 4), at(1, () => {
    engine.abort("thrower");
    engine.submit("new", Int32Array.of(7, 7), greedy);
  }, () => { throw new Error("after all"); }));
  const out = await drain(engine);
  assert.deepEqual([...out].map(([id, { tokens, finish }]) => [id, tokens.length, finish]).sort(), [["late", 4, "abort"], ["new", 16, "length"], ["other", 16, "length"], ["own", 2, "abort"], ["thrower", 1, "abort"]]);
  assert.deepEqual(out.get("new")!.tokens, continuation([7, 7], 16));
  assert.equal(engine.stats().numFreePages, limits.numPages);
});

test("tokens do not depend on arrivals, chunks, preemption or cancellations around a request", async () => {
  const random = stream(9);
  const int = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
  let preemptions = 0, aborts = 0;
  for (let round = 0; round < 25; round++) {
    const { engine } = make({ maxNumBatchedTokens: int(1, 20), maxNumSeqs: int(2, 6), pageSize: int(1, 5), numPages: int(14, 20), maxModelLen: 14 });
    const requests = Array.from({ length: 12 }, (_, i) => ({
      id: `${i}`, arrival: int(0, 10), leave: random() < 0.3 ? int(1, 20) : Infinity,
      prompt: Array.from({ length: int(1, 6) }, () => int(0, 49)), maxTokens: int(1, 12), seed: i,
      temperature: i % 2,
    }));
    engine.submit("first", Int32Array.of(1), greedy);
    const out = await drain(engine, (step) => {
      for (const r of requests) {
        if (r.arrival === step) engine.submit(r.id, Int32Array.from(r.prompt), { ...defaultSampling, temperature: r.temperature, seed: r.seed, maxTokens: r.maxTokens });
        if (r.leave === step) engine.abort(r.id);
      }
    });
    for (const r of requests) {
      const got = out.get(r.id);
      if (!got) continue;
      const alone = await one(make({ maxModelLen: 14 }).engine, r.prompt, { ...defaultSampling, temperature: r.temperature, seed: r.seed, maxTokens: r.maxTokens });
      assert.deepEqual(got.tokens, alone.tokens.slice(0, got.tokens.length), `round ${round}, request ${r.id}`);
      if (got.finish === "abort") aborts++;
      else assert.equal(got.tokens.length, alone.tokens.length);
    }
    assert.equal(engine.stats().numFreePages, engine.limits.numPages);
    preemptions += engine.stats().numPreemptions;
  }
  assert.ok(preemptions > 10 && aborts > 10, `${preemptions} preemptions, ${aborts} aborts`);
});

test("end tokens that the model does not have end nothing, and are not held back", async () => {
  const run = async (eosTokenIds: readonly number[]) => one(make({}, eosTokenIds).engine, [3, 4], { ...greedy, maxTokens: 12, minTokens: 6, logprobs: 1 });
  const [plain, more] = [await run([7]), await run([7, 50, 400_000_000, 2 ** 31 + 5])];
  assert.deepEqual(more, plain);
  assert.ok(plain.tokens.length >= 6);
});
