/**
 * Whether the machine is the benchmark's alone: which share of its cores other processes take.
 *
 * Threads that wait for each other, spinning, lose far more than the share that is taken from them (a token of llama.cpp then takes twenty times as
 * long), so what is measured beside others compares nothing. Steal by other machines of the same host is not seen here.
 */
import { cpus } from "node:os";

interface Sample { readonly busy: number; readonly total: number; readonly own: number }

/** Milliseconds of all cores so far: busy, altogether, and of this process with its threads. */
function sample(): Sample {
  let busy = 0, idle = 0;
  for (const { times } of cpus()) {
    busy += times.user + times.nice + times.sys + times.irq;
    idle += times.idle;
  }
  const { user, system } = process.cpuUsage();
  return { busy, total: busy + idle, own: (user + system) / 1000 };
}

/** Share of the cores that others may take. */
const mostOthers = 0.1;

/** Measures while others leave the cores alone, as far as its patience goes. */
export class Quiet {
  #last = sample();
  #patience: number;
  /** Measurements that it had to take beside others. */
  disturbed = 0;

  /** `patience`: seconds that it may wait, and measure in vain, altogether. */
  constructor(patience: number) {
    this.#patience = patience;
  }

  /** The share of others since this was asked last. */
  #lap(): number {
    const before = this.#last, now = (this.#last = sample());
    return Math.max(0, now.busy - before.busy - (now.own - before.own)) / Math.max(1, now.total - before.total);
  }

  /** Waits until half a second passes in quiet, at most as long as its patience; whether it did. */
  async wait(): Promise<boolean> {
    const start = performance.now();
    try {
      do {
        this.#lap();
        await new Promise((resolve) => setTimeout(resolve, 500));
        if (this.#lap() <= mostOthers) return true;
      } while (performance.now() - start < 1000 * this.#patience);
      return false;
    } finally {
      this.#patience -= (performance.now() - start) / 1000;
    }
  }

  /** What `measure` gives when it was not disturbed, or the patience is used up. `ownProcess` is false where the work is in processes of its own, which would count as others. */
  async measure<T>(measure: () => Promise<T>, ownProcess = true): Promise<T> {
    for (;;) {
      const start = performance.now(), quiet = await this.wait();
      this.#lap();
      const value = await measure();
      if (quiet && !(ownProcess && this.#lap() > mostOthers)) return value;
      this.#patience -= (performance.now() - start) / 1000;
      if (this.#patience > 0) continue;
      this.disturbed++;
      return value;
    }
  }
}
