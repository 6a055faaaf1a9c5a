/** One CSV row a case: what was measured, of which commit, on which machine. */
import { execFileSync } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";

export const resultsFolder = new URL("results/", import.meta.url);
export const columns = ["date", "commit", "node", "threads", "case", "value", "unit", "low", "high", "runs"] as const;

/** "amd-epyc-9b45-2", or of a GPU by its name: "nvidia-h100-80gb-hbm3" */
export function machineName(gpu?: string): string {
  return (gpu ?? `${cpus()[0]?.model ?? "cpu"} ${availableParallelism()}`).toLowerCase().replace(/\(r\)|\(tm\)|processor|cpu/g, "").replace(/[^a-z0-9.]+/g, "-").replace(/^-|-$/g, "");
}

/** The commit of the checkout, with + behind it when files differ from it; BENCH_COMMIT says it where the sources are a copy without git. */
export function commit(): string {
  const given = process.env["BENCH_COMMIT"];
  if (given) return given;
  try {
    const git = (...args: readonly string[]): string => execFileSync("git", args, { cwd: new URL("..", import.meta.url), encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
    return git("rev-parse", "--short", "HEAD") + (git("status", "--porcelain", "--untracked-files=no", "--", "src", "models") ? "+" : "");
  } catch {
    return "unknown";
  }
}

/** What stands beside numbers for people: day, commit, Node, threads and machine. */
export function setting(threads: number): string {
  return `${new Date().toISOString().slice(0, 10)}, commit ${commit()}, Node ${process.versions.node}, ${threads} thread${threads === 1 ? "" : "s"} of ${cpus()[0]?.model.trim()} (${availableParallelism()} cores)`;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Three digits that count, for tables: "48.2", "1650". */
export const short = (x: number): string => String(Number(x.toPrecision(3)));

const round = (x: number): string => x.toPrecision(4);
const quoted = (text: string): string => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

/** What some runs came to. */
export interface Spread {
  readonly median: number;
  readonly low: number;
  readonly high: number;
  readonly runs: number;
}

export const spreadOf = (values: readonly number[]): Spread => ({ median: median(values), low: Math.min(...values), high: Math.max(...values), runs: values.length });

/** "2026-11-23T08:49" */
export const minuteNow = (): string => new Date().toISOString().slice(0, 16);

/** A line of CSV. Without a spread: something that was not measured, as the name says. */
export function rowOf(name: string, spread: Spread | undefined, unit: string, threads: number, date = minuteNow()): string {
  const numbers = spread ? [round(spread.median), unit, round(spread.low), round(spread.high), spread.runs] : ["", unit, "", "", 0];
  return [date, commit(), process.versions.node, threads, quoted(name), ...numbers].join(",");
}

/** A line for people. */
export function lineOf(name: string, { median, low, high, runs }: Spread, unit: string, width = 34): string {
  return `${name.padEnd(width)} ${round(median).padStart(8)} ${unit.padEnd(9)} (${round(low)} to ${round(high)}, ${runs} runs)`;
}

/** Adds rows to a file of them, with the columns' names on top. */
export function appendRows(file: URL, rows: readonly string[]): void {
  mkdirSync(new URL(".", file), { recursive: true });
  if (!existsSync(file)) writeFileSync(file, `${columns.join(",")}\n`);
  appendFileSync(file, rows.map((row) => `${row}\n`).join(""));
}

/** Appends the median of `values` with their extremes to the machine's file, and prints it. */
export function report(name: string, values: readonly number[], unit: string, threads: number): void {
  const spread = spreadOf(values);
  appendRows(new URL(`${machineName()}.csv`, resultsFolder), [rowOf(name, spread, unit, threads)]);
  console.log(lineOf(name, spread, unit));
}
