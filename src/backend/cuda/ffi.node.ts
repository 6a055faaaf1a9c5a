/**
 * NVIDIA's three libraries as typed functions: the one file that knows koffi, by which C functions are called.
 *
 * A table row is a function's C parameters; calls check the return code, here and nowhere else. Addresses, handles and sizes are JS numbers
 * (all lie below 2^48) and go as uint64, which costs less than a pointer type; `mem` is a typed array whose bytes C reads or writes during the
 * call. Knows no meaning of any of it.
 */
import { invariant, UsageError } from "../../core/errors.ts";
import { CudaError } from "./errors.ts";
import { type LibraryName, notFound, search } from "#cuda-libraries";

/** A parameter's C type. u64: also size_t, handles and every address that is known as a number. */
type Kind = "i32" | "u32" | "u64" | "f32" | "mem" | "str";
interface Values {
  i32: number;
  u32: number;
  u64: number;
  f32: number;
  mem: ArrayBufferView | null;
  str: string;
}
type Table = Readonly<Record<string, readonly Kind[]>>;
type Arguments<A extends readonly Kind[]> = { -readonly [I in keyof A]: Values[A[I]] };
/** Functions that throw a CudaError where the return code is not 0. */
type Checked<T extends Table> = { readonly [N in keyof T]: (...args: Arguments<T[N]>) => void };

const koffiTypes: Readonly<Record<Kind, string>> = { i32: "int32", u32: "uint32", u64: "uint64", f32: "float", mem: "void *", str: "str" };

/** CUresult of each. Names as the library exports them, of a driver of version 525 on. */
const driverTable = {
  cuInit: ["u32"],
  cuDriverGetVersion: ["mem"],
  cuDeviceGetCount: ["mem"],
  cuDeviceGet: ["mem", "i32"],
  cuDeviceGetName: ["mem", "i32", "i32"],
  cuDeviceTotalMem_v2: ["mem", "i32"],
  cuDeviceGetAttribute: ["mem", "i32", "i32"],
  cuDevicePrimaryCtxRetain: ["mem", "i32"],
  cuDevicePrimaryCtxRelease_v2: ["i32"],
  cuCtxSetCurrent: ["u64"],
  cuMemGetInfo_v2: ["mem", "mem"],
  cuMemAlloc_v2: ["mem", "u64"],
  cuMemFree_v2: ["u64"],
  /** flags */
  cuMemHostAlloc: ["mem", "u64", "u32"],
  cuMemFreeHost: ["u64"],
  cuMemcpyHtoDAsync_v2: ["u64", "u64", "u64", "u64"],
  cuMemcpyDtoHAsync_v2: ["u64", "u64", "u64", "u64"],
  cuMemcpyDtoDAsync_v2: ["u64", "u64", "u64", "u64"],
  /** address, byte, count, stream */
  cuMemsetD8Async: ["u64", "u32", "u64", "u64"],
  cuStreamCreate: ["mem", "u32"],
  cuStreamDestroy_v2: ["u64"],
  cuStreamSynchronize: ["u64"],
  cuStreamBeginCapture_v2: ["u64", "i32"],
  cuStreamEndCapture: ["u64", "mem"],
  cuGraphInstantiateWithFlags: ["mem", "u64", "u64"],
  /** graph, nodes or null, count in and out */
  cuGraphGetNodes: ["u64", "mem", "mem"],
  cuGraphUpload: ["u64", "u64"],
  cuGraphLaunch: ["u64", "u64"],
  cuGraphDestroy: ["u64"],
  cuGraphExecDestroy: ["u64"],
  cuEventCreate: ["mem", "u32"],
  cuEventRecord: ["u64", "u64"],
  cuEventSynchronize: ["u64"],
  cuEventElapsedTime: ["mem", "u64", "u64"],
  cuEventDestroy_v2: ["u64"],
  cuModuleLoadData: ["mem", "mem"],
  cuModuleUnload: ["u64"],
  cuModuleGetFunction: ["mem", "u64", "str"],
  cuFuncGetAttribute: ["mem", "i32", "u64"],
  cuFuncSetAttribute: ["u64", "i32", "i32"],
  cuOccupancyMaxActiveBlocksPerMultiprocessor: ["mem", "u64", "i32", "u64"],
  /** config, function, kernelParams, extra: addresses */
  cuLaunchKernelEx: ["u64", "u64", "u64", "u64"],
  /** map, element type, rank, address, sizes, strides, box, element strides, interleave, swizzle, L2 promotion, what lies outside */
  cuTensorMapEncodeTiled: ["u64", "i32", "u32", "u64", "mem", "mem", "mem", "mem", "i32", "i32", "i32", "i32"],
} as const satisfies Table;

/** Later drivers have these. */
const laterTable = {
  /** function, index, offset, size; from 550 on */
  cuFuncGetParamInfo: ["u64", "u64", "mem", "mem"],
  /** from 550 on */
  cuFuncLoad: ["u64"],
} as const satisfies Table;

const nvrtcTable = {
  nvrtcVersion: ["mem", "mem"],
  nvrtcCreateProgram: ["mem", "str", "str", "i32", "mem", "mem"],
  nvrtcDestroyProgram: ["mem"],
  nvrtcGetProgramLogSize: ["u64", "mem"],
  nvrtcGetProgramLog: ["u64", "mem"],
  nvrtcGetCUBINSize: ["u64", "mem"],
  nvrtcGetCUBIN: ["u64", "mem"],
} as const satisfies Table;

const blasTable = {
  cublasLtCreate: ["mem"],
  cublasLtDestroy: ["u64"],
  /** desc, compute type, scale type */
  cublasLtMatmulDescCreate: ["mem", "i32", "i32"],
  cublasLtMatmulDescSetAttribute: ["u64", "i32", "mem", "u64"],
  cublasLtMatmulDescDestroy: ["u64"],
  /** layout, element type, rows, columns, leading dimension */
  cublasLtMatrixLayoutCreate: ["mem", "i32", "u64", "u64", "u64"],
  cublasLtMatrixLayoutDestroy: ["u64"],
  cublasLtMatmulPreferenceCreate: ["mem"],
  cublasLtMatmulPreferenceSetAttribute: ["u64", "i32", "mem", "u64"],
  cublasLtMatmulPreferenceDestroy: ["u64"],
  /** handle, desc, A, B, C, D, preference, how many are wanted, results, how many there are */
  cublasLtMatmulAlgoGetHeuristic: ["u64", "u64", "u64", "u64", "u64", "u64", "u64", "i32", "mem", "mem"],
  /** handle, desc, alpha, A, Adesc, B, Bdesc, beta, C, Cdesc, D, Ddesc, algorithm, workspace, its bytes, stream */
  cublasLtMatmul: ["u64", "u64", "u64", "u64", "u64", "u64", "u64", "u64", "u64", "u64", "u64", "u64", "u64", "u64", "u64", "u64"],
} as const satisfies Table;

/** The driver's API. */
export interface Driver extends Checked<typeof driverTable> {
  /** Whether everything before an event is done. */
  ready(event: number): boolean;
  /** Undefined where the driver is too old. */
  readonly later: Partial<Checked<typeof laterTable>>;
}

/** The CUDA C++ compiler. */
export interface Nvrtc extends Checked<typeof nvrtcTable> {
  /** Where it was found. */
  readonly file: string;
  /** Compiles on a thread of koffi's; the return code, 0 for success. */
  compileProgram(program: number, options: readonly string[]): Promise<number>;
  /** The name of a return code. */
  errorName(code: number): string;
}

export interface CublasLt extends Checked<typeof blasTable> {
  readonly file: string;
}

/** CUDA_ERROR_NOT_READY */
const notReady = 600;
/** NVRTC compiles on koffi's stacks, whose default for other threads is 128 KiB. */
const asyncStackBytes = 8 * 2 ** 20;

type Koffi = typeof import("koffi").default;
type Loaded = ReturnType<Koffi["load"]>;
type Native = ReturnType<Loaded["func"]>;

let koffi: Koffi | undefined;
/** Libraries stay for the process's life: koffi unloads what nothing refers to. */
const loaded = new Map<LibraryName, Promise<unknown>>(), kept: Loaded[] = [];

async function needKoffi(): Promise<Koffi> {
  if (koffi) return koffi;
  let found: Koffi;
  try {
    found = (await import("koffi")).default;
  } catch (error) {
    throw new UsageError(`the package koffi, by which NVIDIA's libraries are called, could not be loaded: \`npm install koffi\` (${(error as Error).message.split("\n")[0]})`);
  }
  if (koffi) return koffi; // another call was faster
  const config = found.config();
  if ((config.async_stack_size ?? 0) < asyncStackBytes) {
    try {
      found.config({ ...config, async_stack_size: asyncStackBytes });
    } catch (error) {
      throw new UsageError(`koffi was in use before the cuda backend was opened, with stacks that are too small for a compiler (${(error as Error).message}): open the backend first`);
    }
  }
  return (koffi = found);
}

/**
 * The address of a typed array's first byte. It holds while the array, or one over the same buffer, is referenced, if the buffer was made by
 * `new ArrayBuffer`: small arrays that were not may lie where the garbage collector moves them.
 */
export function addressOf(array: ArrayBufferView<ArrayBuffer>): number {
  invariant(koffi, "no library was loaded");
  return Number(koffi.address(array));
}

/** Memory that C owns as bytes: of pinned host memory. They may not be touched after it was freed. */
export function viewOf(address: number, bytes: number): Uint8Array<ArrayBuffer> {
  invariant(koffi, "no library was loaded");
  return new Uint8Array(koffi.view(BigInt(address), bytes));
}

/** Bytes for C whose address is a multiple of `alignment`; whoever uses the address keeps `bytes`. */
export function alignedBytes(length: number, alignment: number): { readonly bytes: Uint8Array<ArrayBuffer>; readonly address: number } {
  const all = new Uint8Array(new ArrayBuffer(length + alignment)), start = addressOf(all), skip = (alignment - (start % alignment)) % alignment;
  return { bytes: all.subarray(skip, skip + length), address: start + skip };
}

/** Strings as C has an array of them: pointers, and behind these what they point to. */
function stringArray(strings: readonly string[]): { readonly bytes: Uint8Array; readonly address: number } {
  const encoded = strings.map((s) => new TextEncoder().encode(`${s}\0`)), pointerBytes = 8 * strings.length;
  const memory = alignedBytes(pointerBytes + encoded.reduce((sum, s) => sum + s.length, 0), 8), pointers = new BigUint64Array(memory.bytes.buffer, memory.bytes.byteOffset, strings.length);
  let at = pointerBytes;
  encoded.forEach((s, i) => {
    memory.bytes.set(s, at);
    pointers[i] = BigInt(memory.address + at);
    at += s.length;
  });
  return memory;
}

/** @throws UsageError where the driver is not installed */
export const loadDriver = (): Promise<Driver> => once("driver", Infinity, (library) => {
  const name = library.func("cuGetErrorName", "int32", ["int32", "void *"]), text = library.func("cuGetErrorString", "int32", ["int32", "void *"]);
  const say = (code: number): string => [name, text].map((f) => pointedText((out) => f(code, out))).filter((s) => s !== "").join(", ");
  const fail = (call: string, code: number): CudaError => new CudaError(call, code, say(code) || "unknown error");
  const query = library.func("cuEventQuery", "int32", ["uint64"]);
  return {
    ...bind(library, driverTable, fail),
    later: bindWhatIsThere(library, laterTable, fail),
    ready: (event) => {
      const code = query(event) as number;
      if (code !== 0 && code !== notReady) throw fail("cuEventQuery", code);
      return code === 0;
    },
  };
});

/**
 * @param newest the highest CUDA major version whose code the driver runs
 * @throws UsageError where it is not installed
 */
export const loadNvrtc = (newest = Infinity): Promise<Nvrtc> => once("nvrtc", newest, (library, file) => {
  const text = library.func("nvrtcGetErrorString", "str", ["int32"]), compile = library.func("nvrtcCompileProgram", "int32", ["uint64", "int32", "uint64"]);
  const errorName = (code: number): string => (text(code) as string | null) ?? "unknown error";
  return {
    ...bind(library, nvrtcTable, (call, code) => new CudaError(call, code, errorName(code))),
    file, errorName,
    compileProgram: (program, options) => {
      const strings = stringArray(options), { promise, resolve, reject } = Promise.withResolvers<number>();
      compile.async(program, options.length, strings.address, (error: unknown, code: number) => {
        strings.bytes.fill(0); // they are C's until now
        if (error) reject(error as Error);
        else resolve(code);
      });
      return promise;
    },
  };
});

/** @throws UsageError where it is not installed */
export const loadCublasLt = (newest = Infinity): Promise<CublasLt> => once("cublasLt", newest, (library, file) => {
  const text = library.func("cublasLtGetStatusName", "str", ["int32"]);
  return { ...bind(library, blasTable, (call, code) => new CudaError(call, code, (text(code) as string | null) ?? "unknown error")), file };
});

/** A library is loaded once in a process; a search that failed is made again by the next call. */
function once<T>(name: LibraryName, newest: number, make: (library: Loaded, file: string) => T): Promise<T> {
  const before = loaded.get(name) as Promise<T> | undefined;
  if (before) return before;
  const loading = (async () => {
    const { load } = await needKoffi(), { attempts, places } = search(name, newest), failures: string[] = [];
    for (const { file, first } of attempts) {
      try {
        for (const needed of first) kept.push(load(needed, { global: true }));
        const library = load(file);
        kept.push(library);
        return make(library, file);
      } catch (error) {
        if (file.startsWith("/")) failures.push(`${file} (${(error as Error).message})`);
      }
    }
    throw notFound(name, places, failures);
  })();
  loaded.set(name, loading);
  loading.catch(() => loaded.delete(name));
  return loading;
}

function bind<T extends Table>(library: Loaded, table: T, fail: (call: string, code: number) => Error): Checked<T> {
  return Object.fromEntries(Object.entries(table).map(([name, kinds]) => [name, checked(name, declare(library, name, kinds), fail)])) as unknown as Checked<T>;
}

function bindWhatIsThere<T extends Table>(library: Loaded, table: T, fail: (call: string, code: number) => Error): Partial<Checked<T>> {
  const there = Object.entries(table).flatMap(([name, kinds]) => {
    try {
      return [[name, checked(name, declare(library, name, kinds), fail)] as const];
    } catch {
      return [];
    }
  });
  return Object.fromEntries(there) as unknown as Partial<Checked<T>>;
}

const declare = (library: Loaded, name: string, kinds: readonly Kind[]): Native => library.func(name, "int32", kinds.map((kind) => koffiTypes[kind]));

function checked(name: string, native: Native, fail: (call: string, code: number) => Error): (...args: unknown[]) => void {
  return (...args) => {
    const code = native(...args) as number;
    if (code !== 0) throw fail(name, code);
  };
}

/** The string whose address a function writes. */
function pointedText(call: (out: BigUint64Array) => number): string {
  const out = new BigUint64Array(1);
  return call(out) === 0 && out[0] !== 0n ? koffi!.decode.string(out[0]) : "";
}
