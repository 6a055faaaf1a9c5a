/**
 * How many threads a program runs on: all of them, or one where meeting at barriers costs more than the others save.
 *
 * Which it is depends on the model, the machine and who else is on it, so it is measured: for each size of step the slower of
 * the two is tried again now and then, ever more rarely. Only short steps are in question. A row's bits do not depend on it. Knows
 * no clock and no pool.
 */
export type Threads = "all" | "one";

/** Runs in a row that tell how fast one of the two is. The first of them finds cold caches, or threads asleep, and does not count. */
const trialRuns = 6;
const recentRuns = 12;
/** A step that takes longer on all threads has work enough for them. */
const shortMilliseconds = 4;
/** Runs between two trials: at first, and where the same came out again and again. */
const firstInterval = 64, lastInterval = 8192;
/** How much faster the other must be, so that noise alone does not change the choice. */
const clearly = 0.93;

interface Size {
  current: Threads;
  readonly times: Record<Threads, number[]>;
  /** Runs left of a trial of the other; runs until the next. */
  trial: number;
  untilTrial: number;
  interval: number;
}

const median = (times: readonly number[]): number => times.toSorted((a, b) => a - b)[times.length >> 1]!;
const other: Readonly<Record<Threads, Threads>> = { all: "one", one: "all" };

export class ThreadChoice {
  /** By the power of two that the step's rows are below. */
  readonly #sizes = new Map<number, Size>();

  #size(rows: number): Size {
    const bucket = 32 - Math.clz32(rows);
    let size = this.#sizes.get(bucket);
    if (!size) this.#sizes.set(bucket, (size = { current: "all", times: { all: [], one: [] }, trial: 0, untilTrial: recentRuns, interval: firstInterval }));
    return size;
  }

  /** What the next run of `rows` rows takes. */
  choose(rows: number): Threads {
    const size = this.#size(rows);
    return size.trial > 0 ? other[size.current] : size.current;
  }

  /** How long that run took. */
  measured(rows: number, milliseconds: number): void {
    const size = this.#size(rows), { times, current } = size;
    if (size.trial > 0) {
      if (size.trial < trialRuns) times[other[current]].push(milliseconds);
      size.trial--;
      if (size.trial === 0) this.#decide(size);
      return;
    }
    times[current].push(milliseconds);
    if (times[current].length > recentRuns) times[current].shift();
    if (--size.untilTrial > 0) return;
    size.untilTrial = size.interval;
    if (current === "all" && Math.min(...times.all) > shortMilliseconds) return;
    times[other[current]].length = 0;
    size.trial = trialRuns;
  }

  #decide(size: Size): void {
    const { current, times } = size;
    if (median(times[other[current]]) < clearly * median(times[current])) {
      size.current = other[current];
      size.interval = firstInterval;
    } else size.interval = Math.min(2 * size.interval, lastInterval);
    size.untilTrial = size.interval;
  }
}
