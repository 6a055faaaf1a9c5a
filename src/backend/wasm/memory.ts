/**
 * The shared memory of all threads: a control block that they meet in, then a heap.
 *
 * Every thread sees the same bytes at the same addresses, so an address is all that crosses between them. An address has 32 bits;
 * what is larger than 4 GiB lies in several memories, the banks. Bank 0 has the control block and whatever kernels work on;
 * weights and KV caches may lie in any. Knows no kernels.
 */
import { UsageError, invariant } from "../../core/errors.ts";
import type { Buffer, BufferUse } from "../backend.ts";

/**
 * Byte addresses of the control block's i32 words. Words that different threads write stand on cache lines of their own.
 */
export const control = {
  /** Counts commands; parked workers wait on it. Behind it: the command, and its arguments. */
  commandSequence: 64, command: 68, argument0: 72, argument1: 76, argument2: 80, argument3: 84,
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
  /** What threads hand each other of one kernel's work (attention.ts): where, and how many bytes. Words that count are zero between kernels. */
  shared: 472, sharedBytes: 476,
  /** Where thread 0 left a stalled program: after which record, and the generation it waits to see the end of. */
  stalledAt: 464, stalledGeneration: 468,
  /** The first live load out of range in a mod: [1, address of the arguments, capture slot, dimension, index]. */
  outOfRange: 512,
  errorText: 1024,
  bytes: 4096,
} as const;

const pageBytes = 65536;
/** 32-bit addresses end at 4 GiB. The last page stays unused, so that the end of a buffer is an address too. */
export const bankBytes = 65535 * pageBytes;
const alignment = 64;
/** What weights and caches leave free in bank 0 where there are others: room for programs, arguments, scratch, kernels and weights on their way. */
const reserveBytes = 256 * 2 ** 20;

export class WasmBuffer implements Buffer {
  readonly address: number;
  readonly bytes: number;
  readonly bank: number;
  constructor(address: number, bytes: number, bank = 0) {
    this.address = address;
    this.bytes = bytes;
    this.bank = bank;
  }
  slice(offset: number, bytes: number): WasmBuffer {
    invariant(offset >= 0 && bytes >= 0 && offset + bytes <= this.bytes, `slice ${offset}+${bytes} of ${this.bytes} bytes`);
    return new WasmBuffer(this.address + offset, bytes, this.bank);
  }
}

/** One memory's addresses, handed out. First fit over a list of free stretches; the memory grows as needed. */
class Bank {
  readonly memory: WebAssembly.Memory;
  readonly #limit: number;
  /** Free stretches [start, end), ascending, never touching. */
  #free: [number, number][] = [];
  #end: number;
  /** From here on no byte was ever handed out: still zero, and not yet backed by the machine's memory. */
  #fresh: number;
  readonly #allocated = new Map<number, number>();

  /** `initialPages` are there from the start; the first `taken` bytes are never handed out. A limit only reserves addresses. @throws RangeError */
  constructor(initialPages: number, limit: number, taken: number) {
    this.memory = new WebAssembly.Memory({ initial: initialPages, maximum: limit / pageBytes, shared: true });
    this.#limit = limit;
    this.#end = initialPages * pageBytes;
    this.#fresh = taken;
    if (taken < this.#end) this.#free.push([taken, this.#end]);
  }

  /** The address of `bytes` (a multiple of the alignment) zeroed bytes; undefined where there is no room. */
  alloc(bytes: number): number | undefined {
    let fits = this.#free.findIndex(([start, end]) => end - start >= bytes);
    if (fits < 0) {
      if (!this.#grow(bytes)) return undefined;
      fits = this.#free.length - 1;
    }
    const stretch = this.#free[fits]!;
    const address = stretch[0];
    stretch[0] += bytes;
    if (stretch[0] === stretch[1]) this.#free.splice(fits, 1);
    this.#allocated.set(address, bytes);
    const used = Math.min(bytes, this.#fresh - address);
    if (used > 0) new Uint8Array(this.memory.buffer, address, used).fill(0);
    this.#fresh = Math.max(this.#fresh, address + bytes);
    return address;
  }

  free(address: number): void {
    const size = this.#allocated.get(address);
    invariant(size !== undefined, `free of ${address}, which is not allocated`);
    this.#allocated.delete(address);
    const stretch: [number, number] = [address, address + size];
    const at = this.#free.findIndex(([start]) => start > stretch[0]);
    this.#free.splice(at < 0 ? this.#free.length : at, 0, stretch);
    this.#free = this.#free.reduce<[number, number][]>((merged, next) => {
      const last = merged.at(-1);
      if (last && last[1] === next[0]) last[1] = next[1];
      else merged.push(next);
      return merged;
    }, []);
  }

  get allocatedBytes(): number {
    return [...this.#allocated.values()].reduce((a, b) => a + b, 0);
  }

  /** The longest stretch that may still be had. */
  get roomBytes(): number {
    return Math.max(this.#limit - this.#end + this.#tail, ...this.#free.map(([start, end]) => end - start));
  }

  /** Free bytes at the end of what the memory has grown to. */
  get #tail(): number {
    const last = this.#free.at(-1);
    return last && last[1] === this.#end ? last[1] - last[0] : 0;
  }

  /** Makes the last free stretch at least this long. */
  #grow(bytes: number): boolean {
    const tail = this.#tail;
    const pages = Math.ceil((bytes - tail) / pageBytes);
    if (this.#end + pages * pageBytes > this.#limit) return false;
    try {
      this.memory.grow(pages);
    } catch {
      return false;
    }
    const start = this.#end;
    this.#end += pages * pageBytes;
    if (tail) this.#free.at(-1)![1] = this.#end;
    else this.#free.push([start, this.#end]);
    return true;
  }
}

const remedies: Readonly<Record<BufferUse | "working", string>> = {
  weights: "a smaller model, --quantization int8 or int4, or a smaller --kv-cache-memory-bytes",
  kvCache: "a smaller --kv-cache-memory-bytes or --max-model-len",
  working: "a smaller --max-model-len, --max-num-batched-tokens or --max-num-seqs",
};

export interface HeapOptions {
  /** How much will be asked for in all, in bytes: how many banks to reserve. Default: one bank is enough. */
  readonly memoryBytes?: number;
  /** The size of a bank, a multiple of 64 KiB; smaller than it can be only in tests. */
  readonly bankBytes?: number;
}

/** Hands out buffers of the banks. */
export class Heap {
  readonly #banks: readonly Bank[];
  readonly #bankBytes: number;
  readonly #reserved: number;

  constructor({ memoryBytes = 0, bankBytes: limit = bankBytes }: HeapOptions = {}) {
    this.#bankBytes = limit;
    this.#reserved = Math.min(reserveBytes, limit / 2);
    // 16 pages hold the control block and small tensors.
    const banks = [new Bank(Math.min(16, limit / pageBytes), limit, control.bytes)];
    // Tensors do not fill banks to the last byte, but every two neighbours hold one bank's worth: twice as many always do.
    const wanted = memoryBytes <= limit - this.#reserved ? 1 : 2 * Math.ceil(memoryBytes / limit) + 1;
    try {
      while (banks.length < wanted) banks.push(new Bank(0, limit, 0));
    } catch {
      // No addresses for another: what there is may do, and alloc says so where it does not.
    }
    this.#banks = banks;
  }

  /** Bank 0's: the control block, and where addresses without a bank point. */
  get memory(): WebAssembly.Memory {
    return this.#banks[0]!.memory;
  }

  get memories(): readonly WebAssembly.Memory[] {
    return this.#banks.map((bank) => bank.memory);
  }

  /** The bytes of a buffer. Valid until the memory grows. */
  view({ bank, address, bytes }: WasmBuffer): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.#banks[bank]!.memory.buffer, address, bytes);
  }

  /** Zeroed bytes, aligned to 64: in bank 0, unless `use` allows for any. @throws UsageError when there is no room. */
  alloc(bytes: number, use?: BufferUse): WasmBuffer {
    const rounded = Math.max(alignment, Math.ceil(bytes / alignment) * alignment);
    for (const [index, bank] of (use ? this.#banks : this.#banks.slice(0, 1)).entries()) {
      const reserved = use && index === 0 && this.#banks.length > 1 ? this.#reserved : 0;
      const address = bank.roomBytes >= rounded + reserved ? bank.alloc(rounded) : undefined;
      if (address !== undefined) return new WasmBuffer(address, bytes, index);
    }
    const left = use ? Math.max(...this.#banks.map((bank) => bank.roomBytes)) : this.#banks[0]!.roomBytes;
    const where = use ? `in the emptiest of ${this.#banks.length} memories of ${this.#bankBytes}` : `of the ${this.#bankBytes} that hold all but weights and KV cache`;
    const whole = rounded > this.#bankBytes ? " (what is asked for at once must fit one memory)" : "";
    throw new UsageError(`the wasm backend's memory is full: ${bytes} bytes asked for, ${left} left ${where}${whole}; try ${remedies[use ?? "working"]}`);
  }

  free({ bank, address }: WasmBuffer): void {
    this.#banks[bank]!.free(address);
  }

  /** Bytes handed out and not freed. */
  get allocatedBytes(): number {
    return this.#banks.reduce((sum, bank) => sum + bank.allocatedBytes, 0);
  }
}
