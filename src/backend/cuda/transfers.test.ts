/** The ring and the blocks for reads, over a driver that does nothing before it is waited for: what is written over too early shows. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Out, type TransferCalls, Transfers } from "./transfers.ts";

/** A stream that falls behind as far as it may. Pinned memory and the GPU's are arrays here, at made-up addresses. */
class Lazy {
  readonly gpu: Uint8Array<ArrayBuffer>;
  readonly pinned = new Map<number, Uint8Array<ArrayBuffer>>();
  readonly events = new Set<number>();
  readonly queue: (() => void)[] = [];
  /** How often an event must be asked for before the GPU has come so far. */
  patience = 3;
  waits = 0;
  #next = 0x10_0000_0000;
  #recorded = new Map<number, number>();
  #done = 0;

  constructor(bytes: number) {
    this.gpu = new Uint8Array(bytes);
  }

  readonly view = (address: number, bytes: number): Uint8Array<ArrayBuffer> => {
    const memory = new Uint8Array(bytes);
    this.pinned.set(address, memory);
    return memory;
  };

  readonly calls: TransferCalls = {
    cuMemHostAlloc: (out) => this.#give(out),
    cuMemFreeHost: (address) => assert.ok(this.pinned.delete(address)),
    cuEventCreate: (out) => void this.events.add(this.#give(out)),
    cuEventDestroy_v2: (event) => assert.ok(this.events.delete(event)),
    cuMemcpyHtoDAsync_v2: (to, from, bytes) => void this.queue.push(() => this.gpu.set(this.#at(from, bytes), to)),
    cuMemcpyDtoHAsync_v2: (to, from, bytes) => void this.queue.push(() => this.#at(to, bytes).set(this.gpu.subarray(from, from + bytes))),
    cuEventRecord: (event) => void this.#recorded.set(event, this.#done + this.queue.length),
    cuEventSynchronize: (event) => {
      this.waits++;
      this.#runTo(event);
    },
    ready: (event) => {
      if (this.patience-- > 0) return false;
      this.patience = 3;
      this.#runTo(event);
      return true;
    },
  };

  #runTo(event: number): void {
    for (; this.#done < this.#recorded.get(event)!; this.#done++) this.queue.shift()!();
  }

  #at(address: number, bytes: number): Uint8Array {
    for (const [start, memory] of this.pinned) if (address >= start && address + bytes <= start + memory.length) return memory.subarray(address - start, address - start + bytes);
    return assert.fail(`${address} is not pinned`);
  }

  #give(out: ArrayBufferView | null): number {
    const address = (this.#next += 2 ** 30);
    (out as Uint32Array).set([address % 2 ** 32, Math.floor(address / 2 ** 32)]);
    return address;
  }
}

function noise(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = Math.imul(i ^ Math.imul(seed, 0x9e3779b1), 0x85ebca6b) >>> 13;
  return bytes;
}
const mib = 2 ** 20;

test("64-bit results come back as numbers", () => {
  const out = new Out();
  new BigUint64Array(out.words.buffer)[0] = 0x7fff_8765_4321n;
  assert.equal(out.u64, 0x7fff_8765_4321);
  out.words[0] = 0xffff_ffff;
  assert.equal(out.i32, -1);
});

test("a write longer than the ring arrives whole, from data that is overwritten on return", async () => {
  const lazy = new Lazy(41 * mib), transfers = new Transfers(lazy.calls, 1, lazy.view), data = noise(40 * mib + 3, 1), copy = data.slice();
  transfers.write(5, data);
  data.fill(0);
  assert.ok(lazy.waits > 0 && lazy.pinned.size === 8, "the ring went round");
  assert.equal(Buffer.compare(await transfers.read(5, copy.length), copy), 0);
});

test("writes of all sizes arrive in order", async () => {
  const lazy = new Lazy(3 * mib), transfers = new Transfers(lazy.calls, 1, lazy.view), expected = new Uint8Array(lazy.gpu.length);
  for (let i = 0, state = 7; i < 450; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const bytes = i % 10 === 0 ? state % (2 * mib) : state % 300, at = state % mib, data = noise(bytes, i);
    transfers.write(at, data);
    expected.set(data, at);
  }
  assert.ok(lazy.waits > 0);
  assert.equal(Buffer.compare(await transfers.read(0, expected.length), expected), 0);
});

test("a read has what was there when it was asked for, and its bytes are its own", async () => {
  const lazy = new Lazy(100), transfers = new Transfers(lazy.calls, 1, lazy.view), reads: Promise<Uint8Array>[] = [];
  for (let i = 0; i < 10; i++) {
    transfers.write(0, Uint8Array.of(i));
    reads.push(transfers.read(0, 1));
  }
  const got = await Promise.all(reads);
  assert.deepEqual(got.map(([first]) => first), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  await transfers.read(0, 1);
  assert.equal(got[9]![0], 9);
  assert.equal((await transfers.read(0, 0)).length, 0);
});

test("blocks and events are used again, large blocks are given back, close frees all", async () => {
  const lazy = new Lazy(70 * mib), transfers = new Transfers(lazy.calls, 1, lazy.view);
  for (let i = 0; i < 5; i++) await transfers.read(0, 5000 + i);
  assert.deepEqual([lazy.pinned.size, lazy.events.size], [1, 1]);
  await transfers.read(0, 65 * mib);
  assert.equal(lazy.pinned.size, 1);
  transfers.write(0, noise(9 * mib, 1));
  transfers.close();
  assert.deepEqual([lazy.pinned.size, lazy.events.size], [0, 0]);
});

test("an error of the device comes out of the read", async () => {
  const lazy = new Lazy(8), transfers = new Transfers({ ...lazy.calls, ready: () => assert.fail("lost") }, 1, lazy.view);
  await assert.rejects(transfers.read(0, 8), /lost/);
});
