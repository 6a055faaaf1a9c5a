/**
 * The attention compiler and its kernels: classifying masks, from a mod's source to a kernel, kernels that are not compiled again,
 * and the rate of the kernels against the project's own matmul. One CSV row a case.
 *
 * Rates are compared within a round, one right after the other, so that a busy machine slows both alike; a row is the median of
 * the rounds. "Per visited FLOP" counts the operations of all tiles that are not empty; plain causal beside matmul those of allowed pairs alone.
 *
 *   npm run bench -- attention [--only TEXT] [--rounds N] [--threads N] [--length N]
 */
import { parseArgs } from "node:util";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import {
  alibi, alibiSlopes, and, bigBird, blockCausal, blockDiffusion, causal, chunked, compileAttention, createBlockMask, dilatedCausal, document, flexAttention, imageEnds,
  kerpleLog, longformer, type MaskMod, maskMod, type Mods, neighborhood1d, neighborhood2d, neighborhood3d, packedDocuments, packing, prefixLm, relativeBias, sandwich,
  sandwichTable, type ScoreMod, scoreMod, sharedPrefix, sinkWindow, slidingTile2d, slidingWindow, softCap, strided, t5Bias, tensor, transfusion, windowPerHead,
} from "../src/attention/index.ts";
import { prepare, type Prepared } from "../src/attention/measure.ts";
import type { Backend, Buffer } from "../src/backend/backend.ts";
import { openBackend } from "../src/backend/registry.ts";
import { stream } from "../src/core/random.ts";
import { runWords } from "../src/ir/plan.ts";
import { median, report } from "./row.ts";

const { values: flags } = parseArgs({
  options: { only: { type: "string", default: "" }, rounds: { type: "string", default: "5" }, threads: { type: "string", default: "1" }, length: { type: "string", default: "4096" }, help: { type: "boolean" } },
});
if (flags.help) {
  console.log("npm run bench -- attention [--only TEXT] [--rounds N] [--threads N] [--length N]");
  process.exit(0);
}
const rounds = Number(flags.rounds), threads = Number(flags.threads), length = Number(flags.length);
const wanted = (name: string): boolean => name.includes(flags.only);
setFlagsFromString("--expose-gc");
const gc = runInNewContext("gc") as () => void;
const random = stream(7);

/** Documents of random lengths one after another: the document of each position. */
function packed(documents: number, length: number): Int32Array {
  const cuts = Array.from({ length: documents - 1 }, () => 1 + Math.floor(random() * (length - 1))).sort((a, b) => a - b);
  const ids = new Int32Array(length);
  cuts.forEach((cut, i) => ids.fill(i + 1, cut));
  return ids;
}

/** Bytes held; buffers are given back some time after the collector has found them. */
async function memoryInUse(): Promise<number> {
  for (let i = 0; i < 5; i++) {
    gc();
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

// --- Classification.
async function classification(): Promise<void> {
  for (const length of [131_072, 1_048_576]) {
    const masks: Readonly<Record<string, MaskMod>> = { causal, "window 1024": slidingWindow(1024), "64 packed documents": and(document(packed(64, length)), causal) };
    for (const [name, mask] of Object.entries(masks)) {
      const label = `classify ${name}, ${length}`;
      if (!wanted(label)) continue;
      const make = () => createBlockMask(mask, { batch: 1, heads: 1, queryLength: length, kvLength: length, blockSize: 128 });
      for (let i = 0; i < 3; i++) make();
      const times: number[] = [];
      for (let i = 0; i < 4 * rounds; i++) {
        const start = performance.now();
        make();
        times.push(performance.now() - start);
      }
      report(label, times, "ms", 1);
      // What is given back when they go: what there was before them may still wait for the collector.
      const held = Array.from({ length: 60 }, make);
      let runs = 0;
      for (let r = 0; r < held[0]!.numRows; r++) runs += held[0]!.row(0, 0, r).length / runWords;
      const [copies, full] = [held.length, await memoryInUse()];
      held.length = 0;
      report(`${label}: memory`, [(full - (await memoryInUse())) / copies / 2 ** 10], "KiB", 1);
      report(`${label}: runs of blocks`, [runs], "runs", 1);
    }
  }
}

// --- From source to kernel.
const variants: readonly ((i: number) => { readonly maskMod?: MaskMod; readonly scoreMod?: ScoreMod })[] = [
  (i) => ({ maskMod: new Function("maskMod", `return maskMod((b, h, q, kv) => q >= kv && q - kv < ${i + 100})`)(maskMod) as MaskMod }),
  (i) => ({ scoreMod: new Function("scoreMod", `return scoreMod(({ cap }) => (score, b, h, q, kv) => cap * Math.tanh(score / cap) + ${i}, { cap: 50 })`)(scoreMod) as ScoreMod, maskMod: causal }),
  (i) => ({ maskMod: and(causal, new Function("maskMod", "ids", `return maskMod(({ ids }) => (b, h, q, kv) => ids[q] === ids[kv] + ${i}, { ids })`)(maskMod, new Int32Array(64)) as MaskMod) }),
];

async function compiling(backend: Backend): Promise<void> {
  const label = "source to kernel";
  if (!wanted(label)) return;
  const times: number[] = [];
  for (let i = 0; i < 8 * rounds; i++) {
    const start = performance.now();
    await compileAttention(backend, { ...variants[i % variants.length]!(i), numQueryHeads: 4, numKvHeads: 4, headDimQk: 64, headDimV: 64 });
    times.push(performance.now() - start);
  }
  report(`${label}, first of the process`, times.slice(0, 1), "ms", threads);
  report(label, times, "ms", threads);
}

/** A backend that counts how often it is asked for a kernel. */
function counting(backend: Backend): { readonly backend: Backend; count: number } {
  const counter = { count: 0, backend: new Proxy(backend, {
    get(target, key) {
      if (key === "compile") return (plan: Parameters<Backend["compile"]>[0]) => (counter.count++, target.compile(plan));
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  }) };
  return counter;
}

async function recompiling(backend: Backend): Promise<void> {
  const label = "kernels compiled, 1000 calls";
  if (!wanted(label)) return;
  const counter = counting(backend);
  const captures = { size: 16, ids: new Int32Array(96) }, cap = { cap: 50 };
  const mask = maskMod(({ size, ids }) => (_b, _h, q, kv) => q >= kv && q - kv < size && ids[q] === ids[kv], captures);
  const score = scoreMod(({ cap }) => (s) => cap * Math.tanh(s / cap), cap);
  for (let i = 0; i < 1000; i++) {
    captures.size = 1 + (i % 90);
    cap.cap = 10 + i / 7;
    if (i % 3 === 0) captures.ids[i % 96]!++;
    if (i % 5 === 0) captures.ids = new Int32Array(96 + (i % 11));
    const L = 1 + (i % 40), S = L + (i % 50);
    const x = (n: number) => tensor(new Float32Array(2 * n * 8).fill(0.1), [1, 2, n, 8]);
    await flexAttention(x(L), x(S), x(S), { maskMod: mask, scoreMod: score, backend: counter.backend });
  }
  report(label, [counter.count], "kernels", threads);
}

// --- Rates.
interface Launch extends Prepared {
  /** Seconds of one launch. */
  seconds(): Promise<number>;
}

async function launch(backend: Backend, mods: Mods, heads: number, length: number, dim: number): Promise<Launch> {
  const prepared = await prepare(backend, { ...mods, numQueryHeads: heads, numKvHeads: heads, headDimQk: dim, headDimV: dim }, length);
  await prepared.run();
  const seconds = async (): Promise<number> => {
    const start = performance.now();
    await prepared.run();
    return (performance.now() - start) / 1000;
  };
  return { ...prepared, seconds };
}

/** Operations per second of x [512, 1024] times weights [1024, 1024], f32. */
function matmul(backend: Backend): () => Promise<number> {
  const rows = 512, n = 1024;
  const fill = (count: number): Buffer => {
    const buffer = backend.alloc(4 * count);
    backend.write(buffer, 0, new Uint8Array(Float32Array.from({ length: count }, () => random() - 0.5).buffer));
    return buffer;
  };
  const matrix = () => ({ data: fill(rows * n), rows: "tokens" as const, columns: n, stride: n });
  const header = backend.alloc(16), unused = backend.alloc(64);
  backend.write(header, 0, new Uint8Array(Int32Array.of(rows, 1, 0, 0).buffer));
  const batch = { header, tokens: unused, positions: unused, slots: unused, blockTable: unused, logitRows: unused, maxPagesPerSequence: 1 };
  const o = { out: matrix(), x: matrix(), weight: { data: fill(n * n), dtype: "f32" as const, rows: n, columns: n }, batch };
  return async () => {
    const start = performance.now();
    for (let i = 0; i < 3; i++) backend.ops.linear(o);
    await backend.read(o.out.data, 0, 4);
    return (3 * 2 * rows * n * n) / ((performance.now() - start) / 1000);
  };
}

async function againstMatmul(backend: Backend): Promise<void> {
  const rate = matmul(backend);
  for (const dim of [64, 128]) {
    const label = `causal ${length}, D ${dim}`;
    if (!wanted(label)) continue;
    const heads = 128 / dim;
    const of = await launch(backend, { maskMod: causal }, heads, length, dim);
    const unmasked = 4 * dim * heads * (length * (length + 1)) / 2;
    await rate();
    const rates: number[] = [], ratios: number[] = [], matmuls: number[] = [];
    for (let i = 0; i < rounds; i++) {
      const before = await rate(), seconds = await of.seconds(), after = await rate();
      matmuls.push((before + after) / 2e9);
      rates.push(unmasked / seconds / 1e9);
      ratios.push(unmasked / seconds / ((before + after) / 2));
    }
    report(`${label}: matmul f32`, matmuls, "GFLOP/s", threads);
    report(label, rates, "GFLOP/s", threads);
    report(`${label} / matmul`, ratios, "ratio", threads);
    of.free();
  }
}

/** Variants as people use them, at `length` positions and `heads` heads. */
function gallery(length: number, heads: number): Readonly<Record<string, Mods>> {
  const positive = (n: number): Float32Array => Float32Array.from({ length: n }, () => 0.1 + random());
  const side = Math.floor(Math.sqrt(length)), cube = Math.round(Math.cbrt(length));
  const { documents, starts } = packing(Array.from({ length: 16 }, () => length / 16));
  const images = Int32Array.from({ length }, (_, i) => (i % 512 < 128 ? Math.floor(i / 512) : -1));
  const picks = tensor(Uint8Array.from({ length: (length / 64) ** 2 }, () => Number(random() < 0.05)), [length / 64, length / 64]);
  const globals = Uint8Array.from({ length }, (_, i) => Number(i < 64));
  return {
    "no mask": {},
    "window 1024": { maskMod: slidingWindow(1024) },
    "sinks + window": { maskMod: sinkWindow(4, 1024) },
    "prefix-LM": { maskMod: prefixLm(Int32Array.of(length / 4)) },
    "documents": { maskMod: and(document(documents), causal) },
    "packed documents": { maskMod: packedDocuments(starts.slice(0, 16).reduce((all, start, i) => all.fill(start, start, starts[i + 1]), new Int32Array(length))) },
    "chunked": { maskMod: chunked(512) },
    "block-causal": { maskMod: blockCausal(64) },
    "dilated": { maskMod: dilatedCausal(1024, 4) },
    "strided": { maskMod: strided(128, 8) },
    "Longformer": { maskMod: longformer(256, globals) },
    "BigBird": { maskMod: bigBird(64, 2, 1, picks) },
    "neighborhood 1-D": { maskMod: neighborhood1d({ length, size: 257 }) },
    "neighborhood 2-D": { maskMod: neighborhood2d({ length: side, size: 13 }, { length: side, size: 13 }) },
    "neighborhood 3-D": { maskMod: neighborhood3d({ length: cube, size: 5 }, { length: cube, size: 5 }, { length: cube, size: 5 }) },
    "sliding tile 2-D": { maskMod: slidingTile2d(64, { tiles: side / 8, window: 3 }, { tiles: side / 8, window: 3 }) },
    "block diffusion": { maskMod: blockDiffusion(length / 2, 32) },
    "transfusion": { maskMod: transfusion(imageEnds(images)) },
    "shared prefix": { maskMod: sharedPrefix(documents, Int32Array.from({ length: 16 }, (_, i) => (i < 4 ? i : i % 4)), starts) },
    "window per head": { maskMod: windowPerHead(Int32Array.from({ length: heads }, (_, h) => 512 * (h + 1))) },
    "alibi": { maskMod: causal, scoreMod: alibi(alibiSlopes(heads)) },
    "soft cap": { maskMod: causal, scoreMod: softCap(50) },
    "relative bias": { maskMod: causal, scoreMod: relativeBias(tensor(positive(heads * 257), [heads, 257])) },
    "T5 bias": { maskMod: causal, scoreMod: t5Bias(tensor(positive(heads * 32), [heads, 32]), { bidirectional: false }) },
    "Kerple": { maskMod: causal, scoreMod: kerpleLog(positive(heads), positive(heads)) },
    "Sandwich": { maskMod: causal, scoreMod: sandwich(sandwichTable(length, 64), heads) },
  };
}

async function galleryRates(backend: Backend): Promise<void> {
  const dim = 64, heads = 2;
  for (const [name, mods] of Object.entries(gallery(length, heads))) {
    const label = `${name} / causal, per visited FLOP`;
    if (!wanted(label)) continue;
    const plain = await launch(backend, { maskMod: causal }, heads, length, dim), of = await launch(backend, mods, heads, length, dim);
    const ratios: number[] = [];
    for (let i = 0; i < rounds; i++) {
      // The neighbours of a measurement are what it is compared with: the machine's speed drifts.
      const before = await plain.seconds(), seconds = await of.seconds(), after = await plain.seconds();
      ratios.push((of.flops / seconds) / (plain.flops / ((before + after) / 2)));
    }
    report(label, ratios, "ratio", threads);
    plain.free();
    of.free();
  }
}

async function windowGain(backend: Backend): Promise<void> {
  const label = "window 1024 at 16384: times faster than causal";
  if (!wanted(label)) return;
  const [whole, window] = [await launch(backend, { maskMod: causal }, 1, 16_384, 64), await launch(backend, { maskMod: slidingWindow(1024) }, 1, 16_384, 64)];
  const gains: number[] = [];
  for (let i = 0; i < Math.min(rounds, 3); i++) gains.push((await whole.seconds()) / median([await window.seconds(), await window.seconds(), await window.seconds()]));
  report(label, gains, "times", threads);
}

const backend = await openBackend("cpu", { threads });
try {
  await compiling(backend);
  await recompiling(backend);
  await classification();
  await againstMatmul(backend);
  await galleryRates(backend);
  await windowGain(backend);
} finally {
  await backend.close();
}
