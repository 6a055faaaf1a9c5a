/** What a plan becomes before a compiler sees it: sizes, refusals, the division by a page, the holding that is taken. No GPU and no CUDA. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { and, causal, document, maskMod, planAttention, scoreMod, slidingWindow, softCap } from "../../attention/index.ts";
import { planWork } from "../../attention/work-list.ts";
import { stream } from "../../core/random.ts";
import { verdict } from "../../ir/range.ts";
import type { AttentionPlan } from "../../ir/plan.ts";
import type { AttentionCall } from "../backend.ts";
import { fitAttention } from "./attention-fit.ts";
import { type AttentionMachine, attentionSource, fitsShared, holdingsFor, magicDivision, maxItems, rule, workspaceBytes } from "./attention.ts";
import { CompileError, type Compiled } from "./compiler.ts";
import { bucketOf } from "./open.ts";

const h100: AttentionMachine = { maxSharedBytes: 227 * 1024, deterministic: false };
const base = { numQueryHeads: 8, numKvHeads: 2, headDimQk: 128, headDimV: 128, queryTile: 128, kvTile: 64, queryFormat: "bf16", keyFormat: "bf16", valueFormat: "bf16" } as const;
const planOf = (over: Partial<Parameters<typeof planAttention>[0]> = {}): AttentionPlan => planAttention({ maskMod: causal, scoreMod: softCap(20), ...base, ...over }).plan;

test("n / divisor is a multiplication and a shift, for every divisor to 300 and many others", () => {
  const mulHigh = (a: number, b: number): number => {
    const low = (a & 0xffff) * (b & 0xffff), a1 = a >>> 16, b1 = b >>> 16, middle = a1 * (b & 0xffff) + Math.floor(low / 65536), other = (a & 0xffff) * b1 + (middle % 65536);
    return a1 * b1 + Math.floor(middle / 65536) + Math.floor(other / 65536);
  };
  const draw = stream(1), most = 2 ** 31 - 1;
  const divisors = [...Array.from({ length: 300 }, (_, i) => i + 1), ...Array.from({ length: 31 }, (_, i) => 2 ** i), ...Array.from({ length: 28 }, (_, i) => 2 ** (i + 2) + 1), ...Array.from({ length: 300 }, () => 1 + Math.floor(draw() * most)), most];
  for (const divisor of divisors) {
    const { multiplier, shift } = magicDivision(divisor);
    assert.ok(shift >= 0 && shift < 32 && multiplier === (multiplier | 0));
    const multiples = Array.from({ length: 60 }, () => Math.floor(draw() * (most / divisor)) * divisor).concat(Math.floor(most / divisor) * divisor);
    for (const n of [0, 1, 2, divisor - 1, divisor, divisor + 1, most - 1, most, ...multiples.flatMap((m) => [m - 1, m, m + 1]), ...Array.from({ length: 60 }, () => Math.floor(draw() * 2 ** 31))]) {
      if (n < 0 || n > most) continue;
      assert.equal(Math.floor((mulHigh(n, multiplier >>> 0) + n) / 2 ** shift), Math.floor(n / divisor), `${n} / ${divisor}`);
    }
  }
});

test("what these kernels do not do is refused, with what to do instead", () => {
  for (const [over, says] of [
    [{ queryFormat: undefined }, /these queries are f32; give queries, keys and values as bf16 or f16/],
    [{ headDimQk: 257 }, /head dim of queries and keys is 257; device cuda has kernels for 1 to 256/],
    [{ headDimV: 512 }, /head dim of values is 512/],
    [{ kvTile: 20 }, /kvTile is 20; device cuda needs a multiple of 16 up to 64, or of 64/],
    [{ kvTile: 96 }, /kvTile is 96/],
    [{ keyFormat: "f16" }, /takes keys of the queries' type \(bf16\), int8 or fp8, and these are f16/],
    [{ valueFormat: "f32" }, /takes values of the queries' type \(bf16\), int8 or fp8, and these are f32/],
    [{ keyFormat: undefined }, /takes keys .* these are f32/],
  ] as const) assert.throws(() => attentionSource({ ...planOf(), ...over } as AttentionPlan, h100), (error: Error) => error.name === "UsageError" && says.test(error.message), String(says));
  for (const over of [{ kvTile: 16 }, { kvTile: 48 }, { kvTile: 128 }, { headDimQk: 1, headDimV: 256 }, { keyFormat: "int8", valueFormat: "fp8" }] as const) attentionSource(planOf(over), h100);
});

test("blocks are whole parts of a tile, in every holding", () => {
  for (let kvTile = 16; kvTile <= 256; kvTile += kvTile < 64 ? 16 : 64) for (const holding of holdingsFor(planOf())) {
    const { text } = attentionSource(planOf({ kvTile }), h100, holding).general, keys = Number(/#define BN (\d+)/.exec(text)![1]);
    assert.ok(keys % 16 === 0 && keys <= holding.keysOfBlock && kvTile % keys === 0, `${keys} of ${kvTile}`);
  }
});

test("shared memory is within what the GPU has, or decode falls away; where no holding fits, the plan does not", () => {
  let refused = 0, without = 0;
  for (const maxSharedBytes of [227, 163, 99].map((k) => k * 1024)) for (const dim of [8, 64, 80, 128, 160, 192, 256]) {
    const machine = { maxSharedBytes, deterministic: false }, plan = planOf({ headDimQk: dim, headDimV: dim });
    const fitting = holdingsFor(plan).map((holding) => attentionSource(plan, machine, holding)).filter((source) => fitsShared(source, machine));
    if (fitting.length === 0) refused++;
    for (const { general, decode, decodeRows } of fitting) {
      assert.ok(general.sharedBytes < maxSharedBytes);
      if (!decode) without++;
      assert.equal(decodeRows, decode ? 4 : 0);
      if (decode) assert.ok(decode.sharedBytes <= maxSharedBytes && Number(/#define DECODE_STAGES (\d+)/.exec(decode.text)![1]) >= 2);
    }
  }
  assert.deepEqual([refused, without > 0], [1, true], "head dim 256 where a block may have 99 KiB");
});

test("which kernel takes what follows from the query heads that share a kv head", () => {
  for (const [numQueryHeads, numKvHeads, rows] of [[4, 4, 16], [8, 2, 4], [7, 1, 2], [16, 1, 1], [32, 2, 1], [17, 1, 0], [64, 2, 0]] as const) {
    const source = attentionSource(planOf({ numQueryHeads, numKvHeads }), h100);
    assert.deepEqual([source.decodeRows, source.decode !== undefined], [rows, rows > 0]);
    assert.match(rule(source), rows > 0 ? new RegExp(`^decode: items of at most ${rows} query rows`) : /no decode: \d+ query heads share a kv head, more than the 16 rows/);
  }
});

/** A compiler that keeps in registers what `fits` says. */
const compilerOf = (fits: (text: string) => boolean, tried: string[] = []): Parameters<typeof fitAttention>[0] => ({
  compile: async (name, source) => {
    tried.push(`${name} ${/#define ROW_TILES (\d)/.exec(source)![1]} x ${/#define BN (\d+)/.exec(source)![1]}`);
    if (!fits(source)) throw new CompileError(`${name} spills`, true);
    return { cubin: new Uint8Array(), resources: [], fromCache: false, seconds: 0 } satisfies Compiled;
  },
});
const isDecode = (text: string): boolean => text.includes("planDecode(");

test("the first holding that the compiler keeps in registers is taken; decode keeps its own shape, or falls away", async () => {
  const plan = planOf(), tried: string[] = [];
  const first = await fitAttention(compilerOf(() => true, tried), plan, h100);
  assert.deepEqual([first.source.holding, tried], [{ rowsOfWarp: 32, keysOfBlock: 64, packed: false }, ["decode.cu 2 x 64", "attention.cu 2 x 64"].toSorted()], "nothing else is compiled");
  const last = await fitAttention(compilerOf((text) => isDecode(text) || text.includes("#define BN 32")), plan, h100);
  assert.deepEqual([last.source.holding, last.source.general.threads], [{ rowsOfWarp: 16, keysOfBlock: 32, packed: false }, 256]);
  assert.deepEqual([last.source.decode!.threads, last.source.decode!.text], [128, first.source.decode!.text], "decode is launched as it was compiled");
  const alone = await fitAttention(compilerOf((text) => !isDecode(text)), plan, h100);
  assert.deepEqual([alone.source.decode, alone.decode, alone.source.decodeRows], [undefined, undefined, 0]);
  assert.match(rule(alone.source), /^attention: every item.*no decode: under these mods it does not fit registers/);
  await assert.rejects(fitAttention(compilerOf(isDecode), plan, h100), /attention.cu spills/);
  const broken = { compile: () => Promise.reject(new CompileError("a slip", false)) };
  await assert.rejects(fitAttention(broken, plan, h100), /a slip/, "what does not compile is no spill");
  await assert.rejects(fitAttention(compilerOf(() => true), planOf({ headDimQk: 256, headDimV: 256 }), { maxSharedBytes: 99 * 1024, deterministic: false }),
    /head dims of 256 \(queries, keys\) and 256 \(values\) need more shared memory than the 101376 bytes/);
});

test("masks that read tables and are the same for all heads are packed, where that costs no rows; where they are not, nothing is prepared", async () => {
  const table = new Int32Array(64), perHead = maskMod(({ table }) => (_b, h, q, kv) => table[h]! > q - kv, { table });
  for (const [mask, packed] of [[document(table), true], [and(causal, document(table)), true], [causal, false], [slidingWindow(9), false], [perHead, false]] as const) {
    const plan = planOf({ maskMod: mask }), { source } = await fitAttention(compilerOf(() => true), plan, h100), asked = attentionSource(plan, h100, { ...source.holding, packed: false });
    assert.deepEqual([source.holding.packed, source.mask !== undefined], [packed, packed]);
    assert.equal(source.general.sharedBytes - asked.general.sharedBytes, packed ? 2 * 128 * 64 / 8 : 0, "bits of two blocks");
    const without = await fitAttention(compilerOf((text) => isDecode(text) || !text.includes("#define MASK_PACKED 1")), plan, h100);
    assert.deepEqual(without.source.holding, { rowsOfWarp: 32, keysOfBlock: 64, packed: false });
    assert.equal(without.source.mask, undefined);
  }
});

test("a mod of many loads, and heads over 128, are not tried with 32 rows a warp", () => {
  const captures = { t: new Float32Array(80) };
  const eight = planOf({ scoreMod: scoreMod(({ t }) => (score, _b, _h, q) => { let s = score; for (let i = 0; i < 8; i++) s += t[q + i]!; return s; }, captures) });
  const nine = planOf({ scoreMod: scoreMod(({ t }) => (score, _b, _h, q) => { let s = score; for (let i = 0; i < 9; i++) s += t[q + i]!; return s; }, captures) });
  assert.deepEqual([planOf(), planOf({ headDimV: 129 }), planOf({ headDimQk: 256 }), eight, nine].map((plan) => holdingsFor(plan).length), [3, 2, 3, 3, 2]);
});

test("decode's memory holds what the plan of a step takes at most, by the units of every work list", () => {
  const draw = stream(7), below = (n: number): number => Math.floor(draw() * n);
  let most = 0;
  for (let n = 0; n < 60; n++) {
    const plan = planOf({ maskMod: and(causal, slidingWindow(below(2) ? 100 : 20_000)), headDimV: [16, 64, 128][n % 3]!, numQueryHeads: 8, numKvHeads: [1, 2, 8][below(3)]! });
    const source = attentionSource(plan, { ...h100, deterministic: true }), group = 8 / plan.numKvHeads;
    const sequences = 1 + below(6), rows = Int32Array.from({ length: sequences }, () => 1 + below(n % 2 ? 4 : 300)), kv = rows.map((r) => r + below(n % 5 ? 3000 : 40_000));
    const work = planWork({ classify: () => verdict.sometimes }, { numSequences: sequences, firstRow: Int32Array.from(rows, (_, i) => rows.slice(0, i).reduce((a, b) => a + b, 0)), numRows: rows, firstPosition: kv.map((k, i) => k - rows[i]!), kvLength: kv }, plan);
    const bytes = (length: number): { readonly bytes: number } => ({ bytes: length });
    const call = { work: bytes(work.byteLength), blockTable: bytes(4 * sequences * 7), maxPagesPerSequence: 7 } as unknown as AttentionCall;
    assert.ok(maxItems(call) >= work[0]!);
    // What planDecode writes down: an entry an item of few rows, a piece a segment, and rows of partial results where there is more than one segment.
    let pieces = 0, partialRows = 0;
    for (let i = 0; i < work[0]!; i++) {
      const [, , numRows, , firstRun, numRuns, kvLength] = work.subarray(8 + 8 * i, 16 + 8 * i);
      if (numRows! > source.decodeRows) continue;
      let units = 0, segment = 4;
      for (let r = firstRun!; r < firstRun! + numRuns!; r++) units += Math.min(work[work[1]! + 2 * r]! + (work[work[1]! + 2 * r + 1]! >> 1), Math.ceil(kvLength! / 64)) - work[work[1]! + 2 * r]!;
      while (segment * 32 < units) segment *= 2;
      const segments = Math.max(1, Math.ceil(units / segment));
      assert.ok(segments <= 32);
      pieces += plan.numKvHeads * segments;
      if (segments > 1) partialRows += plan.numKvHeads * segments * numRows! * group;
    }
    const taken = workspaceBytes(source, call, 132), rowBytes = 4 * (plan.headDimV + 2);
    assert.ok(partialRows * rowBytes <= taken.partial, `${partialRows} rows of ${rowBytes} bytes in ${taken.partial}`);
    assert.ok(4 * (8 + 4 * (work[0]! + 1) + 16 * pieces) <= taken.plan && taken.plan % 16 === 0);
    assert.ok(4 * work[0]! * plan.numKvHeads <= taken.counters);
    most = Math.max(most, (partialRows * rowBytes) / taken.partial);
    // Even stretches: two partial results a block, a piece for each block and for each pair that begins within one.
    const even = workspaceBytes(attentionSource(plan, h100), call, 264);
    assert.deepEqual([even.partial, even.counters], [2 * 264 * 16 * rowBytes, 4 * 264]);
    assert.ok(4 * (8 + 4 * (work[0]! + 1) + 16 * (264 + work[0]! * plan.numKvHeads)) <= even.plan);
  }
  assert.ok(most > 0.2, `the bound is not out of reach: ${most}`);
});

test("sizes of steps share graphs: a bucket holds its rows, is one itself, grows with them, and wastes a fifth at most", () => {
  let last = 0;
  for (let rows = 1; rows <= 1024; rows++) {
    const bucket = bucketOf(rows);
    assert.ok(bucket >= rows && bucket >= last && bucketOf(bucket) === bucket, `${rows}: ${bucket}`);
    assert.ok(bucket - rows <= Math.max(7, bucket / 5), `${rows}: ${bucket}`);
    last = bucket;
  }
  assert.deepEqual([1, 2, 3, 4, 5, 9, 33, 65, 129, 1000].map(bucketOf), [1, 2, 4, 4, 8, 16, 40, 80, 160, 1024]);
  assert.ok(new Set(Array.from({ length: 1024 }, (_, i) => bucketOf(i + 1))).size < 32, "not many graphs");
});
