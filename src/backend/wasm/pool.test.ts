import assert from "node:assert/strict";
import { createServer, get } from "node:http";
import { test } from "node:test";
import { block, branch, branchIf, constant, i32, loop, memory, Module, when, drop } from "./assembler.ts";
import { argument, forEachClaimed, kernel } from "./kernel.ts";
import { Heap, type WasmBuffer } from "./memory.ts";
import { Pool } from "./pool.ts";

const numThreads = 2;

function program(heap: Heap, records: readonly (readonly [slot: number, args: number])[]): WasmBuffer {
  const buffer = heap.alloc(8 + 8 * records.length);
  new Int32Array(heap.memory.buffer, buffer.address).set([records.length, 0, ...records.flat()]);
  return buffer;
}
/** Loads a module of one kernel. Returns its slot. */
async function load(pool: Pool, bytes: Uint8Array<ArrayBuffer>): Promise<number> {
  const { slot, loaded } = pool.load(bytes, 1);
  await loaded;
  return slot;
}
const words = (heap: Heap, at: WasmBuffer): Int32Array => new Int32Array(heap.memory.buffer, at.address, at.bytes / 4);

/** counts[thread] += 1, then any other thread's count that is neither equal nor one behind or ahead is an error at word 15. */
function lockstep(): Module {
  const m = new Module();
  kernel(m, "lockstep", (args, thread, local) => {
    const own = local("i32", "own"), other = local("i32", "other"), t = local("i32", "t");
    return [
      own.set(i32.add(i32.load(i32.add(args, i32.shl(thread, 2))), 1)),
      i32["atomic.store"](i32.add(args, i32.shl(thread, 2)), own),
      loop("each_thread", (next) => [
        other.set(i32["atomic.load"](i32.add(args, i32.shl(t, 2)))),
        when(i32.gt_u(i32.add(i32.sub(own, other), 1), 2), [i32["atomic.store"](args, 1, 60)]),
        branchIf(next, i32.lt_s(t.tee(i32.add(t, 1)), numThreads)),
      ]),
    ];
  });
  return m;
}

test("a million barriers keep the threads in step while a server in the same process answers", async () => {
  const heap = new Heap();
  const pool = await Pool.open(heap, numThreads);
  const server = createServer((_, response) => response.end("ok")).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as { port: number };
  let answered = 0, loading = true;
  const client = async (): Promise<void> => {
    while (loading) await new Promise<void>((resolve, reject) => get({ port, host: "127.0.0.1", agent: false }, (r) => { r.resume(); r.on("end", () => { answered++; resolve(); }); }).on("error", reject));
  };
  const clients = [client(), client(), client(), client()];
  try {
    const slot = await load(pool, lockstep().bytes());
    const counts = heap.alloc(64);
    const thousand = program(heap, Array.from({ length: 1000 }, () => [slot, counts.address] as const));
    for (let run = 0; run < 1000; run++) {
      pool.run(thousand.address);
      await pool.settled();
      if (run % 10 === 0) await new Promise((resolve) => setImmediate(resolve)); // the server's turn
    }
    assert.deepEqual([...words(heap, counts).subarray(0, numThreads)], Array(numThreads).fill(1_000_000));
    assert.equal(words(heap, counts)[15], 0, "a thread ran ahead of another");
    assert.ok(answered >= 10, `the server answered ${answered} requests beside the barriers`);
  } finally {
    loading = false;
    await Promise.all(clients);
    server.close();
    await pool.close();
  }
});

test("every piece of work is claimed exactly once, in every kernel of a program", async () => {
  const heap = new Heap();
  const pool = await Pool.open(heap, numThreads);
  const m = new Module();
  kernel(m, "claim", (args, _thread, local) => {
    const piece = local("i32", "piece"), count = local("i32", "count");
    return [count.set(argument(args, 0)), forEachClaimed(piece, count, [drop(i32["atomic.rmw.add"](i32.add(args, i32.shl(piece, 2)), 1, 4))])];
  });
  const slot = await load(pool, m.bytes());
  const counts = heap.alloc(4 * 1001);
  words(heap, counts)[0] = 1000;
  pool.run(program(heap, Array.from({ length: 50 }, () => [slot, counts.address] as const)).address);
  await pool.settled();
  assert.ok(words(heap, counts).subarray(1, 1001).every((n) => n === 50));
  await pool.close();
});

test("parked workers receive a new kernel and run it", async () => {
  const heap = new Heap();
  const pool = await Pool.open(heap, numThreads);
  const marks = heap.alloc(64);
  for (const mark of [7, 8]) {
    await new Promise((resolve) => setTimeout(resolve, 50)); // long enough for the workers to sleep
    const m = new Module();
    kernel(m, "mark", (args, thread) => [i32.store(i32.add(args, i32.shl(thread, 2)), mark)]);
    const slot = await load(pool, m.bytes());
    pool.run(program(heap, [[slot, marks.address]]).address);
    await pool.settled();
    assert.deepEqual([...words(heap, marks).subarray(0, numThreads)], Array(numThreads).fill(mark));
  }
  await pool.close();
});

/** Thread 1 waits at args for a word that never changes; thread 0 goes on to the barrier. */
function stuck(): Module {
  const m = new Module();
  kernel(m, "stuck", (args, thread) => [
    when(thread, [block("never", () => [loop("again", (again) => [drop(memory["atomic.wait32"](args, 0, constant("i64", -1))), branch(again)])])]),
  ]);
  return m;
}

test("a worker killed in the middle of a program is noticed within a second, and nothing hangs", async () => {
  const heap = new Heap();
  const pool = await Pool.open(heap, numThreads);
  const slot = await load(pool, stuck().bytes());
  pool.run(program(heap, [[slot, heap.alloc(64).address]]).address);
  await new Promise((resolve) => setTimeout(resolve, 150));
  const killed = performance.now();
  pool.workers[0]!.terminate();
  await assert.rejects(pool.settled(), /wasm thread 1 of 2 ended/);
  assert.ok(performance.now() - killed < 1000);
  await assert.rejects(load(pool, stuck().bytes()), /wasm thread 1 of 2 ended/, "later calls fail the same way");
  await pool.close();
});

test("a trap in any thread fails the program by name", async () => {
  for (const thrower of [0, 1]) {
    const heap = new Heap();
    const pool = await Pool.open(heap, numThreads);
    const m = new Module();
    kernel(m, "trap", (_args, thread) => [when(i32.eq(thread, thrower), [i32.store(constant("i32", -64), 0)])]);
    const slot = await load(pool, m.bytes());
    await assert.rejects(async () => { pool.run(program(heap, [[slot, 0]]).address); await pool.settled(); }, new RegExp(`thread ${thrower}: memory access out of bounds`));
    await pool.close();
  }
});

test("kernels loaded at once, and programs run meanwhile, all reach every thread", async () => {
  const heap = new Heap();
  const pool = await Pool.open(heap, numThreads);
  const marks = heap.alloc(64);
  const marking = (value: number): Uint8Array<ArrayBuffer> => {
    const m = new Module();
    kernel(m, "mark", (args, thread) => [i32.store(i32.add(args, i32.shl(thread, 2)), value)]);
    return m.bytes();
  };
  const first = await load(pool, marking(1));
  const loading = [2, 3, 4].map((value) => load(pool, marking(value)));
  const one = program(heap, [[first, marks.address]]);
  pool.submit(() => pool.run(one.address));
  const slots = await Promise.all(loading);
  assert.equal(new Set([first, ...slots]).size, 4, "each kernel has a slot of its own");
  await pool.settled();
  assert.deepEqual([...words(heap, marks).subarray(0, numThreads)], Array(numThreads).fill(1));
  for (const [i, slot] of slots.entries()) {
    pool.run(program(heap, [[slot, marks.address]]).address);
    await pool.settled();
    assert.deepEqual([...words(heap, marks).subarray(0, numThreads)], Array(numThreads).fill(i + 2));
  }
  await pool.close();
});

test("what is submitted while a program is stalled waits for its end, in order", async () => {
  const heap = new Heap();
  const pool = await Pool.open(heap, numThreads);
  const m = new Module();
  // Thread 1 waits until word 0 is set; then it writes what word 1 holds to word 2.
  kernel(m, "slow", (args, thread) => [
    when(thread, [
      block("set", (set) => [loop("again", (again) => [branchIf(set, i32["atomic.load"](args)), drop(memory["atomic.wait32"](args, 0, constant("i64", 1_000_000))), branch(again)])]),
      i32.store(args, i32.load(args, 4), 8),
    ]),
  ]);
  const slot = await load(pool, m.bytes());
  const args = heap.alloc(64), slow = program(heap, [[slot, args.address]]);
  pool.run(slow.address);
  assert.ok(pool.busy, "the program stalled");
  const seen: number[] = [];
  pool.submit(() => { seen.push(words(heap, args)[2]!); words(heap, args)[1] = 7; });
  pool.submit(() => pool.run(slow.address));
  pool.submit(() => seen.push(words(heap, args)[2]!));
  words(heap, args)[1] = 5;
  assert.deepEqual(seen, []);
  Atomics.store(words(heap, args), 0, 1);
  await pool.settled();
  assert.deepEqual(seen, [5, 7]);
  await pool.close();
});

test("programs without a kernel between others leave the threads in step", async () => {
  const heap = new Heap();
  const pool = await Pool.open(heap, numThreads);
  const slot = await load(pool, lockstep().bytes());
  const counts = heap.alloc(64), one = program(heap, [[slot, counts.address]]), none = program(heap, []);
  for (let n = 0; n < 3000; n++) {
    for (let k = 0; k < n % 5; k++) pool.run(none.address);
    pool.run(one.address);
    await pool.settled();
  }
  assert.deepEqual([...words(heap, counts).subarray(0, numThreads)], Array(numThreads).fill(3000));
  await pool.close();
});

test("kernels load from addresses above 2 GiB, after the memory grew while the workers slept", async () => {
  const heap = new Heap();
  const pool = await Pool.open(heap, numThreads);
  const slot = await load(pool, lockstep().bytes());
  const counts = heap.alloc(64), one = program(heap, [[slot, counts.address]]);
  for (let n = 0; n < 2000; n++) { pool.run(one.address); await pool.settled(); }
  await new Promise((resolve) => setTimeout(resolve, 20));
  heap.alloc(2 ** 31);
  while (heap.alloc(64).address < 2 ** 31); // what was left below
  await load(pool, lockstep().bytes());
  await pool.close();
});
