/** `npm run gpu -- device|ops|sample [--dry]`: one script a part of the backend, which checks, poisons, times and counts instructions. */
import { parseArgs } from "node:util";
import { UsageError } from "../../src/core/errors.ts";
import { neverLaunched } from "./dry.ts";
import { type Machine, openMachine } from "./machine.ts";

const scripts: Readonly<Record<string, { readonly what: string; readonly run: () => Promise<(machine: Machine, quick: boolean) => Promise<void>> }>> = {
  device: { what: "memory, launches, graphs, events, tensor maps, cuBLASLt, errors", run: async () => (await import("./device.ts")).run },
  ops: { what: "every fixed op but attention and sampling against loops in float64, then times", run: async () => (await import("./ops.ts")).run },
  sample: { what: "tokens against the definition, then times", run: async () => (await import("./sample.ts")).run },
};
const { values, positionals } = parseArgs({ allowPositionals: true, options: { dry: { type: "boolean", default: false }, quick: { type: "boolean", default: false }, help: { type: "boolean", default: false } } });
const script = scripts[positionals[0] ?? ""];
if (values.help || !script || positionals.length !== 1) {
  console.log(`npm run gpu -- ${Object.keys(scripts).join("|")} [--dry] [--quick]\n${Object.entries(scripts).map(([name, { what }]) => `  ${name.padEnd(8)} ${what}`).join("\n")}\n--dry: on no GPU; kernels must exist, launches have shapes and parameters that a GPU takes, and nothing is computed\n--quick: fewer cases, no times`);
  console.log("Attention: npm run conform -- --backend cuda; npm run bench -- cuda-attention");
  process.exit(values.help ? 0 : 2);
}
try {
  const machine = await openMachine(values.dry);
  await (await script.run())(machine, values.quick);
  if (machine.dry) machine.report.check(neverLaunched(machine.device).length === 0, `every kernel is launched${neverLaunched(machine.device).map((kernel) => `; not ${kernel}`).join("")}`);
  const ok = machine.report.end();
  machine.device.close();
  process.exit(ok ? 0 : 1); // libraries' threads may still be there
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
