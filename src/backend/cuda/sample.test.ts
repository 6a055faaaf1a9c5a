/** The commands of what becomes of logits, without a GPU: grids, parameters, refusals. tests/kernels runs the kernels' text, `npm run gpu -- sample` the kernels. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { answerWord, type BatchInputs, choiceWord, editWord, headerWord, mostTop, questionWord, ruleWord } from "../backend.ts";
import type { LaunchShape } from "./device.ts";
import { CudaBuffer } from "./memory.ts";
import { type ModuleKind, moduleLabel, moduleText } from "./modules.ts";
import type { Command } from "./ops.ts";
import { createSamplingOps, maxVocabSize, samplingModules } from "./sample.ts";

const commands: Command[] = [];
let needed: string[] = [];
const launches: { readonly name: string; readonly shape: LaunchShape; readonly params: DataView }[] = [];
const ops = createSamplingOps({
  device: {
    numSms: 1, maxSharedBytes: 0, alloc: () => 0,
    launch: ({ name }, shape, params) => void launches.push({ name, shape, params: new DataView(params.buffer, params.byteOffset, params.byteLength) }),
  },
  submit: (needs, command) => {
    needed.push(...needs.map(moduleLabel));
    commands.push(command);
  },
});
const run = (numTokens: number, numLogits: number) => {
  launches.length = 0;
  for (const command of commands.splice(0)) command({ numTokens, numSequences: 1, numLogits }, (name) => ({ name, registers: 0, localBytes: 0, handle: 0 }));
  return launches;
};
const at = (address: number, words: number) => new CudaBuffer(address, 4 * words);
const batch: BatchInputs = { header: at(256, 4), tokens: at(512, 600), positions: at(0, 0), slots: at(0, 0), blockTable: at(0, 0), logitRows: at(0, 0), maxPagesPerSequence: 1 };
const logitsOf = (rows: number, columns: number, stride = columns) => ({ data: at(4096, rows * stride), rows: "logits", columns, stride }) as const;
const sample = (rows: number, columns: number, stride = columns) =>
  ops.sample({ logits: logitsOf(rows, columns, stride), choices: at(1024, rows * choiceWord.words), out: at(2048, rows), batch });
const ruled = (rows: number, columns: number, { numRules = 3, numEdits = 10, scratch = 10, rules = 8192, edits = 16_384 } = {}) =>
  ops.sampleRuled({ logits: logitsOf(rows, columns), choices: at(1024, rows * choiceWord.words), rules: at(rules, numRules * ruleWord.words), edits: at(edits, numEdits * editWord.words), scratch: at(20_004, scratch), out: at(2048, rows), batch });
const logprobs = (rows: number, columns: number, { numQuestions = 4, numAnswers = 4, out = 32_768 } = {}) =>
  ops.logprobs({ logits: logitsOf(rows, columns), questions: at(24_576, numQuestions * questionWord.words), sampled: at(2048, rows), out: at(out, numAnswers * answerWord.words), batch });

const pointers = ({ params }: (typeof launches)[number], count: number) => Array.from({ length: count }, (_, i) => Number(params.getBigUint64(8 * i, true)));
const integers = ({ params }: (typeof launches)[number], byte: number) => [params.getInt32(byte, true), params.getInt32(byte + 4, true), params.byteLength];

test("a block a row of the step, and no more rows than there is room for", () => {
  sample(6, 1000, 1008);
  ops.feedTokens({ sampled: at(2048, 6), batch });
  const [first, second] = run(300, 5);
  assert.deepEqual([first!.name, first!.shape], ["sample_bf16", { grid: [5, 1, 1], block: 1024, dependent: true }]);
  assert.deepEqual([pointers(first!, 4), integers(first!, 32)], [[256, 4096, 1024, 2048], [1008, 1000, 40]]);
  assert.deepEqual([second!.name, second!.shape.grid, second!.params.byteLength], ["feedTokens_bf16", [2, 1, 1], 24]);
  sample(6, 1000);
  ops.feedTokens({ sampled: at(2048, 6), batch });
  assert.deepEqual(run(Infinity, Infinity).map(({ shape }) => shape.grid[0]), [6, 3], "a step of unknown size");
  sample(6, 1000);
  assert.deepEqual(run(7, 0), []);
});

test("a block a record of rules or question, and no more than there is room for", () => {
  needed = [];
  ruled(6, 1000);
  logprobs(6, 1000);
  const [first, second] = run(300, 2);
  assert.deepEqual(needed, ["ruled_bf16", "logprobs_bf16"]);
  assert.deepEqual([first!.name, first!.shape], ["sampleRuled_bf16", { grid: [2, 1, 1], block: 1024, dependent: true }]);
  assert.deepEqual([pointers(first!, 7), integers(first!, 56)], [[256, 4096, 1024, 8192, 16_384, 20_004, 2048], [1000, 1000, 64]]);
  assert.deepEqual([second!.name, second!.shape], ["logprobs_bf16", { grid: [2, 1, 1], block: 1024, dependent: true }]);
  assert.deepEqual([pointers(second!, 5), integers(second!, 40)], [[256, 4096, 24_576, 2048, 32_768], [1000, 1000, 48]]);
  ruled(6, 1000);
  logprobs(6, 1000);
  assert.deepEqual(run(Infinity, Infinity).map(({ shape }) => shape.grid[0]), [3, 4]);
  ruled(6, 1000);
  logprobs(6, 1000);
  assert.deepEqual(run(7, 0), []);
});

test("a vocabulary that the sums of masses do not fit is refused", () => {
  for (const [op, message] of [[sample, "samples from"], [ruled, "samples from"], [logprobs, "has log-probabilities of"]] as const) {
    op(1, maxVocabSize);
    assert.throws(() => op(1, maxVocabSize + 1), new RegExp(`the model has 262145 tokens; device cuda ${message} 262144 at most`));
  }
  commands.length = 0;
});

test("buffers that are too small, or lie where no double may, are ours to find", () => {
  assert.throws(() => ops.sample({ logits: logitsOf(3, 10), choices: at(1024, 2 * choiceWord.words), out: at(2048, 3), batch }), /3 rows, 80 bytes of choices/);
  assert.throws(() => ops.sample({ logits: { ...logitsOf(3, 10), dtype: "bf16" }, choices: at(1024, 30), out: at(2048, 3), batch }), /logits are bf16, not f32/);
  assert.throws(() => ruled(6, 1000, { scratch: 9 }), /160 bytes of edits, 36 of scratch/);
  assert.throws(() => ruled(6, 1000, { rules: 8196 }), /rules at address 8196, which is no multiple of 8/);
  assert.throws(() => ruled(6, 1000, { edits: 8196 }), /edits at address 8196/);
  assert.throws(() => logprobs(6, 1000, { numAnswers: 0 }), /6 rows, 24 bytes of tokens, 64 of questions, 0 of answers/);
  assert.throws(() => logprobs(6, 1000, { out: 32_772 }), /answers at address 32772/);
  assert.equal(commands.length, 0);
});

test("the records that the kernels read and write are the contract's", () => {
  const constants = (kind: ModuleKind) => {
    const text = moduleText({ kind, element: "bf16" });
    return (...names: readonly string[]): number[] => names.map((name) => Number(new RegExp(`\\b${name} = (\\d+)`).exec(text)?.[1]));
  };
  const half = (...words: readonly number[]): number[] => words.map((word) => word / 2);
  const [sampling, ruling, asking] = samplingModules.map(({ kind }) => constants(kind));
  for (const kernel of [sampling!, ruling!]) {
    assert.deepEqual(kernel("CHOICE_WORDS", "TOP_K", "SKIP"), [choiceWord.words, choiceWord.topK, choiceWord.skip]);
    assert.deepEqual(kernel("TEMPERATURE", "TOP_P", "MIN_P", "UNIFORM"), half(choiceWord.temperature, choiceWord.topP, choiceWord.minP, choiceWord.uniform));
  }
  assert.deepEqual(ruling!("RULE_WORDS", "ROW", "FIRST_EDIT", "NUM_EDITS", "ONLY_EDITED"), [ruleWord.words, ruleWord.row, ruleWord.firstEdit, ruleWord.numEdits, ruleWord.onlyEdited]);
  assert.deepEqual(ruling!("REPETITION", "FREQUENCY", "PRESENCE"), half(ruleWord.repetition, ruleWord.frequency, ruleWord.presence));
  assert.deepEqual([ruling!("EDIT_WORDS", "TOKEN", "COUNT"), ruling!("BIAS")], [[editWord.words, editWord.token, editWord.count], half(editWord.bias)]);
  assert.deepEqual(asking!("QUESTION_WORDS", "ROW", "TOKEN", "NUM_TOP", "MOST_TOP"), [questionWord.words, questionWord.row, questionWord.token, questionWord.numTop, mostTop]);
  assert.deepEqual(asking!("ANSWER_WORDS", "LOG_SUM", "LOGIT", "RANK", "TOP"), [answerWord.words, answerWord.logSum, answerWord.logit, answerWord.rank, answerWord.top]);
  assert.deepEqual(sampling!("HEADER_TOKENS", "HEADER_LOGITS"), [headerWord.numTokens, headerWord.numLogits]);
  assert.match(moduleText({ kind: "logprobs", element: "bf16" }), /\bMAX_COLUMNS = 1 << 18;/);
  assert.equal(maxVocabSize, 1 << 18);
});
