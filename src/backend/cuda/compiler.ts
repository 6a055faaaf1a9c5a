/**
 * CUDA C++ to machine code, by NVRTC, on other threads; from disk where it was compiled before. Needs no GPU.
 *
 * Code that spills, keeps arrays on the stack or serialises its matrix instructions is refused: it would run, several times slower, and
 * nobody would know why. Knows no kernel.
 */
import { openCubinCache } from "#cubin-cache";
import { loadNvrtc } from "#cuda-ffi";
import { errorsOf, gapsOf, type KernelResources, resourcesOf, slowness } from "./compile-log.ts";
import { kernelsOf } from "./cubin.ts";
import { Out } from "./transfers.ts";

export interface Compiled {
  readonly cubin: Uint8Array;
  /** Of each kernel. */
  readonly resources: readonly KernelResources[];
  readonly fromCache: boolean;
  /** How long it took. */
  readonly seconds: number;
}

/** A kernel that does not compile, or not to what it should be. The message has NVRTC's log, with lines of source. */
export class CompileError extends Error {
  override readonly name = "CompileError";
  /** It compiles, but spills, keeps arrays on the stack or serialises its matrix instructions. */
  readonly slow: boolean;

  constructor(message: string, slow: boolean) {
    super(message);
    this.slow = slow;
  }
}

/** What is kept of a source beside its code: what its kernels take, or why it is refused. */
type Facts = { readonly resources: readonly KernelResources[] } | { readonly refused: readonly string[] };

type Cache = ReturnType<typeof openCubinCache>;
type Nvrtc = Awaited<ReturnType<typeof loadNvrtc>>;

export class Compiler {
  readonly arch: string;
  /** NVRTC's: "13.0". */
  readonly version: string;
  /** Where NVRTC was found. */
  readonly file: string;
  readonly #nvrtc: Nvrtc;
  readonly #cache: Cache;
  readonly #options: readonly string[];
  /** Compilations that are under way, by key. */
  readonly #running = new Map<string, Promise<Compiled>>();
  #cacheFailure: string | undefined;

  /**
   * A compiler for an architecture such as "sm_90a". `newest`: the highest CUDA major version whose code the driver runs, where there is one.
   * `nvrtc` is replaced by tests. @throws UsageError where NVRTC is not installed
   */
  static async open(arch: string, newest?: number, cache: Cache = openCubinCache(), nvrtc?: Nvrtc): Promise<Compiler> {
    return new Compiler(arch, nvrtc ?? await loadNvrtc(newest), cache);
  }

  private constructor(arch: string, nvrtc: Nvrtc, cache: Cache) {
    this.arch = arch;
    this.file = nvrtc.file;
    this.#nvrtc = nvrtc;
    this.#cache = cache;
    const major = new Out(), minor = new Out();
    nvrtc.nvrtcVersion(major.words, minor.words);
    this.version = `${major.i32}.${minor.i32}`;
    // Where a driver is, NVRTC 12.9 and newer keep code of their own on disk, and say nothing of what comes from there.
    const ownCache = major.i32 > 12 || (major.i32 === 12 && minor.i32 >= 9) ? ["--no-cache"] : [];
    this.#options = [`--gpu-architecture=${arch}`, "-default-device", "--std=c++17", "-lineinfo", "--ptxas-options=-v", ...ownCache];
  }

  /** Why compiled kernels were not kept for the next start, if they were not. */
  get cacheFailure(): string | undefined {
    return this.#cacheFailure;
  }

  /**
   * Compiles `source`, whose errors are reported as of a file `name`.
   * @throws CompileError for errors, spills, arrays on the stack, serialised matrix instructions
   */
  compile(name: string, source: string): Promise<Compiled> {
    const key = this.#cache.key(source, name, this.arch, this.version, ...this.#options);
    let running = this.#running.get(key);
    if (!running) {
      running = this.#compile(key, name, source).finally(() => this.#running.delete(key));
      this.#running.set(key, running);
    }
    return running;
  }

  async #compile(key: string, name: string, source: string): Promise<Compiled> {
    const start = performance.now(), seconds = (): number => (performance.now() - start) / 1000;
    const kept = await this.#cache.get(key);
    let facts: Facts, cubin: Uint8Array;
    if (kept) [facts, cubin] = [kept.facts as Facts, kept.cubin];
    else {
      const { cubin: made, log } = await this.#translate(name, source);
      const refused = slowness(log);
      [facts, cubin] = refused.length > 0 ? [{ refused }, new Uint8Array()] : [{ resources: resourcesOf(log) }, made];
      try {
        await this.#cache.put(key, cubin, facts);
      } catch (error) {
        this.#cacheFailure = `${this.#cache.folder}: ${(error as Error).message}`;
      }
    }
    if ("refused" in facts) throw new CompileError(`${name} compiles for ${this.arch} to code that is slow:\n${facts.refused.join("\n")}`, true);
    return { cubin, resources: facts.resources, fromCache: kept !== undefined, seconds: seconds() };
  }

  async #translate(name: string, source: string): Promise<{ readonly cubin: Uint8Array; readonly log: string }> {
    const nvrtc = this.#nvrtc, out = new Out(), handle = new Out();
    nvrtc.nvrtcCreateProgram(handle.words, source, name, 0, null, null);
    const program = handle.u64;
    try {
      const code = await nvrtc.compileProgram(program, this.#options);
      nvrtc.nvrtcGetProgramLogSize(program, out.words);
      const text = new Uint8Array(Math.max(1, out.u64));
      nvrtc.nvrtcGetProgramLog(program, text);
      const log = new TextDecoder().decode(text).replace(/\0+$/, "");
      if (code !== 0) throw new CompileError(`${name} does not compile for ${this.arch} (${nvrtc.errorName(code)}, NVRTC ${this.version}):\n${errorsOf(log)}`, false);
      nvrtc.nvrtcGetCUBINSize(program, out.words);
      const cubin = new Uint8Array(out.u64);
      nvrtc.nvrtcGetCUBIN(program, cubin);
      const gaps = gapsOf(log, kernelsOf(cubin));
      if (gaps.length > 0) throw new Error(`NVRTC ${this.version} compiled ${name} and does not say to what: ${gaps.join(", ")}`);
      return { cubin, log };
    } finally {
      nvrtc.nvrtcDestroyProgram(handle.words);
    }
  }
}
