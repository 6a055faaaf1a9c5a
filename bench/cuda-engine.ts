/**
 * The engine on a GPU: decode steps of a model of random weights, through the engine's own loop, with one request, eight and 64; and with 64 that ask for more
 * than the likeliest token. A rate stands beside the floor: what the step must read (every weight once, and each key and value of its sequences) at the rate at
 * which a plain kernel reads. What the host does for a step is told with how much of that was hidden behind the step in front.
 *
 * Rows go to bench/results/<gpu>.csv, and to the folder given by --out; a case that fails is a row that says why. --peers adds PyTorch's compiled loop with one
 * request of the same shape (bench/peers/decode_loop.py; it compiles for a minute). BENCH_COMMIT names the commit where the sources are a copy without git.
 *
 *   npm run bench -- cuda-engine [--model bench/configs/llama-3.1-8b] [--steps N] [--out FOLDER] [--peers] [--python PROGRAM] [--seconds N]
 */
import { readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { stream } from "../src/core/random.ts";
import { openEngine } from "../src/engine/open.ts";
import { defaultSampling, type SamplingParams } from "../src/sampling/params.ts";
import { openGpu } from "./cuda/open.ts";
import { runPeers } from "./cuda/python.ts";
import { readRate } from "./cuda/read.ts";
import { Rows, through } from "./cuda/rows.ts";
import { type Spread, spreadOf } from "./row.ts";

const { values: flags } = parseArgs({
  options: {
    model: { type: "string", default: fileURLToPath(new URL("configs/llama-3.1-8b", import.meta.url)) }, steps: { type: "string", default: "120" }, out: { type: "string" },
    peers: { type: "boolean" }, python: { type: "string", default: "python3" }, seconds: { type: "string", default: "150" }, help: { type: "boolean" },
  },
});
const steps = Number(flags.steps), parts = 5;
if (flags.help || !(steps >= parts) || !(Number(flags.seconds) >= 0)) {
  console.log(`npm run bench -- cuda-engine [--model FOLDER] [--steps N] [--out FOLDER] [--peers] [--python PROGRAM] [--seconds N]\n--steps: steps that are timed, ${parts} at least (120)\n--peers: PyTorch's compiled loop beside it`);
  process.exit(flags.help ? 0 : 2);
}
const model = resolve(flags.model), nameOfModel = basename(model);
/** `asking`: what every request asks for besides the likeliest token. */
interface Case {
  readonly batch: number;
  readonly context: number;
  readonly asking?: readonly [name: string, params: Partial<SamplingParams>];
}
const asking: readonly NonNullable<Case["asking"]>[] = [
  ["top-p 0.9", { temperature: 0.7, topP: 0.9 }], ["a repetition penalty", { repetitionPenalty: 1.1 }], ["a logit bias", { logitBias: new Map([[7, 5], [8, -5]]) }], ["5 log-probabilities", { logprobs: 5 }],
];
const cases: readonly Case[] = [{ batch: 1, context: 128 }, { batch: 8, context: 2048 }, { batch: 64, context: 2048 }, ...asking.map((what): Case => ({ batch: 64, context: 2048, asking: what }))];
/** Steps before those that count: the first of a size are captured, and the clock goes up. */
const warmSteps = 16;
/** Steps in which prompts are computed, and those who are through make tokens already. */
const mostPrefillSteps = 128;
const nameOf = ({ batch, context, asking }: Case): string => `engine ${nameOfModel}, batch ${batch}, context ${context}${asking ? `, ${asking[0]}` : ""}`;
const seconds = (): number => performance.now() / 1000;

/** What reading is worth, before the engine takes the memory. */
async function openRows(): Promise<{ readonly rows: Rows; readonly read: Spread | undefined }> {
  const { device, compiler } = await openGpu(), rows = new Rows(device.name, flags.out);
  try {
    rows.put(`card: ${device.name}, NVRTC ${compiler.version}`, [device.numSms], "multiprocessors");
    const read = await rows.try("memory, read by the GPU", () => readRate(device, compiler));
    if (read) rows.put("memory, read by the GPU", through(read, (rate) => rate / 1e9), "GB/s");
    return { rows, read };
  } finally {
    device.close();
  }
}

/** Bytes of the embedding of tokens, of which a step reads a row each; 0 where it is the head too, which reads all of it. */
function embeddingBytes(): number {
  const { tie_word_embeddings: tied, vocab_size: words, hidden_size: width } = JSON.parse(readFileSync(join(model, "config.json"), "utf8")) as Record<string, number | boolean>;
  return tied ? 0 : 2 * Number(words) * Number(width);
}

async function measureEngine(rows: Rows, read: Spread | undefined): Promise<void> {
  const longest = Math.max(...cases.map(({ context }) => context)), most = Math.max(...cases.map(({ batch }) => batch));
  const { engine, info, release } = await openEngine(
    { model, device: "cuda", loadFormat: "dummy", maxModelLen: longest + warmSteps + steps + mostPrefillSteps, maxNumSeqs: most, maxNumBatchedTokens: 8192, enablePrefixCaching: false }, seconds);
  console.log(`${info.backend}; ${(info.weightBytes / 2 ** 30).toFixed(2)} GiB of weights in ${info.dtype}, loaded in ${info.loadSeconds.toFixed(1)} s`);
  try {
    const random = stream(5), kvBytesOfToken = info.kvBytes / (info.numPages * info.pageSize);
    const prompt = (tokens: number): Int32Array => Int32Array.from({ length: tokens }, () => Math.floor(random() * info.vocabSize));
    // Libraries choose their kernels, and memory is touched, at first use.
    engine.submit("first", prompt(longest), { ...defaultSampling, ignoreEos: true, temperature: 0, maxTokens: 4 });
    while (!engine.idle) await engine.step();
    for (const one of cases) {
      const { batch, context, asking } = one, name = nameOf(one);
      await rows.try(name, async () => {
        for (let i = 0; i < batch; i++) {
          engine.submit(`${name} ${i}`, prompt(context), { ...defaultSampling, ignoreEos: true, temperature: 0, ...asking?.[1], maxTokens: warmSteps + steps + mostPrefillSteps });
        }
        /** Steps until `enough`; every request gives a token in each, or all are still computing prompts. Milliseconds of each. */
        const stepUntil = async (enough: (done: number, withTokens: ReadonlySet<string>) => boolean): Promise<number[]> => {
          const ms: number[] = [], withTokens = new Set<string>();
          while (!enough(ms.length, withTokens)) {
            const start = performance.now();
            for (const delta of await engine.step()) {
              if (delta.finish) throw new Error(`a request ended early (${delta.finish}${delta.message ? `: ${delta.message}` : ""})`);
              if (delta.tokens.length > 0) withTokens.add(delta.id);
            }
            ms.push(performance.now() - start);
          }
          return ms;
        };
        const prefillMs = (await stepUntil((_done, { size }) => size === batch)).reduce((a, b) => a + b);
        await stepUntil((done) => done === warmSteps);
        const before = engine.stats(), ms = await stepUntil((done) => done === steps), after = engine.stats();
        const tokens = after.generationTokens - before.generationTokens;
        if (tokens !== batch * steps) throw new Error(`${steps} steps of ${batch} requests made ${tokens} tokens`);
        const part = Math.floor(steps / parts);
        const rates = Array.from({ length: parts }, (_, i) => (1000 * batch * part) / ms.slice(i * part, (i + 1) * part).reduce((a, b) => a + b));
        const host = after.hostSeconds - before.hostSeconds, bytes = info.weightBytes - embeddingBytes() + batch * (context + warmSteps + steps / 2) * kvBytesOfToken;
        rows.put(`${name}: Tessera`, rates, "tokens/s");
        rows.put(`${name}: step`, ms, "ms");
        rows.put(`${name}: read by a step`, [bytes / 1e9], "GB");
        if (read) {
          rows.put(`${name}: floor of a step`, [(1000 * bytes) / read.median], "ms");
          rows.put(`${name}: of memory's rate`, through(spreadOf(ms), (x) => (100 * bytes) / (x / 1000) / read.median), "%");
        }
        rows.put(`${name}: host, a step`, [(1000 * host) / steps], "ms");
        rows.put(`${name}: host, hidden behind the step in front`, [(100 * (after.hiddenSeconds - before.hiddenSeconds)) / host], "%");
        rows.put(`${name}: steps started ahead`, [(100 * (after.numStepsAhead - before.numStepsAhead)) / steps], "%");
        rows.put(`${name}: prompts`, [(1000 * batch * context) / prefillMs], "tokens/s");
      });
      engine.abortAll();
      while (!engine.idle) await engine.step();
    }
  } finally {
    await release();
  }
}

async function measurePeers(rows: Rows): Promise<void> {
  const { batch, context } = cases[0]!;
  const found = await rows.try("peers of the engine", () =>
    runPeers(flags.python, "decode_loop.py", ["--batches", String(batch), "--context", String(context), "--attention", "flex", "--steps", String(steps), "--seconds", flags.seconds]));
  for (const row of found ?? []) {
    const { ms, low_ms: low, high_ms: high, tokens_per_s: rate } = row as Readonly<Record<string, unknown>>;
    if (row.case === "machine") rows.put(`peers: ${row.peer}, CUDA ${String(row["cuda"])}, ${String(row["gpu"])}`, [1], "GPU");
    else if (typeof ms !== "number") rows.fail(`${nameOf(cases[0]!)}: PyTorch (${row.peer})`, row.error);
    else {
      rows.put(`${nameOf(cases[0]!)}: PyTorch (${row.peer})`, [Number(rate)], "tokens/s");
      rows.put(`${nameOf(cases[0]!)}: PyTorch (${row.peer}), step`, { median: ms, low: Number(low), high: Number(high), runs: Number(row["steps"]) }, "ms");
    }
  }
}

const { rows, read } = await openRows();
await rows.try(`engine ${nameOfModel}`, () => measureEngine(rows, read));
if (flags.peers) await measurePeers(rows);
process.exitCode = rows.numFailed > 0 ? 1 : 0;
