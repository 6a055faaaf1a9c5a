/** What a run on a GPU has found, line by line. Of a dry run, which computes nothing, results are counted and not looked at. Knows no kernel. */

export const median = (xs: readonly number[]): number => xs.toSorted((a, b) => a - b)[xs.length >> 1]!;
/** Milliseconds of `n` things as those of one, in microseconds. */
export const us = (ms: number, n = 1): string => `${((1000 * ms) / n).toFixed(2)} us`;

export class Report {
  /** Whether kernels are launched. */
  readonly dry: boolean;
  numFailed = 0;
  numChecked = 0;
  /** Results that a dry run does not have. */
  numUnseen = 0;
  readonly #print: (line: string) => void;

  constructor(dry: boolean, print: (line: string) => void = console.log) {
    this.dry = dry;
    this.#print = print;
  }

  /** What is of interest, and neither right nor wrong. */
  note(line: string): void {
    this.#print(line);
  }

  /** How long something took; a dry run has nothing to say of that. */
  time(line: string): void {
    if (!this.dry) this.#print(line);
  }

  /** A check that holds without a GPU too. `quiet`: told only where it fails, as there are very many. */
  check(ok: boolean, what: string, quiet = false): void {
    this.numChecked++;
    if (!ok) this.numFailed++;
    if (!ok || !quiet) this.#print(`${ok ? "PASS" : "FAIL"} ${what}`);
  }

  /** A check of what kernels have computed, or of how long they took: [is it right, what was looked at]. */
  result(look: () => readonly [ok: boolean, what: string], quiet = false): void {
    if (this.dry) this.numUnseen++;
    else this.check(...look(), quiet);
  }

  /** A group of checks. What it throws is a failure, and the groups behind it run all the same. */
  async section(what: string, body: () => Promise<void> | void): Promise<void> {
    const start = performance.now(), before = this.numFailed, checked = this.numChecked + this.numUnseen;
    try {
      await body();
    } catch (error) {
      this.check(false, `${what}: ${(error as Error).stack}`);
    }
    const num = this.numChecked + this.numUnseen - checked;
    this.#print(`${this.numFailed === before ? "PASS" : "FAIL"} ${what} (${num} checks, ${((performance.now() - start) / 1000).toFixed(1)} s)`);
  }

  /** The last line. Whether nothing failed, and there was something to fail. */
  end(): boolean {
    const ok = this.numFailed === 0 && this.numChecked + this.numUnseen > 0;
    this.#print(`${ok ? "PASS" : "FAIL"} ${this.numChecked} checked, ${this.numFailed} failed${this.dry ? `; dry: ${this.numUnseen} results were not computed` : ""}`);
    return ok;
  }
}
