/** A model under its operator's mods: other attention by layer, the same tokens from every backend, and errors that cost one request. */
import assert from "node:assert/strict";
import test from "node:test";
import { alibi, and, causal, type MaskMod, maskMod, prefixLm, scoreMod, slidingWindow, softCap, tensor } from "../../src/attention/index.ts";
import { type AttentionOverride, resolveOverride } from "../../src/attention/override.ts";
import type { Device } from "../../src/backend/registry.ts";
import { capsOf } from "../../src/backend/registry.ts";
import { openEngine } from "../../src/engine/open.ts";
import { LLM } from "../../src/llm.ts";
import { openCheckpoint, planModel, readOwnAttention } from "../../src/model/load.ts";
import { defaultSampling } from "../../src/sampling/params.ts";
import { fixture } from "./tiny-model.ts";

const folder = fixture("llama");
const prompt = (seed: number, length: number): Int32Array => Int32Array.from({ length }, (_, i) => (seed * 31 + i * i * 7) % 300 + 3);

/** Greedy tokens of one request with logprobs, through an engine in this thread. */
async function generate(device: Device, attention: AttentionOverride | undefined, maxTokens: number, maxNumBatchedTokens = 64): Promise<{ readonly tokens: number[]; readonly logprobs: number[] }> {
  const resolved = attention && structuredClone(resolveOverride(attention, readOwnAttention(folder)));
  const { engine, release } = await openEngine({ model: folder, device, threads: 2, maxNumSeqs: 2, maxNumBatchedTokens, blockSize: 8, ...(resolved && { attention: resolved }) }, () => 0);
  try {
    engine.submit("a", prompt(1, 21), { ...defaultSampling, temperature: 0, maxTokens, ignoreEos: true, logprobs: 0 });
    const tokens: number[] = [], logprobs: number[] = [];
    while (!engine.idle) {
      for (const delta of await engine.step()) {
        assert.equal(delta.message, undefined);
        tokens.push(...delta.tokens);
        logprobs.push(...(delta.logprobs ?? []).map((l) => l.logprob));
      }
    }
    return { tokens, logprobs };
  } finally {
    await release();
  }
}

const slopes = Float32Array.from({ length: 4 }, (_, h) => 2 ** -(h + 1));
const everyThird = maskMod(({ table }) => (_b, h, q, kv) => q >= kv && (q - kv < 4 || table[h]![kv]! > 0), { table: tensor(Int32Array.from({ length: 4 * 256 }, (_, i) => Number(i % 3 === 0)), [4, 256]) });
const twoLayers: AttentionOverride = {
  layers: { 0: { maskMod: slidingWindow(9), scoreMod: alibi(slopes) }, 1: { maskMod: everyThird, scoreMod: softCap(0.75) } },
};

test("two layers under different mods give the reference's 200 tokens, in one chunk or many, and not the tokens of the model as it is", async () => {
  const reference = await generate("reference", twoLayers, 200);
  const wasm = await generate("cpu", twoLayers, 200), chunked = await generate("cpu", twoLayers, 200, 5), plain = await generate("cpu", undefined, 200);
  assert.equal(reference.tokens.length, 200);
  assert.deepEqual(wasm.tokens, reference.tokens);
  assert.ok(wasm.logprobs.every((x, i) => Math.abs(x - reference.logprobs[i]!) < 1e-3), "logprobs agree");
  assert.deepEqual(chunked, wasm, "chunks do not show, not in one bit");
  assert.notDeepEqual(plain.tokens, wasm.tokens);
});

test("the model's own mods, said again, change not one bit; a function gets them to build on", async () => {
  const plain = await generate("cpu", undefined, 40);
  assert.deepEqual(await generate("cpu", { maskMod: causal }, 40), plain);
  assert.deepEqual(await generate("cpu", { maskMod: (own) => and(own.maskMod, own.maskMod), scoreMod: scoreMod((score) => score) }, 40), plain);
  const narrow = maskMod(({ size }) => (_b, _h, q, kv) => q - kv < size, { size: 3 });
  const both = await generate("cpu", { maskMod: (own) => and(own.maskMod, narrow) }, 40);
  assert.deepEqual(await generate("cpu", { maskMod: slidingWindow(3) }, 40), both);
  assert.notDeepEqual(both, plain);
});

test("an override says which layers it is for: by index, by range, the later entry over the earlier, the whole under both", () => {
  const own = readOwnAttention(folder);
  const [a, b, c] = [softCap(1), softCap(2), softCap(3)];
  const caps = (override: AttentionOverride): (number | undefined)[] => {
    const { mods, ofLayer } = resolveOverride(override, own);
    return ofLayer.map((i) => mods[i]?.scoreMod?.captures[0]?.value as number | undefined);
  };
  assert.deepEqual(caps({ scoreMod: a }), [1, 1, 1]);
  assert.deepEqual(caps({ scoreMod: a, layers: { 2: { scoreMod: b } } }), [1, 1, 2]);
  assert.deepEqual(caps({ layers: { 1: { scoreMod: b } } }), [undefined, 2, undefined]);
  assert.deepEqual(caps({ layers: [{ from: 0, to: 1, scoreMod: b }, { from: 1, to: 2, scoreMod: c }] }), [2, 3, 3]);
  assert.deepEqual(resolveOverride({ layers: [{ from: 0, to: 2, scoreMod: a }] }, own).mods.map((m) => m.label), ["layers 0-2"]);
});

const refusals: readonly (readonly [override: unknown, message: RegExp])[] = [
  [{ maskMod: maskMod(() => true) }, /the maskMod of layers 0-2 lets position \d+ attend to position \d+, which comes later.*and\(causal, \.\.\.\)/],
  [{ layers: { 1: { maskMod: prefixLm(Int32Array.of(6)) } } }, /the maskMod of layer 1 reads b\. In a served model b is the row of a step/],
  [{ maskMod: maskMod((_b, _h, q, kv) => kv < 6 || q >= kv) }, /lets position 0 attend to position \d, which comes later.*Prefix-LM/],
  [{ scoreMod: scoreMod((score, b) => score + b) }, /the scoreMod of layers 0-2 reads b/],
  [{ maskMod: softCap(3) }, /attention\.maskMod is a score mod; give it as scoreMod/],
  [{ maskMod: (_b: number, _h: number, q: number, kv: number) => q >= kv }, /attention\.maskMod returned no mod.*A variant itself is written maskMod/],
  [{ maskMod: 3 }, /attention\.maskMod is number; it must be a mod made with maskMod\(\)/],
  [{ mask: causal }, /attention\.mask is not known; it takes maskMod, scoreMod, layers/],
  [{ layers: { 3: { maskMod: causal } } }, /attention\.layers\[3\] is for layer 3; the model has layers 0 to 2/],
  [{ layers: [{ from: 2, to: 1, maskMod: causal }] }, /is for layers 2 to 1; the model has layers 0 to 2, and `from` comes first/],
  [{ layers: { 0: { window: 3 } } }, /attention\.layers\[0\]\.window is not known; it takes maskMod, scoreMod/],
];
for (const [override, message] of refusals) {
  test(`an override is refused: ${message.source.slice(0, 90)}`, async () => {
    await assert.rejects(generate("cpu", override as AttentionOverride, 2), (error: Error) => message.test(error.message) && /^(UsageError|ModError)$/.test(error.name));
  });
}

test("a mask that is causal without saying so is proved to be, point by point if need be", async () => {
  const squares: MaskMod = maskMod((_b, _h, q, kv) => q * q >= kv * kv && (q + kv) % 2 === 0);
  assert.equal((await generate("cpu", { maskMod: squares }, 3)).tokens.length, 3);
});

test("the memory plan holds the tables of mods, exactly", () => {
  const { config, source } = openCheckpoint(folder);
  source.close();
  const limits = { maxModelLen: 64, maxNumSeqs: 2, maxNumBatchedTokens: 64, pageSize: 16, numPages: 8 };
  const plan = planModel({ ...config, override: resolveOverride(twoLayers, readOwnAttention(folder)) }, limits, capsOf("cpu"));
  assert.deepEqual(plan.parts.filter((p) => p.kind === "modTables").map((p) => [p.name, p.bytes]), [["attention.0.slopes", 64], ["attention.1.table", 4 * 4 * 256]]);
  assert.equal(plan.totalBytes, plan.parts.reduce((sum, p) => sum + p.bytes, 0));
});

/** Allows all before `limits[0]` positions back, through a table that others may write to. */
function sharedWindow(): { readonly sizes: Int32Array; readonly attention: AttentionOverride } {
  const sizes = new Int32Array(new SharedArrayBuffer(4)).fill(1000);
  return { sizes, attention: { maskMod: maskMod(({ sizes }) => (_b, _h, q, kv) => q >= kv && q - kv < sizes[0]!, { sizes }) } };
}

test("a captured array in shared memory changes the served model while it runs; one that is not shared was copied", async () => {
  const { sizes, attention } = sharedWindow();
  await using llm = await LLM.load(folder, { attention, skipTokenizerInit: true, threads: 1, maxNumSeqs: 2, maxModelLen: 128 });
  const ask = async () => [...(await llm.generate(prompt(2, 30), { temperature: 0, maxTokens: 12, ignoreEos: true })).tokenIds];
  const wide = await ask();
  sizes[0] = 2;
  const narrow = await ask();
  sizes[0] = 1000;
  assert.deepEqual(await ask(), wide);
  assert.notDeepEqual(narrow, wide);
  await using expected = await LLM.load(folder, { attention: { maskMod: slidingWindow(2) }, skipTokenizerInit: true, threads: 1, maxNumSeqs: 2, maxModelLen: 128 });
  assert.deepEqual([...(await expected.generate(prompt(2, 30), { temperature: 0, maxTokens: 12, ignoreEos: true })).tokenIds], narrow);
});

test("a captured array in shared memory is refused by name where the engine is a process, which shares none", async () => {
  const { attention } = sharedWindow();
  await assert.rejects(LLM.load(folder, { device: "cuda", attention, skipTokenizerInit: true }), (error: Error) => error.name === "UsageError" &&
    /the maskMod of layers 0-2 captures sizes over a SharedArrayBuffer, and device cuda computes in a process of its own/.test(error.message));
});

test("a request whose positions leave a mod's table fails by the table's name; those beside it and after it are answered", async () => {
  const weights = new Float32Array(40).fill(0.5);
  const attention: AttentionOverride = { layers: { 2: { scoreMod: scoreMod(({ weights }) => (score, _b, _h, _q, kv) => score + weights[kv]!, { weights }) } } };
  await using llm = await LLM.load(folder, { attention, skipTokenizerInit: true, threads: 1, maxNumSeqs: 4, maxModelLen: 128 });
  const params = { temperature: 0, maxTokens: 8, ignoreEos: true };
  const alone = [...(await llm.generate(prompt(5, 20), params)).tokenIds];
  const [short, long] = await Promise.allSettled([llm.generate(prompt(5, 20), params), llm.generate(prompt(6, 60), params)]);
  assert.ok(short.status === "fulfilled");
  assert.deepEqual([...short.value.tokenIds], alone);
  assert.ok(long.status === "rejected");
  assert.match(String(long.reason), /outside dimension 0 of the captured table 'weights', which has 40 elements/);
  assert.deepEqual([...(await llm.generate(prompt(5, 20), params)).tokenIds], alone);
  assert.ok(llm.alive);
});
