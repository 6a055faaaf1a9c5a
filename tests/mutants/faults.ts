/** The faults that tests must find. Each changes what the engine does, for somebody; most were written by one who had not seen the tests. */
import type { Fault } from "./fault.ts";
import { pages } from "./faults-of-pages.ts";
import { sampling } from "./faults-of-sampling.ts";
import { steps } from "./faults-of-steps.ts";

export const faults: readonly Fault[] = [...steps, ...pages, ...sampling];
