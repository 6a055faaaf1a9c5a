import assert from "node:assert/strict";
import { test } from "node:test";
import type { AttentionCall } from "../backend.ts";
import { Failures } from "./failures.ts";

/** Device memory as a map of words. */
function fake() {
  const memory = new Map<number, Int32Array>();
  let next = 4096;
  return {
    memory,
    /** What a kernel does: tells of a load by its place. */
    tell(address: number, where: number, index: number): void {
      const [base, words] = [...memory].find(([start, w]) => address >= start && address < start + w.byteLength)!;
      words.set([1, where, index, 0], (address - base) / 4);
    },
    alloc(bytes: number): number {
      memory.set(next, new Int32Array(bytes / 4));
      return (next += 65536) - 65536;
    },
    read: async (address: number, bytes: number) => new Uint8Array(memory.get(address)!.slice(0, bytes / 4).buffer),
    write: (address: number, data: Uint8Array) => memory.get(address)!.set(new Int32Array(data.slice().buffer)),
  };
}
const call = (name: string): AttentionCall => ({ name }) as unknown as AttentionCall;

test("a failure is found once, with the call that it is of", async () => {
  const device = fake(), failures = new Failures(device);
  assert.equal(await failures.read(), undefined);
  assert.equal(device.memory.size, 0, "nobody asked: nothing is taken");
  const first = call("first"), second = call("second");
  failures.place(first, true);
  device.tell(failures.place(second, true), 9, 77);
  assert.deepEqual(await failures.read(), { call: second, where: 9, index: 77 });
  assert.equal(await failures.read(), undefined);
});

test("calls of programs keep their places whatever comes after them, more than one chunk of them too", async () => {
  const device = fake(), failures = new Failures(device);
  const recorded = Array.from({ length: 600 }, (_, i) => call(`recorded ${i}`)), places = recorded.map((c) => failures.place(c, true));
  assert.equal(new Set(places).size, 600);
  for (let i = 0; i < 1000; i++) failures.place(call(`direct ${i}`), false);
  device.tell(places[599]!, 1, 5);
  assert.equal((await failures.read())!.call, recorded[599]);
  const direct = call("direct");
  device.tell(failures.place(direct, false), 2, 6);
  assert.equal((await failures.read())!.call, direct);
});
