/**
 * How every fuzzer runs: input n is made by the random numbers of n alone, so that the number in a failure's message makes it again.
 *
 * Each input ends in an outcome with a name ("loaded", "refused"). A fuzzer that ran too few inputs, or whose outcomes are too
 * lopsided (all refused at the door), has tested nothing and fails. Time and memory of each input are bounded. Knows no format.
 */
import assert from "node:assert/strict";
import { after, before, type TestContext } from "node:test";
import { stream } from "../../src/core/random.ts";

export const long = process.env["TESSERA_LONG"] !== undefined;

export type Random = () => number;
export const below = (random: Random, n: number): number => Math.floor(random() * n);
export const pick = <T>(random: Random, list: readonly T[]): T => list[below(random, list.length)]!;

export interface Plan {
  /** Inputs of a normal run, and of a long one. */
  readonly inputs: readonly [normal: number, long: number];
  /** The least share of each outcome. */
  readonly floors: Readonly<Record<string, number>>;
  /** Most of a processor's time for one input: a machine that does other things takes no part of that. */
  readonly inputMs?: number;
}

/** On a slow machine time runs out first; with less than this share of the inputs it would be no test. */
const executedFloor = 1 / 3;
const milliseconds = long ? 300_000 : 15_000;

export interface Input {
  readonly n: number;
  readonly random: Random;
  /** Says what was done to the input, for the message of a failure. */
  did(what: string): void;
}

/** Runs `one` on many inputs. What it returns is the outcome; what it throws fails the test, with the number and the story of the input. */
export async function fuzz(t: TestContext, { inputs: [normal, many], floors, inputMs = 3000 }: Plan, one: (input: Input) => string | Promise<string>): Promise<void> {
  const inputs = long ? many : normal;
  const first = long ? Number(process.env["TESSERA_SEED"] ?? 0) : 0;
  const outcomes = new Map(Object.keys(floors).map((name) => [name, 0]));
  const begun = performance.now();
  let executed = 0, slowest = 0;
  for (let n = first; n < first + inputs && performance.now() - begun < milliseconds; n++) {
    const story: string[] = [];
    const start = process.cpuUsage();
    try {
      const made = one({ n, random: stream(n), did: (what) => void story.push(what) });
      const outcome = typeof made === "string" ? made : await made;
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    } catch (error) {
      throw new Error(`input ${n} (${story.join("; ")}): ${(error as Error).message}`, { cause: error });
    }
    const { user, system } = process.cpuUsage(start), took = (user + system) / 1000;
    slowest = Math.max(slowest, took);
    assert.ok(took < inputMs, `input ${n} (${story.join("; ")}) took ${took.toFixed(0)} ms`);
    executed++;
  }
  const seconds = (performance.now() - begun) / 1000;
  const counts = `${executed} executed in ${seconds.toFixed(1)} s (${(executed / seconds).toFixed(0)} a second, the slowest ${slowest.toFixed(1)} ms): ${[...outcomes].map(([name, count]) => `${count} ${name}`).join(", ")}`;
  console.log(`${t.name}: ${counts}`);
  assert.ok(executed >= inputs * executedFloor, `too few ran: ${counts}`);
  for (const [name, share] of Object.entries(floors)) assert.ok(outcomes.get(name)! >= share * executed, `too few are ${name}: ${counts}`);
  assertCleanPrototypes();
}

/** What nobody may have added to the prototypes that all objects share. */
const prototypes = [Object.prototype, Array.prototype, String.prototype, Function.prototype, Map.prototype].map((prototype) => [prototype, Reflect.ownKeys(prototype).length] as const);

export function assertCleanPrototypes(): void {
  for (const [prototype, keys] of prototypes) assert.equal(Reflect.ownKeys(prototype).length, keys, "a prototype was polluted");
}

let allocated = 0;
const watched = ["Uint8Array", "Uint16Array", "Uint32Array", "Int8Array", "Int16Array", "Int32Array", "Float32Array", "Float64Array", "BigUint64Array", "BigInt64Array", "Array"] as const;
const globals = globalThis as unknown as Record<string, new (...parameters: unknown[]) => object>;
const originals = Object.fromEntries(watched.map((name) => [name, globals[name]!]));
const { from } = Array;
const slice = ArrayBuffer.prototype.slice;

/** Counts, while this file's tests run, the bytes that arrays are made of: typed arrays, lists and copies of buffers. */
export function watchAllocations(): void {
  before(() => {
    for (const name of watched) {
      globals[name] = new Proxy(originals[name]!, {
        construct(target, parameters, newTarget) {
          const [size] = parameters as unknown[];
          if (typeof size === "number") allocated += size * ((target as unknown as { readonly BYTES_PER_ELEMENT?: number }).BYTES_PER_ELEMENT ?? 8);
          // Before it is made: a list of 2^31 would be the end of this process.
          assert.ok(allocated < 2 ** 30, `${allocated} bytes were asked for`);
          return Reflect.construct(target, parameters, newTarget) as object;
        },
      });
    }
    Array.from = ((source: ArrayLike<unknown>, ...more: [(item: unknown, i: number) => unknown]) => {
      allocated += 8 * (Number(source.length) || 0);
      assert.ok(allocated < 2 ** 30, `${allocated} bytes were asked for`);
      return from.call(originals["Array"], source, ...more);
    }) as typeof Array.from;
    Object.assign(ArrayBuffer.prototype, {
      slice(this: ArrayBuffer, begin = 0, end = this.byteLength) {
        allocated += end - begin;
        return slice.call(this, begin, end);
      },
    });
  });
  after(() => {
    Object.assign(globals, originals);
    Array.from = from;
    Object.assign(ArrayBuffer.prototype, { slice });
  });
}

/** Starts counting anew; returns what was counted since the last time. */
export function takeAllocated(): number {
  const bytes = allocated;
  allocated = 0;
  return bytes;
}
