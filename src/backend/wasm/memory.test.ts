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
