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

export class Others {
  #last = sample();

  /** Their share, 0 to 1, since this was asked last. */
  lap(): number {
    const before = this.#last, now = (this.#last = sample());
    return Math.max(0, now.busy - before.busy - (now.own - before.own)) / Math.max(1, now.total - before.total);
  }

  /** Waits until they leave the cores alone for half a second, or `seconds` have passed; whether they do. */
  async wait(most: number, seconds: number): Promise<boolean> {
    const end = performance.now() + 1000 * seconds;
    do {
      this.lap();
      await new Promise((resolve) => setTimeout(resolve, 500));
      if (this.lap() <= most) return true;
    } while (performance.now() < end);
    return false;
  }
}
