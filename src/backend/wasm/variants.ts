/**
 * A module of kernels on every thread: once for each choice of banks that its memories turn out to have.
 *
 * Nearly always that is once, all in bank 0. A kernel whose weights or cache lie in another bank is the same code with other
 * memory numbers, delivered when it is first asked for. Knows no ops.
 */
import { invariant } from "../../core/errors.ts";
import type { Module } from "./assembler.ts";
import type { Pool } from "./pool.ts";

/** Banks by the name of a module's memory; what is not named is bank 0. */
export type Banks = Readonly<Record<string, number>>;

export class Variants {
  readonly #pool: Pool;
  /** Builds the module anew: as a tree of instructions it is too large to keep. */
  readonly #build: () => Module;
  readonly #failed: (error: unknown) => void;
  #memories: readonly string[] = [];
  #kernels: ReadonlyMap<string, number> = new Map();
  readonly #firstSlots = new Map<string, number>();

  /** What is done to the bytes before they are delivered. */
  #prepare = (bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> => bytes;

  /** `failed` hears of a variant that could not be delivered later on. */
  private constructor(pool: Pool, build: () => Module, failed: (error: unknown) => void) {
    this.#pool = pool;
    this.#build = build;
    this.#failed = failed;
  }

  /** Delivers nothing before a kernel is asked for. */
  static later(pool: Pool, build: () => Module, failed: (error: unknown) => void, prepare: (bytes: Uint8Array<ArrayBuffer>) => Uint8Array<ArrayBuffer>): Variants {
    const variants = new Variants(pool, build, failed);
    variants.#prepare = prepare;
    variants.#name(build());
    return variants;
  }

  /** Loads the variant that has everything in bank 0. @throws UsageError when memory has no room for the code */
  static async load(pool: Pool, build: () => Module, failed: (error: unknown) => void): Promise<Variants> {
    const variants = new Variants(pool, build, failed);
    const module = build();
    variants.#name(module);
    await variants.#deliver(module, module.memories.map(() => 0));
    return variants;
  }

  /** The table slot of a kernel, which what is submitted to the pool from now on may use. */
  slot(kernel: string, banks: Banks = {}): number {
    for (const [name, bank] of Object.entries(banks)) invariant(bank === 0 || this.#memories.includes(name), `${kernel} has no memory ${name}`);
    const chosen = this.#memories.map((name) => banks[name] ?? 0);
    if (!this.#firstSlots.has(chosen.join())) this.#deliver(this.#build(), chosen).catch(this.#failed);
    const index = this.#kernels.get(kernel);
    invariant(index !== undefined, `the module has no kernel ${kernel}`);
    return this.#firstSlots.get(chosen.join())! + index;
  }

  #name(module: Module): void {
    this.#memories = module.memories;
    this.#kernels = new Map(module.exports.map((name, i) => [name, i]));
  }

  #deliver(module: Module, banks: readonly number[]): Promise<void> {
    const apart = module.memories.filter((_, i) => banks[i] !== 0);
    const { slot, loaded } = this.#pool.load(this.#prepare(module.bytes(apart)), module.exports.length, banks.filter((bank) => bank !== 0));
    this.#firstSlots.set(banks.join(), slot);
    return loaded;
  }
}
