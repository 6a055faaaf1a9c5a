/** What faulty-engine.ts runs and how it may come to grief. */
import type { EngineLimits } from "../../src/engine/engine.ts";
import type { EngineInfo } from "../../src/engine/messages.ts";

export const vocabSize = 50;
export const limits: EngineLimits = { maxNumBatchedTokens: 48, maxNumSeqs: 8, pageSize: 4, maxModelLen: 400, numPages: 400 };
export const info: EngineInfo = {
  ...limits, architecture: "Faulty", backend: "none", dtype: "none", kvCacheDtype: "none", numParameters: 0, vocabSize, eosTokenIds: [0], weightBytes: 0, kvBytes: 0, enablePrefixCaching: true, schedulingPolicy: "fcfs", loadSeconds: 0,
};

export interface Fault {
  /** It ends, by itself or by an error; a step never ends, nor a turn of its event loop; its process is stopped. */
  readonly kind: "exit" | "throw" | "spin" | "stop";
  /** In this step; or in any that computes this token. */
  readonly atStep?: number;
  readonly atToken?: number;
}

export interface FaultyData {
  readonly fault?: Fault | undefined;
  /** It ends once it is ready, without having been asked anything. */
  readonly atOnce?: true;
  /** Shared words that its steps change. */
  readonly pulse?: readonly Int32Array[];
  /** Milliseconds of a step. */
  readonly stepMs?: number;
}
