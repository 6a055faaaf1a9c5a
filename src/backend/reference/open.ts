/**
 * The oracle: runs every operation as the plain loop that defines it, on the calling thread, at once.
 *
 * Recording keeps a list of closures. It knows no threads, no tiles and no SIMD.
 */
import { toFloat32 } from "../../core/dtype.ts";
import { invariant, UsageError } from "../../core/errors.ts";
import type { AttentionPlan } from "../../ir/plan.ts";
import { capsOf } from "../caps.ts";
import type { AttentionKernel, Backend, Buffer, Caps, Ops, Program, Weight } from "../backend.ts";
import { isQuantized, packedRowBytes, quantizeRows } from "../quantized.ts";
import { attend, describe } from "./attention.ts";
import { bytesOf, ReferenceBuffer } from "./memory.ts";
import { definitions } from "./ops.ts";
import { feedTokens, logprobs, sample, sampleRuled } from "./sample.ts";

/** `caps` are those of the device that it is the oracle of. It computes whatever it is asked for, in every type of the contract. */
export async function open(caps: Caps = capsOf("reference")): Promise<Backend> {
  return new ReferenceBackend(caps);
}

const floatTypes = { F32: "f32", BF16: "bf16", F16: "f16" } as const;

class ReferenceBackend implements Backend {
  readonly name = "reference";
  readonly caps: Caps;
  readonly description = "reference, plain loops on one thread";
  readonly ops: Ops;
  #recording: (() => void)[] | undefined;
  #failure: unknown;
  #closed = false;

  constructor(caps: Caps) {
    this.caps = caps;
    const loops = { ...definitions, attention: attend };
    this.ops = {
      embed: (o) => this.#submit(() => loops.embed(o)),
      rmsNorm: (o) => this.#submit(() => loops.rmsNorm(o)),
      quantize: (o) => this.#submit(() => loops.quantize(o)),
      linear: (o) => this.#submit(() => loops.linear(o)),
      ropeAndCache: (o) => this.#submit(() => loops.ropeAndCache(o)),
      attention: (o) => this.#submit(() => loops.attention(o)),
      gatedActivation: (o) => this.#submit(() => loops.gatedActivation(o)),
      gatherRows: (o) => this.#submit(() => loops.gatherRows(o)),
      softCap: (o) => this.#submit(() => loops.softCap(o)),
      sample: (o) => this.#submit(() => sample(o)),
      sampleRuled: (o) => this.#submit(() => sampleRuled(o)),
      logprobs: (o) => this.#submit(() => logprobs(o)),
      ...(caps.runsAhead && { feedTokens: (o) => this.#submit(() => feedTokens(o)) }),
    };
  }

  #submit(command: () => void): void {
    invariant(!this.#closed, "the backend is closed");
    if (this.#recording) this.#recording.push(command);
    else this.#run([command]);
  }

  /** Runs until something fails; what follows a failure is skipped, as it would compute with rubbish. */
  #run(commands: readonly (() => void)[]): void {
    if (this.#failure !== undefined) return;
    try {
      for (const command of commands) command();
    } catch (error) {
      this.#failure = error;
    }
  }

  alloc(bytes: number): Buffer {
    try {
      return new ReferenceBuffer(new ArrayBuffer(bytes), 0, bytes);
    } catch {
      throw new UsageError(`no room for ${bytes} bytes more on the reference backend; try a smaller --max-model-len or --kv-cache-memory-bytes`);
    }
  }

  /** The garbage collector does it. */
  free(_buffer: Buffer): void {}

  view(_buffer: Buffer): undefined {
    return undefined;
  }

  write(to: Buffer, offset: number, data: Uint8Array): void {
    invariant(!this.#recording, "write inside record");
    bytesOf(to.slice(offset, data.byteLength)).set(data);
  }

  async writeRows({ data, dtype, columns }: Weight, firstRow: number, rows: Uint8Array, type?: "F32" | "BF16" | "F16"): Promise<void> {
    invariant(isQuantized(dtype), `rows of a weight of ${dtype} are written as they are`);
    this.write(data, firstRow * packedRowBytes(dtype, columns), type ? quantizeRows(toFloat32(rows, floatTypes[type]), dtype, columns) : rows);
  }

  async read(from: Buffer, offset: number, bytes: number): Promise<Uint8Array> {
    if (this.#failure !== undefined) {
      const failure = this.#failure;
      this.#failure = undefined;
      throw failure;
    }
    return bytesOf(from.slice(offset, bytes)).slice();
  }

  async compile(plan: AttentionPlan): Promise<AttentionKernel> {
    return { plan, source: describe(plan) };
  }

  record(body: () => void): Program {
    invariant(!this.#recording, "record inside record");
    const commands: (() => void)[] = [];
    this.#recording = commands;
    try {
      body();
    } finally {
      this.#recording = undefined;
    }
    return { run: () => this.#run(commands) };
  }

  async close(): Promise<void> {
    this.#closed = true;
  }
}
