/**
 * What it costs to choose a token from a row of logits, by vocabulary and by what is asked for: in WebAssembly, where the logits are, and in JavaScript, as rows are
 * whose request's own functions change them. One thread, one row; the two take turns within a round, and a figure is the median of rounds. Logits
 * are noise in the shape of a model's: a few tokens far above the rest.
 *
 *   npm run bench -- sampling [--rounds N] [--vocabularies 32000,151936]
 */
import { parseArgs } from "node:util";
import { answerWord, type Buffer, choiceWord, editWord, headerWord, questionWord, ruleWord } from "../src/backend/backend.ts";
import { openBackend } from "../src/backend/registry.ts";
import { stream } from "../src/core/random.ts";
import { logprobsOf } from "../src/sampling/logprobs.ts";
import { defaultSampling, type SamplingParams } from "../src/sampling/params.ts";
import { LogitRules } from "../src/sampling/rules.ts";
import { Sampler } from "../src/sampling/sampler.ts";
import { SamplingBatch } from "../src/sampling/sampling-batch.ts";
import { report } from "./row.ts";

const { values: flags } = parseArgs({ options: { rounds: { type: "string", default: "15" }, vocabularies: { type: "string", default: "2048,32000,151936" }, help: { type: "boolean" } } });
const vocabularies = flags.vocabularies.split(",").map(Number), rounds = Number(flags.rounds);
if (flags.help || !vocabularies.every((size) => Number.isSafeInteger(size) && size >= 2000) || !(rounds >= 1)) {
  console.log("npm run bench -- sampling [--rounds N] [--vocabularies N,N]\n--vocabularies: sizes, 2000 at least (2048,32000,151936)");
  process.exit(flags.help ? 0 : 2);
}
/** A measurement lasts about this long. */
const millisecondsEach = 20;

const prompt = Int32Array.from({ length: 1000 }, (_, i) => 2 * i);
const asked: Readonly<Record<string, Partial<SamplingParams>>> = {
  "the likeliest": { temperature: 0 }, "temperature 1": {}, "top-k 50": { topK: 50 }, "top-p 0.9": { topP: 0.9 }, "temperature 0.7, top-k 50, top-p 0.95, min-p 0.01": { temperature: 0.7, topK: 50, topP: 0.95, minP: 0.01 },
  "the likeliest, 1000 tokens under a penalty": { temperature: 0, repetitionPenalty: 1.1 }, "temperature 1, 100 tokens allowed": { allowedTokenIds: [...prompt.subarray(0, 100)] },
  "the likeliest, 5 log-probabilities": { temperature: 0, logprobs: 5 },
};

const backend = await openBackend("cpu", { threads: 1 });
const words = (count: number): Buffer => backend.alloc(4 * count);
const write = (to: Buffer, from: ArrayBufferView<ArrayBuffer>): void => backend.write(to, 0, new Uint8Array(from.buffer, from.byteOffset, from.byteLength));

/** What chooses a token of these logits, and says how likely it is, in WebAssembly and in JavaScript. */
function waysOf(values: Float32Array<ArrayBuffer>, params: SamplingParams): readonly { readonly name: string; readonly run: () => Promise<unknown> }[] {
  const columns = values.length, wanted = new SamplingBatch(1), touching = { ...params, logitsProcessors: [() => {}] };
  const rules = LogitRules.of(params, prompt, new Set()), rulesOfHost = rules && LogitRules.of(touching, prompt, new Set());
  wanted.choose(0, params, 1, 1, rules, 0);
  if (params.logprobs !== undefined) wanted.ask(0, params.logprobs);
  const logits = { data: words(columns), rows: "logits", columns, stride: columns } as const, one = words(headerWord.words), choices = words(choiceWord.words), sampled = words(1);
  const edits = words(Math.max(editWord.words, wanted.edits.length)), recordOfRules = words(ruleWord.words), scratch = words(Math.max(1, wanted.edits.length / editWord.words)), questions = words(questionWord.words), answers = words(answerWord.words);
  write(logits.data, values);
  write(one, Int32Array.of(1, 1, 1, 0));
  write(choices, wanted.choices.words);
  for (const [to, from] of [[edits, wanted.edits], [recordOfRules, wanted.rules], [questions, wanted.questions]] as const) if (from.length > 0) write(to, from);
  const batch = { header: one, tokens: one, positions: one, slots: one, blockTable: one, logitRows: one, maxPagesPerSequence: 1 };
  const program = backend.record(() => {
    if (rules) backend.ops.sampleRuled({ logits, choices, rules: recordOfRules, edits, scratch, out: sampled, batch });
    else backend.ops.sample({ logits, choices, out: sampled, batch });
    if (params.logprobs !== undefined) backend.ops.logprobs({ logits, questions, sampled, out: answers, batch });
  });
  const sampler = new Sampler(columns);
  return [
    { name: "WebAssembly", run: () => (program.run({ numTokens: 1, numSequences: 1, numLogits: 1 }), backend.read(sampled, 0, 4)) },
    { name: "JavaScript", run: async () => {
      const token = sampler.sample(values, params, 1, 1, rulesOfHost)!;
      return params.logprobs === undefined ? token : logprobsOf(values, token, params.logprobs);
    } },
  ];
}

for (const vocabSize of vocabularies) {
  const random = stream(7), values = Float32Array.from({ length: vocabSize }, () => (random() < 0.0005 ? 12 * random() + 4 : 3 * (random() + random() + random()) - 9));
  const cases = Object.entries(asked).flatMap(([name, params]) => waysOf(values, { ...defaultSampling, ...params }).map((way) => ({ name: `a token of ${vocabSize}, ${name}: ${way.name}`, run: way.run, turns: 1, micros: [] as number[] })));
  for (let round = -2; round < rounds; round++) for (const one of cases) {
    const start = performance.now();
    for (let turn = 0; turn < one.turns; turn++) await one.run();
    const each = (performance.now() - start) / one.turns;
    // The first rounds warm up.
    if (round < 0) one.turns = Math.max(1, Math.round(millisecondsEach / each));
    else one.micros.push(1000 * each);
  }
  for (const { name, micros } of cases) report(name, micros, "us", 1);
}
await backend.close();
