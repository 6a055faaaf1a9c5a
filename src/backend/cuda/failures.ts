/**
 * Loads of mods that left their tables: three words on the device for each call that holds loads, written by whichever thread meets one first, read
 * with the next read and cleared. Knows no kernel; models without tables pay nothing.
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
/** Calls that are told apart. A program has one for each layer; calls outside programs take turns. */
const mostCalls = 1024;

export class Failures {
  readonly #device: CudaDevice;
  #words = 0;
  readonly #calls: AttentionCall[] = [];
  #next = 0;
  /** Words that are used, from the first on. */
  #used = 0;

  constructor(device: CudaDevice) {
    this.#device = device;
  }

  /** The address that a call's kernels report to. */
  place(call: AttentionCall): number {
    if (this.#words === 0) this.#words = this.#device.alloc(4 * wordsOfCall * mostCalls);
    const at = this.#next++ % mostCalls;
    this.#calls[at] = call;
    this.#used = Math.max(this.#used, at + 1);
    return this.#words + 4 * wordsOfCall * at;
  }

  /** The first failure since the last read; its copy is given its place in the stream at once. */
  read(): Promise<FoundFailure | undefined> {
    if (this.#used === 0) return Promise.resolve(undefined);
    const bytes = 4 * wordsOfCall * this.#used;
    return this.#device.read(this.#words, bytes).then((data) => {
      const words = new Int32Array(data.buffer, data.byteOffset, bytes / 4);
      const at = words.findIndex((word, i) => i % wordsOfCall === 0 && word !== 0);
      if (at < 0) return undefined;
      this.#device.write(this.#words, new Uint8Array(bytes));
      return { call: this.#calls[at / wordsOfCall]!, where: words[at + 1]!, index: words[at + 2]! };
    });
  }
}
