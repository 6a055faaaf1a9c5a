/** The fixture checkpoints with their matrices rounded on load: the backends beside each other, and beside what transformers makes of the weights as they are. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { loadModel, openCheckpoint } from "../../src/model/load.ts";
import type { Quantization } from "../../src/model/weight-formats.ts";
import type { BlockType } from "../../src/weights/block-formats.ts";
import { randomGguf, randomSizes } from "../gguf-random.ts";
import { writeGguf } from "../gguf-writer.ts";
import { backends } from "./backends.ts";
import { fixture, fixtureNames, readGoldens, temporaryFolder } from "./checkpoints.ts";
import { Driver, maxDifference } from "./driver.ts";

const limits = { maxModelLen: 176, maxNumSeqs: 3, maxNumBatchedTokens: 224, pageSize: 5, numPages: 120, maxNumLogits: 24 };

/** Tokens that are each a sequence of their own, three a step. */
const numLone = 24;

interface Logits { readonly prompts: Float32Array[]; readonly lone: Float32Array[] }
interface Prompt { readonly ids: readonly number[]; readonly wanted: number }

/** The logits of up to three prompts in one step, and of lone tokens. */
async function logitsOf(open: (typeof backends)[number]["open"], path: string, quantization: Quantization, together: readonly Prompt[]): Promise<Logits> {
  const backend = await open();
  const { source, config } = openCheckpoint(path, { quantization, kvCacheDtype: "float32" });
  try {
    const driver = new Driver(backend, await loadModel(backend, source, config, limits));
    const prompts = await driver.step(together.map(({ ids, wanted }, sequence) => ({ sequence, position: 0, ids, wanted })));
    const lone: Float32Array[] = [];
    for (let i = 0; i < numLone; i += 3) lone.push(...(await driver.step([0, 1, 2].map((sequence) => ({ sequence, position: 0, ids: [((i + sequence) * 13) % config.vocabSize], wanted: 1 })))));
    return { prompts, lone };
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

/** What both backends compute, after checking that it is the same. */
async function onBoth(path: string, quantization: Quantization, together: readonly Prompt[], apart: number): Promise<readonly Logits[]> {
  const both = await Promise.all(backends.map(({ open }) => logitsOf(open, path, quantization, together)));
  const [reference, wasm] = both as [Logits, Logits];
  const lone = differences(reference.lone, wasm.lone).toSorted((a, b) => a - b), most = lone[Math.floor((3 / 4) * numLone)]!;
  assert.ok(most <= equal, `three of four lone tokens are ${most} apart`);
  const between = Math.max(...lone, ...differences(reference.prompts, wasm.prompts));
  assert.ok(between <= apart, `the backends are ${between} apart`);
  return both;
}
const skip = backends.find((backend) => backend.skip)?.skip ?? false;

for (const [q, [quantization, { fromGolden, apart }]] of Object.entries(bars).entries()) for (const [n, name] of fixtureNames.entries()) {
  // In the normal run each family is rounded to one of the two.
  if ((q + n) % 2 === 1 && process.env["TESSERA_LONG"] === undefined) continue;
  test(`${name} in ${quantization}: the backends compute the same, and what the weights as they are give within ${(100 * fromGolden).toFixed(0)}% of the spread`, { skip }, async () => {
    const goldens = readGoldens(name), expected = goldens.flatMap(({ logits }) => logits);
    for (const { prompts } of await onBoth(fixture(name), quantization as Quantization, goldens.map(({ ids, logits }) => ({ ids, wanted: logits.length })), apart)) {
      const lost = Math.max(...differences(expected, prompts));
      assert.ok(lost <= fromGolden && lost > 1e-3, `${lost} from the goldens`);
    }
  });
}

/** Every format at once, q, k and v in three, gate and up in two. */
const mixture: readonly (readonly [name: RegExp, type: BlockType])[] = [
  [/token_embd/, "Q5_0"], [/attn_q/, "Q8_0"], [/attn_k/, "Q4_0"], [/attn_v/, "Q6_K"], [/attn_output/, "Q4_K"], [/ffn_gate/, "Q5_K"], [/ffn_up/, "Q4_1"], [/ffn_down/, "F16"], [/^output/, "Q5_1"],
];
for (const quantization of ["auto", "int8", "int4"] as const) {
  test(`a GGUF file of all formats at once, --quantization ${quantization}: the backends compute the same`, { skip }, async (t) => {
    const path = join(temporaryFolder(t), "mixed.gguf");
    writeFileSync(path, writeGguf(randomGguf((name) => mixture.find(([pattern]) => pattern.test(name))![1], 11)));
    const formats = openCheckpoint(path, { quantization });
    formats.source.close();
    assert.ok(new Set(formats.config.matrixDTypes!.values()).size >= (quantization === "auto" ? 4 : 2), "several formats");
    await onBoth(path, quantization, [{ ids: Array.from({ length: 40 }, (_, i) => (i * 37 + 11) % randomSizes.vocab), wanted: 8 }], 0.05);
  });
}
