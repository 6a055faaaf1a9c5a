/**
 * Tells an engine that is stuck from one that is slow.
 *
 *   sign of life     a message (every step sends one), or a change of its pulse: words in shared memory that move with every piece of work
 *   with a pulse     silence of `patience` means that it is stuck: no step, however long, goes so long without a piece of work
 *   without one      (a process, a GPU) its event loop beats, and a beat that stays out for `patience` means that it is stuck. While it beats, only steps
 *                    tell whether the GPU goes on: silence of `patience`, or of ten times the longest so far, if that is more, and of `firstPatience`
 *                    before the first. What compiles meanwhile has `firstPatience` too, and does not count: no later step takes so long for it
 *
 * Time is counted in looks, not read from a clock: a machine that slept, or a thread that could not look, is no silence of the engine. Knows no timer.
 */

/** Seconds between two looks. */
export const lookSeconds = 0.5;
const patience = 4 / lookSeconds;
const firstPatience = 60 / lookSeconds;
/** How much longer than the longest step so far one may take. */
const tolerance = 10;

export class Watchdog {
  readonly #pulse: readonly Int32Array[] | undefined;
  #seen: readonly number[] = [];
  #signs = 0;
  /** Beats since the last look, and looks since the last beat; undefined: there was none. */
  #beats = 0;
  #silent: number | undefined;
  #preparing = false;
  /** Looks in a row at which it compiled. */
  #prepared = 0;
  /** Looks since the last sign of life, the most there have been, and whether there has been a sign. */
  #quiet = 0;
  #longest = 0;
  #begun = false;

  constructor(pulse: readonly Int32Array[] | undefined) {
    this.#pulse = pulse;
  }

  /** Work begins where there was none: what was quiet before counts for nothing. */
  start(): void {
    this.#quiet = this.#prepared = 0;
    if (this.#silent !== undefined) this.#silent = 0;
  }

  /** The engine has said something. */
  sign(): void {
    this.#signs++;
  }

  /** Its event loop turns. `preparing`: a step waits for kernels that are being compiled. */
  beat(preparing: boolean): void {
    this.#beats++;
    this.#silent ??= 0;
    this.#preparing = preparing;
  }

  /** To be called every `lookSeconds` while there is work. Whether the engine is stuck. */
  look(): boolean {
    const words = this.#pulse?.map((view) => Atomics.load(view, 0)) ?? [];
    const alive = this.#signs > 0 || words.some((word, i) => word !== this.#seen[i]);
    if (this.#silent !== undefined) this.#silent = this.#beats + this.#signs > 0 ? 0 : this.#silent + 1;
    this.#seen = words;
    this.#signs = this.#beats = 0;
    if (alive) {
      this.#longest = Math.max(this.#longest, this.#quiet);
      this.#begun = true;
      this.#quiet = this.#prepared = 0;
    } else if (this.#preparing) this.#prepared++;
    else this.#quiet++;
    if (this.#pulse) return this.#quiet >= patience;
    if ((this.#silent ?? 0) >= patience || this.#prepared >= firstPatience) return true;
    return this.#quiet >= (this.#begun ? Math.max(patience, tolerance * this.#longest) : firstPatience);
  }
}
