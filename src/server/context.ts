/** What every route shares. */
import type { LLM } from "../llm.ts";
import type { Gate } from "./gate.ts";
import type { Metrics } from "./metrics.ts";

export interface Context {
  readonly llm: LLM;
  readonly gate: Gate;
  /** Names a request may use; the first is the one answers carry. */
  readonly modelNames: readonly string[];
  readonly metrics: Metrics;
  /** Seconds since 1970, with fractions; never runs backwards. */
  readonly now: () => number;
  /** Takes a line for each generation that ended; undefined where nobody wants them. Never holds what was asked or answered. */
  readonly logRequest: ((line: string) => void) | undefined;
  /** Whose request it is, by the key it brought: tenants share nothing in the cache. undefined: there are no keys. */
  readonly tenant?: string;
  /** A fresh id of a request, without a prefix. */
  readonly newId: () => string;
  /** A client that is so far behind what was made for it is cut off. */
  readonly stallSeconds: number;
}
