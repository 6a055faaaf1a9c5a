/**
 * Kernels of CUDA, of attention and of sampling, on a machine without a GPU: their very text, compiled by the C++ compiler, run with fibers for threads (cuda-emulator.cpp) in
 * memory at addresses of its own. Each allocation has room behind it that nobody may write. Knows launches and bytes, no kernel.
 */
import assert from "node:assert/strict";
import { execFile, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { CudaDevice, KernelFunction, LaunchShape } from "../../src/backend/cuda/device.ts";

const { header } = process.report.getReport() as { readonly header: { readonly glibcVersionRuntime?: string } };

/** Why there is no emulation here, or false. */
export const missing = process.platform !== "linux" ? "the emulation is written for Linux" : header.glibcVersionRuntime === undefined ? "the emulation needs the C library of GNU (ucontext)"
  : spawnSync("g++", ["--version"]).status === 0 ? false : "no C++ compiler (g++) on this machine to compile the kernels; on Debian: apt-get install g++";

/** What stands for an instruction, by all of its text: operands by their place in the statement. */
const instructions: Readonly<Record<string, string>> = {
  "tanh.approx.f32 %0, %1;": "%0 = tanhf(%1)", "sqrt.approx.f32 %0, %1;": "%0 = sqrtf(%1)", "ex2.approx.ftz.f32 %0, %1;": "%0 = exp2f(%1)",
  "min.NaN.f32 %0, %1, %2;": "%0 = minNan(%1, %2)", "max.NaN.f32 %0, %1, %2;": "%0 = maxNan(%1, %2)",
  "cvt.rn.bf16x2.f32 %0, %1, %2;": "%0 = narrowBf16(%1) << 16 | narrowBf16(%2)", "cvt.rn.f16x2.f32 %0, %1, %2;": "%0 = narrowF16(%1) << 16 | narrowF16(%2)", "cvt.f32.f16 %0, %1;": "%0 = widenF16(%1)",
  "{ .reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l; }": "%0 = widenF16(%1 & 0xffff)", "{ .reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h; }": "%0 = widenF16(%1 >> 16)",
  "ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];": "memcpy(&%0, sharedAt(%4), 16)",
  "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];": "loadMatrices4(%0, %1, %2, %3, %4)",
  "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];": "loadMatrices4Transposed(%0, %1, %2, %3, %4)",
  ...Object.fromEntries(["bf16", "f16"].map((type) => [
    `mma.sync.aligned.m16n8k16.row.col.f32.${type}.${type}.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};`,
    `multiplyAdd${type === "bf16" ? "Bf16" : "F16"}(%0, %1, %2, %3, %4, %5, %6, %7, %8, %9)`,
  ])),
  "cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;": "copyLater(%0, %1, %2)",
  "createpolicy.fractional.L2::evict_first.b64 %0, 1.0;": "%0 = 0", "cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;": "copyLater(%0, %1, %2)",
  "cp.async.commit_group;": "::commitCopies()", "cp.async.wait_group %0;": "::waitForCopies(%0)",
  "griddepcontrol.wait;": "(void)0", "griddepcontrol.launch_dependents;": "(void)0",
};

/** A kernel's text as C++: assembly replaced, all of it. */
function translate(text: string): string {
  const bf16 = /^#define ELEMENT_BF16 (\d)$/m.exec(text)?.[1] === "1";
  const chosen = text.replaceAll('" MMA_TYPES "', bf16 ? "bf16.bf16" : "f16.f16").replace(/^#if ELEMENT_BF16\n([^#]*)#else\n([^#]*)#endif\n/gm, (_, yes: string, no: string) => (bf16 ? yes : no));
  const plain = chosen.replace(/\basm(?: volatile)?\(\s*"([^"]*)"((?:[^;"]|"[^"]*")*)\);/g, (_, instruction: string, rest: string) => {
    const meaning = instructions[instruction];
    assert.ok(meaning, `the emulation has no ${instruction}`);
    const operands = [...rest.matchAll(/"[=+]?[a-z]"\(([^()]*)\)/g)].map((found) => found[1]!);
    return `${meaning.replace(/%(\d+)/g, (_, at: string) => {
      assert.ok(operands[Number(at)] !== undefined, `${instruction} has no operand ${at}`);
      return `(${operands[Number(at)]})`;
    })};`;
  });
  assert.ok(!/\basm\b/.test(plain), "all assembly was replaced");
  return plain.replaceAll('extern "C" __global__', "__global__").replaceAll("extern __shared__ __align__(16) u8 shared[];", "u8* const shared = dynamicShared;")
    .replace(/\b__shared__ (\w+ (\w+)(?:\[\w+\])*);/g, (_, declaration: string, name: string) => `static ${declaration}; beginsUndefined(&${name}, sizeof ${name});`);
}

/** A text, and the kernels of it that are launched. */
export interface EmulatedModule {
  readonly text: string;
  readonly kernels: readonly string[];
}

/** Compiled modules: their kernels' functions, in the order given. */
export class Emulator {
  readonly #folder: string;
  readonly functions: readonly Readonly<Record<string, KernelFunction>>[];

  private constructor(folder: string, functions: Emulator["functions"]) {
    this.#folder = folder;
    this.functions = functions;
  }

  static async compile(modules: readonly EmulatedModule[]): Promise<Emulator> {
    const here = new URL(".", import.meta.url).pathname, runtime = join(here, "cuda-emulator.cpp");
    let count = 0;
    const functions = modules.map(({ kernels }) => Object.fromEntries(kernels.map((name): [string, KernelFunction] => [name, { name, registers: 0, localBytes: 0, handle: count++ }])));
    const entries = Array.from({ length: count }, (_, i) => `kernel${i}`);
    const units = [
      ...modules.map(({ text }, i) => ['#include "cuda-emulator.h"', "namespace {", translate(text), "}",
        ...Object.values(functions[i]!).map(({ name, handle }) => `void kernel${String(handle)}(const void* p) { callKernel(${name}, p); }`)].join("\n")),
      ["typedef void (*Kernel)(const void*);", ...entries.map((name) => `void ${name}(const void*);`), `extern const Kernel kernels[] = {${entries.join(", ")}};`].join("\n"),
    ];
    const folder = mkdtempSync(join(tmpdir(), "tessera-emulated-")), objects: string[] = [];
    const gcc = (args: readonly string[]): Promise<unknown> => promisify(execFile)("g++", args, { cwd: folder, maxBuffer: 2 ** 26 });
    try {
      const waiting = [runtime, ...units.map((_, i) => join(folder, `${i}.cpp`))];
      units.forEach((unit, i) => writeFileSync(waiting[i + 1]!, unit));
      const compileNext = async (): Promise<void> => {
        for (let file = waiting.shift(); file; file = waiting.shift()) {
          const object = `${objects.length}.o`;
          objects.push(object);
          // Kernels take longer to optimise than to run. Without fortification, which takes a jump to another fiber's stack for an error.
          await gcc(["-std=c++17", file === runtime ? "-O2" : "-Og", "-w", "-ffp-contract=off", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", `-I${here}`, "-c", file, "-o", object]);
        }
      };
      await Promise.all(Array.from({ length: Math.min(8, availableParallelism()) }, compileNext));
      await gcc([...objects, "-o", "emulated"]);
      return new Emulator(folder, functions);
    } catch (error) {
      rmSync(folder, { recursive: true });
      throw error;
    }
  }

  /**
   * Runs launches (`what`: their names) and gives the memory after them; both as cuda-emulator.cpp says.
   * @throws when a thread leaves its memory, or threads wait for each other in vain
   */
  run(input: Uint8Array, what: string): Uint8Array<ArrayBuffer> {
    const { status, signal, stdout, stderr } = spawnSync(join(this.#folder, "emulated"), { input, maxBuffer: 2 ** 30, timeout: 60_000 });
    if (status !== 0) throw new Error(`${what}: ${signal === "SIGSEGV" ? "an address outside all memory" : signal ? `ended by ${signal}` : stderr.toString().trim()}`);
    return new Uint8Array(stdout);
  }

  close(): void {
    rmSync(this.#folder, { recursive: true });
  }
}

/** Where memory begins, an address of 47 bits; and bytes behind each allocation that nobody may write. */
const base = 2 ** 45, redZone = 256;

/** Memory and launches of a GPU of 4 multiprocessors: what is asked of CudaDevice. Launches run when memory is read. */
export class EmulatedDevice {
  readonly numSms = 4;
  readonly maxSharedBytes = 227 * 1024;
  /** Kernels that were launched, in order. */
  readonly launched: string[] = [];
  readonly #emulator: Emulator;
  readonly #order: number;
  #memory = new Uint8Array(0);
  readonly #zones: number[] = [];
  #launches: { readonly name: string; readonly bytes: Uint8Array }[] = [];

  /** `order`: which thread goes first, and when copies land (cuda-emulator.cpp). */
  constructor(emulator: Emulator, order: number) {
    this.#emulator = emulator;
    this.#order = order;
  }

  /** This as the device that code under test is given. */
  get device(): CudaDevice {
    return this as unknown as CudaDevice;
  }

  alloc(bytes: number): number {
    const at = this.#memory.length, zone = at + bytes, end = Math.ceil((zone + redZone) / 256) * 256;
    const grown = new Uint8Array(end).fill(0xff, zone);
    grown.set(this.#memory);
    this.#memory = grown;
    this.#zones.push(zone, end);
    return base + at;
  }

  free(): void {}

  write(address: number, data: Uint8Array): void {
    assert.equal(this.#launches.length, 0, "memory is written before launches");
    this.#memory.set(data, address - base);
  }

  launch({ name, handle }: KernelFunction, { grid, block, sharedBytes = 0 }: LaunchShape, params: Uint8Array): void {
    assert.deepEqual(grid.slice(1), [1, 1]);
    this.launched.push(name);
    this.#launches.push({ name, bytes: Buffer.concat([new Uint8Array(Uint32Array.of(handle as number, grid[0], block, sharedBytes, params.length).buffer), params]) });
  }

  async read(address: number, bytes: number): Promise<Uint8Array> {
    if (this.#launches.length > 0) {
      const head = new Uint8Array(BigUint64Array.of(BigInt(base), BigInt(this.#memory.length), BigInt(this.#launches.length), BigInt(this.#order)).buffer);
      const names = this.#launches.map(({ name }) => name).join(", ");
      this.#memory = this.#emulator.run(Buffer.concat([head, this.#memory, ...this.#launches.map((launch) => launch.bytes)]), names);
      this.#launches = [];
      for (let i = 0; i < this.#zones.length; i += 2) assert.ok(this.#memory.subarray(this.#zones[i], this.#zones[i + 1]).every((byte) => byte === 0xff), `${names}: something was written behind an allocation`);
    }
    return this.#memory.slice(address - base, address - base + bytes);
  }
}
