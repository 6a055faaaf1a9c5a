/** The fixture checkpoints with their matrices rounded on load: the backends beside each other, and beside what transformers makes of the weights as they are. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { loadModel, openCheckpoint } from "../../src/model/load.ts";
import { backends } from "./backends.ts";
import { fixture, fixtureNames, readGoldens } from "./checkpoints.ts";
import { Driver, maxDifference } from "./driver.ts";

const limits = { maxModelLen: 176, maxNumSeqs: 3, maxNumBatchedTokens: 224, pageSize: 5, numPages: 120, maxLogits: 24 };

/** Tokens that are each a sequence of their own, three a step. */
const numLone = 24;

/** The logits of all goldens of `name`, three prompts in one step; and of lone tokens. */
async function logitsOf(open: (typeof backends)[number]["open"], name: string, quantization: "int8" | "int4"): Promise<{ readonly goldens: Float32Array[]; readonly lone: Float32Array[] }> {
  const backend = await open();
  const { source, config } = openCheckpoint(fixture(name), { quantization, kvCacheDtype: "float32" });
  try {
    const driver = new Driver(backend, await loadModel(backend, source, config, limits));
    const goldens = await driver.step(readGoldens(name).map(({ ids, logits }, sequence) => ({ sequence, position: 0, ids, wanted: logits.length })));
    const lone: Float32Array[] = [];
    for (let i = 0; i < numLone; i += 3) lone.push(...(await driver.step([0, 1, 2].map((sequence) => ({ sequence, position: 0, ids: [((i + sequence) * 13) % config.vocabSize], wanted: 1 })))));
    return { goldens, lone };
  } finally {
    source.close();
    await backend.close();
  }
}

/** From the least to the greatest logit, the measure of differences: the fixtures' random weights make logits of all sizes. */
const spreadOf = (rows: readonly Float32Array[]): number => Math.max(...rows.map((row) => Math.max(...row) - Math.min(...row)));
const differences = (a: readonly Float32Array[], b: readonly Float32Array[]): number[] => a.map((row, i) => maxDifference(row, b[i]!) / spreadOf(a));

/**
 * As shares of the spread. `apart`: where an f32 sum's last bit makes an activation's code another one, backends are a step apart, and what follows
 * differs by as much as rounding does at all: some of the thousands of codes behind a prompt always are, of those behind one token seldom any. The bars are one and a half
 * times what is measured; of random weights, which stand for nothing, a model loses more than of trained ones.
 */
const bars = { int8: { fromGolden: 0.09, apart: 0.03 }, int4: { fromGolden: 0.55, apart: 0.05 } } as const;
/** Ten times what single precision leaves. */
const equal = 2e-6;

for (const [quantization, { fromGolden, apart }] of Object.entries(bars)) for (const name of fixtureNames) {
  test(`${name} in ${quantization}: the backends compute the same, and what the weights as they are give within ${(100 * fromGolden).toFixed(0)}% of the spread`, { skip: backends.find(({ skip }) => skip)?.skip ?? false }, async () => {
    const expected = readGoldens(name).flatMap(({ logits }) => logits);
    const [reference, wasm] = await Promise.all(backends.map(({ open }) => logitsOf(open, name, quantization as keyof typeof bars))) as [Awaited<ReturnType<typeof logitsOf>>, Awaited<ReturnType<typeof logitsOf>>];
    const lone = differences(reference.lone, wasm.lone).toSorted((a, b) => a - b);
    const most = lone[Math.floor((3 / 4) * numLone)]!;
    assert.ok(most <= equal, `three of four lone tokens are ${most} apart`);
    const between = Math.max(...lone, ...differences(reference.goldens, wasm.goldens));
    assert.ok(between <= apart, `the backends are ${between} apart`);
    for (const { goldens } of [reference, wasm]) {
      const lost = Math.max(...differences(expected, goldens));
      assert.ok(lost <= fromGolden && lost > 1e-3, `${lost} from the goldens`);
    }
  });
}
