/**
 * The places to compute, by the name that --device takes. A row is loaded when it is asked for, so that nobody pays for another.
 */
import { UsageError } from "../core/errors.ts";
import type { Backend } from "./backend.ts";

export interface BackendOptions {
  /** Threads of the cpu backend; all cores by default. */
  readonly threads?: number;
}

export type Device = "cpu" | "reference";

const rows: Readonly<Record<Device, (options: BackendOptions) => Promise<Backend>>> = {
  cpu: async (options) => (await import("./wasm/open.ts")).open(options),
  reference: async () => (await import("./reference/open.ts")).open(),
};

export const devices = Object.keys(rows) as readonly Device[];

/** @throws UsageError when there is no such device, or it is not available here */
export async function openBackend(device: Device, options: BackendOptions = {}): Promise<Backend> {
  if (!Object.hasOwn(rows, device)) throw new UsageError(`device ${JSON.stringify(device)} is unknown; use one of ${devices.join(", ")}`);
  return rows[device](options);
}
