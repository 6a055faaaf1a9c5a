/** The commands of sampling, without a GPU: grids, parameters, refusals. What the kernels compute is checked where there is one. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { choiceWord, type BatchInputs } from "../backend.ts";
import type { LaunchShape } from "./device.ts";
import { CudaBuffer } from "./memory.ts";
import { moduleText } from "./modules.ts";
import type { Command } from "./ops.ts";
import { createSamplingOps, maxVocabSize } from "./sample.ts";

const commands: Command[] = [];
const launches: { readonly name: string; readonly shape: LaunchShape; readonly params: DataView }[] = [];
const ops = createSamplingOps({
  device: {
    numSms: 1, maxSharedBytes: 0, alloc: () => 0,
    launch: ({ name }, shape, params) => void launches.push({ name, shape, params: new DataView(params.buffer, params.byteOffset, params.byteLength) }),
  },
  submit: (needs, command) => {
    assert.deepEqual(needs, [{ kind: "sample", element: "bf16" }]);
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
const sample = (rows: number, columns: number, stride = columns) =>
  ops.sample({ logits: { data: at(4096, rows * stride), rows: "logits", columns, stride }, choices: at(1024, rows * choiceWord.words), out: at(2048, rows), batch });

test("a block a row of the step, and no more rows than there is room for", () => {
  sample(6, 1000, 1008);
  ops.feedTokens({ sampled: at(2048, 6), batch });
  const [first, second] = run(300, 5);
  assert.deepEqual([first!.name, first!.shape.grid, first!.shape.block], ["sample_bf16", [5, 1, 1], 1024]);
  assert.deepEqual([0, 8, 16, 24].map((byte) => Number(first!.params.getBigUint64(byte, true))), [256, 4096, 1024, 2048]);
  assert.deepEqual([first!.params.getInt32(32, true), first!.params.getInt32(36, true), first!.params.byteLength], [1008, 1000, 40]);
  assert.deepEqual([second!.name, second!.shape.grid, second!.params.byteLength], ["feedTokens_bf16", [2, 1, 1], 24]);
  sample(6, 1000);
  ops.feedTokens({ sampled: at(2048, 6), batch });
  assert.deepEqual(run(Infinity, Infinity).map(({ shape }) => shape.grid[0]), [6, 3], "a step of unknown size");
  sample(6, 1000);
  assert.deepEqual(run(7, 0), []);
});

test("a vocabulary that the sums of masses do not fit is refused", () => {
  sample(1, maxVocabSize);
  assert.throws(() => sample(1, maxVocabSize + 1), /the model has 262145 tokens; device cuda samples from 262144 at most/);
  commands.length = 0;
});

test("the record that the kernel reads is the contract's", () => {
  const text = moduleText({ kind: "sample", element: "bf16" });
  const constant = (name: string) => Number(new RegExp(`\\b${name} = (\\d+)`).exec(text)?.[1]);
  assert.deepEqual(["CHOICE_WORDS", "TOP_K"].map(constant), [choiceWord.words, choiceWord.topK]);
  assert.deepEqual(["TEMPERATURE", "TOP_P", "MIN_P", "UNIFORM"].map((name) => 2 * constant(name)), [choiceWord.temperature, choiceWord.topP, choiceWord.minP, choiceWord.uniform]);
});
