/**
 * One GPU and one stream of commands on it: memory, copies, launches, graphs, events. Commands run in the order given; only `read`, `elapsedMs`
 * and `synchronize` wait. Addresses are JS numbers (a GPU's have 47 bits).
 *
 * Knows the driver's structs and constants, and no kernel, type or model.
 */
import { alignedBytes, type Driver, loadDriver } from "#cuda-ffi";
import { invariant, UsageError } from "../../core/errors.ts";
import { CudaError } from "./errors.ts";
import { maxParamBytes } from "./params.ts";
import { Out, Transfers } from "./transfers.ts";

export interface LaunchShape {
  /** Blocks in x, y and z, each at least 1. */
  readonly grid: readonly [number, number, number];
  /** Threads of a block. */
  readonly block: number;
  /** Dynamic shared memory of a block, at most what the function was got with. */
  readonly sharedBytes?: number;
  /** Whether it may start before the kernel in front has ended, where the GPU can do so: it waits by griddepcontrol.wait. */
  readonly dependent?: boolean;
}

/** A kernel that can be launched; of `Module.function`. */
export interface KernelFunction {
  readonly name: string;
  readonly registers: number;
  /** Bytes of local memory of a thread. */
  readonly localBytes: number;
  readonly handle: unknown;
}

/** A matrix, or a tensor of up to five dimensions, as the copy engine of Hopper (TMA) takes boxes from it. Innermost dimension first. */
export interface TensorMapOptions {
  /** A multiple of 16. */
  readonly address: number;
  readonly dtype: "u8" | "f16" | "bf16" | "f32";
  /** Elements of each dimension. */
  readonly sizes: readonly number[];
  /** Bytes from one index to the next, of every dimension but the innermost: multiples of 16. */
  readonly strides: readonly number[];
  /** Elements of a box, at most 256 in each dimension; the innermost at most as many bytes as `swizzle`, if any. */
  readonly box: readonly number[];
  /** Bytes of the pattern in shared memory. */
  readonly swizzle: 0 | 32 | 64 | 128;
  /** How much L2 takes at once. Default 256. */
  readonly l2Bytes?: 0 | 64 | 128 | 256;
}

const outOfMemory = 2;
const attribute = { numSms: 16, l2Bytes: 38, major: 75, minor: 76, maxSharedBytes: 97 } as const;
const functionAttribute = { localBytes: 3, registers: 4, maxDynamicSharedBytes: 8, sharedCarveout: 9 } as const;
const streamNonBlocking = 1;
/** What this thread may call while it captures: everything. */
const captureRelaxed = 2;
/** Words of a CUlaunchConfig, 56 bytes, and behind it one CUlaunchAttribute, 72 bytes. */
const config = { grid: 0, block: 3, sharedBytes: 6, stream: 8, attributes: 10, numAttributes: 12, attributeId: 14, attributeValue: 16, words: 32 } as const;
const programmaticStreamSerialization = 6;
const tensorTypes = { u8: 0, f16: 6, f32: 7, bf16: 9 } as const;
const swizzles = { 0: 0, 32: 1, 64: 2, 128: 3 } as const;
const l2Promotions = { 0: 0, 64: 1, 128: 2, 256: 3 } as const;
const tensorMapBytes = 128;
/** Host memory that a struct with a tensor map in it is read from. */
const hostAlignment = 128;

/** Arrays for C, in memory of their own. */
function longs(values: readonly number[]): BigUint64Array {
  const array = new BigUint64Array(new ArrayBuffer(8 * values.length));
  array.set(values.map(BigInt));
  return array;
}
function ints(values: readonly number[]): Uint32Array {
  const array = new Uint32Array(new ArrayBuffer(4 * values.length));
  array.set(values);
  return array;
}

class Kernel implements KernelFunction {
  readonly name: string;
  readonly registers: number;
  readonly localBytes: number;
  readonly handle: number;
  /** What the kernel takes, in whole 8 bytes; undefined where the driver does not tell. */
  readonly paramBytes: number | undefined;
  constructor(name: string, handle: number, registers: number, localBytes: number, paramBytes: number | undefined) {
    this.name = name;
    this.handle = handle;
    this.registers = registers;
    this.localBytes = localBytes;
    this.paramBytes = paramBytes;
  }
}

/** Loaded machine code. */
export class Module {
  readonly #cu: Driver;
  readonly #handle: number;
  readonly #forget: (module: Module) => void;
  readonly #out = new Out();

  constructor(cu: Driver, cubin: Uint8Array, forget: (module: Module) => void) {
    this.#cu = cu;
    this.#forget = forget;
    cu.cuModuleLoadData(this.#out.words, cubin);
    this.#handle = this.#out.u64;
  }

  /** A kernel by its name. `maxDynamicSharedBytes`: the most that launches will ask for. */
  function(name: string, maxDynamicSharedBytes = 0): KernelFunction {
    const cu = this.#cu, out = this.#out;
    cu.cuModuleGetFunction(out.words, this.#handle, name);
    const handle = out.u64;
    cu.later.cuFuncLoad?.(handle); // else the first launch loads it, which may be inside a capture
    cu.cuFuncSetAttribute(handle, functionAttribute.sharedCarveout, 100); // all kernels split an SM's memory alike, else it has to be empty before the next may start
    if (maxDynamicSharedBytes > 0) cu.cuFuncSetAttribute(handle, functionAttribute.maxDynamicSharedBytes, maxDynamicSharedBytes);
    const [registers, localBytes] = [functionAttribute.registers, functionAttribute.localBytes].map((which) => {
      cu.cuFuncGetAttribute(out.words, which, handle);
      return out.i32;
    }) as [number, number];
    let paramBytes: number | undefined;
    if (cu.later.cuFuncGetParamInfo) {
      cu.later.cuFuncGetParamInfo(handle, 0, new Out().words, out.words);
      paramBytes = Math.ceil(out.u64 / 8) * 8;
    }
    return new Kernel(name, handle, registers, localBytes, paramBytes);
  }

  unload(): void {
    this.#cu.cuModuleUnload(this.#handle);
    this.#forget(this);
  }
}

/** Captured commands, launched by one call. */
export class Graph {
  /** How many commands. */
  readonly numNodes: number;
  readonly #cu: Driver;
  readonly #stream: number;
  readonly #exec: number;
  readonly #forget: (graph: Graph) => void;

  /** Takes the captured `graph` over: it is freed here. */
  constructor(cu: Driver, graph: number, stream: number, forget: (graph: Graph) => void) {
    this.#cu = cu;
    this.#stream = stream;
    this.#forget = forget;
    const out = new Out();
    try {
      cu.cuGraphGetNodes(graph, null, out.words);
      this.numNodes = out.u64;
      cu.cuGraphInstantiateWithFlags(out.words, graph, 0);
      this.#exec = out.u64;
    } finally {
      cu.cuGraphDestroy(graph);
    }
    cu.cuGraphUpload(this.#exec, stream);
  }

  launch(): void {
    this.#cu.cuGraphLaunch(this.#exec, this.#stream);
  }

  destroy(): void {
    this.#cu.cuGraphExecDestroy(this.#exec);
    this.#forget(this);
  }
}

/** A point in the stream, of `record`. */
export class Event {
  readonly handle: number;
  readonly #cu: Driver;
  readonly #forget: (event: Event) => void;
  constructor(cu: Driver, handle: number, forget: (event: Event) => void) {
    this.#cu = cu;
    this.handle = handle;
    this.#forget = forget;
  }

  destroy(): void {
    this.#cu.cuEventDestroy_v2(this.handle);
    this.#forget(this);
  }
}

export class CudaDevice {
  /** As the driver calls it: "NVIDIA H100 80GB HBM3". */
  readonly name: string;
  /** What kernels are compiled for: "sm_90a" on Hopper, else "sm_80", "sm_86" and so on. */
  readonly arch: string;
  readonly numSms: number;
  readonly totalBytes: number;
  readonly l2Bytes: number;
  /** The most shared memory of one block: 227 KiB on Hopper. */
  readonly maxSharedBytes: number;
  /** The highest CUDA major version whose code the driver runs. */
  readonly cudaMajor: number;
  /** The stream's handle: for libraries that launch on it. */
  readonly stream: number;
  readonly #cu: Driver;
  readonly #ordinal: number;
  readonly #transfers: Transfers;
  readonly #out = new Out();
  /** Bytes by address. */
  readonly #allocated = new Map<number, number>();
  /** Modules, graphs and events that were not freed yet. */
  readonly #owned = new Set<Module | Graph | Event>();
  readonly #forget = (owned: Module | Graph | Event): void => void this.#owned.delete(owned);
  readonly #config = alignedBytes(4 * config.words, 8);
  readonly #configWords = new Uint32Array(this.#config.bytes.buffer, this.#config.bytes.byteOffset, config.words);
  readonly #params = alignedBytes(maxParamBytes, hostAlignment);
  /** The array of pointers to parameters: there is one. */
  readonly #pointers = alignedBytes(8, 8);
  /** Whether kernels can wait for others by themselves: from compute capability 9.0 on. */
  readonly #programmatic: boolean;
  #capturing = false;
  #closed = false;

  /**
   * Opens a GPU for this thread. `ordinal`: its number, as CUDA_VISIBLE_DEVICES leaves them.
   * @throws UsageError where there is no driver or no such GPU
   */
  static async open(ordinal = 0): Promise<CudaDevice> {
    return new CudaDevice(await loadDriver(), ordinal);
  }

  private constructor(cu: Driver, ordinal: number) {
    this.#cu = cu;
    this.#ordinal = ordinal;
    const out = this.#out;
    try {
      cu.cuInit(0);
    } catch (error) {
      throw new UsageError(`NVIDIA's driver is installed, but finds no GPU to work with: ${(error as Error).message}; \`nvidia-smi\` should list one`);
    }
    cu.cuDeviceGetCount(out.words);
    const count = out.i32;
    if (!Number.isInteger(ordinal) || ordinal < 0 || ordinal >= count) throw new UsageError(`there is no GPU ${ordinal}: the driver has ${count}, counted from 0`);
    cu.cuDeviceGet(out.words, ordinal);
    invariant(out.i32 === ordinal, "a CUdevice is the GPU's number");
    const name = new Uint8Array(256);
    cu.cuDeviceGetName(name, name.length, ordinal);
    this.name = new TextDecoder().decode(name.subarray(0, name.indexOf(0)));
    const ask = (which: number): number => {
      cu.cuDeviceGetAttribute(out.words, which, ordinal);
      return out.i32;
    };
    const [major, minor] = [ask(attribute.major), ask(attribute.minor)];
    this.arch = `sm_${major}${minor}${major === 9 ? "a" : ""}`;
    this.#programmatic = major >= 9;
    this.numSms = ask(attribute.numSms);
    this.l2Bytes = ask(attribute.l2Bytes);
    this.maxSharedBytes = ask(attribute.maxSharedBytes);
    cu.cuDriverGetVersion(out.words);
    this.cudaMajor = Math.floor(out.i32 / 1000);
    cu.cuDeviceTotalMem_v2(out.words, ordinal);
    this.totalBytes = out.u64;

    cu.cuDevicePrimaryCtxRetain(out.words, ordinal);
    cu.cuCtxSetCurrent(out.u64);
    cu.cuStreamCreate(out.words, streamNonBlocking);
    this.stream = out.u64;
    this.#transfers = new Transfers(cu, this.stream);
    const words = this.#configWords, set64 = (word: number, value: number): void => words.set([value % 2 ** 32, Math.floor(value / 2 ** 32)], word);
    words.set([1, 1], config.block + 1);
    set64(config.stream, this.stream);
    set64(config.attributes, this.#config.address + 4 * config.attributeId);
    words[config.attributeId] = programmaticStreamSerialization;
    words[config.attributeValue] = 1;
    new BigUint64Array(this.#pointers.bytes.buffer, this.#pointers.bytes.byteOffset, 1)[0] = BigInt(this.#params.address);
  }

  /** Bytes of the GPU's memory that nobody has. */
  freeBytes(): number {
    this.#cu.cuMemGetInfo_v2(this.#out.words, new Out().words);
    return this.#out.u64;
  }

  /**
   * Zeroed memory, aligned to 256 bytes; the zeros are written in the stream's order.
   * @throws UsageError where there is not enough left
   */
  alloc(bytes: number): number {
    this.#outsideCapture("alloc");
    const size = Math.max(bytes, 16); // the driver refuses 0
    try {
      this.#cu.cuMemAlloc_v2(this.#out.words, size);
    } catch (error) {
      if (!(error instanceof CudaError) || error.code !== outOfMemory) throw error;
      const mib = (n: number): string => `${(n / 2 ** 20).toFixed(n < 2 ** 20 ? 3 : 0)} MiB`;
      throw new UsageError(`the GPU has no ${bytes} bytes (${mib(bytes)}) of memory in one piece: ${mib(this.freeBytes())} of ${mib(this.totalBytes)} are left; ask for less, or end other programs on it`);
    }
    const address = this.#out.u64;
    this.#allocated.set(address, size);
    this.#cu.cuMemsetD8Async(address, 0, size, this.stream);
    return address;
  }

  /** Waits for the GPU. */
  free(address: number): void {
    this.#outsideCapture("free");
    invariant(this.#allocated.delete(address), `free of ${address}, which is not allocated`);
    this.#cu.cuMemFree_v2(address);
  }

  /** `data` is free again on return. */
  write(address: number, data: Uint8Array): void {
    this.#outsideCapture("write");
    this.#transfers.write(address, data);
  }

  /** What these bytes hold once every command given before is done. Errors of those commands show here. */
  async read(address: number, bytes: number): Promise<Uint8Array> {
    this.#outsideCapture("read");
    return this.#transfers.read(address, bytes);
  }

  /** Every byte becomes `value`. May be captured. */
  fill(address: number, value: number, bytes: number): void {
    if (bytes > 0) this.#cu.cuMemsetD8Async(address, value, bytes, this.stream);
  }

  /** A copy on the GPU. May be captured. */
  copy(to: number, from: number, bytes: number): void {
    if (bytes > 0) this.#cu.cuMemcpyDtoDAsync_v2(to, from, bytes, this.stream);
  }

  load(cubin: Uint8Array): Module {
    return this.#own(new Module(this.#cu, cubin, this.#forget));
  }

  /** `params` is copied before return. May be captured. */
  launch(f: KernelFunction, shape: LaunchShape, params: Uint8Array): void {
    invariant(f instanceof Kernel, "a function of Module.function");
    const { grid, block, sharedBytes = 0, dependent = false } = shape, words = this.#configWords;
    if (params.length !== f.paramBytes) invariant(f.paramBytes === undefined && params.length <= maxParamBytes, `${f.name} takes ${f.paramBytes} bytes of parameters, got ${params.length}`);
    this.#params.bytes.set(params);
    words[config.grid] = grid[0];
    words[config.grid + 1] = grid[1];
    words[config.grid + 2] = grid[2];
    words[config.block] = block;
    words[config.sharedBytes] = sharedBytes;
    words[config.numAttributes] = dependent && this.#programmatic ? 1 : 0;
    this.#cu.cuLaunchKernelEx(this.#config.address, f.handle, this.#pointers.address, 0);
  }

  /** How many blocks of a kernel an SM runs at once. */
  blocksPerSm(f: KernelFunction, block: number, sharedBytes = 0): number {
    invariant(f instanceof Kernel, "a function of Module.function");
    this.#cu.cuOccupancyMaxActiveBlocksPerMultiprocessor(this.#out.words, f.handle, block, sharedBytes);
    return this.#out.i32;
  }

  /** The 128 bytes of a CUtensorMap: a parameter member of alignment 64. */
  tensorMap({ address, dtype, sizes, strides, box, swizzle, l2Bytes = 256 }: TensorMapOptions): Uint8Array {
    const rank = sizes.length;
    invariant(strides.length === rank - 1 && box.length === rank, `a tensor map of rank ${rank} has ${rank - 1} strides and ${rank} sizes of a box`);
    const map = alignedBytes(tensorMapBytes, hostAlignment);
    this.#cu.cuTensorMapEncodeTiled(
      map.address, tensorTypes[dtype], rank, address, longs(sizes), longs([...strides, 0]), ints(box), ints(sizes.map(() => 1)), 0, swizzles[swizzle], l2Promotions[l2Bytes], 0,
    );
    return map.bytes.slice();
  }

  /** What `body` launches, fills and copies is written down, not run. */
  capture(body: () => void): Graph {
    this.#outsideCapture("capture");
    const cu = this.#cu, out = this.#out;
    cu.cuStreamBeginCapture_v2(this.stream, captureRelaxed);
    this.#capturing = true;
    let ok = false;
    try {
      body();
      ok = true;
    } finally {
      this.#capturing = false;
      try {
        cu.cuStreamEndCapture(this.stream, out.words);
        if (!ok && out.u64 !== 0) cu.cuGraphDestroy(out.u64);
      } catch (error) {
        if (ok) throw error; // oxlint-disable-line no-unsafe-finally -- else what body threw is the reason
      }
    }
    return this.#own(new Graph(cu, out.u64, this.stream, this.#forget));
  }

  /** A point in the stream, for timing. */
  record(): Event {
    this.#outsideCapture("record");
    this.#cu.cuEventCreate(this.#out.words, 0);
    const event = this.#own(new Event(this.#cu, this.#out.u64, this.#forget));
    this.#cu.cuEventRecord(event.handle, this.stream);
    return event;
  }

  /** Milliseconds on the GPU from one point to a later one, once that has come. */
  async elapsedMs(from: Event, to: Event): Promise<number> {
    await this.#transfers.wait(to.handle);
    const ms = new Float32Array(new ArrayBuffer(4));
    this.#cu.cuEventElapsedTime(ms, from.handle, to.handle);
    return ms[0]!;
  }

  /** Blocks this thread until every command is done. */
  synchronize(): void {
    this.#outsideCapture("synchronize");
    this.#cu.cuStreamSynchronize(this.stream);
  }

  /** Waits for the GPU and frees all that was taken on it. Reads must have ended. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    const cu = this.#cu;
    try {
      cu.cuStreamSynchronize(this.stream);
      this.#transfers.close();
      for (const owned of [...this.#owned]) {
        if (owned instanceof Module) owned.unload();
        else owned.destroy();
      }
      for (const address of this.#allocated.keys()) cu.cuMemFree_v2(address);
      this.#allocated.clear();
      cu.cuStreamDestroy_v2(this.stream);
      cu.cuDevicePrimaryCtxRelease_v2(this.#ordinal);
    } catch (error) {
      // A lost device frees nothing more, and the process's end frees all; the error was thrown where it came up.
      if (!(error instanceof CudaError && error.sticky)) throw error;
    }
  }

  #own<T extends Module | Graph | Event>(owned: T): T {
    this.#owned.add(owned);
    return owned;
  }

  #outsideCapture(what: string): void {
    invariant(!this.#capturing, `${what} inside capture`);
  }
}
