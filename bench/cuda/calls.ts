/**
 * Attention calls of the cuda backend as a model's layer makes them, with random inputs: what they take, and how far some of their rows are from the oracle.
 * Backends have no clock on the device, so this takes the parts that the backend is made of.
 */
import { planAttention, planWork } from "../../src/attention/index.ts";
import { captureValues } from "../../src/attention/attention.ts";
import { readCaptures } from "../../src/attention/captures.ts";
import type { AttentionCall } from "../../src/backend/backend.ts";
import { fitAttention } from "../../src/backend/cuda/attention-fit.ts";
import { type CompiledAttention, Launcher } from "../../src/backend/cuda/attention-launch.ts";
import type { Compiler } from "../../src/backend/cuda/compiler.ts";
import type { CudaDevice, Graph, Module } from "../../src/backend/cuda/device.ts";
import { Failures } from "../../src/backend/cuda/failures.ts";
import { CudaBuffer } from "../../src/backend/cuda/memory.ts";
import { capsOf } from "../../src/backend/registry.ts";
import { toBf16 } from "../../src/core/dtype.ts";
import { stream } from "../../src/core/random.ts";
import { analyse } from "../../src/ir/range.ts";
import { type Case, problems } from "./cases.ts";
import { errorOf, type Head, mostError, numbersOf } from "./oracle.ts";
import { times } from "./timing.ts";

const pageSize = 64;
/** Written between runs of decode, so that L2 holds nothing of the cache. */
const flushBytes = 256 * 2 ** 20;
/** Numbers until they repeat: odd, so that no two heads have the same. */
const noisePeriod = 2 ** 20 - 3;
/** Rows of a prefill that are compared: the ends, both sides of tiles' and documents' edges, and some. */
const comparedRows = [0, 1, 63, 64, 127, 128, 699, 700, 1023, 1024, 1025, 2899, 2900, 4095, 5000, 6999, 7000, 8190, 8191];

export interface Measured {
  /** Of each run. */
  readonly ms: readonly number[];
  /** Of decode: with the cuts of its work made anew, as the first layer of a step does. */
  readonly planningMs?: readonly number[];
  /** Of the sampled rows; below `mostError`. */
  readonly error: number;
  readonly registers: number;
}

export class Calls {
  readonly #device: CudaDevice;
  readonly #compiler: Compiler;
  readonly #failures: Failures;
  readonly #launcher: Launcher;
  readonly #random = stream(20);
  readonly #noise: Uint8Array;
  readonly #flush: number;
  /** Freed when the case is over. */
  #buffers: CudaBuffer[] = [];
  #modules: (Module | Graph)[] = [];

  constructor(device: CudaDevice, compiler: Compiler) {
    this.#device = device;
    this.#compiler = compiler;
    this.#failures = new Failures(device);
    this.#launcher = new Launcher(device, this.#failures);
    this.#flush = device.alloc(flushBytes);
    const noise = Uint16Array.from({ length: noisePeriod }, () => toBf16(Math.sqrt(-2 * Math.log(1 - this.#random())) * Math.cos(2 * Math.PI * this.#random())));
    this.#noise = new Uint8Array(noise.buffer);
  }

  /** @throws where the sampled rows are not what the oracle says */
  async measure(one: Case, runs: number): Promise<Measured> {
    try {
      return await (one.kind === "prefill" ? this.#prefill(one, runs) : this.#decode(one, runs));
    } finally {
      this.#device.synchronize();
      for (const { address } of this.#buffers) this.#device.free(address);
      for (const module of this.#modules) if ("unload" in module) module.unload(); else module.destroy();
      [this.#buffers, this.#modules] = [[], []];
    }
  }

  #alloc(bytes: number): CudaBuffer {
    const buffer = new CudaBuffer(this.#device.alloc(bytes), bytes);
    this.#buffers.push(buffer);
    return buffer;
  }

  #upload(data: Int32Array | Float32Array): CudaBuffer {
    const buffer = this.#alloc(Math.max(4, data.byteLength));
    this.#device.write(buffer.address, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    return buffer;
  }

  /** Normal numbers in bf16; no two buffers begin at the same place of the noise, or a query would find itself among the keys. */
  #normal(elements: number): CudaBuffer {
    const buffer = this.#alloc(2 * elements), noise = this.#noise;
    let from = 2 * Math.floor(this.#random() * noisePeriod);
    for (let at = 0, taken = 0; at < buffer.bytes; at += taken, from = 0) {
      taken = Math.min(noise.length - from, buffer.bytes - at);
      this.#device.write(buffer.address + at, noise.subarray(from, from + taken));
    }
    return buffer;
  }

  async #compile(one: Case): Promise<{ readonly compiled: CompiledAttention; readonly captures: AttentionCall["captures"]; readonly workOf: (firstRow: Int32Array, rows: number) => Int32Array }> {
    const { batch, heads, kvHeads, length, dim, problem } = one;
    const { plan, bindings } = planAttention({
      ...problems[problem].mods(heads, length), numQueryHeads: heads, numKvHeads: kvHeads, headDimQk: dim, headDimV: dim, ...capsOf("cuda").tiles,
      queryFormat: "bf16", keyFormat: "bf16", valueFormat: "bf16",
    });
    const { source, general, decode } = await fitAttention(this.#compiler, plan, { maxSharedBytes: this.#device.maxSharedBytes, deterministic: false });
    const load = (cubin: Uint8Array): Module => {
      const module = this.#device.load(cubin);
      this.#modules.push(module);
      return module;
    };
    const module = load(general.cubin), decodeModule = decode && load(decode.cubin), values = readCaptures(bindings);
    const compiled = {
      source, general: module.function("attention", source.general.sharedBytes), ...(source.mask && { packMask: module.function("packMask") }),
      ...(decodeModule && { decode: decodeModule.function("decode", source.decode!.sharedBytes), planDecode: decodeModule.function("planDecode") }),
    };
    const fill = (n: number): Int32Array => new Int32Array(batch).fill(n);
    const mask = plan.maskMod && analyse(plan.maskMod).bind(values);
    return {
      compiled, captures: captureValues(plan.captures, values, (data) => this.#upload(data)),
      workOf: (firstRow, rows) => planWork(mask, { numSequences: batch, firstRow, numRows: fill(rows), firstPosition: fill(length - rows), kvLength: fill(length) }, plan) as Int32Array,
    };
  }

  /** Whole sequences, [B, H, S, D] each, as flexAttention gives them. The work list is made before, as FlexAttention's block mask is. */
  async #prefill(one: Case, runs: number): Promise<Measured> {
    const { batch, heads, kvHeads, length, dim } = one, device = this.#device;
    const { compiled, captures, workOf } = await this.#compile(one);
    const headElements = length * dim;
    const [query, out, key, value] = [this.#normal(batch * heads * headElements), this.#alloc(2 * batch * heads * headElements), this.#normal(batch * kvHeads * headElements), this.#normal(batch * kvHeads * headElements)] as const;
    const layout = (data: CudaBuffer, ofHeads: number) => ({ data, sequenceStride: ofHeads * headElements, headStride: headElements, rowStride: dim });
    const call: AttentionCall = {
      kernel: { plan: compiled.source.plan, source: "" }, captures, query: layout(query, heads), out: layout(out, heads), key: layout(key, kvHeads), value: layout(value, kvHeads),
      pageSize: length, blockTable: this.#upload(Int32Array.from({ length: batch }, (_, b) => b)), maxPagesPerSequence: 1, work: this.#upload(workOf(new Int32Array(batch), length)),
    };
    const step = { numTokens: batch * length, numSequences: batch, numLogits: batch };
    this.#launcher.beginProgram();
    const run = this.#launcher.prepare(compiled, call, true);
    run(step);
    const rows = comparedRows.filter((row) => row < length);
    const sampled: Head[] = [];
    for (const [b, h] of [[0, 0], [batch - 1, heads - 1], [batch >> 1, (heads >> 1) + 1]] as const) {
      const read = async (from: CudaBuffer, head: number): Promise<Float32Array> => numbersOf(await device.read(from.address + 2 * headElements * head, 2 * headElements));
      const group = Math.floor((h * kvHeads) / heads);
      const taken = async (from: CudaBuffer): Promise<Float32Array> => rowsOf(await read(from, b * heads + h), rows, dim);
      sampled.push({ h, rows, query: await taken(query), out: await taken(out), key: await read(key, b * kvHeads + group), value: await read(value, b * kvHeads + group) });
    }
    const error = await this.#checked(one, sampled);
    return { ms: await times(device, () => run(step), { runs }), error, registers: compiled.general.registers };
  }

  /** One token of each sequence over a paged cache, [page, head, token, D], its pages in random order: replayed from a graph, as a layer of a step that decodes is. */
  async #decode(one: Case, runs: number): Promise<Measured> {
    const { batch, heads, kvHeads, length, dim } = one, device = this.#device;
    const { compiled, captures, workOf } = await this.#compile(one);
    const pagesOfSequence = length / pageSize, numPages = batch * pagesOfSequence, headElements = pageSize * dim, pageElements = kvHeads * headElements;
    const order = shuffled(numPages, this.#random);
    const [query, out, key, value] = [this.#normal(batch * heads * dim), this.#alloc(2 * batch * heads * dim), this.#normal(numPages * pageElements), this.#normal(numPages * pageElements)] as const;
    const packed = (data: CudaBuffer) => ({ data, sequenceStride: 0, rowStride: heads * dim, headStride: dim });
    const paged = (data: CudaBuffer) => ({ data, sequenceStride: pageElements, rowStride: dim, headStride: headElements });
    const call: AttentionCall = {
      kernel: { plan: compiled.source.plan, source: "" }, captures, query: packed(query), out: packed(out), key: paged(key), value: paged(value),
      pageSize, blockTable: this.#upload(order), maxPagesPerSequence: pagesOfSequence, work: this.#upload(workOf(Int32Array.from({ length: batch }, (_, b) => b), 1)),
    };
    const step = { numTokens: batch, numSequences: batch, numLogits: batch };
    this.#launcher.beginProgram();
    const first = this.#launcher.prepare(compiled, call, true), next = this.#launcher.prepare(compiled, call, true);
    first(step);
    next(step);
    const copied = this.#alloc(2 * length * dim), sampled: Head[] = [];
    for (const [b, h] of [[0, 0], [batch - 1, heads - 1], [batch >> 1, (heads >> 1) + 1]] as const) {
      const group = Math.floor((h * kvHeads) / heads);
      const gathered = async (from: CudaBuffer): Promise<Float32Array> => {
        for (let page = 0; page < pagesOfSequence; page++) {
          device.copy(copied.address + 2 * page * headElements, from.address + 2 * (order[b * pagesOfSequence + page]! * pageElements + group * headElements), 2 * headElements);
        }
        return numbersOf(await device.read(copied.address, copied.bytes));
      };
      const row = async (from: CudaBuffer): Promise<Float32Array> => numbersOf(await device.read(from.address + 2 * (b * heads + h) * dim, 2 * dim));
      sampled.push({ h, rows: [length - 1], query: await row(query), out: await row(out), key: await gathered(key), value: await gathered(value) });
    }
    const error = await this.#checked(one, sampled);
    const timed = async (body: () => void): Promise<number[]> => {
      const graph = device.capture(body);
      this.#modules.push(graph);
      let turn = 0;
      return times(device, () => graph.launch(), { runs, before: () => device.fill(this.#flush, turn++ % 256, flushBytes) });
    };
    return { ms: await timed(() => next(step)), planningMs: await timed(() => first(step)), error, registers: compiled.decode?.registers ?? compiled.general.registers };
  }

  async #checked(one: Case, sampled: readonly Head[]): Promise<number> {
    const failure = await this.#failures.read();
    if (failure) throw new Error(`a mod read outside its table: index ${failure.index}`);
    const error = errorOf(one, sampled);
    if (!(error < mostError)) throw new Error(`wrong: the sampled rows are off by ${error}, and ${mostError} is the most`);
    return error;
  }
}

/** Rows of a [rows, dim] array, one after another. */
function rowsOf(x: Float32Array, rows: readonly number[], dim: number): Float32Array {
  const out = new Float32Array(rows.length * dim);
  rows.forEach((row, i) => out.set(x.subarray(row * dim, (row + 1) * dim), i * dim));
  return out;
}

function shuffled(length: number, random: () => number): Int32Array {
  const order = Int32Array.from({ length }, (_, i) => i);
  for (let i = length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}
