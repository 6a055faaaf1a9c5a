/**
 * Buffers of the cuda backend: an address on the GPU and a length. Who allocated it, and when it is freed, is the backend's business.
 */
import { invariant } from "../../core/errors.ts";
import type { Buffer } from "../backend.ts";

export class CudaBuffer implements Buffer {
  readonly address: number;
  readonly bytes: number;

  constructor(address: number, bytes: number) {
    this.address = address;
    this.bytes = bytes;
  }

  slice(offset: number, bytes: number): CudaBuffer {
    invariant(offset >= 0 && bytes >= 0 && offset + bytes <= this.bytes, `slice [${offset}, +${bytes}) of a buffer of ${this.bytes} bytes`);
    return new CudaBuffer(this.address + offset, bytes);
  }
}

export function own(buffer: Buffer): CudaBuffer {
  invariant(buffer instanceof CudaBuffer, "a buffer of another backend was given to the cuda backend");
  return buffer;
}

/** The address of a buffer, 0 (a null pointer) for none. */
export const addressOf = (buffer: Buffer | undefined): number => (buffer ? own(buffer).address : 0);
