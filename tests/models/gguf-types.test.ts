/** A random model in every block type of GGUF: loaded as f32 it is the model with its elements written out; computed from as it is packed, nearly so. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test, type TestContext } from "node:test";
import type { Backend } from "../../src/backend/backend.ts";
import { type FormatOptions, loadModel, openCheckpoint } from "../../src/model/load.ts";
import { blockFormats, type BlockType } from "../../src/weights/block-formats.ts";
import { inFloat32, randomGguf, randomSizes } from "../gguf-random.ts";
import { type GgufContents, writeGguf } from "../gguf-writer.ts";
import { backends } from "./backends.ts";
import { temporaryFolder } from "./checkpoints.ts";
import { Driver } from "./driver.ts";
import { sixteenBit } from "./sixteen-bits.ts";

const limits = { maxModelLen: 64, maxNumSeqs: 1, maxNumBatchedTokens: 64, pageSize: 8, numPages: 8, maxNumLogits: 16 };
const prompt = Array.from({ length: 40 }, (_, i) => (i * 37 + 11) % randomSizes.vocab);

async function logitsOf(t: TestContext, backend: Backend, contents: GgufContents, options: FormatOptions = {}): Promise<Float32Array[]> {
  const path = join(temporaryFolder(t), "model.gguf");
  writeFileSync(path, writeGguf(contents));
  const { source, config } = openCheckpoint(path, options);
  try {
    return await new Driver(backend, await loadModel(backend, source, config, limits)).step([{ sequence: 0, position: 0, ids: prompt, wanted: 16 }]);
  } finally {
    source.close();
  }
}

const probabilities = (logits: Float32Array): number[] => {
  const weights = [...logits].map((x) => Math.exp(x - Math.max(...logits)));
  const sum = weights.reduce((a, b) => a + b);
  return weights.map((x) => x / sum);
};
/** Nats for each row, on average. */
function divergence(truth: readonly Float32Array[], found: readonly Float32Array[]): number {
  const rows = truth.map((row, i) => {
    const p = probabilities(row), q = probabilities(found[i]!);
    return p.reduce((sum, x, j) => sum + x * Math.log(x / q[j]!), 0);
  });
  return rows.reduce((a, b) => a + b) / rows.length;
}

/** As llama.cpp's quantisers mix them. */
const mixtures: Readonly<Record<string, (name: string) => BlockType>> = {
  "Q4_K_M's mixture": (name) => (name === "output.weight" || /attn_v|ffn_down/.test(name) ? "Q6_K" : "Q4_K"),
  "an F16 table over Q8_0": (name) => (name === "token_embd.weight" ? "F16" : "Q8_0"),
};
const kinds = { ...Object.fromEntries((Object.keys(blockFormats) as BlockType[]).map((type) => [type, () => type])), ...mixtures };

/** Of the types that are computed from as they are packed, Q4_K is the farthest away: 6e-4. Half of that is int8 activations, which all of them have. */
const maxNats = 2e-3;
/** The reference is slow; every block type is the same to it but for the loader, which is not the backend's. */
const onReference: ReadonlySet<string> = new Set(["Q8_0", "Q4_K_M's mixture"]);

for (const { name: backendName, open, skip } of backends) {
  describe(`on ${backendName}`, { skip }, () => {
    let backend: Backend;
    before(async () => void (backend = await open()));
    after(() => backend.close());
    for (const [seed, [kind, typeOf]] of Object.entries(kinds).entries()) {
      if (backendName === "reference" && !onReference.has(kind)) continue;
      test(`${kind}: its logits are those of its elements in f32`, async (t) => {
        const contents = randomGguf(typeOf, seed);
        const truth = await logitsOf(t, backend, inFloat32(contents));
        const spread = Math.max(...truth[0]!) - Math.min(...truth[0]!);
        assert.ok(spread > 2, `logits between which little differs prove little: ${spread}`);
        assert.deepEqual(await logitsOf(t, backend, contents, { dtype: "float32" }), truth);
        const nats = divergence(truth, await logitsOf(t, backend, contents));
        assert.ok(nats <= maxNats, `${nats} nats`);
      });
    }
  });
}

for (const { name: backendName, open, skip } of sixteenBit) {
  describe(`on ${backendName}`, { skip }, () => {
    for (const [kind, dtype] of [["Q8_0", "bfloat16"], ["Q4_K_M's mixture", "float16"], ["Q5_0", "bfloat16"], ["F32", "float16"]] as const) {
      if (backendName !== "cuda" && process.env["TESSERA_LONG"] === undefined && kind !== "Q8_0" && kind !== "F32") continue; // the oracle's loader is one for all
      test(`${kind} in ${dtype}: its logits are those of its elements rounded once, and near those in f32`, async (t) => {
        const backend = await open(), exact = await backends[0]!.open(), contents = randomGguf(kinds[kind]!, 3), formats = { caps: backend.caps, dtype };
        const found = await logitsOf(t, backend, contents, formats);
        assert.deepEqual(found, await logitsOf(t, backend, inFloat32(contents), formats));
        const nats = divergence(await logitsOf(t, exact, contents, { dtype: "float32" }), found);
        assert.ok(nats > 0 && nats <= maxNats, `${nats} nats`);
        await Promise.all([backend.close(), exact.close()]);
      });
    }
  });
}
