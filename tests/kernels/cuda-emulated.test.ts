/**
 * The attention kernels of CUDA without a GPU: their very text on emulated threads, launched as on a GPU, against the reference. Every case runs under
 * orders of threads and of copies that CUDA may choose; outputs and what no token fills are poisoned. And texts with a slip in them are found out.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { and, type AttentionSpec, causal, document, planAttention, slidingWindow, softCap } from "../../src/attention/index.ts";
import { attentionSource, type AttentionSource } from "../../src/backend/cuda/attention.ts";
import { Launcher } from "../../src/backend/cuda/attention-launch.ts";
import { Failures } from "../../src/backend/cuda/failures.ts";
import { CudaBuffer, own } from "../../src/backend/cuda/memory.ts";
import type { AttentionCall, AttentionKernel, Backend, Buffer } from "../../src/backend/backend.ts";
import { capsOf, openBackend } from "../../src/backend/registry.ts";
import type { AttentionPlan } from "../../src/ir/plan.ts";
import { outputMod, weightMod } from "../../src/attention/mod.ts";
import { type Mods, sequence, type Shape } from "../conformance/case.ts";
import { launch, type Result } from "../conformance/launch.ts";
import { makeData } from "../conformance/oracle.ts";
import { EmulatedDevice, Emulator, missing } from "./cuda-emulator.ts";

interface Case {
  readonly mods: Mods & { readonly queryFormat: "bf16" | "f16" };
  readonly heads: readonly [query: number, kv: number];
  readonly dims: readonly [qk: number, v: number];
  readonly pageSize: number;
  readonly tiles?: { readonly queryTile: number; readonly kvTile: number };
  readonly deterministic?: true;
  /** Rows and keys of each sequence. */
  readonly sequences: readonly (readonly [rows: number, keys: number])[];
  /** Calls that share the work list, the last of which is compared; 1 when left out. */
  readonly layers?: number;
  /** Kernels that must have been launched. */
  readonly launched: readonly string[];
}

const bf16 = { queryFormat: "bf16", keyFormat: "bf16", valueFormat: "bf16" } as const, f16 = { queryFormat: "f16", keyFormat: "f16", valueFormat: "f16" } as const;
/** Few rows, some of a tile, a tile and more than one; and a sequence that has none in this step. */
const ragged = [[1, 90], [3, 40], [0, 9], [20, 84], [130, 190], [1, 1]] as const;
const both = ["planDecode", "decode", "attention"] as const, few = ["planDecode", "decode"] as const, packed = ["planDecode", "decode", "packMask", "attention"] as const;
const documents = Int32Array.from({ length: 200 }, (_, i) => Math.floor(i / 23) + (i > 100 ? 5 : 0));
const cases: Readonly<Record<string, Case>> = {
  "causal, small heads, bf16": { mods: { ...bf16, maskMod: causal }, heads: [4, 2], dims: [16, 12], pageSize: 16, sequences: ragged, launched: both },
  "soft cap and window, heads of 64, f16, whole pages": { mods: { ...f16, maskMod: and(causal, slidingWindow(70)), scoreMod: softCap(3) }, heads: [4, 1], dims: [64, 64], pageSize: 64, sequences: ragged, launched: both },
  "documents from a table, packed, pages of 7": { mods: { ...bf16, maskMod: and(causal, document(documents)) }, heads: [2, 2], dims: [24, 40], pageSize: 7, sequences: ragged, launched: packed },
  "documents, packed once for two layers, in blocks of 16 keys": { mods: { ...f16, maskMod: document(documents) }, heads: [2, 1], dims: [16, 16], pageSize: 16, tiles: { queryTile: 18, kvTile: 48 }, sequences: [[40, 190], [1, 30], [130, 200]], layers: 2, launched: [...packed, "decode", "attention"] },
  "a sink for each head, no mask": { mods: { ...f16, sink: Float32Array.of(-Infinity, 0.5, 6, -3) }, heads: [4, 2], dims: [16, 16], pageSize: 16, sequences: ragged, launched: both },
  "rows that are not aligned": { mods: { ...bf16, maskMod: causal }, heads: [2, 1], dims: [19, 23], pageSize: 5, sequences: ragged, launched: both },
  "int8 keys and fp8 values": { mods: { ...bf16, keyFormat: "int8", valueFormat: "fp8", maskMod: causal }, heads: [4, 2], dims: [24, 32], pageSize: 16, sequences: ragged, launched: both },
  "decode in equal stretches, pairs in several blocks": { mods: { ...f16, maskMod: causal }, heads: [4, 2], dims: [16, 16], pageSize: 64, sequences: [[1, 1100], [1, 700], [1, 3], [1, 450]], layers: 2, launched: [...few, "decode"] },
  "decode in fixed cuts": { mods: { ...bf16, maskMod: causal }, heads: [4, 2], dims: [16, 16], pageSize: 16, deterministic: true, sequences: [[1, 1100], [1, 600], [4, 530], [1, 64], [20, 70]], launched: both },
  "small tiles, query heads that share a tile in part": { mods: { ...bf16, maskMod: and(causal, slidingWindow(40)) }, heads: [3, 1], dims: [16, 16], pageSize: 16, tiles: { queryTile: 16, kvTile: 32 }, sequences: ragged, launched: both },
  "heads of 160, queries in shared memory, fp8 keys, softmax plus one": { mods: { ...bf16, keyFormat: "fp8", softmax: "one", maskMod: causal }, heads: [2, 1], dims: [160, 136], pageSize: 16, sequences: [[1, 90], [20, 84], [66, 100]], launched: both },
  "weights without softmax, gated outputs": { mods: { ...f16, weightMod: weightMod((score) => 1 / (1 + Math.exp(-score))), outputMod: outputMod((x, _b, h, q, d) => x * (1 / (1 + Math.exp(-0.1 * (d - h) - 0.01 * q)))), maskMod: causal }, heads: [4, 2], dims: [16, 16], pageSize: 16, sequences: ragged, launched: both },
};

const machine = { maxSharedBytes: 227 * 1024 };
const tilesOf = ({ tiles }: Case): { readonly queryTile: number; readonly kvTile: number } => tiles ?? capsOf("cuda").tiles;
/** The source that `launch` will ask to be compiled. */
function sourceOf(c: Case): AttentionSource {
  const { sink, softmax, ...mods } = c.mods;
  const spec: AttentionSpec = { ...mods, denominator: sink ? "sink" : softmax, numQueryHeads: c.heads[0], numKvHeads: c.heads[1], headDimQk: c.dims[0], headDimV: c.dims[1], ...tilesOf(c) };
  return attentionSource(planAttention(spec).plan, { ...machine, deterministic: c.deterministic === true });
}

/** Memory for so few blocks of packed masks that others have to ask: the same outputs. */
const scarce = { of: "documents from a table, packed, pages of 7", line: "p.maskBlocks", instead: "2" } as const;

/** Slips: a line of a kernel, and the case that must not survive another in its place. */
interface Slip {
  readonly of: keyof typeof cases;
  readonly kernel: "general" | "decode";
  readonly line: string;
  readonly instead: string;
  /** What the emulation says of it; when left out, that the reference has something else. */
  readonly says?: RegExp;
}
const slips: Readonly<Record<string, Slip>> = {
  "a key behind the last": { of: "a sink for each head, no mask", kernel: "general", line: "allowed = kv < at.kvLength;", instead: "allowed = kv <= at.kvLength;" },
  "bits of a key beside the one that is meant": { of: "documents from a table, packed, pages of 7", kernel: "general", line: "bits[t][half] >> (8 * (j % 4) + e) & 1", instead: "bits[t][half] >> (8 * (j % 4) + 1 - e) & 1" },
  "bits that come into the memory that is read": { of: "documents, packed once for two layers, in blocks of 16 keys", kernel: "general", line: "code += 2 + 4 * (number & 1);", instead: "code += 2;" },
  "bits of the block before": { of: "documents, packed once for two layers, in blocks of 16 keys", kernel: "general", line: "number = nextNumber - block;", instead: "number = nextNumber - block - 1;" },
  "a partial block that is taken for a full one": { of: "causal, small heads, bf16", kernel: "general", line: "partial = count & 1;", instead: "partial = false;" },
  "a run that ends a block early": { of: "causal, small heads, bf16", kernel: "general", line: "if (block < end) return;", instead: "if (block + 1 < end) return;" },
  "keys that are not waited for": { of: "soft cap and window, heads of 64, f16, whole pages", kernel: "general", line: "copyWait<0>();", instead: "copyWait<1>();" },
  "values that a warp reads before all are there": { of: "int8 keys and fp8 values", kernel: "general", line: "__syncthreads(); // these values are there; nobody reads these keys any more", instead: "" },
  "a stage that is not waited for": { of: "decode in equal stretches, pairs in several blocks", kernel: "decode", line: "copyWait<DECODE_STAGES - 2>();", instead: "copyWait<DECODE_STAGES - 1>();" },
  "pieces that join without their factors": { of: "decode in equal stretches, pairs in several blocks", kernel: "decode", line: "total = fmaf(state.y, f, total * keep);", instead: "total = state.y + total;" },
  "counters that are left as they are": { of: "decode in equal stretches, pairs in several blocks", kernel: "decode", line: "if (*isLast) p.counters[piece.counter] = 0;", instead: "" },
  "cuts of which one is left out": { of: "decode in fixed cuts", kernel: "decode", line: "for (int g = 0; g < segments; g++) {", instead: "for (int g = 1; g < segments; g++) {" },
  "an element behind a row's end": { of: "rows that are not aligned", kernel: "general", line: "if (column + 1 < HEAD_DIM_V) to[column + 1]", instead: "to[column + 1]" },
  "statistics behind their end": { of: "rows that are not aligned", kernel: "decode", line: "const i64 at = (i64)row * NUM_QUERY_HEADS + head;", instead: "const i64 at = (i64)(row + 1) * NUM_QUERY_HEADS + head;", says: /written behind an allocation/ },
  "only some lanes of a warp at a shuffle": { of: "causal, small heads, bf16", kernel: "decode", line: "top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));", instead: "if (lane < 16) top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));", says: /lanes of a warp wait for each other at different instructions/ },
};

/** The cuda backend's attention on the emulated device: what `launch` asks of a backend. */
function backendOf(device: EmulatedDevice, source: AttentionSource, functions: Emulator["functions"][number], { sequences, layers = 1 }: Case): Backend {
  const launcher = new Launcher(device.device, new Failures(device)), rows = sequences.reduce((sum, [n]) => sum + n, 0);
  launcher.beginProgram();
  return {
    caps: capsOf("cuda"),
    alloc: (bytes: number) => new CudaBuffer(device.alloc(bytes), bytes),
    free: () => {},
    write: (to: Buffer, offset: number, data: Uint8Array) => device.write(own(to).address + offset, data),
    read: (from: Buffer, offset: number, bytes: number) => device.read(own(from).address + offset, bytes),
    compile: async (plan: AttentionPlan): Promise<AttentionKernel> => {
      assert.equal(plan.key, source.plan.key);
      return { plan, source: "" };
    },
    ops: {
      attention: (call: AttentionCall) => {
        const compiled = { source, general: functions["attention"]!, decode: functions["decode"]!, planDecode: functions["planDecode"]!, ...(source.mask && { packMask: functions["packMask"]! }) };
        // What layers before the last give goes elsewhere.
        const elsewhere = (layers: number): AttentionCall[] => Array.from({ length: layers }, () => {
          const { lse: _lse, maxScore: _maxScore, ...rest } = call, { bytes } = call.out.data;
          return { ...rest, out: { ...call.out, data: new CudaBuffer(device.alloc(bytes), bytes) } };
        });
        const runs = [...elsewhere(layers - 1), call].map((layer) => launcher.prepare(compiled, layer, true));
        for (const run of runs) run({ numTokens: rows, numSequences: sequences.length, numLogits: sequences.length });
      },
    },
  } as unknown as Backend;
}

/** What rounding to nearest loses at most, relatively. */
const rounding = { bf16: 2 ** -8, f16: 2 ** -11 } as const;

/** Weights and outputs are rounded once each: weights to parts of values of at most `largest`. Statistics are f32, of scores of some tens of products. */
function problemOf(found: Result, expected: Result, element: "bf16" | "f16", largest: number): string | undefined {
  const unit = rounding[element];
  for (const [what, absolute, relative] of [["out", unit * largest, 2 * unit], ["lse", 2e-5, 1e-5], ["maxScore", 2e-5, 1e-5]] as const) {
    assert.equal(found[what] === undefined, expected[what] === undefined); // weights other than softmax's have no statistics
    for (const [s, wanted] of expected[what]?.entries() ?? []) for (const [i, e] of wanted.entries()) {
      const x = found[what]![s]![i]!;
      if (!(x === e || Math.abs(x - e) <= absolute + relative * Math.abs(e))) return `${what}[${i}] of sequence ${s} is ${x}, the reference's ${e}`;
    }
  }
  return undefined;
}

/** The two extremes, where what became ready last goes first and copies land late (1) or at once (0); then random ones, of either kind. */
const orders = [1, 0, 3, 6, 9] as const;

describe("the kernels on emulated threads", { skip: missing }, () => {
  const names = Object.keys(cases), slipNames = Object.keys(slips);
  const sources = new Map(names.map((name) => [name, sourceOf(cases[name]!)]));
  const parts = (name: string) => ({ general: { text: sources.get(name)!.general.text, kernels: sources.get(name)!.mask ? ["packMask", "attention"] : ["attention"] }, decode: { text: sources.get(name)!.decode!.text, kernels: ["planDecode", "decode"] } });
  const expected = new Map<string, Result>();
  let emulator: Emulator;
  before(async () => {
    emulator = await Emulator.compile([
      ...names.flatMap((name) => [parts(name).general, parts(name).decode]),
      ...slipNames.map((slip) => {
        const { of, kernel, line, instead } = slips[slip]!, { text, kernels } = parts(of)[kernel];
        assert.ok(text.includes(line), `${slip}: ${line}`);
        return { text: text.replaceAll(line, () => instead), kernels };
      }),
      { text: parts(scarce.of).general.text.replaceAll(scarce.line, scarce.instead), kernels: parts(scarce.of).general.kernels },
    ]);
  });
  after(() => emulator?.close());

  const shapeOf = (c: Case): Shape => ({ heads: c.heads[0], kvHeads: c.heads[1], dim: c.dims[0], valueDim: c.dims[1], sequences: c.sequences.map(([rows, keys], i) => sequence(i, rows, keys)) });
  /** What a case's problem is, under an order. `slip`: with that one in it. */
  async function problem(name: string, order: number, slip?: number): Promise<string | undefined> {
    const c = cases[name]!, shape = shapeOf(c), data = makeData(shape, c.mods), form = { kind: "paged", pageSize: c.pageSize, ...tilesOf(c) } as const;
    if (!expected.has(name)) {
      const reference = await openBackend("reference", { as: "cuda" });
      expected.set(name, await launch(reference, shape, c.mods, data, form));
      await reference.close();
    }
    const at = 2 * names.indexOf(name), device = new EmulatedDevice(emulator, order);
    const functions = { ...emulator.functions[at], ...emulator.functions[at + 1], ...(slip !== undefined && emulator.functions[2 * names.length + slip]) };
    const found = await launch(backendOf(device, sources.get(name)!, functions, c), shape, c.mods, data, form);
    assert.deepEqual(device.launched, c.launched);
    const largest = data.value.reduce((most, values) => values.reduce((m, x) => Math.max(m, Math.abs(x)), most), 0);
    // Weights that softmax does not make add up to more than one: as many roundings as a row has keys, each its own way.
    const sum = c.mods.weightMod ? Math.sqrt(Math.max(...c.sequences.map(([, keys]) => keys))) : 1;
    return problemOf(found, expected.get(name)!, c.mods.queryFormat, largest * sum);
  }

  names.forEach((name, i) => test(`${name}: the reference's, in two orders of threads and copies`, async () => {
    for (const order of [orders[0], orders[1 + (i % (orders.length - 1))]!]) assert.equal(await problem(name, order), undefined, `order ${order}`);
  }));

  test("where a packed mask has no room for all blocks, the others ask the mask", async () => {
    for (const order of orders.slice(0, 2)) assert.equal(await problem(scarce.of, order, slipNames.length), undefined, `order ${order}`);
  });

  slipNames.forEach((name, i) => test(`${name} is found out`, async () => {
    const { of, says = /, the reference's / } = slips[name]!;
    for (const order of orders) {
      const found = await problem(of, order, i).catch((error: Error) => error.message);
      if (found !== undefined) return assert.match(found, says);
    }
    assert.fail("no order shows it");
  }));
});

test("an instruction that the emulation does not have is refused", { skip: missing }, async () => {
  await assert.rejects(Emulator.compile([{ text: 'void f() { asm volatile("trap;"); }', kernels: [] }]), /the emulation has no trap;/);
});
