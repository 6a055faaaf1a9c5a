/**
 * What every thread runs: walk a program's kernels with a barrier behind each, and park between programs.
 *
 * A program is i32 words: the number of records, 0, then a record (table slot of a kernel, address of its arguments) each.
 *
 *   all threads   kernel ──▶ barrier ──▶ kernel ──▶ barrier ──▶ ... ──▶ done       thread 0 returns to its caller
 *                                                                               workers park until the next command
 *
 * The barrier counts arrivals; the last one in clears the count and the claim counter, then opens the next generation. Waiting
 * spins a few microseconds, then sleeps in memory.atomic.wait. Thread 0 sleeps in short naps: a nap that ends without the barrier
 * having opened returns `stalled`, so that its event loop can hear of a worker's death; it then takes up where it left.
 */
import { block, branch, branchIf, call, callIndirect, constant, drop, i32, leave, loop, memory, Module, when } from "./assembler.ts";
import { control } from "./memory.ts";

/** What `run` and the barrier return. */
export const status = { done: 0, stalled: 1, aborted: 2 } as const;
export const command = { run: 1, load: 2, exit: 3 } as const;

const zero = constant("i32", 0);
/** About 10 microseconds: most waits between kernels are shorter, and a futex costs as much. */
const barrierSpins = 8000;
/** About 250 microseconds: more than sampling and messages take between two steps of a small model. Longer idleness sleeps. */
const parkSpins = 150000;
/** Nanoseconds thread 0 sleeps at a barrier before it looks around. */
const napNanoseconds = 100_000_000;
/** A thread that may not sleep spins about that long instead. */
const napSpins = 50_000_000;

const load = (address: number): ReturnType<typeof i32.load> => i32["atomic.load"](zero, address);

/** The module: exports `run` and `park`. Imports the kernels' table. */
export function runtimeModule(): Module {
  const m = new Module({ table: true });

  const wait = m.func("wait", { generation: "i32", thread: "i32" }, "i32", ({ generation, thread }, local) => {
    const spins = local("i32", "spins"), limit = local("i32", "limit"), nap = local("i64", "nap"), woken = local("i32", "woken");
    const mustSpin = i32.and(i32.eqz(thread), i32.eqz(load(control.mayBlock)));
    return [
      limit.set(i32.select(napSpins, barrierSpins, mustSpin)),
      loop("spin", (spin) => [
        when(i32.ne(load(control.generation), generation), [leave(constant("i32", status.done))]),
        when(load(control.abort), [leave(constant("i32", status.aborted))]),
        branchIf(spin, i32.lt_u(spins.tee(i32.add(spins, 1)), limit)),
      ]),
      when(mustSpin, [leave(constant("i32", status.stalled))]),
      when(i32.eqz(thread), [nap.set(constant("i64", napNanoseconds))], [nap.set(constant("i64", -1))]),
      drop(i32["atomic.rmw.add"](zero, 1, control.sleepers)),
      loop("sleep", (sleep) => [
        woken.set(memory["atomic.wait32"](zero, generation, nap, control.generation)),
        block("awake", (awake) => [
          branchIf(awake, i32.ne(load(control.generation), generation)),
          branchIf(awake, load(control.abort)),
          branchIf(awake, i32.eq(woken, 2)),
          branch(sleep),
        ]),
      ]),
      drop(i32["atomic.rmw.sub"](zero, 1, control.sleepers)),
      when(i32.ne(load(control.generation), generation), [leave(constant("i32", status.done))]),
      when(load(control.abort), [leave(constant("i32", status.aborted))]),
      constant("i32", status.stalled),
    ];
  }, { internal: true });

  const barrier = m.func("barrier", { thread: "i32" }, "i32", ({ thread }, local) => {
    const generation = local("i32", "generation");
    return [
      generation.set(load(control.generation)),
      when(i32.eq(i32.add(i32["atomic.rmw.add"](zero, 1, control.arrived), 1), load(control.threads)), [
        i32["atomic.store"](zero, 0, control.arrived),
        i32["atomic.store"](zero, 0, control.claim),
        drop(i32["atomic.rmw.add"](zero, 1, control.generation)),
        when(load(control.sleepers), [drop(memory["atomic.notify"](zero, -1, control.generation))]),
        leave(constant("i32", status.done)),
      ]),
      when(i32.eqz(thread), [i32.store(zero, generation, control.stalledGeneration)]),
      call(wait, generation, thread),
    ];
  }, { internal: true });

  m.func("run", { program: "i32", thread: "i32", resume: "i32" }, "i32", ({ program, thread, resume }, local) => {
    const record = local("i32", "record"), count = local("i32", "count"), at = local("i32", "at"), outcome = local("i32", "outcome");
    return [
      count.set(i32.load(program)),
      when(resume, [
        outcome.set(call(wait, i32.load(zero, control.stalledGeneration), thread)),
        when(outcome, [leave(outcome.get)]),
        record.set(i32.add(i32.load(zero, control.stalledAt), 1)),
      ]),
      block("finished", (finished) => [
        loop("next", (next) => [
          branchIf(finished, i32.ge_s(record, count)),
          at.set(i32.add(program, i32.shl(record, 3))),
          callIndirect({ params: ["i32", "i32"], results: [] }, i32.load(at, 8), i32.load(at, 12), thread),
          outcome.set(call(barrier, thread)),
          when(outcome, [
            when(i32.eqz(thread), [i32.store(zero, record, control.stalledAt)]),
            leave(outcome.get),
          ]),
          record.set(i32.add(record, 1)),
          branch(next),
        ]),
      ]),
      constant("i32", status.done),
    ];
  });

  m.func("park", { seen: "i32" }, "i32", ({ seen }, local) => {
    const spins = local("i32", "spins"), sequence = local("i32", "sequence");
    return [
      loop("spin", (spin) => [
        when(i32.ne(sequence.tee(load(control.commandSequence)), seen), [leave(sequence.get)]),
        branchIf(spin, i32.lt_u(spins.tee(i32.add(spins, 1)), parkSpins)),
      ]),
      loop("sleep", (sleep) => [
        drop(memory["atomic.wait32"](zero, seen, constant("i64", -1), control.commandSequence)),
        branchIf(sleep, i32.eq(sequence.tee(load(control.commandSequence)), seen)),
      ]),
      sequence.get,
    ];
  });
  return m;
}
