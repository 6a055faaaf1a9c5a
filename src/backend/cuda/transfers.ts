/**
 * Bytes between JavaScript and the GPU, by way of pinned host memory, which the GPU reads and writes by itself.
 *
 * Writes go through a ring of segments: a segment is used again once the event behind its last copy has come. A read takes a block of its
 * own when it is asked for, so its place in the order of commands is the caller's, however late it is awaited. Knows one stream.
 */
import { type Driver, viewOf } from "#cuda-ffi";

const segmentBytes = 4 * 2 ** 20;
const numSegments = 8;
/** Copies of a ring start at multiples of this. */
const ringAlignment = 64;
/** Larger blocks for reads are freed after use. */
const keptBlockBytes = 64 * 2 ** 20;
const smallestBlockBytes = 4096;
/** How long a read asks in every turn of the event loop, and how long it naps between questions after that. Milliseconds. */
const spinMs = 50;
const napMs = 1;
/** cuEventCreate: no timing */
const disableTiming = 2;

/** What is needed of the driver. */
export type TransferCalls = Pick<Driver,
  "cuMemcpyHtoDAsync_v2" | "cuMemcpyDtoHAsync_v2" | "cuEventCreate" | "cuEventRecord" | "cuEventSynchronize" | "cuEventDestroy_v2" | "cuMemHostAlloc" | "cuMemFreeHost" | "ready">;

interface Pinned {
  readonly address: number;
  readonly bytes: Uint8Array;
}

/** Handles and sizes that calls return, or take, through memory. */
export class Out {
  readonly words = new Uint32Array(new ArrayBuffer(8));
  /** What the call before wrote: 64 bits. */
  get u64(): number {
    return this.words[0]! + this.words[1]! * 2 ** 32;
  }
  get i32(): number {
    return this.words[0]! | 0;
  }
  /** For a call that reads them: a number of 64 bits, or in its first four bytes one of 32. */
  set(value: number): Uint32Array<ArrayBuffer> {
    this.words[0] = value % 2 ** 32;
    this.words[1] = Math.floor(value / 2 ** 32);
    return this.words;
  }
}

export class Transfers {
  readonly #cu: TransferCalls;
  readonly #stream: number;
  readonly #out = new Out();
  readonly #segments: { readonly memory: Pinned; readonly event: number; used: boolean }[] = [];
  #segment = 0;
  /** Where the next copy begins in the segment. */
  #at = 0;
  /** Free blocks for reads by their size, and free events. */
  readonly #blocks = new Map<number, Pinned[]>();
  readonly #events: number[] = [];
  /** All that `close` frees. */
  readonly #allBlocks = new Set<Pinned>();
  readonly #allEvents = new Set<number>();

  readonly #view: typeof viewOf;

  /** `view`: how pinned memory is seen from JavaScript. */
  constructor(cu: TransferCalls, stream: number, view = viewOf) {
    this.#cu = cu;
    this.#stream = stream;
    this.#view = view;
  }

  write(address: number, data: Uint8Array): void {
    for (let done = 0; done < data.length; ) {
      if (this.#at >= segmentBytes) this.#nextSegment();
      const { memory } = this.#currentSegment(), count = Math.min(data.length - done, segmentBytes - this.#at);
      memory.bytes.set(data.subarray(done, done + count), this.#at);
      this.#cu.cuMemcpyHtoDAsync_v2(address + done, memory.address + this.#at, count, this.#stream);
      this.#at += Math.ceil(count / ringAlignment) * ringAlignment;
      done += count;
    }
  }

  async read(address: number, bytes: number): Promise<Uint8Array> {
    const block = this.#takeBlock(Math.max(bytes, 1)), event = this.#events.pop() ?? this.#newEvent();
    // Whatever fails here fails for good: the block and the event are freed by `close`.
    if (bytes > 0) this.#cu.cuMemcpyDtoHAsync_v2(block.address, address, bytes, this.#stream);
    this.#cu.cuEventRecord(event, this.#stream);
    await this.wait(event);
    const copy = block.bytes.slice(0, bytes);
    this.#events.push(event);
    this.#giveBack(block);
    return copy;
  }

  /**
   * Waits for an event. A step of a model takes milliseconds and a read ends it, so microseconds count: the event is asked for in every turn of
   * the event loop, which stays free for others between two questions (a few microseconds each). A call of cuEventSynchronize on another thread
   * would wake two threads after the other, tens of microseconds in all. What takes longer than a step is worth naps.
   */
  async wait(event: number): Promise<void> {
    for (let start: number | undefined; !this.#cu.ready(event); ) {
      start ??= performance.now();
      const { promise, resolve } = Promise.withResolvers<void>();
      if (performance.now() - start < spinMs) setImmediate(resolve);
      else setTimeout(resolve, napMs);
      await promise;
    }
  }

  /** Frees what calls in flight do not use: the stream has been waited for. */
  close(): void {
    for (const { memory, event } of this.#segments) {
      this.#cu.cuEventDestroy_v2(event);
      this.#cu.cuMemFreeHost(memory.address);
    }
    for (const event of this.#allEvents) this.#cu.cuEventDestroy_v2(event);
    for (const block of this.#allBlocks) this.#cu.cuMemFreeHost(block.address);
    this.#segments.length = 0;
    this.#allEvents.clear();
    this.#allBlocks.clear();
  }

  #currentSegment(): { readonly memory: Pinned; readonly event: number; used: boolean } {
    const current = this.#segments[this.#segment];
    if (current) return current;
    const fresh = { memory: this.#pin(segmentBytes), event: this.#createEvent(), used: false };
    this.#segments[this.#segment] = fresh;
    return fresh;
  }

  /** Leaves a full segment with an event behind it; what the next one held must have been copied. */
  #nextSegment(): void {
    const full = this.#currentSegment();
    this.#cu.cuEventRecord(full.event, this.#stream);
    full.used = true;
    this.#segment = (this.#segment + 1) % numSegments;
    this.#at = 0;
    const next = this.#segments[this.#segment];
    if (next?.used) this.#cu.cuEventSynchronize(next.event);
  }

  #takeBlock(bytes: number): Pinned {
    const size = bytes > keptBlockBytes ? bytes : Math.max(smallestBlockBytes, 2 ** Math.ceil(Math.log2(bytes)));
    const free = this.#blocks.get(size)?.pop();
    if (free) return free;
    const block = this.#pin(size);
    this.#allBlocks.add(block);
    return block;
  }

  #giveBack(block: Pinned): void {
    if (!this.#allBlocks.has(block)) return; // closed meanwhile
    const size = block.bytes.length;
    if (size > keptBlockBytes) {
      this.#allBlocks.delete(block);
      this.#cu.cuMemFreeHost(block.address);
      return;
    }
    const free = this.#blocks.get(size) ?? [];
    free.push(block);
    this.#blocks.set(size, free);
  }

  #newEvent(): number {
    const event = this.#createEvent();
    this.#allEvents.add(event);
    return event;
  }

  #createEvent(): number {
    this.#cu.cuEventCreate(this.#out.words, disableTiming);
    return this.#out.u64;
  }

  #pin(bytes: number): Pinned {
    this.#cu.cuMemHostAlloc(this.#out.words, bytes, 0);
    const address = this.#out.u64;
    return { address, bytes: this.#view(address, bytes) };
  }
}
