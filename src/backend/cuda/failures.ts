/**
 * Loads of mods that left their tables: four words on the device for each call that holds loads, written by whichever thread meets one, read with the
 * next read and cleared. Calls of programs keep their words; calls outside take turns. Knows no kernel; models without tables pay nothing.
 */
import type { AttentionCall } from "../backend.ts";
import type { CudaDevice } from "./device.ts";

export interface FoundFailure {
  readonly call: AttentionCall;
  /** Which capture and dimension, as expr.ts numbers them. */
  readonly where: number;
  readonly index: number;
}

const wordsOfCall = 4;
/** Calls whose words are taken at once; and calls outside programs that are told apart. */
const callsOfChunk = 256;

/** Words of up to `callsOfChunk` calls. */
interface Chunk {
  readonly address: number;
  readonly calls: AttentionCall[];
}

export class Failures {
  readonly #device: Pick<CudaDevice, "alloc" | "read" | "write">;
  readonly #recorded: Chunk[] = [];
  #direct: Chunk | undefined;
  #nextDirect = 0;

  constructor(device: Pick<CudaDevice, "alloc" | "read" | "write">) {
    this.#device = device;
  }

  /** The address that a call's kernels report to. */
  place(call: AttentionCall, recorded: boolean): number {
    let chunk = recorded ? this.#recorded.at(-1) : this.#direct;
    if (!chunk || (recorded && chunk.calls.length === callsOfChunk)) {
      chunk = { address: this.#device.alloc(4 * wordsOfCall * callsOfChunk), calls: [] };
      if (recorded) this.#recorded.push(chunk);
      else this.#direct = chunk;
    }
    const at = recorded ? chunk.calls.length : this.#nextDirect++ % callsOfChunk;
    chunk.calls[at] = call;
    return chunk.address + 4 * wordsOfCall * at;
  }

  /** The first failure since the last read; its copies are given their places in the stream at once. */
  async read(): Promise<FoundFailure | undefined> {
    const found = await Promise.all([...this.#recorded, ...(this.#direct ? [this.#direct] : [])].map((chunk) => this.#readChunk(chunk)));
    return found.find((failure) => failure !== undefined);
  }

  async #readChunk({ address, calls }: Chunk): Promise<FoundFailure | undefined> {
    const bytes = 4 * wordsOfCall * calls.length;
    const data = await this.#device.read(address, bytes);
    const words = new Int32Array(data.buffer, data.byteOffset, bytes / 4);
    const at = words.findIndex((word, i) => i % wordsOfCall === 0 && word !== 0);
    if (at < 0) return undefined;
    this.#device.write(address, new Uint8Array(bytes));
    return { call: calls[at / wordsOfCall]!, where: words[at + 1]!, index: words[at + 2]! };
  }
}
