/**
 * The shape of every kernel: `kernel(args, thread)`, called by all threads at once, between two barriers.
 *
 * `args` is the address of i32 words (pointers and sizes, written when the op is recorded). Threads share the work by claiming
 * pieces from one counter, which the barrier has set to zero; who computes a piece never changes its bits.
 */
import { control } from "./memory.ts";
import { branchIf, block, branch, constant, i32, loop, type Local, type Module, type Func, type Node, type ValueType } from "./assembler.ts";

export type MakeLocal = (type: ValueType, name: string) => Local;

/** Adds an exported kernel to a module. `args` and `thread` are locals of the body. */
export function kernel(m: Module, name: string, build: (args: Local, thread: Local, local: MakeLocal) => readonly Node[]): Func {
  return m.func(name, { args: "i32", thread: "i32" }, "none", ({ args, thread }, local) => build(args, thread, local));
}

/** Word number `word` of the argument block. */
export const argument = (args: Local, word: number): Node => i32.load(args, 4 * word);

/** Claims pieces 0 .. count-1 one by one until none is left, and runs `body` for each with `piece` set. */
export function forEachClaimed(piece: Local, count: Local, body: readonly Node[]): Node {
  return block("claimed_all", (end) => [
    loop("claim_next", (next) => [
      branchIf(end, i32.ge_s(piece.tee(i32["atomic.rmw.add"](constant("i32", control.claim), 1)), count)),
      ...body,
      branch(next),
    ]),
  ]);
}

/** The address of this thread's scratch memory. */
export const scratchAddress = (thread: Local): Node =>
  i32.add(i32.load(constant("i32", 0), control.scratch), i32.mul(thread, i32.load(constant("i32", 0), control.scratchStride)));
