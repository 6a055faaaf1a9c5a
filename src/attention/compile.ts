/**
 * From mods to a kernel: verify, simplify, plan, and the backend's own emitter; kernels are kept by the plan's text.
 *
 * The key is what the mods say, not which function objects said it, so that a mod made anew at each call costs no new kernel.
 */
import type { AttentionKernel, Backend } from "../backend/backend.ts";
import { UsageError } from "../core/errors.ts";
import { type Expr, score } from "../ir/expr.ts";
import type { AttentionPlan } from "../ir/plan.ts";
import { print } from "../ir/print.ts";
import { analyse, postOrder, type RangeAnalysis } from "../ir/range.ts";
import { rebuild, simplify } from "../ir/simplify.ts";
import { verify } from "../ir/verify.ts";
import type { Binding } from "./captures.ts";
import type { LoweredMod, MaskMod, ScoreMod } from "./mod.ts";

export interface AttentionSpec {
  readonly scoreMod?: ScoreMod | undefined;
  readonly maskMod?: MaskMod | undefined;
  readonly numQueryHeads: number;
  /** Divides numQueryHeads. */
  readonly numKvHeads: number;
  readonly headDimQk: number;
  readonly headDimV: number;
  /** 1 / sqrt(headDimQk) when left out. */
  readonly scale?: number | undefined;
  /** Query rows of a work item, and keys of a block. */
  readonly queryTile?: number | undefined;
  readonly kvTile?: number | undefined;
}

export interface PlannedAttention {
  readonly plan: AttentionPlan;
  /** Where the value of each of `plan.captures` is found, in the same order. */
  readonly bindings: readonly Binding[];
}

/** Rows and keys that the cpu's kernels do well with. */
export const defaultTiles = { queryTile: 16, kvTile: 32 } as const;

/**
 * The plan of an attention: all that a kernel depends on.
 * @throws ModError when a mod is not in the language, UsageError for head counts that do not divide or sizes that are no sizes.
 */
export function planAttention(spec: AttentionSpec): PlannedAttention {
  const { numQueryHeads, numKvHeads, headDimQk, headDimV, queryTile = defaultTiles.queryTile, kvTile = defaultTiles.kvTile } = spec;
  for (const [name, value] of Object.entries({ numQueryHeads, numKvHeads, headDimQk, headDimV, queryTile, kvTile })) {
    if (!Number.isInteger(value) || value < 1) throw new UsageError(`${name} is ${value}; it must be a whole number from 1`);
  }
  if (numQueryHeads % numKvHeads !== 0) throw new UsageError(`${numQueryHeads} query heads do not divide among ${numKvHeads} key heads; numQueryHeads must be a multiple of numKvHeads`);
  if (spec.scoreMod && spec.scoreMod.kind !== "score") throw new UsageError("scoreMod must be made with scoreMod()");
  if (spec.maskMod && spec.maskMod.kind !== "mask") throw new UsageError("maskMod must be made with maskMod()");
  const scale = Math.fround(spec.scale ?? 1 / Math.sqrt(headDimQk));
  const mods = joinMods(spec.scoreMod?.lower(), spec.maskMod?.lower());
  const shape = { headDimQk, headDimV, numQueryHeads, numKvHeads, scale, queryTile, kvTile };
  const key = [Object.entries(shape).map(([name, value]) => `${name} ${value}`).join(", "), mods.text].join("\n");
  return { plan: { key, scoreMod: mods.scoreMod, maskMod: mods.maskMod, captures: mods.bindings.map((b) => b.slot), ...shape }, bindings: mods.bindings };
}

interface JoinedMods {
  readonly scoreMod: Expr;
  readonly maskMod: Expr | undefined;
  readonly bindings: readonly Binding[];
  readonly text: string;
}

const none: LoweredMod = { expr: score, bindings: [] };
/** A mod is lowered once for all calls, so a pair of lowered mods names the pair. */
const joined = new WeakMap<LoweredMod, WeakMap<LoweredMod, JoinedMods>>();

/** The two mods with one list of captures, in which each name stands for one thing. */
function joinMods(scoreMod: LoweredMod = none, maskMod: LoweredMod = none): JoinedMods {
  const row = joined.get(scoreMod) ?? new WeakMap<LoweredMod, JoinedMods>();
  joined.set(scoreMod, row);
  const known = row.get(maskMod);
  if (known) return known;
  const bindings = [...scoreMod.bindings];
  const renamed = new Map<string, string>();
  for (const binding of maskMod.bindings) {
    const { slot } = binding;
    const same = bindings.find((b) => b.owner === binding.owner && b.key === binding.key && b.slot.type === slot.type);
    if (same) renamed.set(slot.name, same.slot.name);
    else {
      let name = slot.name;
      for (let n = 2; bindings.some((b) => b.slot.name === name) || maskMod.bindings.some((b) => b !== binding && b.slot.name === name); n++) name = `${slot.name}${n}`;
      renamed.set(slot.name, name);
      bindings.push({ ...binding, slot: { ...slot, name } });
    }
  }
  const slots = bindings.map((b) => b.slot);
  const scoreExpr = verify(simplify(scoreMod.expr), "score", slots);
  const maskExpr = maskMod === none ? undefined : verify(simplify(rename(maskMod.expr, renamed)), "mask", slots);
  const text = [`score ${print(scoreExpr)}`, `mask ${maskExpr ? print(maskExpr) : "none"}`, `captures ${JSON.stringify(slots)}`].join("\n");
  // A mask that is always true asks for no mask code.
  const result = { scoreMod: scoreExpr, maskMod: maskExpr?.kind === "const" && maskExpr.value === 1 ? undefined : maskExpr, bindings, text };
  row.set(maskMod, result);
  return result;
}

function rename(e: Expr, names: ReadonlyMap<string, string>): Expr {
  const done = new Map<Expr, Expr>();
  for (const node of postOrder(e)) {
    const next = rebuild(node, (child) => done.get(child)!);
    if (next.kind === "uniform") done.set(node, { ...next, name: names.get(next.name) ?? next.name });
    else if (next.kind === "load" || next.kind === "extent") done.set(node, { ...next, table: names.get(next.table) ?? next.table });
    else done.set(node, next);
  }
  return done.get(e)!;
}

export interface CompiledAttention extends PlannedAttention {
  readonly kernel: AttentionKernel;
  /** The mask over boxes; `bind` it to the captured values before planning work. Undefined when every key is allowed. */
  readonly mask: RangeAnalysis | undefined;
}

const kernels = new WeakMap<Backend, Map<string, Promise<AttentionKernel>>>();

/** The kernel of an attention on a backend; compiled once for each plan text. */
export async function compileAttention(backend: Backend, spec: AttentionSpec): Promise<CompiledAttention> {
  const planned = planAttention(spec);
  const { plan } = planned;
  const known = kernels.get(backend) ?? new Map<string, Promise<AttentionKernel>>();
  kernels.set(backend, known);
  const compiling = known.get(plan.key) ?? backend.compile(plan);
  known.set(plan.key, compiling);
  try {
    const kernel = await compiling;
    return { ...planned, kernel, mask: plan.maskMod ? analyse(plan.maskMod) : undefined };
  } catch (error) {
    known.delete(plan.key);
    throw error;
  }
}
