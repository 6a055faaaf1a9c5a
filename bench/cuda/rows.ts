/**
 * Rows of a run on a GPU: each is printed and written at once, so that a run which is cut off leaves what it had. All rows of a run have the minute at which it
 * began: whoever reads them can tell one run from another. What could not be measured is a row without a value, whose name says why.
 */
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { appendRows, columns, lineOf, machineName, minuteNow, resultsFolder, rowOf, type Spread, spreadOf } from "../row.ts";

/** The unit of a row that says what could not be measured. */
export const failed = "not measured";
const nameWidth = 72;

export class Rows {
  readonly #date = minuteNow();
  readonly #files: readonly URL[];
  numFailed = 0;

  /** `gpu`: as the driver calls it. `out`: a folder that gets the rows too. */
  constructor(gpu: string, out: string | undefined) {
    const file = `${machineName(gpu)}.csv`;
    this.#files = [new URL(file, resultsFolder), ...(out === undefined ? [] : [pathToFileURL(resolve(out, file))])];
  }

  put(name: string, measured: Spread | readonly number[], unit: string): void {
    const spread = "median" in measured ? measured : spreadOf(measured);
    for (const file of this.#files) appendRows(file, [rowOf(name, spread, unit, 1, this.#date)]);
    console.log(lineOf(name, spread, unit, nameWidth));
  }

  fail(name: string, error: unknown): void {
    this.numFailed++;
    const reason = (error instanceof Error ? error.message : String(error)).split("\n")[0]!;
    for (const file of this.#files) appendRows(file, [rowOf(`${name}: ${reason}`, undefined, failed, 1, this.#date)]);
    console.log(`${name.padEnd(nameWidth)} ${failed}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
  }

  /** What `body` gives; undefined, and a row that says why, where it throws. */
  async try<T>(name: string, body: () => Promise<T>): Promise<T | undefined> {
    try {
      return await body();
    } catch (error) {
      this.fail(name, error);
      return undefined;
    }
  }
}

/** A row of a file, its columns as they are. */
export type Row = Readonly<Record<(typeof columns)[number], string>>;

export function readRows(file: URL): Row[] {
  const [, ...lines] = readFileSync(file, "utf8").split("\n").filter((line) => line !== "");
  return lines.map((line) => {
    const cells = [...line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g)].map(([, inQuotes, plain]) => inQuotes?.replaceAll('""', '"') ?? plain!);
    return Object.fromEntries(columns.map((name, i) => [name, cells[i] ?? ""])) as Row;
  });
}

/** Every value of a spread through a function that may turn small into large: times into rates. */
export function through({ median, low, high, runs }: Spread, f: (x: number) => number): Spread {
  const [a, b] = [f(low), f(high)];
  return { median: f(median), low: Math.min(a, b), high: Math.max(a, b), runs };
}

/** How many times as fast, by times: of the medians, and of the extremes that lie farthest apart. */
export const timesAsFast = (ours: Spread, theirs: Spread): Spread =>
  ({ median: theirs.median / ours.median, low: theirs.low / ours.high, high: theirs.high / ours.low, runs: Math.min(ours.runs, theirs.runs) });
