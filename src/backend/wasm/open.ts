/**
 * The CPU backend: WebAssembly SIMD kernels, emitted here, on all cores over one shared memory.
 *
 * An op becomes a record: a kernel's table slot and the address of its argument words. Outside `record` it runs at once;
 * inside, the records become a program that the threads walk by themselves, so a replay is one call whatever the model's depth.
 */
import { toFloat32 } from "../../core/dtype.ts";
import { invariant, UsageError } from "../../core/errors.ts";
import { outOfRange } from "../../ir/interpret.ts";
import { bytesPerKvElement, type AttentionPlan } from "../../ir/plan.ts";
import { type AttentionCall, type AttentionKernel, type Backend, type Buffer, type BufferUse, headerWord, type Ops, type Program, type Weight } from "../backend.ts";
import { capsOf } from "../caps.ts";
import { blockElements, blocksOf, isQuantized, packedRowBytes, panelRows, type QuantizedDType, quantizedFormats, quantizeRows } from "../quantized.ts";
import { attentionArgs, attentionModule, scratchLayout } from "./attention.ts";
import { f32x4, Module, splat } from "./assembler.ts";
import { captureWords } from "./expr.ts";
import { control, Heap, type HeapOptions, WasmBuffer } from "./memory.ts";
import { addressOf, floatBits, opsModule, own, recordOps, sameBank } from "./ops.ts";
import { type DotOperand, packArgs, panelBlockBytes, scaleError, writePanels } from "./panels.ts";
import { Pool } from "./pool.ts";
import { probeDot, quantizedModule } from "./quantized.ts";
import { floatBytes, type FloatType, floatTypes, isRounded, roundArgs } from "./round-weights.ts";
import { rowWords } from "./rows.ts";
import { ThreadChoice } from "./thread-choice.ts";
import { Variants } from "./variants.ts";
import { wideBytes } from "./wide.ts";

export interface WasmOptions extends HeapOptions {
  /** Default: all of the machine's. A page that is not cross-origin isolated has one. */
  readonly threads?: number;
  /** registry.ts says what for. Default true. */
  readonly wideVectors?: boolean;
  /** Milliseconds. Programs are timed, to know how many threads are worth it (thread-choice.ts). */
  readonly clock?: () => number;
}

const mostThreads = 256;
/** What threads may hand each other of one sequence's attention: states of a few rows, one for each 512 keys; of 65,536 keys of most models. */
const sharedBytesPerThread = 2 ** 18;

/** @throws UsageError where WebAssembly lacks relaxed SIMD, or `threads` is not a positive integer */
export async function open(options: WasmOptions = {}): Promise<Backend> {
  if (!WebAssembly.validate(relaxedSimdProbe())) {
    throw new UsageError("the wasm backend needs WebAssembly relaxed SIMD; try Node 22 or newer, or a browser from 2025 on");
  }
  const shared = typeof SharedArrayBuffer !== "undefined" && (globalThis as { crossOriginIsolated?: boolean }).crossOriginIsolated !== false;
  const threads = options.threads ?? (shared ? Math.min(mostThreads, navigator.hardwareConcurrency) : 1);
  if (!Number.isInteger(threads) || threads < 1 || threads > mostThreads) throw new UsageError(`threads must be an integer from 1 to ${mostThreads}, got ${threads}`);
  if (threads > 1 && !shared) throw new UsageError("this page is not cross-origin isolated, so it has no shared memory: serve it with COOP and COEP headers, or use threads: 1");
  const heap = new Heap(options);
  const pool = await Pool.open(heap, threads);
  try {
    return await WasmBackend.open(heap, pool, options.clock ?? (() => performance.now()), options.wideVectors ?? true);
  } catch (error) {
    await pool.close();
    throw error;
  }
}

/** A module that is valid only where relaxed SIMD is. */
function relaxedSimdProbe(): Uint8Array<ArrayBuffer> {
  const m = new Module();
  m.func("probe", {}, "v128", () => [f32x4.relaxed_madd(splat.f32(0), splat.f32(0), splat.f32(0))]);
  return m.bytes();
}

class WasmKernel implements AttentionKernel {
  readonly plan: AttentionPlan;
  readonly variants: Variants;
  constructor(plan: AttentionPlan, variants: Variants) {
    this.plan = plan;
    this.variants = variants;
  }
  /** Written when somebody asks: as text a kernel is larger than as code. */
  get source(): string {
    return attentionModule(this.plan).text();
  }
}

/** Words of arguments for which an op run outside `record` needs no memory of its own. */
const immediateWords = 64;
/** A program of one record: its length, 0, the kernel's slot, and the address of the arguments, which follow. */
const recordBytes = 16;

/** What `record` has written down so far; `header` is the address of the batch's. */
interface Recording {
  readonly records: number[];
  readonly arguments: WasmBuffer[];
  header?: number;
}

class WasmBackend implements Backend {
  readonly name = "wasm";
  readonly caps = capsOf("cpu");
  readonly description: string;
  readonly pulse: readonly Int32Array[];
  readonly ops: Ops;
  readonly #heap: Heap;
  readonly #pool: Pool;
  readonly #clock: () => number;
  #kernels: Variants | undefined;
  /** Kernels of quantised weights, delivered when the first of a dtype is asked for. */
  readonly #quantized = new Map<QuantizedDType, Variants>();
  readonly #dotOperand: DotOperand = probeDot();
  readonly #wideVectors: boolean;
  /** A program of one record and its arguments, for ops run outside `record` while nothing else is under way. */
  readonly #immediate: WasmBuffer;
  #recording: Recording | undefined;
  #scratch: WasmBuffer | undefined;
  /** Which call an argument block belongs to: for errors. */
  readonly #calls = new Map<number, AttentionCall>();
  #failure: unknown;

  readonly #fail = (error: unknown): void => void (this.#failure ??= error);

  static async open(heap: Heap, pool: Pool, clock: () => number, wideVectors: boolean): Promise<WasmBackend> {
    const backend = new WasmBackend(heap, pool, clock, wideVectors);
    backend.#kernels = await Variants.load(pool, opsModule, backend.#fail);
    return backend;
  }

  private constructor(heap: Heap, pool: Pool, clock: () => number, wideVectors: boolean) {
    this.#wideVectors = wideVectors;
    this.#heap = heap;
    this.#pool = pool;
    this.#clock = clock;
    this.#immediate = heap.alloc(recordBytes + 4 * immediateWords);
    // Not how many sleep at the barrier: that changes while a kernel does not end.
    this.pulse = [control.generation, control.claim].map((address) => new Int32Array(heap.memory.buffer, address, 1));
    this.description = `wasm, ${pool.numThreads} thread${pool.numThreads === 1 ? "" : "s"}, relaxed SIMD`;
    this.ops = {
      ...recordOps((kernel, words, banks, dtype) => this.#emit((dtype ? this.#kernelsOf(dtype) : this.#kernels!).slot(kernel, banks), words), (bytes) => this.#needScratch(bytes)),
      attention: (call) => this.#attention(call),
    };
  }

  alloc(bytes: number, use?: BufferUse): WasmBuffer {
    return this.#heap.alloc(bytes, use);
  }

  free(buffer: Buffer): void {
    const freed = own(buffer);
    this.#pool.submit(() => this.#heap.free(freed));
  }

  view(buffer: Buffer): Uint8Array {
    return this.#heap.view(own(buffer));
  }

  write(to: Buffer, offset: number, data: Uint8Array): void {
    invariant(offset >= 0 && offset + data.byteLength <= to.bytes, `write of ${data.byteLength} bytes at ${offset} of ${to.bytes}`);
    const written = this.#pool.busy ? data.slice() : data;
    this.#pool.submit(() => this.view(to).set(written, offset));
  }

  async writeRows({ data, dtype, columns }: Weight, firstRow: number, rows: Uint8Array, type?: FloatType): Promise<void> {
    invariant(isQuantized(dtype), `rows of a weight of ${dtype} are written as they are`);
    const { address, bank } = own(data), kernels = this.#kernelsOf(dtype);
    const slots = { pack: kernels.slot(`pack_${dtype}`, { weights: bank }), round: type && isRounded(dtype) && columns % blockElements === 0 ? kernels.slot(`round_${dtype}_${type}`) : undefined };
    await this.#pool.settled();
    this.#throwFailure();

    const taken: WasmBuffer[] = [];
    const take = (bytes: number): WasmBuffer => taken[taken.push(this.#heap.alloc(bytes)) - 1]!;
    const run = async (slot: number, table: Readonly<Record<string, number>>, values: Readonly<Record<string, number>>): Promise<Int32Array> => {
      const args = take(4 * Object.keys(table).length), program = take(recordBytes), words = this.#words(args);
      for (const [name, value] of Object.entries(values)) words[table[name]!] = value;
      this.#words(program).set([1, 0, slot, args.address]);
      this.#run(program);
      await this.#pool.settled();
      this.#throwFailure();
      return words;
    };
    try {
      /** Where bytes lie in bank 0, a copy of them where they do not. */
      const placed = (bytes: Uint8Array): number => {
        if (bytes.buffer === this.#heap.memory.buffer) return bytes.byteOffset;
        const copy = take(bytes.length);
        this.view(copy).set(bytes);
        return copy.address;
      };
      const rowBytes = packedRowBytes(dtype, columns);
      let packed = rows;
      if (slots.round !== undefined) {
        const blocks = rows.length / floatBytes[type!] / blockElements, rounded = take(blocks * quantizedFormats[dtype].blockBytes);
        const words = await run(slots.round, roundArgs, { from: placed(rows), to: rounded.address, blocks });
        if (words[roundArgs.refused] !== 0) throw new RangeError("a block of weights is not finite, or beyond what f16 holds");
        packed = this.view(rounded);
      } else if (type) packed = quantizeRows(toFloat32(rows, floatTypes[type]), dtype, columns);

      // Whole panels by the threads; the rows of others before and behind them one by one.
      const count = packed.length / rowBytes, from = Math.min(count, (panelRows - (firstRow % panelRows)) % panelRows);
      const panels = Math.floor((count - from) / panelRows), to = from + panels * panelRows;
      for (const [begin, end] of [[0, from], [to, count]] as const) {
        if (begin < end) writePanels(this.view(data), dtype, columns, firstRow + begin, packed.subarray(begin * rowBytes, end * rowBytes), this.#dotOperand);
      }
      if (panels === 0) return;
      const blocks = blocksOf(columns), weight = address + ((firstRow + from) / panelRows) * blocks * panelBlockBytes(dtype);
      const words = await run(slots.pack, packArgs, { packed: placed(packed) + from * rowBytes, rowBytes, weight, panels, blocks });
      const refused = words[packArgs.refused]!;
      if (refused !== 0) throw scaleError(dtype, refused & 0xffff);
    } finally {
      for (const buffer of taken) this.#heap.free(buffer);
    }
  }

  #kernelsOf(dtype: QuantizedDType): Variants {
    let kernels = this.#quantized.get(dtype);
    if (!kernels) {
      kernels = Variants.later(this.#pool, () => quantizedModule(dtype, this.#dotOperand), this.#fail, (bytes) => (this.#wideVectors ? wideBytes(dtype, this.#dotOperand, bytes) : bytes));
      this.#quantized.set(dtype, kernels);
    }
    return kernels;
  }

  async read(from: Buffer, offset: number, bytes: number): Promise<Uint8Array> {
    await this.#pool.settled().catch(this.#fail); // what failed before may be why
    this.#throwFailure();
    invariant(offset >= 0 && offset + bytes <= from.bytes, `read of ${bytes} bytes at ${offset} of ${from.bytes}`);
    return this.view(from).subarray(offset, offset + bytes);
  }

  async compile(plan: AttentionPlan): Promise<AttentionKernel> {
    invariant(!plan.queryFormat, `queries of ${plan.queryFormat} on the wasm backend`);
    this.#needScratch(scratchLayout(plan).bytes);
    return new WasmKernel(plan, await Variants.load(this.#pool, () => attentionModule(plan), this.#fail));
  }

  record(body: () => void): Program {
    invariant(!this.#recording, "record inside record");
    const recording: Recording = { records: [], arguments: [] };
    this.#recording = recording;
    try {
      body();
    } catch (error) {
      for (const block of recording.arguments) this.#discard(block);
      throw error;
    } finally {
      this.#recording = undefined;
    }
    const program = this.#heap.alloc(8 + 4 * recording.records.length);
    this.#words(program).set([recording.records.length / 2, 0, ...recording.records]);
    const { header } = recording;
    if (header === undefined || this.#pool.numThreads === 1) return { run: () => this.#pool.submit(() => this.#run(program)) };
    const choice = new ThreadChoice(), counts = new Int32Array(this.#heap.memory.buffer, header, headerWord.words);
    return { run: () => this.#pool.submit(() => {
      const rows = counts[headerWord.numTokens]!, start = this.#clock();
      this.#run(program, choice.choose(rows) === "one");
      choice.measured(rows, this.#clock() - start);
    }) };
  }

  async close(): Promise<void> {
    await this.#pool.close();
  }

  #attention(call: AttentionCall): void {
    const kernel = call.kernel;
    invariant(kernel instanceof WasmKernel, "the kernel was compiled by another backend");
    const words: number[] = [];
    const put = (word: number, ...values: readonly number[]): void => values.forEach((v, i) => (words[word + i] = v));
    put(attentionArgs.work, addressOf(call.work));
    const { keyFormat = "f32", valueFormat = "f32" } = kernel.plan;
    for (const [first, layout, address, format] of [
      [attentionArgs.query, call.query, addressOf(call.query.data), "f32"], [attentionArgs.out, call.out, addressOf(call.out.data), "f32"],
      [attentionArgs.key, call.key, own(call.key.data).address, keyFormat], [attentionArgs.value, call.value, own(call.value.data).address, valueFormat],
    ] as const) {
      const bytes = bytesPerKvElement[format];
      put(first, address, bytes * layout.sequenceStride, bytes * layout.rowStride, bytes * layout.headStride);
    }
    put(attentionArgs.pageSize, call.pageSize, addressOf(call.blockTable), call.maxPagesPerSequence);
    for (const [first, to] of [[attentionArgs.lse, call.lse], [attentionArgs.maxScore, call.maxScore]] as const) {
      put(first, to ? addressOf(to.data) : 0, to ? 4 * to.sequenceStride : 0);
    }
    put(attentionArgs.sink, call.sink ? addressOf(call.sink) : 0);
    invariant(kernel.plan.denominator !== "sink" || call.sink, "the plan has a sink, the call gives none");
    for (const [first, scale, format] of [[attentionArgs.keyScale, call.keyScale, kernel.plan.keyFormat], [attentionArgs.valueScale, call.valueScale, kernel.plan.valueFormat]] as const) {
      invariant(scale || (format !== "int8" && format !== "fp8"), `keys or values are ${format}, the call gives no scale`);
      put(first, ...(scale ? [addressOf(scale.data), 4 * scale.sequenceStride, 4 * scale.rowStride, 4 * scale.headStride] : [0, 0, 0, 0]));
    }
    const { at } = captureWords(kernel.plan.captures, attentionArgs.captures);
    kernel.plan.captures.forEach((slot, i) => {
      const value = call.captures[i];
      invariant(value?.kind === slot.kind, `capture ${slot.name} is a ${slot.kind}, but the call gives ${value?.kind}`);
      if (value.kind === "table") put(at[i]!, addressOf(value.data), ...value.shape);
      else put(at[i]!, slot.type === "i32" ? value.value : floatBits(value.value));
    });
    this.#emit(kernel.variants.slot("attention", { cache: sameBank(call.key.data, call.value.data) }), words, call);
  }

  /** Writes down a record, or runs it in its turn. `call` is what an error of the kernel is about. */
  #emit(slot: number, words: readonly number[], call?: AttentionCall): void {
    const recording = this.#recording;
    if (recording) {
      const block = this.#heap.alloc(4 * words.length);
      this.#words(block).set(words);
      recording.arguments.push(block);
      recording.records.push(slot, block.address);
      if (call) this.#calls.set(block.address, call);
      else recording.header ??= words[rowWords.header]!;
      return;
    }
    const alone = !this.#pool.busy && words.length <= immediateWords;
    if (alone) this.#collect(); // while the call that used the block before is known
    const program = alone ? this.#immediate : this.#heap.alloc(recordBytes + 4 * words.length);
    const address = program.address + recordBytes;
    const at = this.#words(program);
    at.set([1, 0, slot, address]);
    at.set(words, recordBytes / 4);
    if (call) this.#calls.set(address, call);
    this.#pool.submit(() => this.#run(program));
    if (!alone) this.#pool.submit(() => this.#discard(program));
  }

  #run(program: WasmBuffer, alone = false): void {
    try {
      this.#pool.run(program.address, alone);
    } catch (error) {
      this.#failure ??= error;
    }
  }

  /** Frees what held an op's arguments. */
  #discard(block: WasmBuffer): void {
    this.#collect();
    this.#calls.delete(block.address);
    this.#calls.delete(block.address + recordBytes);
    this.#heap.free(block);
  }

  /** Takes up what a mod's load reported. Only between programs. */
  #collect(): void {
    const words = new Int32Array(this.#heap.memory.buffer, control.outOfRange, 5);
    if (words[0] === 0) return;
    const [, args, slot, dim, index] = words;
    words.fill(0);
    const call = this.#calls.get(args! >>> 0)!; // an address above 2 GiB is a negative word
    const value = call.captures[slot!]!;
    invariant(value.kind === "table", "a load from a number");
    this.#failure ??= outOfRange(call.kernel.plan.captures[slot!]!.name, dim!, index!, value.shape);
  }

  #throwFailure(): void {
    this.#collect();
    if (this.#failure === undefined) return;
    const failure = this.#failure;
    this.#failure = undefined;
    throw failure;
  }

  /** Makes every thread's scratch at least this long, and what they share. @throws UsageError when there is no room */
  #needScratch(bytes: number): void {
    const { numThreads } = this.#pool, stride = Math.ceil(bytes / 64) * 64, old = this.#scratch;
    const sharedBytes = numThreads > 1 ? numThreads * sharedBytesPerThread : 0;
    if (old && stride * numThreads + sharedBytes <= old.bytes) return;
    const scratch = this.#heap.alloc(stride * numThreads + sharedBytes);
    this.#scratch = scratch;
    this.#pool.submit(() => {
      const words = new Int32Array(this.#heap.memory.buffer, 0, control.bytes / 4);
      words[control.scratch / 4] = scratch.address;
      words[control.scratchStride / 4] = stride;
      words[control.shared / 4] = scratch.address + stride * numThreads;
      words[control.sharedBytes / 4] = sharedBytes;
      if (old) this.#heap.free(old);
    });
  }

  #words(buffer: WasmBuffer): Int32Array {
    return new Int32Array(this.#heap.memory.buffer, buffer.address, Math.floor(buffer.bytes / 4));
  }
}
