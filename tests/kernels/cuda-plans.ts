/** Attention plans to try CUDA's compiler on: each mod of the snapshots, and every one of the conformance list. */
import { planAttention } from "../../src/attention/index.ts";
import type { AttentionPlan, KvFormat } from "../../src/ir/plan.ts";
import type { Geometry, Mods } from "../conformance/case.ts";
import { cases, composites } from "../conformance/cases/index.ts";
import { snapshotMods } from "./snapshot-mods.ts";

export interface Shape {
  readonly element: "bf16" | "f16";
  readonly headDimQk: number;
  readonly headDimV: number;
}

export interface NamedPlan {
  readonly name: string;
  readonly plan: AttentionPlan;
}

const tiles = { queryTile: 128, kvTile: 64 } as const;
const labelOf = ({ element, headDimQk, headDimV }: Shape): string => `${element} ${headDimQk}/${headDimV}`;

/** The plan of one of the snapshots' mods. */
export function snapshotPlan(mod: string, shape: Shape): NamedPlan {
  const { element, ...dims } = shape;
  const { plan } = planAttention({ ...snapshotMods[mod]!, ...dims, ...tiles, numQueryHeads: 4, numKvHeads: 2, queryFormat: element, keyFormat: element, valueFormat: element });
  return { name: `${labelOf(shape)}, ${mod}`, plan };
}

const geometry: Geometry = { batch: 3, heads: 8, kvHeads: 2, queries: 64, keys: 64, positions: 64 };

function caseOf(name: string, { sink, softmax, queryFormat: _own, ...spec }: Mods, shape: Shape): NamedPlan {
  const { element, ...dims } = shape, format = (f: KvFormat | undefined): KvFormat => (f === "int8" || f === "fp8" ? f : element);
  const { plan } = planAttention({
    ...spec, ...dims, ...tiles, denominator: sink ? "sink" : softmax, numQueryHeads: geometry.heads, numKvHeads: geometry.kvHeads,
    queryFormat: element, keyFormat: format(spec.keyFormat), valueFormat: format(spec.valueFormat),
  });
  return { name: `${labelOf(shape)}, ${name}`, plan };
}

/** Every plan of the conformance list once, under the name of the first case that has it. `only`: cases by name ("S19 radial bumps by a loop"). */
export function conformancePlans(shape: Shape, only?: ReadonlySet<string>): readonly NamedPlan[] {
  const all = [...cases.map((c) => [c, [c.mods(geometry)]] as const), ...composites.map((c) => [c, c.parts(geometry)] as const)];
  const plans = new Map<string, NamedPlan>();
  for (const [{ id, title }, parts] of all) for (const [i, mods] of parts.entries()) {
    const name = `${id} ${title}${parts.length > 1 ? `, part ${i + 1}` : ""}`;
    if (only && !only.has(name)) continue;
    const found = caseOf(name, mods, shape);
    if (!plans.has(found.plan.key)) plans.set(found.plan.key, found);
  }
  return [...plans.values()];
}
