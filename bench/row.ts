/** One CSV row a case: what was measured, of which commit, on which machine. */
import { execFileSync } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";

const folder = new URL("results/", import.meta.url);
const columns = ["date", "commit", "node", "threads", "case", "value", "unit", "low", "high", "runs"] as const;

/** "amd-epyc-9b45-2" */
export function machineName(): string {
  return `${cpus()[0]?.model ?? "cpu"} ${availableParallelism()}`.toLowerCase().replace(/\(r\)|\(tm\)|processor|cpu/g, "").replace(/[^a-z0-9.]+/g, "-").replace(/^-|-$/g, "");
}

/** The commit of the checkout, with + behind it when files differ from it. */
function commit(): string {
  try {
    const git = (...args: readonly string[]): string => execFileSync("git", args, { cwd: new URL("..", import.meta.url), encoding: "utf8" }).trim();
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

/** Appends the median of `values` with their extremes to the machine's file, and prints it. */
export function report(name: string, values: readonly number[], unit: string, threads: number): void {
  mkdirSync(folder, { recursive: true });
  const file = new URL(`${machineName()}.csv`, folder);
  if (!existsSync(file)) writeFileSync(file, `${columns.join(",")}\n`);
  const round = (x: number): string => x.toPrecision(4);
  const row = [
    new Date().toISOString().slice(0, 16), commit(), process.versions.node, threads, /[",]/.test(name) ? `"${name.replaceAll('"', '""')}"` : name,
    round(median(values)), unit, round(Math.min(...values)), round(Math.max(...values)), values.length,
  ];
  appendFileSync(file, `${row.join(",")}\n`);
  console.log(`${name.padEnd(34)} ${round(median(values)).padStart(8)} ${unit.padEnd(9)} (${round(Math.min(...values))} to ${round(Math.max(...values))}, ${values.length} runs)`);
}
