/**
 * Plants each fault and says who finds it; ends with an error where one is not found.
 *
 *   npm run mutants -- [--only NAME] [--jobs N]
 */
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { faults } from "./faults.ts";
import { hunt, type Verdict } from "./hunt.ts";

const { values: flags } = parseArgs({ options: { only: { type: "string" }, jobs: { type: "string", default: String(availableParallelism()) } } });
const chosen = faults.filter(({ name }) => flags.only === undefined || name === flags.only);
if (chosen.length === 0) throw new Error(`--only is ${flags.only}; there are ${faults.map(({ name }) => name).join(", ")}`);
if (new Set(faults.map(({ name }) => name)).size < faults.length) throw new Error("two faults have the same name");

const queue = [...chosen], verdicts: Verdict[] = [];
async function work(): Promise<void> {
  for (let fault = queue.shift(); fault; fault = queue.shift()) {
    const verdict = await hunt(fault);
    verdicts.push(verdict);
    console.log(`${verdict.killedBy === undefined ? "SURVIVED" : "killed  "} ${fault.name.padEnd(34)} ${fault.file.padEnd(32)} ${verdict.seconds.toFixed(1).padStart(6)} s  ${verdict.killedBy ?? fault.why}`);
  }
}
await Promise.all(Array.from({ length: Math.max(1, Number(flags.jobs)) }, work));
const survivors = verdicts.filter(({ killedBy }) => killedBy === undefined);
console.log(`\n${verdicts.length - survivors.length} of ${verdicts.length} faults found${survivors.length > 0 ? `; not found: ${survivors.map(({ fault }) => fault.name).join(", ")}` : ""}`);
process.exitCode = survivors.length > 0 ? 1 : 0;
