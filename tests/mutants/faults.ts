/** The faults that tests must find. Each changes what the engine does, for somebody. */
import type { Fault } from "./fault.ts";

export const faults: readonly Fault[] = [
  {
    name: "page-kept-unsettled", file: "src/engine/prefix-cache.ts",
    find: "Math.floor((sequence.numSettled - sequence.numBehind) / this.#pageSize)", replace: "Math.floor((sequence.numComputed - sequence.numBehind) / this.#pageSize)",
    why: "a page is shared before the step that computes it has ended; where that step fails, others read what is not there",
  },
  {
    name: "penalty-of-prompt", file: "src/sampling/rules.ts",
    find: "count > 0 ? repeated - frequencyPenalty", replace: "count >= 0 ? repeated - frequencyPenalty",
    why: "the presence penalty is taken from tokens of the prompt too",
  },
];
