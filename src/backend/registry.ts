/**
 * The places to compute, by the name that --device takes. A row is loaded when it is asked for, so that nobody pays for another.
 */
import type { Backend } from "./backend.ts";
import { capsOf, type Device } from "./caps.ts";

export { capsOf, type Device, devices } from "./caps.ts";

export interface BackendOptions {
  /** Threads of the cpu backend; all cores by default. */
  readonly threads?: number;
  /** How many bytes will be asked for in all; the cpu backend has 4 GiB unless this says more. */
  readonly memoryBytes?: number;
  /**
   * Whether the cpu backend may have V8 make 256-bit code, default true. That takes experimental flags of the whole process for some milliseconds;
   * V8 has been seen to end the process when other SIMD code, not ours for quantised weights, was optimised at that moment.
   */
  readonly wideVectors?: boolean;
  /** On the cuda device: what a request gets does not depend on its company; elsewhere that is so anyway. Default false. */
  readonly deterministic?: boolean;
  /** The reference backend has the capabilities of this device, to be its oracle. Its own by default. */
  readonly as?: Device;
}

const rows: Readonly<Record<Device, (options: BackendOptions) => Promise<Backend>>> = {
  cpu: async (options) => (await import("./wasm/open.ts")).open(options),
  cuda: async ({ deterministic = false }) => (await import("./cuda/open.ts")).open({ deterministic }),
  reference: async ({ as = "reference" }) => (await import("./reference/open.ts")).open(capsOf(as)),
};

const mostBytes: Readonly<Record<Device, number>> = { cpu: 2 ** 38, cuda: Infinity, reference: Infinity };

/** What a device can address, in bytes; the machine may have less. @throws UsageError when there is no such device */
export function addressableBytes(device: Device): number {
  capsOf(device);
  return mostBytes[device];
}

/** @throws UsageError when there is no such device, or it is not available here */
export async function openBackend(device: Device, options: BackendOptions = {}): Promise<Backend> {
  capsOf(device);
  return rows[device](options);
}
