/**
 * One kernel on one thread over a memory of its own: for tests and measurements of kernels, nothing else uses it.
 *
 * What is placed stands between stretches of a marker value, so that a stray write shows. Knows no kernels.
 */
import { invariant } from "../../core/errors.ts";
import type { Module } from "./assembler.ts";
import { control, Heap } from "./memory.ts";

/** A NaN that no computation makes. */
const marker = 0x7fc0dead;
const guardBytes = 64;

type Data = Float32Array | Int32Array | Uint16Array | Uint8Array;
/** Values of argument words by name. */
export type Arguments<Table> = { readonly [Name in keyof Table]: number };

export class Alone {
  readonly #heap = new Heap();
  readonly #kernels: Readonly<Record<string, (args: number, thread: number) => void>>;
  readonly #placed: { readonly address: number; readonly bytes: number }[] = [];
  readonly #args: number;

  constructor(m: Module) {
    const instance = new WebAssembly.Instance(new WebAssembly.Module(m.bytes()), { env: { memory: this.#heap.memory } });
    this.#kernels = instance.exports as Record<string, (args: number, thread: number) => void>;
    this.#args = this.#heap.alloc(256).address;
  }

  /** The address of a copy of `data`, guarded on both sides; `misalign` bytes off a multiple of 64. */
  place(data: Data, misalign = 0): number {
    const bytes = Math.ceil((misalign + data.byteLength) / 4) * 4;
    const start = this.#heap.alloc(bytes + 2 * guardBytes).address;
    new Int32Array(this.#heap.memory.buffer, start, bytes / 4 + (2 * guardBytes) / 4).fill(marker);
    const address = start + guardBytes + misalign;
    new Uint8Array(this.#heap.memory.buffer, address, data.byteLength).set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    this.#placed.push({ address, bytes: data.byteLength });
    return address;
  }

  /** `count` floats full of the marker. */
  placeEmpty(count: number): number {
    return this.place(new Int32Array(count).fill(marker));
  }
  /** Whether the kernel never wrote this element. */
  static untouched(bits: number): boolean {
    return bits === marker;
  }
  floats(address: number, count: number): Float32Array {
    return new Float32Array(this.#heap.memory.buffer, address, count);
  }
  bytes(address: number, count: number): Uint8Array {
    return new Uint8Array(this.#heap.memory.buffer, address, count);
  }
  words(address: number, count: number): Int32Array {
    return new Int32Array(this.#heap.memory.buffer, address, count);
  }

  /** Calls a kernel as thread 0 of one, with argument words by name; those in `floats` are written as f32. */
  run<Table extends Readonly<Record<string, number>>>(kernel: string, table: Table, values: Arguments<Table>, floats: readonly (keyof Table)[] = []): void {
    const run = this.#kernels[kernel];
    invariant(run, `the module exports no ${kernel}`);
    const words = this.words(this.#args, 64), asFloats = this.floats(this.#args, 64);
    for (const key of Object.keys(table) as (keyof Table & string)[]) (floats.includes(key) ? asFloats : words)[table[key]!] = values[key];
    this.words(0, control.bytes / 4)[control.claim / 4] = 0;
    run(this.#args, 0);
  }

  /** A word of the last call's arguments, which a kernel may have written to. */
  argument(word: number): number {
    return this.words(this.#args, 64)[word]!;
  }

  /** Whether everything around what was placed is as it was. */
  get guardsIntact(): boolean {
    return this.#placed.every(({ address, bytes }) => {
      const before = new Uint8Array(this.#heap.memory.buffer, address - guardBytes, guardBytes);
      const after = new Uint8Array(this.#heap.memory.buffer, address + bytes, guardBytes / 2);
      const expected = (at: number): number => (marker >>> (8 * (at % 4))) & 0xff;
      return before.every((b, i) => b === expected(address - guardBytes + i)) && after.every((b, i) => b === expected(address + bytes + i));
    });
  }
}

/** Where `out` [.., stride] differs from having the rows of `alone`, n columns each, and the marker everywhere else. */
export function difference(out: Int32Array, alone: readonly Int32Array[], rows: number, n: number, stride: number): string | undefined {
  for (let i = 0; i < out.length; i++) {
    const r = Math.floor(i / stride), column = i % stride;
    const inside = r < rows && column < n;
    if (inside ? out[i] !== alone[r]![column] : !Alone.untouched(out[i]!)) return `row ${r}, column ${column} of ${n}`;
  }
  return undefined;
}
