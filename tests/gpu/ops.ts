/** Every fixed op but attention and sampling on a GPU, for both element types: compared with float64, then timed. */
import { elements } from "../../src/backend/cuda/modules.ts";
import type { Machine } from "./machine.ts";
import { OpsBench } from "./ops-bench.ts";
import { checkLinear } from "./ops-linear.ts";
import { checkRows } from "./ops-rows.ts";
import { timeOps } from "./ops-time.ts";

export async function run(machine: Machine, quick: boolean): Promise<void> {
  const bench = await OpsBench.open(machine);
  for (const element of elements) {
    await checkRows(bench, element);
    await checkLinear(bench, element, quick);
  }
  if (!quick) await machine.report.section("times", () => timeOps(bench));
}
