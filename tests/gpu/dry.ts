/**
 * A device that launches nothing, and a compiler that compiles nothing: what a script asks for is checked as far as it can be without a GPU. Kernels must be
 * in the text, parameters have the bytes of its struct, shapes be what Hopper takes, addresses and bytes within what was allocated. Memory holds nothing.
 */
import type { Compiled, Compiler } from "../../src/backend/cuda/compiler.ts";
import type { CudaDevice, KernelFunction, LaunchShape } from "../../src/backend/cuda/device.ts";
import { invariant, UsageError } from "../../src/core/errors.ts";
import { kernelsOf } from "./kernel-text.ts";

const mostSharedBytes = 227 * 1024, sharedBytesUnasked = 48 * 1024;

/** What `load` is given: the text in place of machine code. */
export const dryCompiler = {
  arch: "sm_90a", version: "none", file: "nowhere",
  async compile(_name: string, source: string): Promise<Compiled> {
    const resources = [...kernelsOf(source).keys()].map((kernel) => ({ kernel, registers: 0, spillBytes: 0, stackBytes: 0, sharedBytes: 0 }));
    invariant(resources.length > 0, "the text has no kernel");
    return { cubin: new TextEncoder().encode(source), resources, fromCache: true, seconds: 0 };
  },
} satisfies Partial<Compiler>;

interface DryKernel extends KernelFunction {
  readonly paramBytes: number;
  readonly sharedBytes: number;
}

export class DryDevice {
  readonly name = "no GPU (dry)";
  readonly arch = "sm_90a";
  readonly numSms = 132;
  readonly totalBytes = 80e9;
  readonly l2Bytes = 50 * 2 ** 20;
  readonly maxSharedBytes = mostSharedBytes;
  readonly cudaMajor = 13;
  readonly stream = 1;
  /** Launches so far, by kernel. */
  readonly launches = new Map<string, number>();
  readonly #loaded = new Set<string>();
  readonly #allocated = new Map<number, number>();
  #next = 2 ** 32;
  #taken = 0;
  #capturing = false;

  freeBytes(): number {
    return this.totalBytes - this.#taken;
  }
  alloc(bytes: number): number {
    invariant(!this.#capturing, "alloc inside capture");
    if (bytes > this.freeBytes()) throw new UsageError(`the GPU has no ${bytes} bytes of memory in one piece`);
    const address = this.#next;
    this.#next += 256 * Math.ceil((bytes + 1) / 256);
    this.#allocated.set(address, bytes);
    this.#taken += bytes;
    return address;
  }
  free(address: number): void {
    invariant(this.#allocated.has(address), `free of ${address}, which is not allocated`);
    this.#taken -= this.#allocated.get(address)!;
    this.#allocated.delete(address);
  }
  write(address: number, data: Uint8Array): void {
    this.#within(address, data.length);
  }
  async read(address: number, bytes: number): Promise<Uint8Array> {
    this.#within(address, bytes);
    return new Uint8Array(bytes);
  }
  fill(address: number, _value: number, bytes: number): void {
    this.#within(address, bytes);
  }
  copy(to: number, from: number, bytes: number): void {
    this.#within(to, bytes);
    this.#within(from, bytes);
  }

  load(cubin: Uint8Array): { function(name: string, sharedBytes?: number): DryKernel; unload(): void } {
    const kernels = kernelsOf(new TextDecoder().decode(cubin));
    for (const name of kernels.keys()) this.#loaded.add(name);
    return {
      function: (name, sharedBytes = 0) => {
        const paramBytes = kernels.get(name);
        invariant(paramBytes !== undefined, `the module has no kernel ${name}; it has ${[...kernels.keys()].join(", ")}`);
        invariant(sharedBytes <= mostSharedBytes, `${name} wants ${sharedBytes} bytes of shared memory`);
        return { name, registers: 0, localBytes: 0, handle: 0, paramBytes, sharedBytes: Math.max(sharedBytes, sharedBytesUnasked) };
      },
      unload: () => {},
    };
  }
  launch(f: DryKernel, { grid, block, sharedBytes = 0 }: LaunchShape, params: Uint8Array): void {
    const what = `${f.name}, grid ${grid.join(" x ")}, ${block} threads`;
    invariant(grid.every((n, i) => Number.isInteger(n) && n >= 1 && n <= (i === 0 ? 2 ** 31 - 1 : 65_535)), `${what}: no grid`);
    invariant(Number.isInteger(block) && block % 32 === 0 && block >= 32 && block <= 1024, `${what}: no number of threads`);
    invariant(Number.isInteger(sharedBytes) && sharedBytes >= 0 && sharedBytes <= f.sharedBytes, `${what}: ${sharedBytes} bytes of shared memory, and it was got for ${f.sharedBytes}`);
    // The driver counts parameters in whole 8 bytes.
    invariant(params.length === 8 * Math.ceil(f.paramBytes / 8), `${what}: it takes ${f.paramBytes} bytes of parameters, got ${params.length}`);
    this.launches.set(f.name, (this.launches.get(f.name) ?? 0) + 1);
  }
  blocksPerSm(): number {
    return 1;
  }
  tensorMap(): Uint8Array {
    return new Uint8Array(128);
  }
  capture(body: () => void): { readonly numNodes: number; launch(): void; destroy(): void } {
    invariant(!this.#capturing, "capture inside capture");
    this.#capturing = true;
    try {
      body();
    } finally {
      this.#capturing = false;
    }
    return { numNodes: 0, launch: () => {}, destroy: () => {} };
  }
  record(): { readonly handle: number; destroy(): void } {
    invariant(!this.#capturing, "record inside capture");
    return { handle: 0, destroy: () => {} };
  }
  async elapsedMs(): Promise<number> {
    return NaN;
  }
  synchronize(): void {
    invariant(!this.#capturing, "synchronize inside capture");
  }
  close(): void {}

  /** Kernels that nothing was known of afterwards. */
  neverLaunched(): readonly string[] {
    return [...this.#loaded].filter((name) => !this.launches.has(name));
  }

  #within(address: number, bytes: number): void {
    for (const [from, size] of this.#allocated) if (address >= from && address + bytes <= from + size) return;
    invariant(bytes === 0, `${bytes} bytes at ${address} are not within what is allocated`);
  }
}

/** A device that is none, in place of one: what is private of a `CudaDevice` it has not. */
export const dryDevice = (): CudaDevice => new DryDevice() as unknown as CudaDevice;

/** Kernels that a dry run has loaded and not launched; none of a real device. */
export const neverLaunched = (device: CudaDevice): readonly string[] => ((device as unknown) instanceof DryDevice ? (device as unknown as DryDevice).neverLaunched() : []);
