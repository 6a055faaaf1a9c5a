/**
 * Attention in decode: one query row of each sequence over a long cache, all heads, layer after layer, as an engine's step has it. What counts is
 * bytes: the keys and values are read once, so the floor of a step is their size over the rate at which these threads read memory.
 *
 * Every layer has pages of its own, in shuffled order, together more than a cache holds. The reading rate is measured beside each case.
 *
 *   npm run bench -- decode [--only TEXT] [--rounds N] [--threads N] [--mib N] [--patience SECONDS]
 */
import { parseArgs } from "node:util";
import { causal } from "../src/attention/index.ts";
import { compileAttention } from "../src/attention/compile.ts";
import { planWork } from "../src/attention/work-list.ts";
import { openBackend } from "../src/backend/registry.ts";
import { stream } from "../src/core/random.ts";
import { bytesPerKvElement, type KvFormat } from "../src/ir/plan.ts";
import { Reader } from "./bandwidth.ts";
import { Quiet } from "./quiet.ts";
import { report } from "./row.ts";

const { values: flags } = parseArgs({
  options: { only: { type: "string", default: "" }, rounds: { type: "string", default: "5" }, threads: { type: "string", default: "2" }, mib: { type: "string", default: "512" }, patience: { type: "string", default: "30" }, help: { type: "boolean" } },
});
if (flags.help) {
  console.log("npm run bench -- decode [--only TEXT] [--rounds N] [--threads N] [--mib N] [--patience SECONDS]");
  process.exit(0);
}
const rounds = Number(flags.rounds), threads = Number(flags.threads), mostBytes = Number(flags.mib) * 2 ** 20;
const pageSize = 16;
const random = stream(7);

interface Shape { readonly heads: number; readonly kvHeads: number; readonly dim: number; readonly sequences: number; readonly context: number; readonly format: KvFormat }

const reading = new Reader(threads);
await reading.ready();
const backend = await openBackend("cpu", { threads });

async function measure({ heads, kvHeads, dim, sequences, context, format }: Shape): Promise<void> {
  const label = `decode ${heads}/${kvHeads} heads D ${dim}, ${sequences} x ${context}, ${format}`;
  if (!label.includes(flags.only)) return;
  const { kernel, mask } = await compileAttention(backend, { maskMod: causal, numQueryHeads: heads, numKvHeads: kvHeads, headDimQk: dim, headDimV: dim, keyFormat: format, valueFormat: format });
  const pagesEach = Math.ceil(context / pageSize), numPages = sequences * pagesEach;
  const layerBytes = numPages * pageSize * kvHeads * dim * bytesPerKvElement[format];
  const layers = Math.max(1, Math.min(28, Math.floor(mostBytes / (2 * layerBytes))));
  const upload = (data: Float32Array | Int32Array | Uint8Array) => {
    const buffer = backend.alloc(data.byteLength);
    backend.write(buffer, 0, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    return buffer;
  };
  const ones = (n: number): Int32Array => new Int32Array(sequences).fill(n);
  const batch = { numSequences: sequences, firstRow: Int32Array.from({ length: sequences }, (_, i) => i), numRows: ones(1), firstPosition: ones(context - 1), kvLength: ones(context) };
  const work = upload(Int32Array.from(planWork(mask?.bind({ uniforms: {}, tables: {} }), batch, { ...kernel.plan, numQueryHeads: heads })));
  const table = Int32Array.from({ length: numPages }, (_, i) => i);
  for (let i = numPages - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [table[i], table[j]] = [table[j]!, table[i]!];
  }
  const blockTable = upload(table);
  const small = new Uint8Array(layerBytes).map((_, i) => ((i * 37) & 0x3f) | (i & 1 ? 0x38 : 0)); // numbers near 1 in every format
  const cache = () => ({ data: upload(small), sequenceStride: pageSize * kvHeads * dim, rowStride: dim, headStride: pageSize * dim });
  const rows = () => ({ data: upload(Float32Array.from({ length: sequences * heads * dim }, () => random() - 0.5)), sequenceStride: 0, rowStride: heads * dim, headStride: dim });
  const query = rows(), out = rows(), caches = Array.from({ length: layers }, () => ({ key: cache(), value: cache() }));
  const program = backend.record(() => {
    for (const { key, value } of caches) backend.ops.attention({ kernel, captures: [], query, out, key, value, pageSize, blockTable, maxPagesPerSequence: pagesEach, work });
  });
  const run = async (): Promise<number> => {
    const start = performance.now();
    program.run({ numTokens: sequences, numSequences: sequences, numLogits: 0 });
    await backend.read(out.data, 0, 4);
    return (performance.now() - start) / 1000;
  };
  await run();
  await run();
  const bytes = 2 * layers * sequences * context * kvHeads * dim * bytesPerKvElement[format];
  const rates: number[] = [], ratios: number[] = [], times: number[] = [];
  const quiet = new Quiet(Number(flags.patience));
  for (let i = 0; i < rounds; i++) {
    const [before, seconds, after] = await quiet.measure(async () => [reading.measure(), await run(), reading.measure()] as const);
    times.push((seconds / layers) * 1e6);
    rates.push(bytes / seconds / 1e9);
    ratios.push(bytes / seconds / ((before + after) / 2));
  }
  for (const { key, value } of caches) [key, value].forEach(({ data }) => backend.free(data));
  if (quiet.disturbed > 0) return console.log(`not recorded, measured beside other processes: ${label}, about ${Math.max(...rates).toPrecision(3)} GB/s, ${Math.max(...ratios).toPrecision(3)} of reading`);
  report(label, times, "us/layer", threads);
  report(`${label}: rate`, rates, "GB/s", threads);
  report(`${label}: of reading`, ratios, "ratio", threads);
}

try {
  for (const format of ["f32", "bf16", "f16"] as const) {
    for (const [heads, kvHeads, dim] of [[16, 8, 64], [16, 8, 128], [32, 8, 64], [4, 1, 128]] as const) {
      for (const context of [512, 4096, 16384]) await measure({ heads, kvHeads, dim, sequences: 1, context, format });
    }
    for (const sequences of [4, 16]) for (const context of [512, 4096]) await measure({ heads: 16, kvHeads: 8, dim: 64, sequences, context, format });
  }
} finally {
  await backend.close();
  reading[Symbol.dispose]();
}
