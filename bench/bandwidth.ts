/**
 * How fast this machine reads memory, from WebAssembly: the bound of decode, which reads every weight for every step.
 *
 * Each thread sums its share of a buffer far larger than any cache as four streams side by side, 128 bytes of each a turn: a core's
 * prefetcher follows several, and one alone gives a fifth less. Every page is written first: memory never written to is one
 * page of zeros, read from a cache. Knows no model.
 */
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { forRange, i32, i32x4, type Local, Module, type Node, splat, v128 } from "../src/backend/wasm/assembler.ts";

const bufferBytes = 2 ** 30;
const pageBytes = 65536;
const streams = 4;
const bytesPerTurn = 128;
/** i32 words at the start of the memory: which run it is (waited on), threads done with it (waited on). The buffer begins behind them. */
const word = { run: 0, done: 16 } as const;
const bufferStart = pageBytes;

interface Start { readonly memory: WebAssembly.Memory; readonly from: number; readonly bytes: number }

/** sum(from, bytes): a multiple of streams * bytesPerTurn. */
function sumModule(): Uint8Array<ArrayBuffer> {
  const m = new Module();
  m.func("sum", { from: "i32", bytes: "i32" }, "i32", ({ from, bytes }, local) => {
    const turn = local("i32", "turn"), turns = local("i32", "turns"), part = local("i32", "part");
    const at = Array.from({ length: streams }, (_, s) => local("i32", `at${s}`));
    const sums = Array.from({ length: 2 * streams }, (_, i) => local("v128", `sum${i}`));
    const read = (address: Local, s: number): readonly Node[] => Array.from({ length: bytesPerTurn / 16 }, (_, i) => {
      const sum = sums[2 * s + (i % 2)]!;
      return sum.set(i32x4.add(sum, v128.load(address, 16 * i)));
    });
    return [
      part.set(i32.div_u(bytes, streams)),
      turns.set(i32.div_u(part, bytesPerTurn)),
      ...at.map((address, s) => address.set(i32.add(from, i32.mul(part, s)))),
      ...sums.map((sum) => sum.set(splat.i32(0))),
      forRange(turn, 0, turns, 1, [...at.flatMap(read), ...at.map((address) => address.set(i32.add(address, bytesPerTurn)))]),
      i32x4.extract_lane(sums.map((sum) => sum.get).reduce((a, b) => i32x4.add(a, b)), 0),
    ];
  });
  return m.bytes();
}

/** Threads that read together when asked. */
export class Reader implements Disposable {
  readonly #words: Int32Array;
  readonly #workers: readonly Worker[];

  constructor(threads: number) {
    const memory = new WebAssembly.Memory({ initial: 1 + bufferBytes / pageBytes, maximum: 65536, shared: true });
    new Uint8Array(memory.buffer).fill(1, bufferStart);
    this.#words = new Int32Array(memory.buffer, 0, 32);
    const share = Math.floor(bufferBytes / threads / (streams * bytesPerTurn)) * streams * bytesPerTurn;
    this.#workers = Array.from({ length: threads }, (_, t) => {
      const data: Start = { memory, from: bufferStart + t * share, bytes: share };
      return new Worker(new URL(import.meta.url), { workerData: data });
    });
  }

  /** Waits until every thread is up, and each has read its stretch once. */
  async ready(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => new Promise((resolve, reject) => void worker.once("message", resolve).once("error", reject))));
    this.measure();
  }

  /** Bytes per second of one pass over the buffer by all threads. */
  measure(): number {
    const start = performance.now();
    Atomics.store(this.#words, word.done, 0);
    Atomics.add(this.#words, word.run, 1);
    Atomics.notify(this.#words, word.run);
    for (let done = 0; done < this.#workers.length; done = Atomics.load(this.#words, word.done)) Atomics.wait(this.#words, word.done, done, 100);
    return bufferBytes / ((performance.now() - start) / 1000);
  }

  [Symbol.dispose](): void {
    for (const worker of this.#workers) void worker.terminate();
  }
}

/** A reading thread: waits for a run, reads, says so. Ended from outside. */
function serve({ memory, from, bytes }: Start): void {
  const { sum } = new WebAssembly.Instance(new WebAssembly.Module(sumModule()), { env: { memory } }).exports as { sum: (from: number, bytes: number) => number };
  const words = new Int32Array(memory.buffer, 0, 32);
  for (let i = 0; i < 100; i++) sum(from, 2 ** 20); // until V8 has optimised it
  const seen = Atomics.load(words, word.run);
  parentPort!.postMessage("ready");
  for (let run = seen; ; run++) {
    Atomics.wait(words, word.run, run);
    sum(from, bytes);
    Atomics.add(words, word.done, 1);
    Atomics.notify(words, word.done);
  }
}

if (!isMainThread && (workerData as Partial<Start> | null)?.memory) serve(workerData as Start);
