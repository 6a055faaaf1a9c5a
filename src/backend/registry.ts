/**
 * The places to compute, by the name that --device takes. A row is loaded when it is asked for, so that nobody pays for another.
 */
import { UsageError } from "../core/errors.ts";
import type { Backend } from "./backend.ts";

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
}

export type Device = "cpu" | "reference";

const rows: Readonly<Record<Device, (options: BackendOptions) => Promise<Backend>>> = {
  cpu: async (options) => (await import("./wasm/open.ts")).open(options),
  reference: async () => (await import("./reference/open.ts")).open(),
};

export const devices = Object.keys(rows) as readonly Device[];

const mostBytes: Readonly<Record<Device, number>> = { cpu: 2 ** 38, reference: Infinity };

/** What a device can address, in bytes; the machine may have less. @throws UsageError when there is no such device */
export function addressableBytes(device: Device): number {
  if (!Object.hasOwn(rows, device)) throw new UsageError(`device ${JSON.stringify(device)} is unknown; use one of ${devices.join(", ")}`);
  return mostBytes[device];
}

/** @throws UsageError when there is no such device, or it is not available here */
export async function openBackend(device: Device, options: BackendOptions = {}): Promise<Backend> {
  addressableBytes(device);
  return rows[device](options);
}
