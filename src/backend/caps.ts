/**
 * What each device can do, by the name that --device takes. Known before a device is opened, so that a model can be planned, or refused, without one.
 */
import { UsageError } from "../core/errors.ts";
import type { Caps } from "./backend.ts";

export type Device = "cpu" | "cuda" | "reference";

const plain: Omit<Caps, "device"> = {
  weightDTypes: ["f32", "bf16", "int8", "uint8", "int4", "uint4"],
  activationBits: 32,
  runsAhead: false,
  ownProcess: false,
  kvFormats: "any",
  tiles: { queryTile: 16, kvTile: 32 },
  defaults: { pageSize: 16, maxNumBatchedTokens: 512, maxNumSeqs: 32, kvCacheShare: 0.25 },
};

const rows: Readonly<Record<Device, Caps>> = {
  cpu: { device: "cpu", ...plain },
  cuda: {
    device: "cuda",
    weightDTypes: ["bf16", "f16"],
    activationBits: 16,
    runsAhead: true,
    ownProcess: true,
    kvFormats: "activations",
    tiles: { queryTile: 128, kvTile: 64 },
    // Its memory is nobody else's: what weights and activations leave is the cache's.
    defaults: { pageSize: 64, maxNumBatchedTokens: 8192, maxNumSeqs: 256, kvCacheShare: 1 },
  },
  reference: { device: "reference", ...plain, runsAhead: true, weightDTypes: ["f32", "f16", ...plain.weightDTypes.slice(1)] },
};

export const devices = Object.keys(rows) as readonly Device[];

/** @throws UsageError when there is no such device */
export function capsOf(device: Device): Caps {
  if (!Object.hasOwn(rows, device)) throw new UsageError(`device ${JSON.stringify(device)} is unknown; use one of ${devices.join(", ")}`);
  return rows[device];
}
