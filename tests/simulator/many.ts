/** Seed after seed of one kind of machine: what tests, mutants and people run. */
import assert from "node:assert/strict";
import { missing, nothingReached, type Reached } from "./reached.ts";
import { simulate } from "./simulator.ts";

export type MachineKind = "waited" | "ahead";

/** Long enough that a cache fills; short enough that there are many swarms. */
const operationsPerRun = 400;

/** Runs seeds, from `from` on, until there were `atLeast` operations. @throws what failed first, with how to see it again */
export async function simulateMany(kind: MachineKind, atLeast: number, reached: Reached, from = 0): Promise<{ readonly numOperations: number; readonly numRuns: number }> {
  let numOperations = 0, seed = from;
  for (; numOperations < atLeast; seed++) {
    try {
      numOperations += (await simulateOne(kind, seed, reached)).numOperations;
    } catch (error) {
      throw new Error(`seed ${seed} of the ${kind} machine; to see it operation by operation: npm run simulate -- --machine ${kind} --seed ${seed}\n${error instanceof Error ? error.message : String(error)}`, { cause: error });
    }
  }
  return { numOperations, numRuns: seed - from };
}

export const simulateOne = (kind: MachineKind, seed: number, reached: Reached, tell?: (line: string) => void) => simulate(seed, kind === "ahead", operationsPerRun, reached, tell);

/** The normal or the long run of a kind: every situation is reached. */
export async function simulateAll(kind: MachineKind): Promise<void> {
  const reached = nothingReached(), atLeast = process.env["TESSERA_LONG"] ? 5_000_000 : 50_000;
  const { numOperations } = await simulateMany(kind, atLeast, reached);
  assert.ok(numOperations >= atLeast);
  assert.deepEqual(missing(reached, kind), [], "situations that no run came to");
}

/** Some seeds twice. */
export async function simulateTwice(kind: MachineKind): Promise<void> {
  const hashes = new Set<number>();
  for (let seed = 0; seed < 4; seed++) {
    const [first, second] = [await simulateOne(kind, seed, nothingReached()), await simulateOne(kind, seed, nothingReached())];
    assert.deepEqual(first, second, `seed ${seed}`);
    hashes.add(first.hash);
  }
  assert.equal(hashes.size, 4, "and another seed another run");
}
