/**
 * Runs seeds of the simulator, all that fail are named:
 *
 *   node tests/simulator/main.ts [--machine host|device] [--from SEED] [--operations N]     as many seeds as it takes
 *   node tests/simulator/main.ts --machine device --seed SEED                               one, told operation by operation
 */
import { parseArgs } from "node:util";
import { missing, nothingReached } from "./reached.ts";
import { operationsPerRun, simulateMany, simulate } from "./simulator.ts";

const { values: flags } = parseArgs({ options: { machine: { type: "string" }, from: { type: "string", default: "0" }, seed: { type: "string" }, operations: { type: "string", default: "100000" } } });
const reached = nothingReached();
if (flags.seed !== undefined) await simulate(Number(flags.seed), flags.machine === "device", operationsPerRun, reached, console.log);
else {
  for (const machine of flags.machine ? [flags.machine] : ["host", "device"]) {
    const start = performance.now();
    const reached = nothingReached();
    const { numOperations, numRuns } = await simulateMany(machine === "device", Number(flags.operations), reached, Number(flags.from));
    console.log(reached, missing(reached, machine === "device"));
    console.log(`${machine}: ${numOperations} operations in ${numRuns} runs, ${((performance.now() - start) / numOperations * 1000).toFixed(1)} us each`);
  }
}
