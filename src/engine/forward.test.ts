/** A step's rules and questions on their way to a backend: in as many runs as its buffers take, each row with what is its own. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { answerWord, type Buffer, choiceWord, editWord, headerWord, questionWord, ruleWord } from "../backend/backend.ts";
import { openBackend } from "../backend/registry.ts";
import { stream } from "../core/random.ts";
import type { Model } from "../model/load.ts";
import { logprobsOf } from "../sampling/logprobs.ts";
import { defaultSampling, type SamplingParams } from "../sampling/params.ts";
import { LogitRules } from "../sampling/rules.ts";
import { SamplingBatch } from "../sampling/sampling-batch.ts";
import { Sampler } from "../sampling/sampler.ts";
import { Batch } from "./batch.ts";
import { ProgramModel } from "./forward.ts";

const vocabSize = 50, numRows = 12;

/** A model whose forward pass is that its logits are there. */
async function open(logits: Float32Array<ArrayBuffer>, roomForEdits: number) {
  const backend = await openBackend("reference"), { ops } = backend;
  const words = (count: number): Buffer => backend.alloc(4 * count);
  const header = words(headerWord.words);
  const batch = { header, tokens: words(numRows), positions: words(numRows), slots: words(numRows), blockTable: words(numRows), logitRows: words(numRows), maxPagesPerSequence: 1 };
  const sampling = {
    choices: words(numRows * choiceWord.words), sampled: words(numRows), ruled: words(headerWord.words), rules: words(numRows * ruleWord.words), edits: words(roomForEdits * editWord.words),
    edited: words(roomForEdits), asked: words(headerWord.words), questions: words(numRows * questionWord.words), answers: words(numRows * answerWord.words),
  };
  const { choices, sampled, ruled, rules, edits, edited, asked, questions, answers } = sampling;
  const data = words(numRows * vocabSize), activation = { data, rows: "logits", columns: vocabSize, stride: vocabSize } as const;
  backend.write(data, 0, new Uint8Array(logits.buffer));
  let numRuns = 0;
  const chooseRuled = backend.record(() => ops.sampleRuled({ logits: activation, choices, rules, edits, scratch: edited, out: sampled, batch: { header: ruled } }));
  const model = {
    config: { vocabSize }, batch, logits: data, sampling, attentionGroups: [],
    program: backend.record(() => ops.sample({ logits: activation, choices, out: sampled, batch })),
    chooseRuled: { run: (step) => (numRuns++, chooseRuled.run(step)) },
    answer: backend.record(() => ops.logprobs({ logits: activation, questions, sampled, out: answers, batch: { header: asked } })),
  } satisfies Partial<Omit<Model, "config">> & { config: Partial<Model["config"]> } as unknown as Model;
  return { program: new ProgramModel(backend, model), numRuns: () => numRuns };
}

/** numRows sequences of one token, nothing of which is looked at. */
const rowsOf = (count: number) => ({ numTokens: count, numSequences: count, numLogits: count, maxPagesPerSequence: 1, tokens: new Int32Array(numRows), positions: new Int32Array(numRows), slots: new Int32Array(numRows), blockTable: new Int32Array(numRows), logitRows: new Int32Array(numRows) }) as unknown as Batch;

test("rows with more edits than there is room for are chosen in several runs, each by its own rules; the others, and answers, as ever", async () => {
  const random = stream(8), int = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
  const sampler = new Sampler(vocabSize), touching = () => {};
  let mostRuns = 0, exactly = 0;
  for (let round = 0; round < 40; round++) {
    const logits = Float32Array.from({ length: numRows * vocabSize }, () => 8 * (random() - 0.5));
    const room = int(vocabSize, 2 * vocabSize), { program, numRuns } = await open(logits, room), wanted = new SamplingBatch(numRows), expected: number[] = [], counts: number[] = [];
    for (let row = 0; row < numRows; row++) {
      const own = logits.subarray(row * vocabSize, (row + 1) * vocabSize), output = Array.from({ length: int(0, 8) }, () => int(0, vocabSize - 1));
      const numBiased = round % 4 === 0 ? vocabSize : int(1, 30);
      const params: SamplingParams = {
        ...defaultSampling, temperature: row % 2, ...(row % 3 > 0 && { logitBias: new Map(Array.from({ length: numBiased }, (_, i) => [i, 4 * random()])) }), ...(row % 3 === 2 && { presencePenalty: 1 }),
      };
      const rules = LogitRules.of(params, Int32Array.of(1), new Set());
      for (const token of output) rules?.add(token);
      const before = wanted.edits.length;
      wanted.choose(row, params, round, row, rules, output.length);
      if (rules) counts.push((wanted.edits.length - before) / editWord.words);
      // The host's way: a function that does nothing makes the rules the host's.
      const byHost = LogitRules.of({ ...params, logitsProcessors: [touching] }, Int32Array.of(1), new Set())!;
      for (const token of output) byHost.add(token);
      expected.push(sampler.sample(own, params, round, row, byHost)!);
      if (row % 2) wanted.ask(row, row % 4);
    }
    const { tokens, answers } = await program.launch(rowsOf(numRows), wanted);
    assert.deepEqual([...tokens], expected, `round ${round}`);
    for (let row = 1, i = 0; row < numRows; row += 2, i++) {
      const likely = logprobsOf(logits.subarray(row * vocabSize, (row + 1) * vocabSize), tokens[row]!, row % 4), got = answers.of(i, tokens[row]!, row % 4)!;
      const close = (a: number, b: number) => Math.abs(a - b) < 1e-12;
      assert.ok(close(got.logprob, likely.logprob) && got.rank === likely.rank && got.top.every(({ token, logprob }, k) => token === likely.top[k]!.token && close(logprob, likely.top[k]!.logprob)));
    }
    let runs = 1, filled = 0;
    for (const count of counts) {
      if (filled + count > room) [runs, filled] = [runs + 1, 0];
      filled += count;
      if (filled === room) exactly++;
    }
    assert.equal(numRuns(), runs, "as few as there may be");
    mostRuns = Math.max(mostRuns, runs);
  }
  assert.ok(mostRuns >= 8 && exactly > 0, `${mostRuns} runs, ${exactly} filled to the last edit`);
});

test("rows that come to the host, and rows that nobody chooses from, leave their places alone", async () => {
  const logits = Float32Array.from({ length: numRows * vocabSize }, (_, i) => i % 7), { program, numRuns } = await open(logits, vocabSize), wanted = new SamplingBatch(numRows);
  const greedy = { ...defaultSampling, temperature: 0 };
  for (let row = 0; row < numRows; row++) wanted.choose(row, greedy, 0, 0);
  assert.deepEqual([...(await program.launch(rowsOf(3), wanted)).tokens], [6, 5, 4]);
  wanted.clear();
  wanted.bring(0);
  wanted.skip(1);
  wanted.choose(2, greedy, 0, 0);
  wanted.ask(1, 2, 3);
  const { tokens, logits: rows, answers } = await program.launch(rowsOf(3), wanted);
  assert.deepEqual([[...tokens], rows.length, [...rows[0]!.subarray(0, 8)], numRuns()], [[6, 5, 4], 1, [0, 1, 2, 3, 4, 5, 6, 0], 0]);
  const { token, rank, top } = answers.of(0, 3, 2)!;
  assert.deepEqual([token, rank, top.map((one) => one.token)], [3, 1 + [...logits.subarray(50, 100)].filter((x) => x > logits[53]!).length, [5, 12]]);
});
