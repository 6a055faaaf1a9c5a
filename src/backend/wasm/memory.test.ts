import assert from "node:assert/strict";
import { test } from "node:test";
import { stream } from "../../core/random.ts";
import { control, Heap, type WasmBuffer } from "./memory.ts";

test("what is allocated is zero, aligned, apart from all else, and comes back when freed", () => {
  const heap = new Heap();
  const random = stream(1);
  const live: WasmBuffer[] = [];
  let reused = 0;
  const seen = new Set<number>();
  for (let step = 0; step < 2000; step++) {
    if (live.length > 0 && random() < 0.45) heap.free(live.splice(Math.floor(random() * live.length), 1)[0]!);
    else {
      const buffer = heap.alloc(Math.floor(random() ** 4 * 300_000));
      const bytes = new Uint8Array(heap.memory.buffer, buffer.address, buffer.bytes);
      assert.equal(buffer.address % 64, 0);
      assert.ok(buffer.address >= control.bytes);
      assert.ok(bytes.every((b) => b === 0), `step ${step}: ${buffer.bytes} bytes at ${buffer.address} are not zero`);
      for (const other of live) assert.ok(buffer.address + buffer.bytes <= other.address || other.address + other.bytes <= buffer.address, "two live buffers overlap");
      bytes.fill(1 + (step % 255));
      if (seen.has(buffer.address)) reused++;
      seen.add(buffer.address);
      live.push(buffer);
    }
  }
  assert.ok(reused > 100, "freed memory was used again");
  for (const buffer of live) heap.free(buffer);
  assert.equal(heap.allocatedBytes, 0);
});

test("a slice shares its parent's memory and can not leave it", () => {
  const heap = new Heap();
  const buffer = heap.alloc(100);
  assert.equal(buffer.slice(40, 60).address, buffer.address + 40);
  assert.throws(() => buffer.slice(41, 60), /slice 41\+60 of 100/);
});

test("more than 4 GiB is refused with what is left", () => {
  assert.throws(() => new Heap().alloc(2 ** 32), /the wasm backend's memory is full: 4294967296 bytes asked for/);
});

test("what has a use goes on in further banks, and leaves room in the first for what has none", () => {
  const bankBytes = 16 * 65536;
  const heap = new Heap({ memoryBytes: 3 * bankBytes, bankBytes });
  const working = heap.alloc(100_000);
  const buffers = Array.from({ length: 12 }, (_, i) => heap.alloc(250_000, i % 2 ? "weights" : "kvCache"));
  assert.deepEqual(buffers.map((b) => b.bank), [0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]);
  buffers.forEach((b, i) => heap.view(b).fill(i + 1));
  assert.ok(buffers.every((b, i) => heap.view(b).every((byte) => byte === i + 1)), "no two share a byte");
  assert.equal(heap.view(buffers[2]!.slice(100, 50))[0], 3, "a slice stays in its bank");
  assert.ok(heap.alloc(200_000).bank === 0 && working.bank === 0);
  heap.free(buffers[2]!);
  assert.deepEqual([...heap.view(heap.alloc(250_000, "weights"))].filter((b) => b !== 0), [], "freed memory of another bank is zeroed and used again");
  assert.throws(() => heap.alloc(17 * 65536, "weights"), /1114112 bytes asked for, \d+ left in the emptiest of 7 memories of 1048576 \(what is asked for at once must fit one memory\); try a smaller model/);
  assert.throws(() => heap.alloc(bankBytes - 65536), /left of the 1048576 that hold all but weights and KV cache; try a smaller --max-model-len, --max-num-batched-tokens or --max-num-seqs/);
});
