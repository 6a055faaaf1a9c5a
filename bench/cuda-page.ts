/**
 * The part of docs/performance.md about GPUs, from rows that `cuda-attention` and `cuda-engine` left: measuring is done where the GPU is, this anywhere.
 * Of each it takes the newest run, whole: no number of one run stands beside one of another, but for the engine's table, which is of a run of its own.
 *
 *   npm run bench -- cuda-page [--rows FILE] [--machine NAME] [--write-docs]
 *
 * --rows adds the rows of a file that was brought from another machine to bench/results, those that are not there yet.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, resolve } from "node:path";
import { parseArgs } from "node:util";
import { cases, nameOf, peers, titleOf, unitOf } from "./cuda/cases.ts";
import { failed, readRows, type Row } from "./cuda/rows.ts";
import { writePart } from "./page.ts";
import { type Bars, drawBars } from "./plot.ts";
import { appendRows, resultsFolder, short } from "./row.ts";

const { values: flags } = parseArgs({ options: { rows: { type: "string" }, machine: { type: "string" }, "write-docs": { type: "boolean" }, help: { type: "boolean" } } });
if (flags.help) {
  console.log("npm run bench -- cuda-page [--rows FILE] [--machine NAME] [--write-docs]\n--rows: a CSV file of another machine, whose rows are added to bench/results\n--machine: a file of bench/results without .csv; the one with the newest run where it is left out");
  process.exit(0);
}

const attentionRow = /^(prefill|decode)\/.*: Tessera$/, engineRow = /^engine (.*), batch (\d+), context (\d+)(?:, ([^:]*))?: (.*)$/;
const fileOf = (machine: string): URL => new URL(`${machine}.csv`, resultsFolder);

/** Rows that are not in the machine's file yet go there. */
function bring(path: string): string {
  const machine = basename(path, ".csv"), there = readdirSync(resultsFolder).includes(`${machine}.csv`) ? readFileSync(fileOf(machine), "utf8").split("\n") : [];
  const [, ...lines] = readFileSync(resolve(path), "utf8").split("\n").filter((line) => line !== ""), fresh = lines.filter((line) => !there.includes(line));
  if (fresh.length > 0) appendRows(fileOf(machine), fresh);
  console.log(`${fresh.length} of ${lines.length} rows are new in bench/results/${machine}.csv`);
  return machine;
}

/** The rows of the newest run that has such a row, by name. */
function newestRun(rows: readonly Row[], pattern: RegExp): ReadonlyMap<string, Row> {
  const date = rows.filter((row) => pattern.test(row.case)).map((row) => row.date).toSorted().at(-1);
  return new Map(rows.filter((row) => row.date === date).map((row) => [row.case, row]));
}

function newestMachine(): string {
  const machines = readdirSync(resultsFolder).filter((name) => name.endsWith(".csv")).map((name) => basename(name, ".csv"));
  const dated = machines.flatMap((machine) => readRows(fileOf(machine)).filter((row) => attentionRow.test(row.case)).map((row) => ({ machine, date: row.date })));
  if (dated.length === 0) throw new Error("bench/results has no rows of cuda-attention; bring some by --rows FILE");
  return dated.reduce((a, b) => (b.date > a.date ? b : a)).machine;
}

const machine = flags.rows === undefined ? (flags.machine ?? newestMachine()) : bring(flags.rows);
const all = readRows(fileOf(machine));
const attention = newestRun(all, attentionRow), engine = newestRun(all, engineRow);

const valueOf = (run: ReadonlyMap<string, Row>, name: string): number | undefined => {
  const value = run.get(name)?.value;
  return value ? Number(value) : undefined;
};
const cell = (value: number | undefined, unit = ""): string => (value === undefined ? "" : `${short(value)}${unit}`);
const contenders = ["Tessera", ...Object.values(peers)];
const [firstPeer] = Object.values(peers);
const heading = (...cells: readonly string[]): string[] => [`| ${cells.join(" | ")} |`, `|${"---|".repeat(cells.length)}`];

/** What the cards, libraries and sources of a run were. */
function settingOf(run: ReadonlyMap<string, Row>): string {
  const [first] = run.values(), said = (what: string): string | undefined => [...run.keys()].find((name) => name.startsWith(what))?.slice(what.length);
  return [first!.date.slice(0, 10), `commit ${first!.commit}`, said("card: "), `Node ${first!.node}`, ...(said("peers: torch") ? [`PyTorch${said("peers: torch")!.replace(/, NVIDIA.*/, "")}`] : [])].join(", ");
}

/** Rows without a value, as they say it. */
function failures(run: ReadonlyMap<string, Row>): string[] {
  const names = [...run.values()].filter((row) => row.unit === failed).map((row) => row.case);
  return names.length === 0 ? [] : ["", `Not measured: ${names.join("; ")}.`];
}

function attentionTables(): string[] {
  const table = (kind: "prefill" | "decode"): string[] => {
    const unit = kind === "prefill" ? "TFLOP/s" : "GB/s", ofMemory = kind === "decode" ? ["Tessera, of memory's rate"] : [];
    return [
      ...heading(`${kind}, ${unit}`, ...contenders, ...ofMemory, `times ${firstPeer}'s`, "from runs farthest apart"),
      ...cases.filter((one) => one.kind === kind).map((one) => {
        const name = nameOf(one), times = attention.get(`${name}: times ${firstPeer}'s`);
        const share = valueOf(attention, `${name}: Tessera, of memory's rate`);
        return `| ${[
          titleOf(one).replace("decode, ", ""), ...contenders.map((who) => cell(valueOf(attention, `${name}: ${who}`))), ...ofMemory.map(() => (share === undefined ? "" : `${Math.round(share)}%`)),
          times ? Number(times.value).toFixed(2) : "", times ? `${Number(times.low).toFixed(2)} to ${Number(times.high).toFixed(2)}` : "",
        ].join(" | ")} |`;
      }),
    ];
  };
  const read = valueOf(attention, "memory, read by the GPU");
  const firsts = ["nothing on disk", "kernels on disk"].map((what) => [what, ...["first call of its process", "later calls"].map((call) => attention.get(`first result of a new mod, ${what}, ${call}`))] as const);
  const spread = (row: Row | string | undefined): string => (typeof row === "object" ? `${short(Number(row.value))} ms (${short(Number(row.low))} to ${short(Number(row.high))})` : "");
  return [
    "![Bars of each case](performance/gpu-attention.svg)", "", ...table("prefill"), "", ...table("decode"), "",
    ...(firsts.some(([, ...rows]) => rows.some(Boolean)) ? [...heading("first result of a new mod", "first call of a process", "later calls"), ...firsts.map(([what, ...rows]) => `| ${what} | ${rows.map(spread).join(" | ")} |`), ""] : []),
    `${settingOf(attention)}${read === undefined ? "" : `; memory read at ${short(read)} GB/s`}.`, ...failures(attention),
  ];
}

function engineTable(): string[] {
  const names = [...new Set([...engine.keys()].flatMap((name) => engineRow.exec(name)?.slice(1, 5).join("\n") ?? []))];
  if (names.length === 0) return [];
  const lines = names.map((key) => {
    const [model, batch, context, asking] = key.split("\n"), more = asking ? `, ${asking}` : "";
    const of = (what: string): number | undefined => valueOf(engine, `engine ${model}, batch ${batch}, context ${context}${more}: ${what}`);
    const host = of("host, a step"), hidden = of("host, hidden behind the step in front"), share = of("of memory's rate");
    return `| ${[
      `${batch} at ${context} tokens${more}`, cell(of("Tessera")), cell(of("step")), cell(of("floor of a step")), share === undefined ? "" : `${Math.round(share)}%`,
      host === undefined ? "" : `${short(host)} (${Math.round(hidden ?? 0)}% hidden)`, cell(of("prompts")),
    ].join(" | ")} |`;
  });
  const theirs = [...engine.values()].filter((row) => /: PyTorch \([^)]*\)$/.test(row.case) && row.value !== "").map((row) => `${row.case}: ${short(Number(row.value))} ${row.unit}`);
  return [
    "", ...heading("requests that decode", "tokens/s", "ms a step", "floor, ms", "of memory's rate", "host, ms a step", "prompts before, tokens/s"), ...lines, "",
    `${names[0]!.split("\n")[0]}, random weights in bf16; ${settingOf(engine)}.${theirs.length > 0 ? ` Beside it, compiled by PyTorch: ${theirs.join("; ")}.` : ""}`, ...failures(engine),
  ];
}

const bars = cases.map((one): Bars => ({ label: titleOf(one), unit: unitOf(one), values: contenders.map((who) => valueOf(attention, `${nameOf(one)}: ${who}`)) })).filter(({ values }) => values.some((x) => x !== undefined));
const lines = [...attentionTables(), ...engineTable()];
console.log(lines.join("\n"));
if (flags["write-docs"]) {
  const folder = new URL("../docs/performance/", import.meta.url), card = [...attention.keys()].find((name) => name.startsWith("card: "))?.slice("card: ".length) ?? machine;
  mkdirSync(folder, { recursive: true });
  writeFileSync(new URL("gpu-attention.svg", folder), drawBars(`Attention on ${card.split(",")[0]}`, `bf16, commit ${[...attention.values()][0]!.commit}; longer is better, in brackets: times ${firstPeer}'s`, contenders, bars));
  writePart("cuda-page", lines);
}
