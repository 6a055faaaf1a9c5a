/** flexAttention and the paged cache where they compute in 16 bits: what goes in and comes out, how near it is, and what is refused. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { flexAttention } from "../../src/attention/attention.ts";
import { createBlockMask } from "../../src/attention/block-mask.ts";
import { causal } from "../../src/attention/mods/causal.ts";
import { softCap } from "../../src/attention/mods/soft-cap.ts";
import { openPagedKvCache } from "../../src/attention/paged.ts";
import { floats, type Tensor, tensor } from "../../src/attention/tensor.ts";
import type { Backend } from "../../src/backend/backend.ts";
import { fromFloat32 } from "../../src/core/dtype.ts";
import { stream } from "../../src/core/random.ts";
import { sixteenBit } from "../models/sixteen-bits.ts";
import { gold } from "./gold.ts";

type Half = "bf16" | "f16";
function random(seed: number, dtype: Half, ...shape: readonly number[]): Tensor {
  const next = stream(seed), values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => next() * 2 - 1);
  return tensor(new Uint16Array(fromFloat32(values, dtype).buffer), shape, dtype);
}
const wide = (t: Tensor): Tensor => tensor(floats(t), t.shape);

/**
 * Of the result, whose values are averages of numbers within 1. A weight of softmax may be rounded before it meets a value, and the result is: 2^-9 of
 * itself in bf16, 2^-12 in f16, once each, and half as much again for sums in f32.
 */
const within: Readonly<Record<Half, number>> = { bf16: 3 * 2 ** -9, f16: 3 * 2 ** -12 };
function close(got: ArrayLike<number>, want: ArrayLike<number>, most: number): void {
  assert.equal(got.length, want.length);
  for (let i = 0; i < want.length; i++) assert.ok(got[i] === want[i] || Math.abs(got[i]! - want[i]!) <= most, `element ${i} is ${got[i]}, not ${want[i]}`);
}

for (const { name, open, skip } of sixteenBit) {
  describe(name, { skip }, () => {
    for (const dtype of ["bf16", "f16"] as const) {
      for (const [what, mods] of Object.entries({ "no mods": {}, "causal with a soft cap": { maskMod: causal, scoreMod: softCap(2) } })) {
        test(`${dtype}, ${what}: the formula's result in the query's dtype, statistics in f32`, async () => {
          const backend = await open();
          try {
            const query = random(1, dtype, 2, 6, 37, 64), key = random(2, dtype, 2, 2, 71, 64), value = random(3, dtype, 2, 2, 71, 64);
            const { out, lse } = await flexAttention(query, key, value, { ...mods, backend, aux: ["lse"] });
            const want = gold(wide(query), wide(key), wide(value), mods);
            assert.deepEqual([out.shape, out.dtype, out.data.constructor, lse.dtype], [[2, 6, 37, 64], dtype, Uint16Array, "f32"]);
            close(floats(out), want.out, within[dtype]);
            close(lse.data, want.lse, 1e-4);
          } finally {
            await backend.close();
          }
        });
      }
    }

    test("views go as they lie, blocks known before serve, and an int8 key has its factors", async () => {
      const backend = await open();
      try {
        const packed = random(4, "bf16", 1, 40, 3, 64), heads = (first: number): Tensor => tensor(packed.data, [1, 1, 40, 64], { dtype: "bf16", strides: [40 * 192, 64, 192, 1], offset: 64 * first });
        const [query, key, value] = [heads(0), heads(1), heads(2)] as const;
        const blockMask = createBlockMask(causal, { batch: 1, heads: 1, queryLength: 40, kvLength: 40 });
        const want = gold(wide(query), wide(key), wide(value), { maskMod: causal });
        close(floats(await flexAttention(query, key, value, { blockMask, backend })), want.out, within.bf16);

        const codes = tensor(Int8Array.from(floats(key), (x) => Math.round(x * 127)), [1, 1, 40, 64]);
        const coded = gold(wide(query), tensor(Float32Array.from(codes.data, (x) => x / 128), [1, 1, 40, 64]), wide(value), { maskMod: causal });
        close(floats(await flexAttention(query, codes, value, { maskMod: causal, keyScale: 1 / 128, backend })), coded.out, 2 * within.bf16);
      } finally {
        await backend.close();
      }
    });

    test("the paged cache takes and gives its own format", async () => {
      const backend = await open();
      try {
        const cache = await openPagedKvCache({ numPages: 4, pageSize: 16, numKvHeads: 2, headDim: 64, maxSequences: 1, maxLength: 64, format: "bf16", backend });
        const key = random(5, "bf16", 1, 2, 40, 64), value = random(6, "bf16", 1, 2, 40, 64), query = random(7, "bf16", 1, 4, 40, 64);
        await cache.assign(0, 0, key, value);
        const out = await cache.attention(query, [{ sequence: 0, rows: 40 }], { maskMod: causal });
        assert.equal(out.dtype, "bf16");
        close(floats(out), gold(wide(query), wide(key), wide(value), { maskMod: causal }).out, within.bf16);
        await assert.rejects(cache.attention(wide(query), [{ sequence: 0, rows: 40 }]), { name: "UsageError", message: /query is f32, and device cuda computes in bfloat16 or float16; give tensor\(bits, shape, "bf16"\)/ });
        cache.close();
      } finally {
        await backend.close();
      }
    });
  });
}

test("what is not of 16 bits is refused by name, before there is any device", async () => {
  const half = random(1, "bf16", 1, 1, 4, 8), full = wide(half), other = random(2, "f16", 1, 1, 4, 8), device = "cuda";
  const refuse = (given: Promise<unknown>, message: RegExp): Promise<void> => assert.rejects(given, { name: "UsageError", message });
  await refuse(flexAttention(full, half, half, { device }), /query is f32, and device cuda computes in bfloat16 or float16; give tensor\(bits, shape, "bf16"\), the bits in a Uint16Array/);
  await refuse(flexAttention(half, full, half, { device }), /key is f32 and query bf16; on device cuda keys and values are of the query's type, or i8 or fp8 with scales/);
  await refuse(flexAttention(half, half, other, { device }), /value is f16 and query bf16; on device cuda/);
  const pages = { numPages: 1, pageSize: 16, numKvHeads: 1, headDim: 8, maxSequences: 1, maxLength: 16 };
  await refuse(openPagedKvCache({ ...pages, device }), /device cuda keeps keys and values in 16 bits; give format: "bf16" or "f16"/);
  await refuse(flexAttention(half, half, half, { backend: undefined, device: "gpu" as never }), /device "gpu" is unknown; use one of cpu, cuda, reference/);
});

/** Methods of a backend know it by its own self. */
const bound = (backend: Backend, key: keyof Backend): unknown => (typeof backend[key] === "function" ? (backend[key] as () => void).bind(backend) : backend[key]);

test("kernels are compiled in the device's tiles, for the query's type", async () => {
  const { open } = sixteenBit[0]!, backend: Backend = await open(), half = random(1, "f16", 1, 1, 4, 8);
  const plans: string[] = [];
  const watched = new Proxy(backend, { get: (target, key) => (key === "compile" ? (plan: Parameters<Backend["compile"]>[0]) => (plans.push(plan.key), target.compile(plan)) : bound(target, key as keyof Backend)) });
  await flexAttention(half, half, half, { backend: watched });
  assert.match(plans[0]!, /queryTile 128, kvTile 64, queryFormat f16, keyFormat f16, valueFormat f16/);
});
