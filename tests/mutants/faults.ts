/** The faults that tests must find. Each changes what the engine does, for somebody. */
import type { Fault } from "./fault.ts";

export const faults: readonly Fault[] = [
  {
    name: "page-kept-unsettled", file: "src/engine/prefix-cache.ts",
    find: "Math.floor((sequence.numSettled - sequence.numBehind) / this.#pageSize)", replace: "Math.floor((sequence.numComputed - sequence.numBehind) / this.#pageSize)",
    why: "a page is shared before the step that computes it has ended; where that step fails, others read what is not there",
  },
  {
    name: "page-expired-unsettled", file: "src/engine/prefix-cache.ts",
    find: "numExpired(sequence.numSettled - sequence.numBehind, ", replace: "numExpired(sequence.numComputed - sequence.numBehind, ",
    why: "a page is given back while the step under way still looks at it; where that step fails, it is computed again without the page",
  },
  {
    name: "page-behind-a-stranger", file: "src/engine/page-index.ts",
    find: "parent === noPage || this.#stayOfParent[page] === this.#stay[parent]", replace: "parent === noPage || parent >= 0",
    why: "a page whose parent was evicted is found behind what stands in that page now, and serves another prompt's keys",
  },
  {
    name: "expired-within-a-tile", file: "src/attention/expiry.ts", tests: ["src/attention/expiry.test.ts"],
    find: "let i = Math.floor(kv / size); i * size <= last", replace: "let i = Math.ceil(kv / size); i * size <= last",
    why: "a page is given back while a kernel still reads the tile it begins in, and what another request has there, if it is no number, shows",
  },
  {
    name: "penalty-of-prompt", file: "src/sampling/rules.ts",
    find: "count > 0 ? repeated - frequencyPenalty", replace: "count >= 0 ? repeated - frequencyPenalty",
    why: "the presence penalty is taken from tokens of the prompt too",
  },
];
