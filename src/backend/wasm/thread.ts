/**
 * One thread's own side of the shared memories: its runtime instance and its table of kernels.
 *
 * Kernels arrive as bytes in the shared memory and are compiled where they are used, so a parked worker needs no event loop to
 * receive one. V8 keeps one native copy of equal bytes in a process.
 */
import { command, runtimeModule } from "./runtime.ts";
import { control } from "./memory.ts";

export class ThreadRuntime {
  /** By bank; the first is what threads meet in. */
  readonly #memories: readonly WebAssembly.Memory[];
  readonly #memory: WebAssembly.Memory;
  readonly #table = new WebAssembly.Table({ element: "anyfunc", initial: 64 });
  readonly #thread: number;
  readonly #exports: { run(program: number, thread: number, resume: number): number; park(seen: number): number };

  constructor(memories: readonly WebAssembly.Memory[], thread: number) {
    this.#memories = memories;
    this.#memory = memories[0]!;
    this.#thread = thread;
    const module = new WebAssembly.Module(runtimeModule().bytes());
    this.#exports = new WebAssembly.Instance(module, { env: { memory: this.#memory, table: this.#table } }).exports as never;
  }

  /**
   * Compiles a module of kernels and puts its exports, in order, into the table from `slot` on. The memories that it imports
   * beside the first are `banks`, in their order.
   */
  load(bytes: Uint8Array<ArrayBuffer>, slot: number, banks: readonly number[]): void {
    const module = new WebAssembly.Module(bytes);
    const names = WebAssembly.Module.imports(module).flatMap(({ kind, name }) => (kind === "memory" ? [name] : []));
    const env = Object.fromEntries(names.map((name, i) => [name, this.#memories[i === 0 ? 0 : banks[i - 1]!]!]));
    const kernels = Object.values(new WebAssembly.Instance(module, { env }).exports);
    if (slot + kernels.length > this.#table.length) this.#table.grow(2 * (slot + kernels.length) - this.#table.length);
    kernels.forEach((k, i) => this.#table.set(slot + i, k));
  }

  #copyOf(address: number, bytes: number): Uint8Array<ArrayBuffer> {
    // Another thread's growth may not have reached this one's view of the memory; growing by nothing renews it.
    if (address + bytes > this.#memory.buffer.byteLength) this.#memory.grow(0);
    return new Uint8Array(this.#memory.buffer, address, bytes).slice();
  }

  /** This thread's share of a program; `status` tells how it ended. */
  run(program: number, resume = false): number {
    return this.#exports.run(program, this.#thread, resume ? 1 : 0);
  }

  /** A worker's whole life: wait for a command, carry it out. Returns on `exit`; a failure aborts everybody and returns. */
  serve(): void {
    const words = (): Int32Array => new Int32Array(this.#memory.buffer, 0, control.bytes / 4); // anew: memory may have grown
    const acknowledge = (): void => void Atomics.add(words(), control.acknowledged / 4, 1);
    let seen = 0;
    acknowledge();
    try {
      for (;;) {
        seen = this.#exports.park(seen);
        const w = words();
        switch (w[control.command / 4]) {
          case command.run:
            this.run(w[control.argument0 / 4]!);
            break;
          case command.load:
            this.load(this.#copyOf(w[control.argument0 / 4]! >>> 0, w[control.argument1 / 4]!), w[control.argument2 / 4]!, unpackBanks(w[control.argument3 / 4]!));
            acknowledge();
            break;
          default:
            return;
        }
      }
    } catch (error) {
      abort(this.#memory, `thread ${this.#thread}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
}

/** Up to four banks as one word of a command. */
export const packBanks = (banks: readonly number[]): number => banks.reduce((word, bank, i) => word | (bank << (8 * i)), 0);
const unpackBanks = (word: number): number[] => [0, 8, 16, 24].map((shift) => (word >>> shift) & 0xff);

/** Tells everybody to leave at the next barrier, and why. The first reason stands. */
export function abort(memory: WebAssembly.Memory, reason: string): void {
  const words = new Int32Array(memory.buffer, 0, control.bytes / 4);
  // The reason first: whoever sees the flag reads it at once.
  if (Atomics.compareExchange(words, control.errorTaken / 4, 0, 1) === 0) {
    const text = new TextEncoder().encode(reason).subarray(0, control.bytes - control.errorText);
    new Uint8Array(memory.buffer).set(text, control.errorText);
    Atomics.store(words, control.errorLength / 4, text.length);
  }
  Atomics.store(words, control.abort / 4, 1);
  Atomics.notify(words, control.generation / 4);
}

/** The reason given to `abort`, or undefined when nobody has. */
export function abortReason(memory: WebAssembly.Memory): string | undefined {
  const words = new Int32Array(memory.buffer, 0, control.bytes / 4);
  if (Atomics.load(words, control.abort / 4) === 0) return undefined;
  const bytes = new Uint8Array(memory.buffer, control.errorText, Atomics.load(words, control.errorLength / 4)).slice();
  return new TextDecoder().decode(bytes);
}
