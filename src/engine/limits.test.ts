import assert from "node:assert/strict";
import test from "node:test";
import { capsOf } from "../backend/registry.ts";
import { UsageError } from "../core/errors.ts";
import { chooseLimits, type LimitOptions } from "./limits.ts";

const MiB = 2 ** 20, GiB = 2 ** 30;
/** A model of 100 MiB with 64 KiB of KV cache per token. */
const choose = (options: LimitOptions, availableBytes = 16 * GiB, maxPositions = 2048, device: "cpu" | "cuda" = "cpu") => {
  const plan = ({ numPages, pageSize, maxModelLen }: { numPages: number; pageSize: number; maxModelLen: number }) => {
    assert.ok(numPages * pageSize >= maxModelLen, "the plan refuses less than one sequence");
    const kvBytes = numPages * pageSize * 65536;
    return { kvBytes, totalBytes: kvBytes + 100 * MiB };
  };
  const limits = chooseLimits(options, { maxPositions, availableBytes, defaults: capsOf(device).defaults, plan });
  assert.ok(plan(limits).totalBytes <= availableBytes, "over what is available");
  assert.ok(limits.numPages * limits.pageSize >= limits.maxModelLen, "one sequence must fit");
  return limits;
};

test("with room enough, the cache holds every sequence at full length", () => {
  assert.deepEqual(choose({}), { maxModelLen: 2048, maxNumSeqs: 32, maxNumBatchedTokens: 512, pageSize: 16, numPages: 32 * 128 });
  assert.deepEqual(choose({ maxModelLen: 100, maxNumSeqs: 3, blockSize: 8, maxNumBatchedTokens: 64 }), { maxModelLen: 100, maxNumSeqs: 3, maxNumBatchedTokens: 64, pageSize: 8, numPages: 39 });
});

test("on a device with memory of its own the cache takes what is left, and steps are larger", () => {
  const { numPages, ...limits } = choose({}, 16 * GiB, 131072, "cuda");
  assert.deepEqual(limits, { maxModelLen: 131072, maxNumSeqs: 256, maxNumBatchedTokens: 8192, pageSize: 64 });
  assert.equal(numPages, (16 * 1024 - 100) / 4);
});

test("the default cache is a quarter of the memory or 512 MiB, and caps the context unless it was asked for", () => {
  assert.equal(choose({}, 4 * GiB, 131072).numPages, GiB / MiB);
  assert.equal(choose({}, 4 * GiB, 131072).maxModelLen, 16384);
  assert.equal(choose({}, GiB, 131072).numPages, 512);
  assert.equal(choose({}, 300 * MiB, 131072).numPages, 200);
  assert.equal(choose({ maxModelLen: 40_000 }, 4 * GiB, 131072).numPages, 2500, "one whole sequence where asked for");
  assert.equal(choose({ kvCacheBytes: 10 * MiB }).maxModelLen, 160);
});

test("the number of sequences never exceeds the tokens of a step", () => {
  assert.equal(choose({ maxNumBatchedTokens: 4 }).maxNumSeqs, 4);
  assert.equal(choose({ maxNumSeqs: 1000 }).maxNumBatchedTokens, 1000);
  assert.throws(() => choose({ maxNumSeqs: 8, maxNumBatchedTokens: 4 }), /maxNumSeqs \(--max-num-seqs\) is 8 and .* 4;.* at most 4 or at least 8/);
});

test("what cannot be is refused with what would fit", () => {
  const cases: readonly (readonly [LimitOptions, number, RegExp])[] = [
    [{ maxModelLen: 4096 }, 16 * GiB, /maxModelLen \(--max-model-len\) is 4096; the model has 2048 positions/],
    [{ maxModelLen: 2048 }, 164 * MiB, /2048 needs a KV cache of 128.00 MiB, but 164.00 MiB is available and the model takes 100.00 MiB of it, .* 1024 tokens: pass --max-model-len 1024 or less for one sequence at a time, 32 or less for 32/],
    [{ blockSize: 1, kvCacheBytes: 65536 }, 16 * GiB, /which leaves room for 1 tokens: give it more memory \(--kv-cache-memory-bytes\)/],
    [{ maxModelLen: 2048, kvCacheBytes: MiB }, 16 * GiB, /but the KV cache is 1.00 MiB, which leaves room for 16 tokens/],
    [{ kvCacheBytes: 2 * GiB }, GiB, /kvCacheBytes .* \(2.00 GiB\); beside the model's 100.00 MiB only 924.00 MiB is available/],
    [{}, 100 * MiB, /the model takes 100.00 MiB without any KV cache, and 100.00 MiB is available; use a smaller model/],
    [{ blockSize: 0 }, GiB, /blockSize \(--block-size\) is 0; it must be an integer from 1 to 256/],
    [{ maxModelLen: 1.5 }, GiB, /maxModelLen \(--max-model-len\) is 1.5/],
    [{ maxNumSeqs: NaN }, GiB, /maxNumSeqs \(--max-num-seqs\) is NaN/],
  ];
  for (const [options, available, message] of cases) {
    assert.throws(() => choose(options, available), (error) => error instanceof UsageError && message.test(error.message) || assert.fail(String(error)));
  }
});

test("where pages expire the context may be longer than the cache: one sequence must find what it holds at once", () => {
  const mostHeld = ({ maxModelLen, pageSize, maxNumBatchedTokens }: { maxModelLen: number; pageSize: number; maxNumBatchedTokens: number }) => Math.ceil(Math.min(maxModelLen, 256 + maxNumBatchedTokens) / pageSize);
  const at = (options: LimitOptions, availableBytes = 16 * GiB) => chooseLimits(options, {
    maxPositions: 131072, availableBytes, defaults: capsOf("cpu").defaults, mostHeld,
    plan: ({ numPages, pageSize }) => ({ kvBytes: numPages * pageSize * 65536, totalBytes: numPages * pageSize * 65536 + 100 * MiB }),
  });
  assert.deepEqual([at({}, 4 * GiB).maxModelLen, at({}, 4 * GiB).numPages], [131072, 1024], "the default cache is no larger, and no limit to the context");
  assert.deepEqual([at({ kvCacheBytes: 48 * MiB }).maxModelLen, at({ kvCacheBytes: 47 * MiB }).maxModelLen], [131072, 752], "768 tokens at once, or the whole sequence in the cache");
  assert.equal(at({ maxModelLen: 100_000 }, 160 * MiB).numPages, 60, "all that there is");
  assert.equal(at({ maxModelLen: 100_000, kvCacheBytes: 48 * MiB }).maxModelLen, 100_000);
  assert.throws(() => at({ maxModelLen: 100_000, kvCacheBytes: 47 * MiB }), /100000 needs a KV cache of 48.00 MiB, but the KV cache is 47.00 MiB, which leaves room for 752 tokens/);
});

test("rows of logits are counted in the plan, one for each sequence where nobody wants more, and never more than a step has tokens", () => {
  const rowBytes = MiB;
  const at = (options: LimitOptions, logitsOf?: (maxNumSeqs: number) => number) => chooseLimits(options, {
    maxPositions: 64, availableBytes: 100 * MiB, defaults: capsOf("cpu").defaults, ...(logitsOf && { logitsOf }),
    plan: ({ numPages, pageSize, maxNumSeqs, maxNumLogits = maxNumSeqs }) => ({ kvBytes: numPages * pageSize * 65536, totalBytes: numPages * pageSize * 65536 + maxNumLogits * rowBytes }),
  });
  assert.equal(at({ maxNumSeqs: 4 }).maxNumLogits, undefined);
  assert.deepEqual([at({ maxNumSeqs: 4 }, (seqs) => 5 * seqs).maxNumLogits, at({ maxNumSeqs: 4, maxNumBatchedTokens: 16 }, (seqs) => 5 * seqs).maxNumLogits], [20, 16]);
  assert.deepEqual([at({ maxNumSeqs: 10 }, (seqs) => 5 * seqs).numPages, at({ maxNumSeqs: 20 }, (seqs) => 4 * seqs).numPages], [40, 20], "what they take is not the cache's");
});
