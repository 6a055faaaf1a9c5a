/** Tokens sampled where the logits are: the same as the host's, and a real model one step ahead gives the same as one that waits. */
import assert from "node:assert/strict";
import test from "node:test";
import { choiceWord } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/registry.ts";
import { stream } from "../../src/core/random.ts";
import { Engine, type EngineLimits, type ForwardModel } from "../../src/engine/engine.ts";
import { ProgramModel } from "../../src/engine/forward.ts";
import type { Delta } from "../../src/engine/messages.ts";
import { loadModel, openCheckpoint } from "../../src/model/load.ts";
import { Choices } from "../../src/sampling/choices.ts";
import { defaultSampling, type SamplingParams } from "../../src/sampling/params.ts";
import { Sampler } from "../../src/sampling/sampler.ts";
import { fixture } from "./tiny-model.ts";

test("the records of choices and the operation give the tokens that the host would choose, rows of other steps left alone", async () => {
  const random = stream(5);
  const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)]!;
  const backend = await openBackend("reference"), vocabSize = 300, rows = 6, stride = vocabSize + 4;
  const words = (count: number) => backend.alloc(4 * count);
  const logits = { data: words(rows * stride), rows: "logits" as const, columns: vocabSize, stride };
  const buffers = { header: words(4), tokens: words(rows), positions: words(1), slots: words(1), blockTable: words(1), logitRows: words(1), maxPagesPerSequence: 1 };
  const choices = words(rows * choiceWord.words), out = words(rows);
  const records = new Choices(rows), sampler = new Sampler(vocabSize);
  let distinct = 0, none = 0;
  for (let round = 0; round < 60; round++) {
    const numLogits = 1 + (round % rows);
    const values = new Float32Array(rows * stride).fill(9), expected = new Array<number>(rows).fill(-7);
    for (let r = 0; r < numLogits; r++) {
      const row = values.subarray(r * stride, r * stride + vocabSize);
      const grain = pick([0, 0.5]), scale = pick([0.5, 3, 30]);
      for (let id = 0; id < vocabSize; id++) {
        const x = (random() - 0.5) * 2 * scale;
        row[id] = random() < 0.05 ? -Infinity : grain ? Math.round(x / grain) * grain : x;
      }
      const spoilt = random();
      if (spoilt < 0.06) row.fill(-Infinity);
      else if (spoilt < 0.12) row[pick([0, 150, vocabSize - 1])] = pick([NaN, Infinity]);
      const params: SamplingParams = {
        ...defaultSampling, temperature: pick([0, 1e-6, 0.001, 0.7, 1, 2]), topK: pick([0, -1, 1, 7, vocabSize, 1000, 2 ** 32 + 1]), topP: pick([1, 0.9, 0.1, 1e-9]), minP: pick([0, 0, 0.05, 1]),
      };
      records.set(r, params, round, 40 + r);
      expected[r] = sampler.sample(row.slice(), params, round, 40 + r) ?? -1;
      if (expected[r] === -1) none++;
    }
    distinct += new Set(expected).size;
    backend.write(logits.data, 0, new Uint8Array(values.buffer));
    backend.write(choices, 0, records.bytes);
    backend.write(out, 0, new Uint8Array(new Int32Array(rows).fill(-7).buffer));
    backend.write(buffers.header, 0, new Uint8Array(Int32Array.of(1, 1, numLogits, 0).buffer));
    backend.ops.sample!({ logits, choices, out, batch: buffers });
    assert.deepEqual([...new Int32Array((await backend.read(out, 0, 4 * rows)).buffer)], expected, `round ${round}`);
  }
  assert.ok(distinct > 150 && none > 10, `${distinct} distinct, ${none} without a distribution`);

  backend.write(out, 0, new Uint8Array(Int32Array.of(11, -1, 13).buffer));
  backend.write(buffers.tokens, 0, new Uint8Array(Int32Array.of(5, -3, -2, -1, 6, -1).buffer));
  backend.write(buffers.header, 0, new Uint8Array(Int32Array.of(5, 1, 1, 0).buffer));
  backend.ops.feedTokens!({ sampled: out, batch: buffers });
  assert.deepEqual([...new Int32Array((await backend.read(buffers.tokens, 0, 24)).buffer)], [5, 13, 0, 11, 6, -1]);
  await backend.close();
});

test("a real model one step ahead: tokens and ends are, byte for byte, those of an engine that waits", async () => {
  const most: EngineLimits = { maxNumBatchedTokens: 32, maxNumSeqs: 4, pageSize: 4, maxModelLen: 40, numPages: 40 };
  const { config, source } = openCheckpoint(fixture("llama"));
  const backend = await openBackend("reference");
  const model = new ProgramModel(backend, await loadModel(backend, source, config, most));
  source.close();
  const waiting: ForwardModel = { vocabSize: model.vocabSize, runsAhead: false, launch: (batch, wanted) => model.launch(batch, wanted) };
  const random = stream(3);
  const int = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
  const requests = Array.from({ length: 12 }, (_, i) => ({
    id: String(i), prompt: Int32Array.from({ length: int(1, 12) }, () => int(0, model.vocabSize - 1)), arrival: int(0, 6), leave: i % 4 === 3 ? int(4, 14) : Infinity,
    params: {
      ...defaultSampling, maxTokens: int(4, 20), seed: i, temperature: i % 2, topP: i % 3 ? 1 : 0.9, topK: i % 4 ? 0 : 20, ignoreEos: i % 2 === 0,
      ...(i === 7 && { logprobs: 1 }), ...(i === 8 && { repetitionPenalty: 1.3 }),
    } satisfies SamplingParams,
  }));
  const run = async (forward: ForwardModel, limits: EngineLimits) => {
    const engine = new Engine(forward, { limits, eosTokenIds: config.eosTokenIds });
    const out = new Map<string, Delta[]>(requests.map(({ id }) => [id, []]));
    for (let step = 0; step <= 6 || !engine.idle; step++) {
      for (const { id, prompt, params, arrival, leave } of requests) {
        if (arrival === step) engine.submit(id, prompt, params);
        if (leave === step) engine.abort(id);
      }
      for (const delta of await engine.step()) out.get(delta.id)!.push(delta);
    }
    return { out, stats: engine.stats() };
  };
  const expected = await run(waiting, most);
  assert.equal(expected.stats.numStepsAhead, 0);
  let ahead = 0, preemptions = 0;
  for (const limits of [most, { ...most, maxNumBatchedTokens: 5 }, { ...most, numPages: 10 }]) {
    const { out, stats } = await run(model, limits);
    for (const { id, leave } of requests) {
      const tokens = (deltas: readonly Delta[]) => deltas.flatMap((d) => d.tokens);
      const got = out.get(id)!, want = expected.out.get(id)!;
      const length = leave === Infinity ? Infinity : Math.min(tokens(got).length, tokens(want).length);
      assert.deepEqual(tokens(got).slice(0, length), tokens(want).slice(0, length), `request ${id}`);
      assert.deepEqual(got.flatMap((d) => d.logprobs ?? []), want.flatMap((d) => d.logprobs ?? []));
      if (leave === Infinity) assert.equal(got.at(-1)!.finish, want.at(-1)!.finish);
    }
    ahead += stats.numStepsAhead;
    preemptions += stats.numPreemptions;
  }
  assert.ok(ahead > 20 && preemptions > 0, `${ahead} steps ahead, ${preemptions} preemptions`);
  await backend.close();
});
