/**
 * The GPU backend: opens the device, compiles kernels when they are first wanted, and runs commands in the order given.
 *
 *   op ──▶ command ──▶ runs at once            or, in `record`, is written down        a step that decodes alone ──▶ a CUDA graph of its size
 *            │ its kernels are still compiling                                         any other ──▶ the commands, one launch each
 *            └──▶ waits in a queue, as does whatever comes behind it
 *
 * Knows no model. What kernels there are, and how they are launched, is in attention.ts, ops.ts and sample.ts.
 */
import { UsageError, invariant } from "../../core/errors.ts";
import { outOfRange } from "../../ir/interpret.ts";
import type { AttentionPlan } from "../../ir/plan.ts";
import type { AttentionCall, AttentionKernel, Backend, Buffer, Ops, Program, StepSize } from "../backend.ts";
import { capsOf } from "../caps.ts";
import { rule } from "./attention.ts";
import { fitAttention } from "./attention-fit.ts";
import { type CompiledAttention, Launcher } from "./attention-launch.ts";
import { Blas } from "./blas.ts";
import { Compiler } from "./compiler.ts";
import { CudaDevice, type Graph, type KernelFunction, type Module } from "./device.ts";
import { placeOf } from "./expr.ts";
import { Failures } from "./failures.ts";
import { fuse, type Part, type Recorded } from "./fuse.ts";
import { CudaBuffer, own } from "./memory.ts";
import { type FindKernel, moduleLabel, moduleText, type ModuleName } from "./modules.ts";
import { type Command, createOps } from "./ops.ts";
import { createSamplingOps } from "./sample.ts";

/** Commands of a step beyond this many tokens take so long that launching each is hidden behind them; and such steps come in too many sizes for graphs. */
const mostTokensOfGraph = 1024;

export interface CudaOptions {
  /** What a request gets does not depend on what else is in a step: one family of matrix products, and fixed cuts of decode's keys. Slower. Default false. */
  readonly deterministic?: boolean;
}

/**
 * Opens the first GPU (CUDA_VISIBLE_DEVICES chooses another).
 * @throws UsageError where the driver, NVRTC or koffi is not installed, naming every place that was looked in, or there is no GPU, or one too old
 */
export async function open({ deterministic = false }: CudaOptions = {}): Promise<Backend> {
  const device = await CudaDevice.open();
  try {
    if (Number(/\d+/.exec(device.arch)![0]) < 80) throw new UsageError(`${device.name} is of architecture ${device.arch}; device cuda needs sm_80 (Ampere) or newer, for bf16 and asynchronous copies: choose another GPU by CUDA_VISIBLE_DEVICES, or --device cpu`);
    const compiler = await Compiler.open(device.arch, device.cudaMajor);
    const blas = await Blas.open(device);
    return new CudaBackend(device, compiler, blas, deterministic);
  } catch (error) {
    device.close();
    throw error;
  }
}

/** A step of which nothing is known, for ops outside a program: kernels read the header, and grids are as large as buffers allow. */
const anyStep: StepSize = { numTokens: Infinity, numSequences: Infinity, numLogits: Infinity };

class CudaBackend implements Backend {
  readonly name = "cuda";
  readonly caps = capsOf("cuda");
  readonly description: string;
  readonly ops: Ops;
  readonly #device: CudaDevice;
  readonly #compiler: Compiler;
  readonly #blas: Blas | undefined;
  readonly #launcher: Launcher;
  readonly #failures: Failures;
  readonly #deterministic: boolean;
  /** Fixed kernels by their module's label: loaded, or on their way. */
  readonly #modules = new Map<string, Module | Promise<void>>();
  readonly #moduleOf = new Map<string, Module>();
  readonly #functions = new Map<string, KernelFunction>();
  #recording: Recorded[] | undefined;
  /** What waits for modules, in order. */
  readonly #queue: (() => boolean)[] = [];
  /** Reads under way, each with its outcome: what they wait for is freed when all have ended. */
  readonly #reads = new Set<Promise<unknown>>();
  #failure: unknown;
  #closed = false;

  constructor(device: CudaDevice, compiler: Compiler, blas: Awaited<ReturnType<typeof Blas.open>>, deterministic: boolean) {
    this.#device = device;
    this.#deterministic = deterministic;
    this.#compiler = compiler;
    this.#blas = "blas" in blas ? blas.blas : undefined;
    this.#failures = new Failures(device);
    this.#launcher = new Launcher(device, this.#failures);
    const products = deterministic ? "own matrix products alone, in one order of sums (deterministic)" : "blas" in blas ? "cuBLASLt for large matrix products" : `own matrix products alone (${blas.missing})`;
    const kept = compiler.cacheFailure ? `; compiled kernels are not kept: ${compiler.cacheFailure}` : "";
    this.description = `cuda, ${device.name}, ${device.numSms} multiprocessors, NVRTC ${compiler.version}, ${products}${kept}`;
    const context = {
      device, blas: this.#blas, deterministic,
      submit: (needs: readonly ModuleName[], command: Command, part?: Part): void => this.#submit(needs, (step) => command(step, this.#find), part),
    };
    this.ops = { ...createOps(context), ...createSamplingOps(context), attention: (call) => this.#attention(call) };
  }

  readonly #find: FindKernel = (name, sharedBytes = 0) => {
    let found = this.#functions.get(name);
    if (!found) {
      const module = this.#moduleOf.get(name);
      invariant(module, `no module that is loaded has a kernel ${name}`);
      // Launches of one kernel ask for different amounts: it may have the most, less what it takes by itself.
      this.#functions.set(name, (found = module.function(name, sharedBytes > 0 ? this.#device.maxSharedBytes - 256 : 0)));
    }
    return found;
  };

  #ready(needs: readonly string[]): boolean {
    return needs.every((label) => !(this.#modules.get(label) instanceof Promise));
  }

  /** Starts compiling a module that is not there yet. */
  #want(name: ModuleName): string {
    const label = moduleLabel(name);
    if (!this.#modules.has(label)) {
      const loading = this.#compiler.compile(`${label}.cu`, moduleText(name)).then(({ cubin, resources }) => {
        if (this.#closed) return;
        const module = this.#device.load(cubin);
        for (const { kernel } of resources) this.#moduleOf.set(kernel, module);
        this.#modules.set(label, module);
      }).catch((error: unknown) => {
        // Nobody waits for it any more: what needs it is left out, and the next read tells why.
        this.#failure ??= error;
        this.#modules.delete(label);
      });
      this.#modules.set(label, loading.then(() => this.#flush()));
    }
    return label;
  }

  #submit(needs: readonly ModuleName[], run: (step: StepSize) => void, part: Part | undefined): void {
    const labels = needs.map((name) => this.#want(name));
    if (this.#recording) this.#recording.push({ needs: labels, run, part });
    else this.#inTurn(labels, () => run(anyStep));
  }

  /** Runs `command` now, or once what stands before it has run and its modules are there. */
  #inTurn(needs: readonly string[], command: () => void): void {
    invariant(!this.#closed, "the backend is closed");
    if (this.#queue.length === 0 && this.#ready(needs)) return this.#run(command);
    this.#queue.push(() => {
      if (!this.#ready(needs)) return false;
      this.#run(command);
      return true;
    });
  }

  #flush(): void {
    while (this.#queue[0]?.()) this.#queue.shift();
  }

  /** What follows a failure is left out, as it would compute with rubbish. */
  #run(command: () => void): void {
    if (this.#failure !== undefined) return;
    try {
      command();
    } catch (error) {
      this.#failure = error;
    }
  }

  /** Waits until the queue is empty. */
  async #drain(): Promise<void> {
    while (this.#queue.length > 0) await Promise.all([...this.#modules.values()].filter((m) => m instanceof Promise));
  }

  #attention(call: AttentionCall): void {
    const { kernel } = call;
    invariant(kernel instanceof CudaAttentionKernel, "an attention kernel of another backend was given to the cuda backend");
    const run = this.#launcher.prepare(kernel.compiled, call, this.#recording !== undefined);
    if (this.#recording) this.#recording.push({ needs: [], run });
    else this.#inTurn([], () => run(anyStep));
  }

  alloc(bytes: number): Buffer {
    return new CudaBuffer(this.#device.alloc(bytes), bytes);
  }

  free(buffer: Buffer): void {
    const { address } = own(buffer);
    this.#inTurn([], () => this.#device.free(address));
  }

  availableBytes(): number {
    return this.#device.freeBytes();
  }

  view(_buffer: Buffer): undefined {
    return undefined;
  }

  write(to: Buffer, offset: number, data: Uint8Array): void {
    invariant(!this.#recording, "write inside record");
    const { address } = own(to.slice(offset, data.byteLength));
    if (this.#queue.length === 0) return this.#run(() => this.#device.write(address, data));
    const copy = data.slice(); // the caller may change it before its turn
    this.#inTurn([], () => this.#device.write(address, copy));
  }

  async writeRows(): Promise<void> {
    throw new UsageError("device cuda keeps no matrices in 8 or 4 bits; leave --quantization out, and they are widened to 16 bits as they are loaded");
  }

  read(from: Buffer, offset: number, bytes: number): Promise<Uint8Array> {
    const { address } = own(from.slice(offset, bytes));
    if (this.#queue.length === 0) return this.#read(address, bytes);
    // In its turn, as what is given after it may write there: the step behind, to the tokens of this one.
    return new Promise((resolve) => this.#queue.push(() => {
      resolve(this.#read(address, bytes));
      return true;
    }));
  }

  /** The copies are given their place in the stream before this returns. */
  async #read(address: number, bytes: number): Promise<Uint8Array> {
    if (this.#failure !== undefined) {
      const failure = this.#failure;
      this.#failure = undefined;
      throw failure;
    }
    const data = this.#device.read(address, bytes), failures = this.#failures.read(), both = Promise.allSettled([data, failures]);
    this.#reads.add(both);
    void both.then(() => this.#reads.delete(both));
    const [found] = await Promise.all([data, failures]);
    const failed = await failures;
    if (failed) {
      const { slot, dim } = placeOf(failed.where), { call } = failed;
      const capture = call.captures[slot];
      invariant(capture?.kind === "table", "a load that failed is of a table");
      throw outOfRange(call.kernel.plan.captures[slot]!.name, dim, failed.index, capture.shape);
    }
    return found;
  }

  async compile(plan: AttentionPlan): Promise<AttentionKernel> {
    const { source, general, decode } = await fitAttention(this.#compiler, plan, { maxSharedBytes: this.#device.maxSharedBytes, deterministic: this.#deterministic });
    const module = this.#device.load(general.cubin), decodeModule = decode && this.#device.load(decode.cubin);
    const compiled: CompiledAttention = {
      source,
      general: module.function("attention", source.general.sharedBytes),
      ...(source.mask && { packMask: module.function("packMask") }),
      ...(decodeModule && { decode: decodeModule.function("decode", source.decode!.sharedBytes), planDecode: decodeModule.function("planDecode") }),
    };
    return new CudaAttentionKernel(compiled, `// ${rule(source)}\n\n${[source.general, ...(source.decode ? [source.decode] : [])].map(({ text }) => text).join("\n\n")}`);
  }

  record(body: () => void): Program {
    invariant(!this.#recording, "record inside record");
    const commands: Recorded[] = [];
    this.#recording = commands;
    this.#launcher.beginProgram();
    try {
      body();
    } finally {
      this.#recording = undefined;
    }
    return new CudaProgram(this.#device, fuse(commands, (name) => this.#want(name), this.#find), (needs, command) => this.#inTurn(needs, command));
  }

  get preparing(): boolean {
    return this.#queue.length > 0;
  }

  async close(): Promise<void> {
    await this.#drain();
    await Promise.all(this.#reads);
    if (this.#closed) return;
    this.#closed = true;
    this.#blas?.close();
    this.#device.close();
  }
}

class CudaAttentionKernel implements AttentionKernel {
  readonly plan: AttentionPlan;
  readonly source: string;
  readonly compiled: CompiledAttention;
  constructor(compiled: CompiledAttention, source: string) {
    this.compiled = compiled;
    this.plan = compiled.source.plan;
    this.source = source;
  }
}

/**
 * Sizes of steps that share a graph: rows rounded up to 1, 2, 4, 8, 16, 24, 32 and on by quarters of the power of two below, so that at most a fifth
 * of a large batch's rows are not there.
 */
export function bucketOf(rows: number): number {
  if (rows <= 4) return rows === 3 ? 4 : rows;
  const step = rows <= 8 ? 8 : rows <= 64 ? 8 : 2 ** (Math.floor(Math.log2(rows - 1)) - 2);
  return Math.ceil(rows / step) * step;
}

class CudaProgram implements Program {
  readonly #device: CudaDevice;
  readonly #commands: readonly Recorded[];
  readonly #needs: readonly string[];
  readonly #inTurn: (needs: readonly string[], command: () => void) => void;
  readonly #graphs = new Map<number, Graph>();

  constructor(device: CudaDevice, commands: readonly Recorded[], inTurn: (needs: readonly string[], command: () => void) => void) {
    this.#device = device;
    this.#commands = commands;
    this.#needs = [...new Set(commands.flatMap(({ needs }) => needs))];
    this.#inTurn = inTurn;
  }

  run(step: StepSize): void {
    this.#inTurn(this.#needs, () => {
      const { numTokens, numSequences, numLogits } = step;
      const decodes = numTokens === numSequences && numLogits === numSequences && numTokens <= mostTokensOfGraph;
      // A graph of one command saves nothing.
      if (!decodes || this.#commands.length === 1) return this.#launch(step);
      const rows = bucketOf(numTokens);
      let graph = this.#graphs.get(rows);
      if (!graph) {
        const whole = { numTokens: rows, numSequences: rows, numLogits: rows };
        // The first replay runs as commands: whatever a launch sets up for itself is set up outside the capture.
        this.#launch(whole);
        this.#graphs.set(rows, (graph = this.#device.capture(() => this.#launch(whole))));
        return;
      }
      graph.launch();
    });
  }

  #launch(step: StepSize): void {
    for (const { run } of this.#commands) run(step);
  }
}
