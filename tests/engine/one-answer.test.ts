/** Same request, same bytes: tokens and log-probability bits do not depend on anything around a request. */
import assert from "node:assert/strict";
import test from "node:test";
import { stream } from "../../src/core/random.ts";
import { DraftModel } from "../../src/engine/draft-model.ts";
import type { Drafter } from "../../src/engine/drafter.ts";
import { Engine, type EngineLimits, type ForwardModel } from "../../src/engine/engine.ts";
import type { Delta, TokenLogprobs } from "../../src/engine/messages.ts";
import { NgramDrafter } from "../../src/engine/ngram.ts";
import type { FormatOptions } from "../../src/model/load.ts";
import { PageNeeds } from "../../src/model/page-needs.ts";
import { defaultSampling, type SamplingParams } from "../../src/sampling/params.ts";
import { fixture, openTiny } from "./tiny-model.ts";

interface Request {
  readonly prompt: Int32Array;
  readonly params: SamplingParams;
  /** Those of one family are choices of one prompt, and arrive together. */
  readonly family: string;
}
interface Answer {
  /** One per token, those of the prompt first where it is read: its id and the bits of every log-probability that came with it. */
  readonly tokens: readonly string[];
  readonly finish: string | undefined;
}

const long = process.env["TESSERA_LONG"] !== undefined;
const chunkSizes = [1, 2, 3, 5, 7, 8, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64];

const bits = new Float64Array(1);
const bitsOf = (x: number): string => {
  bits[0] = x;
  return Buffer.from(bits.buffer).toString("hex");
};
const written = ({ token, logprob, rank, top }: TokenLogprobs): string => [token, rank, bitsOf(logprob), ...top.map((t) => `${t.token}:${bitsOf(t.logprob)}`)].join(" ");
const answersOf = (deltas: readonly Delta[]): Answer => ({
  tokens: deltas.flatMap((d) => {
    for (const [i, token] of d.tokens.entries()) assert.equal(d.logprobs![i]!.token, token);
    return [...(d.promptLogprobs?.logprobs ?? []), ...(d.logprobs ?? [])].map(written);
  }),
  finish: deltas.at(-1)?.finish,
});

/** Steps until idle; `during` is called before each step and says whether more is to come. */
async function drain(engine: Engine, during: (step: number) => boolean): Promise<Map<string, Delta[]>> {
  const out = new Map<string, Delta[]>();
  for (let step = 0, more = true; more || !engine.idle; step++) {
    more = during(step);
    for (const delta of await engine.step()) out.set(delta.id, [...(out.get(delta.id) ?? []), delta]);
    assert.ok(step < 20_000, "never idle");
  }
  return out;
}

async function alone(model: ForwardModel, limits: EngineLimits, eosTokenIds: readonly number[], { prompt, params }: Request): Promise<Answer> {
  const engine = new Engine(model, { limits, eosTokenIds });
  engine.submit("alone", prompt, params);
  return answersOf((await drain(engine, () => false)).get("alone")!);
}

/** `begins`: three in five begin alike, for at most so long. */
function makeRequests(random: () => number, count: number, vocabSize: number, begins: number): Request[] {
  const int = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
  const beginning = Array.from({ length: begins }, () => int(0, vocabSize - 1));
  const requests = Array.from({ length: count }, (_, i): Request => ({
    family: String(i),
    prompt: Int32Array.from([...beginning.slice(0, random() < 0.6 ? int(3, begins) : 0), ...Array.from({ length: int(1, 8) }, () => int(0, vocabSize - 1))]),
    params: {
      ...defaultSampling, maxTokens: int(1, 20), seed: i, ignoreEos: random() < 0.5, logprobs: int(0, 3),
      ...(i % 2 ? { temperature: 0 } : { temperature: 0.5 + random(), topP: random() < 0.5 ? 0.9 : 1, topK: random() < 0.5 ? 40 : 0, minP: random() < 0.3 ? 0.02 : 0 }),
      ...(i % 3 === 0 && { repetitionPenalty: 1.2, frequencyPenalty: 0.3, presencePenalty: 0.2, badWords: [[i], [i, i + 1]] }),
      ...(i % 4 === 1 && { logitBias: new Map([[i, 2], [i + 1, -2]]), allowedTokenIds: Array.from({ length: vocabSize >> 1 }, (_, id) => 2 * id), minTokens: 1 }),
      ...(i % 5 < 2 && { promptLogprobs: i % 3 }),
      ...(i % 5 === 2 && { logitsProcessors: [(logits, { outputTokenIds }) => void (logits[outputTokenIds.at(-1) ?? 0]! -= 3)] }),
    },
  }));
  // Every third is another choice of the one before.
  return requests.map((request, i) => (i % 3 === 2 ? { ...request, prompt: requests[i - 1]!.prompt, family: requests[i - 1]!.family } : request));
}

/** `begins`: prompts have up to so many tokens in common. */
const cases: readonly (readonly [name: string, pageSize: number, formats: FormatOptions, begins?: number])[] = [
  ["llama", 4, { kvCacheDtype: "bfloat16" }], ["gemma2", 3, { kvCacheDtype: "float32" }], ["qwen3", 5, { kvCacheDtype: "float16" }],
  ["llama-tied-bias", 4, { quantization: "int8", kvCacheDtype: "float32" }], ["gemma2", 3, { quantization: "int4", kvCacheDtype: "bfloat16" }],
  // Every layer has a window of 16, so pages expire.
  ["mistral-sw", 4, { kvCacheDtype: "float32" }, 90],
];
for (const [name, pageSize, formats, begins = 36] of cases) {
  const maxModelLen = begins + 28;
  const { quantization = "none", kvCacheDtype } = formats;
  test(`${name}, quantization ${quantization}, keys and values in ${kvCacheDtype}: tokens and logprob bits are the same alone and among random arrivals, priorities, chunks, preemptions, cancellations, other choices of the prompt, shared beginnings and drafts`, async () => {
    const most: EngineLimits = { maxNumBatchedTokens: maxModelLen, maxNumSeqs: 8, maxNumLogits: maxModelLen, pageSize, maxModelLen, numPages: Math.ceil((8 * maxModelLen) / pageSize) };
    await using model = await openTiny(fixture(name), most, 2, formats);
    // The same weights, rounded otherwise: often of one mind.
    await using draft = await openTiny(fixture(name), most, 1, { ...formats, quantization: quantization === "int4" || name === "mistral-sw" ? "int8" : "int4" });
    const { eosTokenIds, expiry, seen } = model;
    const random = stream(31);
    const int = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
    const requests = makeRequests(random, 16, model.vocabSize, begins);
    const expected: Answer[] = [];
    for (const request of requests) expected.push(await alone(model, most, eosTokenIds, request));
    assert.equal(seen.batches + seen.chunks, 0, "alone is alone");
    assert.ok(new Set(expected.map((a) => a.tokens.join())).size === expected.length, "requests differ");

    let preemptions = 0, expired = 0, cancelled = 0, compared = 0, hits = 0, hitsOfChoices = 0;
    const drafts = { model: { drafted: 0, accepted: 0 }, ngram: { drafted: 0, accepted: 0 } };
    for (const maxNumBatchedTokens of long ? [...chunkSizes, ...chunkSizes, ...chunkSizes] : chunkSizes) {
      // Pages for one sequence, whole or as much of it as it holds at once, and a little more: whoever shares them is preempted sooner or later.
      const numPages = new PageNeeds({ pageSize, maxNumBatchedTokens }, expiry).mostHeld(maxModelLen) + int(0, Math.ceil(14 / pageSize));
      const enablePrefixCaching = random() < 0.6, maxNumSeqs = int(2, 8), maxNumLogits = int(maxNumSeqs, random() < 0.5 ? 12 : 48);
      const limits: EngineLimits = { ...most, maxNumBatchedTokens, maxNumSeqs, maxNumLogits, numPages, enablePrefixCaching };
      const kind = (["none", "model", "model", "ngram"] as const)[int(0, 3)]!, k = int(1, 5);
      const drafter: Drafter | undefined = kind === "none" ? undefined : kind === "model" ? new DraftModel(draft, k, limits, maxModelLen, 0)
        : new NgramDrafter({ numSpeculativeTokens: k, promptLookupMin: 1, promptLookupMax: 3 });
      const engine = new Engine(model, { limits, eosTokenIds, ...(expiry && { expiry }), ...(drafter && { drafter }) });
      const arrivals = requests.map(() => int(0, 25));
      const plans = requests.map((request, i) => ({
        id: String(i), request, arrival: arrivals[Number(request.family)]!, leave: random() < 0.25 ? int(5, 60) : Infinity,
        standing: { priority: int(-1, 1), family: request.family },
      }));
      const out = await drain(engine, (step) => {
        for (const { id, request, arrival, leave, standing } of plans) {
          if (arrival === step) engine.submit(id, request.prompt, request.params, standing);
          if (leave === step) engine.abort(id);
        }
        return step < 60;
      });
      for (const [i, want] of expected.entries()) {
        const got = answersOf(out.get(String(i)) ?? []);
        const where = `request ${i} with chunks of ${maxNumBatchedTokens} ${numPages} pages, drafts by ${kind}`;
        assert.deepEqual(got.tokens, want.tokens.slice(0, got.tokens.length), where);
        compared += got.tokens.length;
        if (got.finish === "abort" || got.finish === undefined) cancelled++;
        else assert.deepEqual([got.finish, got.tokens.length], [want.finish, want.tokens.length], where);
      }
      preemptions += engine.stats().numPreemptions;
      expired += engine.stats().numExpiredPages;
      if (enablePrefixCaching) hits += engine.stats().prefixCacheHits;
      else hitsOfChoices += engine.stats().prefixCacheHits;
      if (kind !== "none") {
        drafts[kind].drafted += engine.stats().numDraftTokens;
        drafts[kind].accepted += engine.stats().acceptedPerPosition.reduce((sum, count) => sum + count, 0);
      }
      assert.equal(engine.stats().numFreePages, numPages);
    }
    const reached = { ...seen, preemptions, cancelled, compared, hits, hitsOfChoices };
    for (const [what, count] of Object.entries(reached)) assert.ok(count > 10, `${what}: only ${count} of ${JSON.stringify(reached)}`);
    assert.equal(expired > 100, name === "mistral-sw", `${expired} pages expired`);
    const { model: { drafted, accepted }, ngram } = drafts;
    assert.ok(accepted > 0.2 * drafted && accepted < 0.8 * drafted && drafted > 200 && ngram.drafted > 50, JSON.stringify(drafts));
  });
}
