/**
 * Runs the simulator by hand:
 *
 *   npm run simulate -- [--machine waited|ahead] [--operations N] [--from SEED]     seed after seed until one fails, and which situations were reached
 *   npm run simulate -- --machine ahead --seed SEED                               one, told operation by operation
 */
import { parseArgs } from "node:util";
import { type MachineKind, simulateMany, simulateOne } from "./many.ts";
import { missing, nothingReached } from "./reached.ts";

const { values: flags } = parseArgs({ options: { machine: { type: "string" }, operations: { type: "string", default: "100000" }, from: { type: "string", default: "0" }, seed: { type: "string" } } });
for (const name of ["operations", "from", "seed"] as const) if (flags[name] !== undefined && !/^\d+$/.test(flags[name])) throw new Error(`--${name} is ${flags[name]}; it must be a whole number`);
const kinds: readonly string[] = ["waited", "ahead"] satisfies readonly MachineKind[];
if (flags.machine !== undefined && !kinds.includes(flags.machine)) throw new Error(`--machine is ${flags.machine}; it must be waited or ahead`);
const chosen = (flags.machine === undefined ? kinds : [flags.machine]) as MachineKind[];
if (flags.seed !== undefined) {
  for (const kind of chosen) console.log(await simulateOne(kind, Number(flags.seed), nothingReached(), console.log));
} else {
  for (const kind of chosen) {
    const start = performance.now(), reached = nothingReached();
    const { numOperations, numRuns } = await simulateMany(kind, Number(flags.operations), reached, Number(flags.from));
    console.log(reached);
    console.log(`${kind}: ${numOperations} operations in ${numRuns} runs, ${((1000 * (performance.now() - start)) / numOperations).toFixed(0)} us each; never reached: ${missing(reached, kind).join(", ") || "nothing"}`);
  }
}
