/**
 * The one shared memory: a control block that threads meet in, then a heap.
 *
 * Every thread sees the same bytes at the same addresses, so an address is all that crosses between them. Knows no kernels.
 */
import { UsageError, invariant } from "../../core/errors.ts";
import type { Buffer } from "../backend.ts";

/**
 * Byte addresses of the control block's i32 words. Words that different threads write stand on cache lines of their own.
 */
export const control = {
  /** Counts commands; parked workers wait on it. Behind it: the command, and its arguments. */
  commandSequence: 64, command: 68, argument0: 72, argument1: 76, argument2: 80,
  /** How many workers have carried out a `load`. */
  acknowledged: 128,
  /** The barrier: threads arrived, how often it has opened (waited on), threads asleep at it. */
  arrived: 192, generation: 256, sleepers: 260,
  /** The next unclaimed piece of the running kernel's work; zero whenever a kernel starts. */
  claim: 320,
  /** Not zero: everybody leaves at the next barrier. What went wrong is text of `errorLength` bytes at `errorText`, written by who took it first. */
  abort: 384, errorLength: 388, errorTaken: 392,
  /** How many threads take part, and whether thread 0 may sleep (a browser's main thread may not). */
  threads: 448, mayBlock: 452,
  /** Scratch of thread t starts at scratch + t * scratchStride. */
  scratch: 456, scratchStride: 460,
  /** Where thread 0 left a stalled program: after which record, and the generation it waits to see the end of. */
  stalledAt: 464, stalledGeneration: 468,
  /** The first live load out of range in a mod: [1, address of the arguments, capture slot, dimension, index]. */
  outOfRange: 512,
  errorText: 1024,
  bytes: 4096,
} as const;

const pageBytes = 65536;
/** 32-bit addresses end here. */
const maxPages = 65536;
const alignment = 64;

export class WasmBuffer implements Buffer {
  readonly address: number;
  readonly bytes: number;
  constructor(address: number, bytes: number) {
    this.address = address;
    this.bytes = bytes;
  }
  slice(offset: number, bytes: number): WasmBuffer {
    invariant(offset >= 0 && bytes >= 0 && offset + bytes <= this.bytes, `slice ${offset}+${bytes} of ${this.bytes} bytes`);
    return new WasmBuffer(this.address + offset, bytes);
  }
}

/** Hands out addresses of the shared memory, growing it as needed. First fit over a list of free stretches. */
export class Heap {
  readonly memory: WebAssembly.Memory;
  /** Free stretches [start, end), ascending, never touching. */
  #free: [number, number][] = [];
  #end: number;
  /** From here on no byte was ever handed out: still zero, and not yet backed by the machine's memory. */
  #fresh: number = control.bytes;
  readonly #allocated = new Map<number, number>();

  constructor() {
    // 16 pages hold the control block and small tensors; a maximum only reserves addresses.
    this.memory = new WebAssembly.Memory({ initial: 16, maximum: maxPages, shared: true });
    this.#end = 16 * pageBytes;
    this.#free.push([control.bytes, this.#end]);
  }

  /** Zeroed bytes, aligned to 64. @throws UsageError when 4 GiB are not enough. */
  alloc(bytes: number): WasmBuffer {
    const rounded = Math.max(alignment, Math.ceil(bytes / alignment) * alignment);
    const fits = this.#free.findIndex(([start, end]) => end - start >= rounded);
    if (fits < 0) {
      this.#grow(rounded);
      return this.alloc(bytes);
    }
    const stretch = this.#free[fits]!;
    const address = stretch[0];
    stretch[0] += rounded;
    if (stretch[0] === stretch[1]) this.#free.splice(fits, 1);
    this.#allocated.set(address, rounded);
    const used = Math.min(rounded, this.#fresh - address);
    if (used > 0) new Uint8Array(this.memory.buffer, address, used).fill(0);
    this.#fresh = Math.max(this.#fresh, address + rounded);
    return new WasmBuffer(address, bytes);
  }

  free(buffer: WasmBuffer): void {
    const size = this.#allocated.get(buffer.address);
    invariant(size !== undefined, `free of ${buffer.address}, which is not allocated`);
    this.#allocated.delete(buffer.address);
    const stretch: [number, number] = [buffer.address, buffer.address + size];
    const at = this.#free.findIndex(([start]) => start > stretch[0]);
    this.#free.splice(at < 0 ? this.#free.length : at, 0, stretch);
    this.#free = this.#free.reduce<[number, number][]>((merged, next) => {
      const last = merged.at(-1);
      if (last && last[1] === next[0]) last[1] = next[1];
      else merged.push(next);
      return merged;
    }, []);
  }

  /** Bytes handed out and not freed. */
  get allocatedBytes(): number {
    return [...this.#allocated.values()].reduce((a, b) => a + b, 0);
  }

  #grow(bytes: number): void {
    const last = this.#free.at(-1);
    const tail = last && last[1] === this.#end ? last[1] - last[0] : 0;
    const pages = Math.ceil((bytes - tail) / pageBytes);
    try {
      this.memory.grow(pages);
    } catch {
      throw new UsageError(
        `the wasm backend's memory is full: ${bytes} bytes asked for, ${maxPages * pageBytes - this.#end + tail} of 4 GiB left; ` +
          "try a smaller model, --max-model-len or --kv-cache-memory-bytes",
      );
    }
    const start = this.#end;
    this.#end += pages * pageBytes;
    if (tail) last![1] = this.#end;
    else this.#free.push([start, this.#end]);
  }
}
