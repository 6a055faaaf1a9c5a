/**
 * What continuous batching gains: decode steps of 1, 4, 16 and 32 sequences at contexts of 512 and 4096 tokens.
 *
 * A case is a step of the model's program as the engine runs it (forward.ts), the likeliest token taken, with one token of each sequence at the last position of its context.
 * Prompts are not computed: the cache is filled with a small number instead, which makes no difference to what a step reads and computes ("filled cache" in
 * the rows' names). Pages of sequences alternate, as they do when sequences grow side by side. The cases share one model with as large a cache as
 * fits, and take turns within a round.
 *
 *   npm run bench -- batch [--rounds N] [--threads N] [--type q8_0] [--gib N] [--only TEXT] [--patience SECONDS] [--write-docs]
 */
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import type { Backend } from "../src/backend/backend.ts";
import { capsOf, openBackend } from "../src/backend/registry.ts";
import { UsageError } from "../src/core/errors.ts";
import { Batch } from "../src/engine/batch.ts";
import { ProgramModel } from "../src/engine/forward.ts";
import { Sequence } from "../src/engine/sequence.ts";
import { formatBytes, loadModel, type Model, openCheckpoint, planModel } from "../src/model/load.ts";
import { defaultSampling } from "../src/sampling/params.ts";
import { SamplingBatch } from "../src/sampling/sampling-batch.ts";
import { benchmarkShape, cachedGguf, type GgufType, ggufTypes } from "./make-gguf.ts";
import { writePart } from "./page.ts";
import { Quiet } from "./quiet.ts";
import { median, report, setting, short } from "./row.ts";

const { values: flags } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" }, threads: { type: "string", default: String(availableParallelism()) }, type: { type: "string", default: "q8_0" },
    gib: { type: "string" }, patience: { type: "string", default: "60" }, "write-docs": { type: "boolean" }, only: { type: "string", default: "" }, help: { type: "boolean" },
  },
});
const type = flags.type as GgufType;
if (flags.help || !ggufTypes.includes(type) || (flags["write-docs"] && flags.only !== "")) {
  console.log(`npm run bench -- batch [--rounds N] [--threads N] [--type T] [--gib N] [--only TEXT] [--patience SECONDS] [--write-docs]\ntypes: ${ggufTypes.join(", ")}; --gib: memory it may take, by default three quarters of what is free; --patience: how long a case may wait for other processes to leave the machine alone (60)`);
  process.exit(flags.help ? 0 : 2);
}
const rounds = Number(flags.rounds), threads = Number(flags.threads), pageSize = 16;
const mostBytes = flags.gib === undefined ? 0.75 * process.availableMemory() : Number(flags.gib) * 2 ** 30;
/** Steps of one measurement last about this long. */
const secondsPerMeasurement = 1;

interface Case { readonly sequences: number; readonly context: number }
const name = ({ sequences, context }: Case): string => `${type.toUpperCase()} decode step, ${sequences} sequence${sequences > 1 ? "s" : ""}, context ${context}, filled cache`;
const all = [512, 4096].flatMap((context) => [1, 4, 16, 32].map((sequences): Case => ({ sequences, context }))).filter((one) => name(one).includes(flags.only));
const pagesOf = ({ sequences, context }: Case): number => sequences * Math.ceil(context / pageSize);

const { config, source } = openCheckpoint(cachedGguf(benchmarkShape, type));
const limitsFor = (cases: readonly Case[]) => ({
  maxModelLen: Math.max(...cases.map(({ context }) => context)), maxNumSeqs: Math.max(...cases.map(({ sequences }) => sequences)),
  maxNumBatchedTokens: Math.max(...cases.map(({ sequences }) => sequences)), pageSize, numPages: Math.max(...cases.map(pagesOf)),
});

/** Why cases do not take part. */
const leftOut: string[] = [];

/** The model with room for as many of the cases as fit; those that do not are said, with the reason. */
async function load(): Promise<{ readonly backend: Backend; readonly model: Model; readonly cases: readonly Case[] }> {
  const cases = [...all].sort((a, b) => pagesOf(b) - pagesOf(a));
  for (; cases.length > 0; cases.shift()) {
    const limits = limitsFor(cases), { totalBytes } = planModel(config, limits, capsOf("cpu"));
    const leaveOut = (why: string): void => {
      leftOut.push(`Left out: ${name(cases[0]!)}: it takes ${formatBytes(totalBytes)}, ${why}.`);
      console.log(leftOut.at(-1));
    };
    if (totalBytes > mostBytes) {
      leaveOut(`and ${formatBytes(mostBytes)} may be taken (--gib)`);
      continue;
    }
    const backend = await openBackend("cpu", { threads, memoryBytes: totalBytes });
    try {
      return { backend, model: await loadModel(backend, source, config, limits), cases: all.filter((one) => cases.includes(one)) };
    } catch (error) {
      await backend.close();
      if (!(error instanceof UsageError)) throw error;
      leaveOut(error.message);
    }
  }
  throw new UsageError("no case fits");
}

const { backend, model, cases } = await load();
source.close();
const forward = new ProgramModel(backend, model);

// Memory that was never written to is one page of zeros, read from a cache: every page gets a small number, 0.0078 as f32 and as bf16, 1 as f16.
const filling = new Uint8Array(new Uint32Array(2 ** 18).fill(0x3c003c00).buffer);
for (const { data } of model.kv.flatMap(({ key, value }) => [key, value])) {
  for (let at = 0; at < data.bytes; at += filling.byteLength) backend.write(data, at, filling.subarray(0, Math.min(filling.byteLength, data.bytes - at)));
}

/** A step with the last token of each sequence's context. */
function stepOf({ sequences, context }: Case): Batch {
  const batch = new Batch(model.limits, model.limits.maxModelLen);
  batch.fill(Array.from({ length: sequences }, (_, s) => {
    const prompt = Int32Array.from({ length: context }, (_, i) => 259 + ((7919 * (s + 1) * (i + 1)) % (config.vocabSize - 259)));
    const sequence = new Sequence(`sequence ${s}`, prompt, { ...defaultSampling, maxTokens: 1 }, 0, context + 1);
    sequence.admit();
    sequence.compute(context - 1, undefined);
    for (let page = 0; page < Math.ceil(context / pageSize); page++) sequence.pages.push(page * sequences + s);
    return { sequence, numTokens: 1, numLogits: 1 };
  }));
  return batch;
}

function likeliestOf({ sequences }: Case): SamplingBatch {
  const wanted = new SamplingBatch(sequences);
  for (let row = 0; row < sequences; row++) wanted.choose(row, { ...defaultSampling, temperature: 0 }, 0, 0);
  return wanted;
}

const kvBytesPerToken = model.plan.bytes.kvCache / (model.limits.numPages * pageSize);
const steps = new Map(cases.map((one) => [one, { batch: stepOf(one), wanted: likeliestOf(one), values: [] as number[], turns: 1, quiet: new Quiet(Number(flags.patience)) }]));
console.log(`${config.architecture}, ${formatBytes(model.plan.bytes.weights)} of weights, ${backend.description}`);
for (let round = -1; round < rounds; round++) {
  for (const [{ sequences }, step] of steps) {
    const measure = async (): Promise<number> => {
      const start = performance.now();
      for (let turn = 0; turn < step.turns; turn++) await forward.launch(step.batch, step.wanted);
      return (performance.now() - start) / 1000;
    };
    if (round >= 0) step.values.push((sequences * step.turns) / (await step.quiet.measure(measure)));
    else step.turns = Math.max(1, Math.round(secondsPerMeasurement / (await measure()))); // the first round warms up
  }
}
const measured = [...steps].filter(([one, { quiet }]) => {
  if (quiet.disturbed > 0) console.log(`not recorded, measured beside other processes: ${name(one)} (${quiet.disturbed} of ${rounds} rounds)`);
  return quiet.disturbed === 0;
});
for (const [one, { values }] of measured) {
  report(name(one), values, "tokens/s", threads);
  report(`${name(one)}: cache`, [(one.sequences * one.context * kvBytesPerToken) / 2 ** 20], "MiB", threads);
  const single = measured.find(([other]) => other.context === one.context && other.sequences === 1)?.[1].values;
  if (single && one.sequences > 1) report(`${name(one)}: times one sequence`, values.map((value, round) => value / single[round]!), "times", threads);
}
const contexts = [...new Set(all.map((one) => one.context))];
const table = [
  `| sequences | ${contexts.map((context) => `context ${context}`).join(" | ")} |`, `|---${"|---".repeat(contexts.length)}|`,
  ...[...new Set(all.map((one) => one.sequences))].map((sequences) => {
    const cells = contexts.map((context) => [...steps].find(([one]) => one.sequences === sequences && one.context === context)?.[1].values);
    return `| ${sequences} | ${cells.map((values) => (values ? `${short(median(values))} tokens/s` : "does not fit")).join(" | ")} |`;
  }),
];
const description = `${setting(threads)}; medians of ${rounds} rounds; ${type.toUpperCase()}, model \`${Object.values(benchmarkShape).join(" ")}\`, ${formatBytes(kvBytesPerToken)} of cache a token.`;
console.log(`\n${[...table, "", description].join("\n")}`);
if (flags["write-docs"] && measured.length === steps.size) writePart("batch", [...table, "", description, ...leftOut.map((line) => `\n${line}`)]);
await backend.close();
process.exitCode = flags["write-docs"] && measured.length < steps.size ? 1 : 0;
