/**
 * The threads that run kernels together: the caller's own (thread 0) and workers, over one shared memory.
 *
 * Commands go through memory, never through messages, so they reach workers that have no event loop turn to spare. A worker that
 * dies is noticed where thread 0 would wait for it: the nap at the barrier ends, the event loop hears of the exit, and the
 * program fails by name. After a failure the pool is finished: every later call throws the same error.
 */
import { startWorker } from "#wasm-worker";
import type { Thread } from "../../core/thread.ts";
import { invariant } from "../../core/errors.ts";
import { control, Heap } from "./memory.ts";
import { command, status } from "./runtime.ts";
import { abort, abortReason, packBanks, ThreadRuntime } from "./thread.ts";

const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));

export class Pool {
  readonly numThreads: number;
  readonly #heap: Heap;
  readonly #own: ThreadRuntime;
  readonly workers: Thread[] = [];
  #failure: Error | undefined;
  #closed = false;
  /** The rest of a program that stalled, or a load; what is submitted meanwhile waits, in order. */
  #pending: Promise<void> | undefined;
  readonly #waiting: (() => void)[] = [];
  #numSlots = 0;

  private constructor(heap: Heap, numThreads: number) {
    this.#heap = heap;
    this.numThreads = numThreads;
    this.#set(control.threads, numThreads);
    this.#set(control.mayBlock, Number(mayBlock()));
    this.#own = new ThreadRuntime(heap.memories, 0);
  }

  /** Starts `numThreads - 1` workers and waits until they are parked. They do not keep the process alive. */
  static async open(heap: Heap, numThreads: number): Promise<Pool> {
    const pool = new Pool(heap, numThreads);
    try {
      for (let thread = 1; thread < numThreads; thread++) {
        const worker = startWorker({ memories: heap.memories, thread });
        pool.workers.push(worker);
        worker.onExit((reason) => pool.#died(`wasm thread ${thread} of ${numThreads} ended (${reason})`));
      }
      await pool.#acknowledgements();
    } catch (error) {
      await pool.close(); // those that did start would keep the process alive
      throw error;
    }
    for (const worker of pool.workers) worker.unref();
    return pool;
  }

  /** Whether a stalled program or a load is under way. */
  get busy(): boolean {
    return this.#pending !== undefined;
  }

  /** Carries out `action` now, or in its turn behind what is under way. It must not throw. */
  submit(action: () => void): void {
    if (this.busy) this.#waiting.push(action);
    else action();
  }

  /**
   * Delivers a module of `count` kernels to every thread, in its turn: what is submitted from now on may use the table's slots from
   * `slot` on. `banks` are the memories (memory.ts) that the module imports beside the first, in their order.
   */
  load(bytes: Uint8Array<ArrayBuffer>, count: number, banks: readonly number[] = []): { readonly slot: number; readonly loaded: Promise<void> } {
    const slot = this.#numSlots;
    this.#numSlots += count;
    const loaded = new Promise<void>((resolve, reject) => this.submit(() => {
      const loading = this.#load(bytes, slot, banks);
      loading.then(resolve, reject);
      if (this.workers.length > 0) this.#begin(loading);
    }));
    return { slot, loaded };
  }

  async #load(bytes: Uint8Array<ArrayBuffer>, slot: number, banks: readonly number[]): Promise<void> {
    if (this.#failure) throw this.#failure;
    this.#own.load(bytes, slot, banks);
    if (this.workers.length === 0) return;
    const copy = this.#heap.alloc(bytes.length);
    this.#heap.view(copy).set(bytes);
    this.#set(control.acknowledged, 0);
    this.#command(command.load, copy.address, bytes.length, slot, packBanks(banks));
    await this.#acknowledgements();
    this.#heap.free(copy);
  }

  /**
   * Runs a program (runtime.ts) to its end, unless it stalls: then the rest runs behind `settled`. Not while the pool is busy.
   * `alone`: on thread 0, the others not hearing of it.
   */
  run(program: number, alone = false): void {
    if (this.#failure) throw this.#failure;
    invariant(!this.busy, "a program runs while something else is under way");
    // Without a kernel there is no barrier: a worker could hear of this command and the next as one.
    if (new Int32Array(this.#heap.memory.buffer, program, 1)[0] === 0) return;
    this.#words()[control.threads / 4] = alone ? 1 : this.numThreads;
    if (!alone) this.#command(command.run, program);
    if (this.#step(program, false) === status.stalled) this.#begin(this.#resume(program));
    if (this.#failure) throw this.#failure;
  }

  /** Waits for everything submitted. @throws what made it fail */
  async settled(): Promise<void> {
    while (this.#pending) await this.#pending;
    if (this.#failure) throw this.#failure;
  }

  /** What is submitted from now on waits for `work`. Its failure is its owner's to report; a program's is in `#failure`. */
  #begin(work: Promise<unknown>): void {
    const end = (): void => {
      this.#pending = undefined;
      while (!this.busy && this.#waiting.length > 0) this.#waiting.shift()!();
    };
    this.#pending = work.then(end, end);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#failure ??= new Error("the wasm backend is closed");
    this.#command(command.exit);
    await Promise.all(this.workers.map((w) => w.terminate()));
  }

  #step(program: number, resume: boolean): number {
    try {
      const outcome = this.#own.run(program, resume);
      if (outcome === status.aborted) this.#failure ??= new Error(`a wasm kernel failed: ${abortReason(this.#heap.memory)}`);
      return outcome;
    } catch (error) {
      abort(this.#heap.memory, "thread 0 failed");
      this.#failure ??= new Error(`a wasm kernel failed: thread 0: ${error instanceof Error ? error.message : String(error)}`);
      return status.aborted;
    }
  }

  async #resume(program: number): Promise<void> {
    do await turn();
    while (!this.#failure && this.#step(program, true) === status.stalled);
    if (this.#failure) throw this.#failure;
  }

  #died(reason: string): void {
    if (this.#closed) return;
    this.#failure ??= new Error(abortReason(this.#heap.memory) === undefined ? reason : `a wasm kernel failed: ${abortReason(this.#heap.memory)}`);
    abort(this.#heap.memory, reason);
  }

  async #acknowledgements(): Promise<void> {
    while (!this.#failure && Atomics.load(this.#words(), control.acknowledged / 4) < this.workers.length) await turn();
    if (this.#failure) throw this.#failure;
  }

  #command(kind: number, ...args: readonly number[]): void {
    const words = this.#words();
    words[control.command / 4] = kind;
    words.set(args, control.argument0 / 4);
    Atomics.add(words, control.commandSequence / 4, 1);
    if (this.workers.length > 0) Atomics.notify(words, control.commandSequence / 4);
  }

  #set(word: number, value: number): void {
    Atomics.store(this.#words(), word / 4, value);
  }

  #view: Int32Array | undefined;
  /** The control block. The view is kept: a shared memory that grows stays where it is. */
  #words(): Int32Array {
    return (this.#view ??= new Int32Array(this.#heap.memory.buffer, 0, control.bytes / 4));
  }
}

/** A browser's main thread may not sleep. */
function mayBlock(): boolean {
  return typeof (globalThis as { document?: unknown }).document === "undefined";
}
