/**
 * Tessera beside llama.cpp: the same GGUF file, the same number of threads, in the same run, taking turns within each round, so that a noisy
 * machine slows both alike. A figure is the median of the rounds, a ratio the median of the rounds' ratios.
 *
 * A pair of measurements counts only while other processes leave the cores alone (bench/quiet.ts): until then it waits, and tries again. What it had to take
 * from a busy machine all the same is shown as that, and gets no row.
 *
 * How llama.cpp is run as fast as it goes: bench/peers/llama-cpp.ts. Decode is bound by memory: its rows come with the weights' bytes a second
 * and their share of what this machine's memory gave in the same round (bench/bandwidth.ts).
 *
 *   npm run bench -- peers [--rounds N] [--threads N] [--types q8_0,q4_0] [--only TEXT] [--patience SECONDS] [--write-docs]
 */
import { spawn } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism, loadavg } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { stream } from "../src/core/random.ts";
import { Reader } from "./bandwidth.ts";
import { benchmarkShape, bytesPerStep, cachedGguf, type GgufType, ggufTypes } from "./make-gguf.ts";
import { writePart } from "./page.ts";
import { openTessera, type Runs } from "./peers/contender.ts";
import { install, openLlama } from "./peers/llama-cpp.ts";
import { type Bars, drawBars } from "./plot.ts";
import { Quiet } from "./quiet.ts";
import { median, report, setting, short } from "./row.ts";

const usage = "npm run bench -- peers [--rounds N] [--threads N] [--types q8_0,q4_0] [--only TEXT] [--patience SECONDS] [--write-docs]";
const { values: flags } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" }, threads: { type: "string", default: String(availableParallelism()) }, types: { type: "string", default: "q8_0,q4_0" },
    only: { type: "string", default: "" }, patience: { type: "string", default: "120" }, "write-docs": { type: "boolean" }, help: { type: "boolean" },
  },
});
const rounds = Number(flags.rounds), threads = Number(flags.threads), types = flags.types.split(",") as GgufType[];
const wrong = types.some((type) => !ggufTypes.includes(type)) || !(rounds >= 1) || !(threads >= 1) || (flags["write-docs"] && (rounds < 5 || flags.only !== ""));
if (flags.help || wrong) {
  console.log(`${usage}\ntypes: ${ggufTypes.join(", ")}; --write-docs wants every case and at least 5 rounds\n--patience: how long a case may wait for other processes to leave the machine alone (120)`);
  process.exit(flags.help ? 0 : 2);
}

const promptTokens = 512, context = 128, decodeSteps = 32, streams = 8;
const random = stream(1);
/** Words of the random model, none of which ends an answer. */
const firstWord = 259;
const tokens = (count: number): Int32Array => Int32Array.from({ length: count }, () => firstWord + Math.floor(random() * (benchmarkShape.vocab - firstWord)));
/** So that the context is `context` half way through. */
const prompts = Array.from({ length: streams }, () => tokens(context - decodeSteps / 2));
const room = { threads, sequences: streams, length: promptTokens + 64, batch: promptTokens };

interface Case {
  readonly label: string;
  run(side: Runs): Promise<number>;
  /** One stream reads all weights for each token. */
  readonly readsWeights?: boolean;
}
const cases: readonly Case[] = [
  { label: `prefill, ${promptTokens} tokens`, run: (side) => side.prefill(tokens(promptTokens)) },
  { label: `decode, 1 stream, context ${context}`, run: (side) => side.decode(prompts.slice(0, 1), decodeSteps), readsWeights: true },
  { label: `decode, ${streams} streams, context ${context}`, run: (side) => side.decode(prompts, decodeSteps) },
];
const firstTokenLabel = "process start to first token";

/** What one case came to, round by round. */
interface Result {
  readonly name: string;
  readonly unit: string;
  readonly ours: number[];
  readonly theirs: number[];
  readonly smallerIsBetter?: boolean;
  readonly quiet: Quiet;
}
const newResult = (name: string, unit: string, smallerIsBetter = false): Result => ({ name, unit, ours: [], theirs: [], smallerIsBetter, quiet: new Quiet(Number(flags.patience)) });
const results: Result[] = [];
const bandwidth: number[] = [];
const sharesOfBandwidth = new Map<string, number[]>();
const nameOf = (type: GgufType, label: string): string => `${type.toUpperCase()} ${label}`;
const wanted = (name: string): boolean => name.includes(flags.only);

/** In each round both sides, one right after the other; who is first alternates. `ownProcess` is false where the work is in processes of its own. */
async function alternate(round: number, ours: () => Promise<number>, theirs: () => Promise<number>, result: Result, ownProcess = true): Promise<void> {
  const pair = await result.quiet.measure(async () => {
    if (round % 2 === 0) return { ours: await ours(), theirs: await theirs() };
    const first = await theirs();
    return { ours: await ours(), theirs: first };
  }, ownProcess);
  result.ours.push(pair.ours);
  result.theirs.push(pair.theirs);
  console.log(`  ${round + 1}/${rounds} ${result.name}: ${short(pair.ours)} and ${short(pair.theirs)} ${result.unit}`);
}

async function measureRates(type: GgufType, file: string, reader: Reader): Promise<void> {
  const chosen = cases.filter(({ label }) => wanted(nameOf(type, label)));
  if (chosen.length === 0) return;
  await using llama = await openLlama(file, room);
  await using tessera = await openTessera(file, room);
  console.log(`${type.toUpperCase()}\n  Tessera    ${tessera.description}\n  llama.cpp  ${llama.description}`);

  // Noise only ever slows, so of few trials the best says which setting is the faster. They are the warm-up as well.
  const best = new Map<Case, Runs>();
  for (const one of chosen) {
    const trials = Object.entries(llama.settings).map(([name, side]) => ({ name, side, fastest: 0 }));
    const quiet = new Quiet(Number(flags.patience));
    for (let i = 0; i < 2; i++) for (const trial of trials) trial.fastest = Math.max(trial.fastest, await quiet.measure(() => one.run(trial.side)));
    trials.sort((a, b) => b.fastest - a.fastest);
    best.set(one, trials[0]!.side);
    console.log(`  ${one.label}: llama.cpp with ${trials.map(({ name, fastest }) => `${name} ${fastest.toFixed(1)}`).join(", ")}`);
    await one.run(tessera);
  }

  const found = new Map<Case, Result>(chosen.map((one) => [one, newResult(nameOf(type, one.label), "tokens/s")]));
  for (let round = 0; round < rounds; round++) {
    for (const [one, result] of found) {
      let read = 0;
      const ours = (): Promise<number> => {
        if (one.readsWeights) read = reader.measure();
        return one.run(tessera);
      };
      await alternate(round, ours, () => one.run(best.get(one)!), result);
      if (!one.readsWeights) continue;
      bandwidth.push(read / 1e9);
      for (const [side, values] of [["Tessera", result.ours], ["llama.cpp", result.theirs]] as const) {
        const key = `${result.name}: ${side}`, shares = sharesOfBandwidth.get(key) ?? [];
        sharesOfBandwidth.set(key, [...shares, (values.at(-1)! * bytesPerStep(benchmarkShape, type)) / read]);
      }
    }
  }
  results.push(...found.values());
}

/** Which token the newest process of each side said. */
const firstTokens = new Map<string, string>();

/** Seconds from the start of a process to its first token; its sources are compiled, and the file is in the page cache. */
function firstToken(side: string, file: string): Promise<number> {
  const script = fileURLToPath(new URL("peers/first-token.ts", import.meta.url));
  const env = { ...process.env, NODE_COMPILE_CACHE: fileURLToPath(new URL("../node_modules/.cache/compiled", import.meta.url)) };
  return new Promise((resolve, reject) => {
    const start = performance.now();
    const child = spawn(process.execPath, [script, side, file, String(threads)], { env, stdio: ["ignore", "pipe", "pipe"] });
    let seconds: number | undefined, errors = "";
    child.stdout.on("data", (said: Buffer) => {
      const id = /token (\d+)/.exec(said.toString())?.[1];
      if (id === undefined) return;
      seconds ??= (performance.now() - start) / 1000;
      firstTokens.set(side, id);
    });
    child.stderr.on("data", (said: Buffer) => (errors += said.toString()));
    child.on("error", reject);
    child.on("exit", (code) => (seconds !== undefined && code === 0 ? resolve(seconds) : reject(new Error(`${side} made no token (exit code ${code}):\n${errors}`))));
  });
}

async function measureFirstToken(type: GgufType, file: string): Promise<void> {
  const name = nameOf(type, firstTokenLabel);
  if (!wanted(name)) return;
  const result = newResult(name, "s", true);
  const ours = () => firstToken("tessera", file), theirs = () => firstToken("llama.cpp", file);
  await ours();
  await theirs();
  const [our, their] = [firstTokens.get("tessera"), firstTokens.get("llama.cpp")];
  console.log(`${name}: ${our === their ? `both say token ${our}` : `Tessera says token ${our}, llama.cpp ${their}: roundings differ, of random weights the first two tokens may be near each other`}`);
  for (let round = 0; round < rounds; round++) await alternate(round, ours, theirs, result, false);
  results.push(result);
}

const ratios = ({ ours, theirs, smallerIsBetter }: Result): number[] => ours.map((value, i) => (smallerIsBetter ? theirs[i]! / value : value / theirs[i]!));
const percent = (shares: readonly number[] | undefined): string => (shares ? ` (${Math.round(100 * median(shares))}% of memory's rate)` : "");

/** Rows of a table in Markdown. */
function table(): string[] {
  return [
    "| case | Tessera | llama.cpp | times as fast | in single rounds |", "|---|---|---|---|---|",
    ...results.map((result) => {
      const { name, unit, ours, theirs } = result, times = ratios(result);
      const cell = (side: string, values: readonly number[]): string => `${short(median(values))} ${unit}${percent(sharesOfBandwidth.get(`${name}: ${side}`))}`;
      return `| ${name} | ${cell("Tessera", ours)} | ${cell("llama.cpp", theirs)} | ${median(times).toFixed(2)} | ${Math.min(...times).toFixed(2)} to ${Math.max(...times).toFixed(2)} |`;
    }),
  ];
}

/** The table with its picture, in docs/performance.md. */
function writeDocs(description: string): void {
  const bars = results.map(({ name, unit, ours, theirs, smallerIsBetter }): Bars => ({ label: name, unit, values: [median(ours), median(theirs)], smallerIsBetter: smallerIsBetter ?? false }));
  const folder = new URL("../docs/performance/", import.meta.url);
  mkdirSync(folder, { recursive: true });
  writeFileSync(new URL("peers.svg", folder), drawBars("Tessera and llama.cpp on a CPU", `${threads} threads, random Llama of 0.4B parameters; longer is better`, ["Tessera", "llama.cpp"], bars));
  writePart("peers", ["![Bars of each case](performance/peers.svg)", "", ...table(), "", description]);
}

install();
const loadBefore = loadavg()[0]!;
using reader = new Reader(threads);
await reader.ready();
for (const type of types) {
  const file = cachedGguf(benchmarkShape, type);
  await measureRates(type, file, reader);
  await measureFirstToken(type, file);
}

if (bandwidth.length > 0) report("memory, read by all threads", bandwidth, "GB/s", threads);
const disturbed = results.filter(({ quiet }) => quiet.disturbed > 0);
for (const result of results) {
  if (disturbed.includes(result)) continue;
  const { name, unit, ours, theirs } = result;
  report(`${name}: Tessera`, ours, unit, threads);
  report(`${name}: llama.cpp`, theirs, unit, threads);
  report(`${name}: times llama.cpp's`, ratios(result), "times", threads);
  for (const side of ["Tessera", "llama.cpp"]) {
    const shares = sharesOfBandwidth.get(`${name}: ${side}`);
    if (shares) report(`${name}: ${side}, weights of memory's rate`, shares.map((share) => 100 * share), "%", threads);
  }
}
console.log(`\n${table().join("\n")}`);
const memoryRate = bandwidth.length ? `memory read at ${short(median(bandwidth))} GB/s, ` : "";
const description = `${setting(threads)}, ${memoryRate}load before the run ${loadBefore.toFixed(1)}; medians of ${rounds} rounds; model \`${Object.values(benchmarkShape).join(" ")}\`.`;
console.log(`\n${description}`);
if (disturbed.length > 0) {
  console.log(`\nMeasured beside other processes, and so no comparison: ${disturbed.map(({ name, quiet }) => `${name} (${quiet.disturbed} of ${rounds} rounds)`).join("; ")}. Nothing of these is recorded.`);
}
if (flags["write-docs"] && disturbed.length === 0) writeDocs(description);
process.exit(flags["write-docs"] && disturbed.length > 0 ? 1 : 0);
