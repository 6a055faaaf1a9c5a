/** flexAttention on the wasm backend against the formula in doubles: every option, odd shapes, every format, views; and what changes without a new kernel. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import {
  and, type Aux, causal, createBlockMask, type FlexAttentionOptions, flexAttention, mergeStates, outputMod, scoreMod, slidingWindow, softCap, maskMod, tensor, type Tensor, type TensorDType,
  weightMod,
} from "../../src/attention/index.ts";
import { floats } from "../../src/attention/tensor.ts";
import type { Backend } from "../../src/backend/backend.ts";
import { open } from "../../src/backend/wasm/open.ts";
import { fromFloat32, toFp8 } from "../../src/core/dtype.ts";
import { stream } from "../../src/core/random.ts";
import type { AttentionPlan } from "../../src/ir/plan.ts";
import { dense } from "./dense.ts";

let wasm: Backend;
const plans: AttentionPlan[] = [];
const written: number[] = [];
/** The wasm backend, noting what it is asked to compile and to write. */
before(async () => {
  const inner = await open({ threads: 1 });
  const notes: Partial<Backend> = {
    compile: (plan) => (plans.push(plan), inner.compile(plan)),
    write: (to, offset, data) => (written.push(data.length), inner.write(to, offset, data)),
  };
  wasm = new Proxy(inner, { get: (target, name) => Reflect.get(notes, name) ?? (typeof Reflect.get(target, name) === "function" ? (Reflect.get(target, name) as () => unknown).bind(target) : Reflect.get(target, name)) });
});
after(() => wasm.close());

function random(seed: number, shape: readonly number[]): Tensor {
  const next = stream(seed);
  return tensor(Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => next() * 2 - 1), shape);
}

/** Nearest numbers of `dtype`, in its own array; quantised ones of x / `step`. */
function stored(t: Tensor, dtype: TensorDType, step = 1): Tensor {
  if (dtype === "i8") return tensor(Int8Array.from(t.data, (x) => Math.max(-127, Math.min(127, Math.round(x / step)))), t.shape);
  if (dtype === "fp8") return tensor(Uint8Array.from(t.data, (x) => toFp8(x / step)), t.shape, "fp8");
  if (dtype === "f32") return t;
  return tensor(new Uint16Array(fromFloat32(t.data, dtype as "f16" | "bf16").buffer), t.shape, dtype);
}

function close(got: ArrayLike<number>, want: ArrayLike<number>, within: number, what: string): void {
  assert.equal(got.length, want.length, what);
  for (let i = 0; i < want.length; i++) assert.ok(got[i] === want[i] || Math.abs(got[i]! - want[i]!) <= within * (1 + Math.abs(want[i]!)), `${what}[${i}] is ${got[i]}, not ${want[i]}`);
}

async function compare(query: Tensor, key: Tensor, value: Tensor, options: FlexAttentionOptions, within = 2e-5): Promise<void> {
  const want = dense(query, key, value, options);
  const place = options.device ? {} : { backend: wasm };
  const aux: readonly Aux[] = options.weightMod ? [] : ["lse", "maxScore"];
  const got = await flexAttention(query, key, value, { ...options, ...place, aux });
  const where = `${options.device ?? "wasm"} of query [${query.shape.join(", ")}], key [${key.shape.join(", ")}], value [${value.shape.join(", ")}]`;
  close(floats(got.out), want.out, within, `out ${where}`);
  for (const name of aux) close(got[name]!.data, want[name], within, `${name} ${where}`);
}

type Sizes = readonly [batch: number, queryHeads: number, kvHeads: number, queryLength: number, kvLength: number, dim: number, valueDim: number];
const tensors = ([B, H, G, L, S, D, Dv]: Sizes, seed = 1, kvB = B): readonly [Tensor, Tensor, Tensor] => [random(seed, [B, H, L, D]), random(seed + 1, [kvB, G, S, D]), random(seed + 2, [kvB, G, S, Dv])];

const odd: readonly Sizes[] = [
  [1, 1, 1, 1, 1, 1, 1], [2, 6, 2, 13, 37, 20, 12], [1, 7, 1, 5, 65, 72, 3], [3, 12, 4, 5, 11, 1, 256], [1, 3, 3, 2, 129, 256, 1], [2, 10, 2, 7, 40, 80, 66], [1, 4, 4, 33, 3, 18, 5],
];
const gate = { gate: tensor(Float32Array.from({ length: 12 * 256 }, (_, i) => Math.cos(i)), [12, 256]) };

/** Each option by itself and beside others, for a number of query heads. */
const options: Readonly<Record<string, (heads: number) => FlexAttentionOptions>> = {
  "nothing": () => ({}),
  "a scale": () => ({ scale: 0.7 }),
  "a scale of 0": () => ({ scale: 0 }),
  "a whole scale beside a score mod": () => ({ scale: 2, scoreMod: softCap(1.5), maskMod: causal }),
  "a sink for each head": (heads) => ({ sink: Float32Array.from({ length: heads }, (_, h) => h - 1.5) }),
  "sinks in bf16 under a causal window": (heads) => ({ sink: stored(tensor(Float32Array.from({ length: heads }, (_, h) => 3 - h), [heads]), "bf16"), maskMod: slidingWindow(5) }),
  "a sink so small that it is none": (heads) => ({ sink: new Float32Array(heads).fill(-Infinity), maskMod: causal }),
  "softmax plus one": () => ({ softmax: "one" }),
  "softmax plus one where rows are empty": () => ({ softmax: "one", maskMod: maskMod((_b, _h, q, kv) => kv < q - 3), scale: 1.5 }),
  "sigmoid weights": () => ({ weightMod: weightMod((score) => 1 / (1 + Math.exp(-score))) }),
  "squared relu weights of a capped score, masked": () => ({ weightMod: weightMod((score) => Math.max(score, 0) ** 2), scoreMod: softCap(0.8), maskMod: causal, scale: 1.5 }),
  "weights by head and position alone": () => ({ weightMod: weightMod((_score, b, h, q, kv) => (b + 1) / (1 + h + Math.abs(q - kv))) }),
  "an output gate by head and element": () => ({ outputMod: outputMod(({ gate }) => (out, _b, h, _q, d) => out * gate[h]![d]!, gate), maskMod: causal }),
  "an output mod of all its indices": () => ({ outputMod: outputMod((out, b, h, q, d) => (d % 2 === 0 ? out + 0.01 * q : out * (b + 1) - 0.1 * h)) }),
  "four mods with captures of one name": (heads) => ({
    scoreMod: scoreMod(({ size, t }) => (score, _b, h) => score * size + t[h]!, { size: 0.5, t: Float32Array.from({ length: heads }, (_, h) => h / 8) }),
    maskMod: maskMod(({ size, t }) => (_b, _h, q, kv) => Math.abs(q - kv) < size + t[q % 3]!, { size: 9, t: Int32Array.of(0, 4, 8) }),
    weightMod: weightMod(({ size, t, scale }) => (score, _b, _h, _q, kv) => size + scale * score + t[kv % 4]!, { size: 0.25, t: Float32Array.of(0.5, -1, 0, 2), scale: 3 }),
    outputMod: outputMod(({ size, t }) => (out, _b, _h, _q, d) => out / size + t[d & 1]!, { size: 4, t: Int32Array.of(1, -1) }),
    scale: 0.9,
  }),
};
for (const [name, make] of Object.entries(options)) {
  test(`${name}: the formula, at odd shapes`, async () => {
    for (const [i, sizes] of odd.entries()) await compare(...tensors(sizes, 10 * i), make(sizes[1]), 4e-5);
    const sizes: Sizes = [2, 6, 2, 9, 14, 5, 3];
    await compare(...tensors(sizes), { ...make(sizes[1]), device: "reference" });
  });
}

test("every kind of head dim, from 1 to 256, for keys and values apart", async () => {
  for (const [i, dim] of [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 31, 33, 63, 96, 100, 127, 130, 192, 253, 255, 256].entries()) {
    await compare(...tensors([1, 2, 1, 3, 35, dim, 257 - dim], 90 + i), { maskMod: slidingWindow(20), outputMod: outputMod((out, _b, _h, _q, d) => out + d) });
  }
});

test("queries in f16 and bf16 give results in theirs", async () => {
  const [query, key, value] = tensors([1, 4, 2, 6, 11, 16, 10], 120);
  for (const [dtype, within] of [["f16", 1e-3], ["bf16", 8e-3]] as const) {
    assert.equal((await flexAttention(stored(query, dtype), key, value, { backend: wasm })).dtype, dtype);
    await compare(stored(query, dtype), stored(key, dtype), stored(value, dtype), { maskMod: causal }, within);
  }
});

test("a load of a hook that leaves its table fails the call by name; one that nothing asks for does not", async () => {
  const [query, key, value] = tensors([1, 2, 1, 6, 9, 8, 8], 130);
  const few = { few: new Float32Array(5) };
  const call = (options: FlexAttentionOptions): Promise<unknown> => flexAttention(query, key, value, { backend: wasm, ...options, aux: undefined });
  await assert.rejects(call({ outputMod: outputMod(({ few }) => (out, _b, _h, _q, d) => out * few[d]!, few) }), /index [5-7] is outside dimension 0 of the captured table 'few', which has 5 elements/);
  await assert.rejects(call({ weightMod: weightMod(({ few }) => (s, _b, _h, _q, kv) => s * few[kv]!, few) }), /captured table 'few'/);
  const early = maskMod((_b, _h, _q, kv) => kv < 5);
  await call({ weightMod: weightMod(({ few }) => (s, _b, _h, _q, kv) => s * few[kv]!, few), maskMod: early });
  await call({ scoreMod: scoreMod(({ few }) => (s, _b, _h, _q, kv) => s + few[kv]!, few), maskMod: early });
  await call({ outputMod: outputMod(({ few }) => (out, _b, _h, _q, d) => (d < few.length ? out * few[d]! : out), few) });
});

test("rows with nothing to attend, and calls without keys or queries, give 0 and -Infinity", async () => {
  const [query, key, value] = tensors([2, 4, 2, 6, 9, 8, 5]);
  const none = maskMod((_b, _h, q) => q > 2);
  const { out, lse, maxScore } = await flexAttention(query, key, value, { maskMod: none, backend: wasm, aux: ["maxScore", "lse"] });
  assert.ok(out.data.subarray(0, 15).every((x) => x === 0) && out.data.subarray(15, 30).every((x) => x !== 0));
  assert.deepEqual([[...lse.data.subarray(0, 3)], [...maxScore.data.subarray(0, 3)]], [[-Infinity, -Infinity, -Infinity], [-Infinity, -Infinity, -Infinity]]);
  const noKeys = await flexAttention(query, tensor(new Float32Array(0), [2, 2, 0, 8]), tensor(new Float32Array(0), [2, 2, 0, 5]), { backend: wasm, aux: ["lse"] });
  assert.deepEqual([noKeys.out.shape, new Set(noKeys.out.data), new Set(noKeys.lse.data)], [[2, 4, 6, 5], new Set([0]), new Set([-Infinity])]);
  const noQueries = await flexAttention(tensor(new Float32Array(0), [2, 4, 0, 8]), key, value, { backend: wasm, maskMod: causal, aux: ["lse"] });
  assert.deepEqual([noQueries.out.shape, noQueries.lse.shape], [[2, 4, 0, 5], [2, 4, 0]]);
  await compare(query, key, value, { maskMod: none, sink: Float32Array.of(-1, 0, 1, 2) });
});

test("aux gives what is asked for and nothing else", async () => {
  const [query, key, value] = tensors([1, 2, 1, 4, 4, 8, 8]);
  const call = { backend: wasm };
  const plain = await flexAttention(query, key, value, call);
  const lse = await flexAttention(query, key, value, { ...call, aux: ["lse"] }), max = await flexAttention(query, key, value, { ...call, aux: ["maxScore"] });
  const both = await flexAttention(query, key, value, { ...call, aux: ["maxScore", "lse"] }), only = await flexAttention(query, key, value, { ...call, aux: [] });
  assert.deepEqual([Object.keys(lse), Object.keys(max), Object.keys(both).toSorted(), Object.keys(only)], [["out", "lse"], ["out", "maxScore"], ["lse", "maxScore", "out"], ["out"]]);
  assert.deepEqual([lse.out.data, both.lse.data, both.maxScore.data], [plain.data, lse.lse.data, max.maxScore.data]);
  // @ts-expect-error maxScore was not asked for
  assert.equal(lse.maxScore, undefined);
});

const formats: readonly TensorDType[] = ["f32", "bf16", "f16", "i8", "fp8"];
for (const keyFormat of formats) {
  test(`keys in ${keyFormat} beside values in every format, read as they are`, async () => {
    for (const valueFormat of formats) {
      const sizes: Sizes = [2, 6, 2, 7, 45, 18, 13], [B, , G, , S] = sizes;
      const [query, key, value] = tensors(sizes, 30);
      const scales: FlexAttentionOptions = {
        ...(keyFormat === "i8" || keyFormat === "fp8" ? { keyScale: tensor(Float32Array.from({ length: B * G * S }, (_, i) => 0.01 + (i % 7) / 400), [B, G, S]) } : {}),
        ...(valueFormat === "i8" || valueFormat === "fp8" ? { valueScale: tensor(Float32Array.from({ length: B * G }, (_, i) => 0.01 + i / 200), [B, G, 1]) } : {}),
      };
      written.length = 0;
      await compare(stored(query, keyFormat === "bf16" ? "bf16" : "f32"), stored(key, keyFormat, 0.01), stored(value, valueFormat, 0.01), { ...scales, maskMod: slidingWindow(20) }, keyFormat === "bf16" ? 8e-3 : 2e-5);
      const bytes = { f32: 4, bf16: 2, f16: 2, i8: 1, fp8: 1 } as Readonly<Record<string, number>>;
      for (const expected of [B * G * S * 18 * bytes[keyFormat]!, B * G * S * 13 * bytes[valueFormat]!]) assert.ok(written.includes(expected), `no write of ${expected} bytes among ${written.join(", ")}`);
    }
  });
}

test("scales of keys and values broadcast: one number, one for a head, for a token, for a batch", async () => {
  const sizes: Sizes = [2, 4, 2, 5, 11, 8, 6];
  const [query, key, value] = tensors(sizes, 40);
  const keys = stored(key, "i8", 0.01), values = stored(value, "fp8", 0.01);
  const scale = (...shape: readonly number[]): Tensor => tensor(Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => 0.01 + i / 300), shape);
  for (const keyScale of [0.01, scale(1), scale(1, 1, 1), scale(2, 2, 1), scale(1, 1, 11), scale(2, 1, 11), scale(2, 1, 1)]) {
    await compare(query, keys, values, { keyScale, valueScale: keyScale });
  }
  const views = tensor(scale(11, 2, 2).data, [2, 2, 11], { strides: [1, 2, 4] });
  await compare(query, keys, values, { keyScale: views, valueScale: 0.02 });
});

test("one batch of keys and values serves every sequence, quantised or not", async () => {
  const [query, key, value] = tensors([3, 6, 3, 9, 21, 12, 20], 50, 1);
  await compare(query, key, value, { maskMod: maskMod(({ off }) => (b, _h, q, kv) => q + off[b]! >= kv, { off: Int32Array.of(0, 5, 12) }) });
  await compare(query, stored(key, "i8", 0.01), stored(value, "bf16"), { keyScale: tensor(new Float32Array(21).fill(0.01), [1, 1, 21]), scale: 1 });
});

test("views are read where they lie, or copied once, with the bits of their copies", async () => {
  const [B, L, H, D] = [2, 9, 4, 12];
  // One packed array [B, L, (q0..q3 | k0 k1 | v0 v1), D], as a fused projection leaves it.
  const packed = random(60, [B, L, H + 4, D]).data as Float32Array;
  const part = (first: number, heads: number): Tensor => tensor(packed, [B, heads, L, D], { strides: [L * (H + 4) * D, D, (H + 4) * D, 1], offset: first * D });
  const query = part(0, H), key = part(H, 2), value = part(H + 2, 2);
  await compare(query, key, value, { maskMod: causal });
  const copied = [query, key, value].map((t) => tensor(floats(t), t.shape)) as [Tensor, Tensor, Tensor];
  assert.deepEqual((await flexAttention(query, key, value, { backend: wasm })).data, (await flexAttention(...copied, { backend: wasm })).data);

  const other = tensors([1, 2, 2, 10, 16, 6, 8], 61);
  const transposed = tensor(random(64, [1, 2, 6, 16]).data, [1, 2, 16, 6], { strides: [192, 96, 1, 16] }), reversed = tensor(random(65, [1, 2, 16, 8]).data, [1, 2, 16, 8], { strides: [256, 128, -8, 1], offset: 120 });
  await compare(other[0], transposed, reversed, {});
  const everyOther = tensor(random(66, [1, 2, 32, 6]).data, [1, 2, 16, 6], { strides: [384, 192, 12, 1] }), oneHead = tensor(random(67, [1, 1, 16, 8]).data, [1, 2, 16, 8], { strides: [0, 0, 8, 1] });
  await compare(other[0], everyOther, oneHead, {});
  const bytes = tensor(new Int8Array(2 * 32 * 6).map((_, i) => (i * 37) % 251 - 125), [1, 2, 16, 6], { strides: [384, 192, 12, 1], offset: 6 });
  await compare(other[0], bytes, oneHead, { keyScale: 0.01 });
  written.length = 0;
  const cache = random(68, [1, 2, 400, 6]);
  await compare(other[0], tensor(cache.data, [1, 2, 16, 6], { strides: [4800, 2400, 6, 1] }), oneHead, {});
  assert.ok(written.every((n) => n < 4 * 2 * 400 * 6), "a short view of a long cache moves only what it shows");
});

test("a block mask, a sink and an output mod go together", async () => {
  const [query, key, value] = tensors([2, 4, 2, 30, 50, 16, 16], 70);
  const blockMask = createBlockMask(and(slidingWindow(12), maskMod((_b, h, _q, kv) => kv % 3 !== h % 3)), { batch: 1, heads: 4, queryLength: 30, kvLength: 50, blockSize: [7, 10] });
  await compare(query, key, value, { blockMask, sink: Float32Array.of(0, 1, -1, 0.5), outputMod: outputMod((out, _b, _h, q, d) => out * (q - d)) });
});

test("nothing that a call may vary is a new kernel: values, lengths, batch, scale, sinks, factors, numbers and tables captured, over 1,000 calls", async () => {
  const before = plans.length;
  const captures = { size: 4, slope: new Float32Array(4), gain: 1 };
  for (let n = 0; n < 1000; n++) {
    captures.size = 3 + (n % 40);
    captures.gain = 1 + (n % 50) / 3;
    captures.slope = Float32Array.from({ length: 4 + (n % 7) }, (_, h) => h / (n + 1));
    const sizes: Sizes = [1 + (n % 3), 4, 2, 1 + (n % 25), 2 + 2 * (n % 30), 8, 8], [B, , G, , S] = sizes;
    const [query, key, value] = tensors(sizes, n);
    const options: FlexAttentionOptions = {
      // Made anew at each call, on purpose: kernels are known by what mods say.
      maskMod: maskMod(({ size }) => (_b, _h, q, kv) => Math.abs(q - kv) < size, captures), scoreMod: scoreMod(({ slope }) => (score, _b, h, q, kv) => score - slope[h]! * Math.abs(q - kv), captures),
      outputMod: outputMod(({ gain }) => (out) => out * gain, captures), sink: Float32Array.from({ length: 4 }, (_, h) => h - (n % 9)),
      scale: n === 7 ? 3 : 0.1 * (n % 20), keyScale: n % 2 ? 0.01 : tensor(new Float32Array(B * G * S).fill(0.012), [B, G, S]),
    };
    const inputs = [query, stored(key, "i8", 0.01), stored(value, "bf16")] as const;
    if (n % 50 === 0) await compare(...inputs, options, 4e-5);
    else await flexAttention(...inputs, { ...options, backend: wasm, aux: ["lse", "maxScore"] });
  }
  assert.equal(plans.length - before, 1);
});

test("parts of the keys merged by lse are the whole; one part is itself, and an empty part is none", async () => {
  const [query, key, value] = tensors([2, 4, 2, 11, 40, 16, 10], 80);
  const slice = (t: Tensor, from: number, to: number): Tensor => {
    const [B, G, S, D] = t.shape as [number, number, number, number];
    return tensor(t.data, [B, G, to - from, D], { strides: [G * S * D, S * D, D, 1], offset: from * D });
  };
  const whole = await flexAttention(query, key, value, { backend: wasm, aux: ["lse"], maskMod: maskMod((_b, h, q, kv) => kv >= h && kv <= q + 20) });
  const parts = await Promise.all(([[0, 1], [1, 17], [17, 35], [35, 40]] as const).map(([from, to]) => flexAttention(query, slice(key, from, to), slice(value, from, to), {
    backend: wasm, aux: ["lse"], maskMod: maskMod(({ from }) => (_b, h, q, kv) => kv + from >= h && kv + from <= q + 20, { from }),
  })));
  const merged = mergeStates(parts);
  assert.ok(parts.some(({ lse }) => lse.data.includes(-Infinity)), "no part is empty for any row, so the test shows less");
  close(merged.out.data, whole.out.data, 1e-6, "out");
  close(merged.lse.data, whole.lse.data, 1e-6, "lse");
  const alone = mergeStates([whole]);
  assert.deepEqual([alone.out.data, alone.lse.data], [whole.out.data, whole.lse.data]);
  const nothing = { out: tensor(new Float32Array(whole.out.data.length).fill(NaN), whole.out.shape), lse: tensor(new Float32Array(whole.lse.data.length).fill(-Infinity), whole.lse.shape) };
  const beside = mergeStates([nothing, whole, nothing]), empty = mergeStates([nothing, nothing]);
  assert.deepEqual([beside.out.data, beside.lse.data], [whole.out.data, whole.lse.data]);
  assert.deepEqual([new Set(empty.out.data), new Set(empty.lse.data)], [new Set([0]), new Set([-Infinity])]);
  const half = { out: stored(whole.out, "bf16"), lse: whole.lse };
  assert.deepEqual([mergeStates([half]).out.dtype, mergeStates([half]).out.data], ["bf16", half.out.data]);
});

const [q1, k1, v1] = tensors([1, 2, 1, 4, 6, 8, 8]);
const int8Key = stored(k1, "i8", 0.01);
const refused: readonly (readonly [string, () => Promise<unknown> | unknown, RegExp])[] = [
  ...([
    ["dropout", { dropout: 0.1 }, /no option 'dropout'; dropout is for training.*weightMod/], ["column sums as an option", { columnSums: true }, /column sums of P are not offered.*identity as value/],
    ["FlexAttention's spelling", { score_mod: softCap(1) }, /no option 'score_mod'; it is scoreMod here/], ["return_lse", { return_lse: true }, /aux: \["lse", "maxScore"\]/], ["enable_gqa", { enable_gqa: true }, /leave it out: query heads/],
    ["an unknown option", { tile: 3 }, /no option 'tile'; its options are scoreMod, maskMod/], ["top-k of P", { aux: ["topK"] }, /aux has no 'topK'; the top-k of P are not offered.*columns of the identity/],
    ["column sums of P", { aux: ["columnSums"] }, /column sums of P are not offered/], ["an unknown result", { aux: ["lsee"] }, /aux has no 'lsee'; it may have lse and maxScore/], ["aux as a name", { aux: "lse" }, /aux is "lse"; it is a list/],
    ["lse with weightMod", { aux: ["lse"], weightMod: weightMod((s) => s) }, /lse is a statistic of softmax, which weightMod replaces/], ["maxScore with weightMod", { aux: ["maxScore"], weightMod: weightMod((s) => s) }, /maxScore is a statistic/],
    ["a sink with weightMod", { sink: new Float32Array(2), weightMod: weightMod((s) => s) }, /sink joins the denominator.*weightMod replaces softmax/],
    ["softmax plus one with weightMod", { softmax: "one", weightMod: weightMod((s) => s) }, /softmax: "one" joins the denominator/],
    ["a sink with softmax plus one", { softmax: "one", sink: new Float32Array(2) }, /not both; for both, make each sink x Math\.log1p/], ["another softmax", { softmax: "two" }, /softmax is "two"; leave it out, or "one"/],
    ["a sink of other heads", { sink: new Float32Array(3) }, /sink has shape \[3\]; it must be \[2\]/], ["a sink that is a number", { sink: 1 }, /sink must be a Float32Array or a tensor/], ["a scale that is none", { scale: NaN }, /scale is NaN; it must be a finite number/],
    ["a mask as a score mod", { scoreMod: causal }, /scoreMod must be made with scoreMod\(\), and this is a mask mod/], ["an output mod as a weight mod", { weightMod: outputMod((x) => x) }, /weightMod must be made with weightMod\(\), and this is an output mod/],
    ["a plain function as a mask", { maskMod: (_b: number, _h: number, q: number, kv: number) => q >= kv }, /maskMod must be made with maskMod\(\)$/], ["a mask as a block mask", { blockMask: causal }, /made with createBlockMask\(\) or blockMaskOf\(\)/],
    ["factors of f32 keys", { keyScale: 2 }, /keyScale goes with int8 and fp8, and key is f32/],
  ] as const).map(([name, options, message]) => [name, () => flexAttention(q1, k1, v1, { ...options, backend: wasm } as never), message] as const),
  ["int8 keys without factors", () => flexAttention(q1, int8Key, v1, { backend: wasm }), /key is int8 and needs its factors: keyScale, a number or a tensor \[1, 1, 6\]/],
  ["factors of another length", () => flexAttention(q1, int8Key, v1, { backend: wasm, keyScale: tensor(new Float32Array(5), [1, 1, 5]) }), /keyScale has shape \[1, 1, 5\]; it must be \[1, 1, 6\], where any dimension may be 1, or \[1\]/],
  ["quantised queries", () => flexAttention(stored(q1, "i8"), k1, v1, { backend: wasm }), /query is i8; use f32, f16 or bf16$/],
  ["integer keys", () => flexAttention(q1, tensor(new Int32Array(48), [1, 1, 6, 8]), v1, { backend: wasm }), /key is i32; use f32, f16 or bf16, or with scales i8 or fp8/],
  ["a typed array for a tensor", () => flexAttention(q1, k1.data as never, v1, { backend: wasm }), /key must be a tensor: tensor\(new Float32Array/],
  ["three dimensions", () => flexAttention(q1, tensor(k1.data, [1, 6, 8]), v1, { backend: wasm }), /key has shape \[1, 6, 8\]; it must be \[batch, heads, length, dim\]/],
  ["head dims that differ", () => flexAttention(q1, random(1, [1, 1, 6, 7]), v1, { backend: wasm }), /same head dim, not 8 and 7 \(query \[1, 2, 4, 8\], key \[1, 1, 6, 7\], value \[1, 1, 6, 8\]\)/],
  ["keys and values of two lengths", () => flexAttention(q1, k1, random(1, [1, 1, 7, 8]), { backend: wasm }), /key and value must have the same batch, heads and length/],
  ["heads that do not divide", () => flexAttention(random(1, [1, 3, 4, 8]), random(1, [1, 2, 6, 8]), random(1, [1, 2, 6, 8]), { backend: wasm }), /3 query heads do not divide among 2 key heads/],
  ["batches that do not fit", () => flexAttention(random(1, [3, 2, 4, 8]), random(1, [2, 1, 6, 8]), random(1, [2, 1, 6, 8]), { backend: wasm }), /key has batch 2; it must be the query's 3, or 1 for all/],
  ["no heads", () => flexAttention(random(1, [1, 0, 4, 8]), k1, v1, { backend: wasm }), /batch, heads and head dim must be at least 1/],
  ["a head dim over 256", () => flexAttention(random(1, [1, 1, 1, 257]), random(1, [1, 1, 1, 257]), random(1, [1, 1, 1, 4]), { backend: wasm }), /head dim of query and key is 257, over 256; keep the first 256 and add the product of the rest in a scoreMod/],
  ["a value dim over 256", () => flexAttention(random(1, [1, 1, 1, 4]), random(1, [1, 1, 1, 4]), random(1, [1, 1, 1, 300]), { backend: wasm }), /head dim of value is 300, over 256; attend to slices/],
  ["a block mask of other lengths", () => flexAttention(q1, k1, v1, { backend: wasm, blockMask: createBlockMask(causal, { batch: 1, heads: 1, queryLength: 4, kvLength: 7 }) }), /block mask is for 4 queries and 7 keys, the tensors have 4 and 6/],
  ["a block mask of other heads", () => flexAttention(q1, k1, v1, { backend: wasm, blockMask: createBlockMask(maskMod((_b, h, q, kv) => q >= kv + h), { batch: 1, heads: 3, queryLength: 4, kvLength: 6 }) }), /for 3 heads and its mask reads h; the query has 2/],
  ["a block mask of another batch", () => flexAttention(q1, k1, v1, { backend: wasm, blockMask: createBlockMask(maskMod((b, _h, q, kv) => q >= kv + b), { batch: 2, heads: 1, queryLength: 4, kvLength: 6 }) }), /for batch 2 and its mask reads b; the query has batch 1/],
  ["a mask and a block mask", () => flexAttention(q1, k1, v1, { backend: wasm, maskMod: causal, blockMask: createBlockMask(causal, { batch: 1, heads: 1, queryLength: 4, kvLength: 6 }) }), /maskMod or blockMask, not both/],
  ["no states to merge", () => mergeStates([]), /at least one \{ out, lse \}/],
  ["a state that is a tensor", () => mergeStates([q1 as never]), /state 0 must be \{ out, lse \}/],
  ["states of two shapes", () => mergeStates([{ out: q1, lse: random(1, [1, 2, 4]) }, { out: k1, lse: random(1, [1, 1, 6]) }]), /state 1 has out \[1, 1, 6, 8\]; all must have the same/],
  ["an lse of another shape", () => mergeStates([{ out: q1, lse: random(1, [1, 4, 2]) }]), /state 0 has lse \[1, 4, 2\] and out \[1, 2, 4, 8\]/],
  ["a view beyond its array", () => tensor(new Float32Array(10), [2, 4], { strides: [4, 1], offset: 3 }), /shape \[2, 4\] with strides \[4, 1\] from 3 reads elements 3 to 10; the Float32Array has 10/],
  ["a view before its array", () => tensor(new Float32Array(10), [2, 4], { strides: [-4, 1] }), /reads elements -4 to 3/],
  ["strides of other dimensions", () => tensor(new Float32Array(10), [2, 4], { strides: [1] }), /strides \[1\] and offset 0 must be whole numbers, one stride for each of the 2/],
  ["fp8 in an Int8Array", () => tensor(new Int8Array(4), [4], "fp8"), /Int8Array cannot be read as fp8; put the bits in a Uint8Array/],
];
for (const [name, call, message] of refused) test(`refused by name: ${name}`, () => assert.rejects(async () => call(), message));
