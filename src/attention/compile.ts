/**
 * From mods to a kernel: verify, simplify, plan, and the backend's own emitter; kernels are kept by the plan's text.
 *
 * The key is what the mods say, not which function objects said it, so that a mod made anew at each call costs no new kernel.
 */
import type { AttentionKernel, Backend } from "../backend/backend.ts";
import { capsOf } from "../backend/registry.ts";
import { UsageError } from "../core/errors.ts";
import { binary, type Expr, score, uniform } from "../ir/expr.ts";
import type { AttentionPlan, KvFormat } from "../ir/plan.ts";
import { print } from "../ir/print.ts";
import { analyse, postOrder, type RangeAnalysis } from "../ir/range.ts";
import { rebuild, simplify } from "../ir/simplify.ts";
import { verify } from "../ir/verify.ts";
import type { Binding } from "./captures.ts";
import type { LoweredMod, MaskMod, OutputMod, ScoreMod, WeightMod } from "./mod.ts";
import { article } from "./values.ts";

export interface AttentionSpec {
  readonly scoreMod?: ScoreMod | undefined;
  readonly maskMod?: MaskMod | undefined;
  /** Stands for softmax: no denominator then, and no row statistics. */
  readonly weightMod?: WeightMod | undefined;
  readonly outputMod?: OutputMod | undefined;
  /** What joins the sum of exponentials (ir/plan.ts). */
  readonly denominator?: "one" | "sink" | undefined;
  /** Of queries and outputs; f32 when left out. */
  readonly queryFormat?: AttentionPlan["queryFormat"];
  /** f32 when left out. */
  readonly keyFormat?: KvFormat | undefined;
  readonly valueFormat?: KvFormat | undefined;
  readonly numQueryHeads: number;
  /** Divides numQueryHeads. */
  readonly numKvHeads: number;
  readonly headDimQk: number;
  readonly headDimV: number;
  /** 1 / sqrt(headDimQk) when left out. */
  readonly scale?: number | undefined;
  /** Passes `scale` as a captured number, so that another one is no new kernel. Part of the kernel when left out. */
  readonly scaleMayChange?: boolean | undefined;
  /** Query rows of a work item, and keys of a block: `Caps.tiles` of the device. The cpu's when left out. */
  readonly queryTile?: number | undefined;
  readonly kvTile?: number | undefined;
}

export interface PlannedAttention {
  readonly plan: AttentionPlan;
  /** Where the value of each of `plan.captures` is found, in the same order. */
  readonly bindings: readonly Binding[];
}

/** Tiles where nobody says on which device. */
const defaultTiles = capsOf("cpu").tiles;

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
  for (const kind of ["score", "mask", "weight", "output"] as const) {
    const mod = spec[`${kind}Mod`];
    if (mod && mod.kind !== kind) throw new UsageError(`${kind}Mod must be made with ${kind}Mod()${mod.kind ? `, and this is ${article(mod.kind)} mod` : ""}`);
  }
  if (spec.weightMod && spec.denominator) throw new UsageError("a weightMod replaces softmax, so there is no denominator for a sink or softmax plus one to join; leave one of them out");
  const { denominator, queryFormat, keyFormat = "f32", valueFormat = "f32" } = spec;
  const scale = Math.fround(spec.scale ?? 1 / Math.sqrt(headDimQk));
  const { mods, text, ...joined } = joinMods([spec.scoreMod?.lower(), spec.maskMod?.lower(), spec.weightMod?.lower(), spec.outputMod?.lower()], spec.scaleMayChange === true);
  const shape = { headDimQk, headDimV, numQueryHeads, numKvHeads, scale: joined.scaleName === undefined ? scale : 1, queryTile, kvTile };
  const hooks = { ...(denominator && { denominator }), ...(queryFormat && { queryFormat }), ...(keyFormat !== "f32" && { keyFormat }), ...(valueFormat !== "f32" && { valueFormat }) };
  const key = [Object.entries({ ...shape, ...hooks }).map(([name, value]) => `${name} ${value}`).join(", "), text].join("\n");
  const bindings = joined.scaleName === undefined ? joined.bindings : [...joined.bindings, scaleBinding(joined.scaleName, scale)];
  return { plan: { key, ...mods, captures: bindings.map((b) => b.slot), ...shape, ...hooks }, bindings };
}

interface JoinedMods {
  readonly mods: Pick<AttentionPlan, "scoreMod" | "maskMod" | "weightMod" | "outputMod">;
  readonly bindings: readonly Binding[];
  /** The captured number that the scale is, where it may change. */
  readonly scaleName: string | undefined;
  readonly text: string;
}

const scaleBinding = (name: string, scale: number): Binding => ({ slot: { kind: "uniform", name, type: "f32" }, owner: { scale }, key: "scale" });

/** What stands for a mod that is not given. */
const none: LoweredMod = { expr: score, bindings: [] };
/** Joined mods by the lowered mods they are of, one map for each place in the list: a mod is lowered once for all calls. */
interface Known {
  readonly next: WeakMap<LoweredMod, Known>;
  readonly joined: Map<boolean, JoinedMods>;
}
const known: Known = { next: new WeakMap(), joined: new Map() };

/** The score, mask, weight and output mods with one list of captures, in which each name stands for one thing. */
function joinMods(lowered: readonly (LoweredMod | undefined)[], scaleMayChange: boolean): JoinedMods {
  let at = known;
  for (const mod of lowered) {
    const next = at.next.get(mod ?? none) ?? { next: new WeakMap(), joined: new Map<boolean, JoinedMods>() };
    at.next.set(mod ?? none, next);
    at = next;
  }
  const result = at.joined.get(scaleMayChange) ?? join(lowered, scaleMayChange);
  at.joined.set(scaleMayChange, result);
  return result;
}

function join(lowered: readonly (LoweredMod | undefined)[], scaleMayChange: boolean): JoinedMods {
  const bindings: Binding[] = [];
  const [scoreExpr = score, maskExpr, weightMod, outputMod] = lowered.map((mod) => mod && simplify(rename(mod.expr, addBindings(bindings, mod))));
  const scaleName = scaleMayChange ? freeName("scale", bindings) : undefined;
  const scoreMod = scaleName === undefined ? scoreExpr : simplify(replaceScore(scoreExpr, binary("mul", score, uniform("f32", scaleName))));
  const slots = bindings.map((b) => b.slot), allSlots = scaleName === undefined ? slots : [...slots, scaleBinding(scaleName, 1).slot];
  for (const [e, kind] of [[scoreMod, "score"], [maskExpr, "mask"], [weightMod, "score"], [outputMod, "score"]] as const) if (e) verify(e, kind, allSlots);
  const text = [
    `score ${print(scoreMod)}`, `mask ${maskExpr ? print(maskExpr) : "none"}`, ...(weightMod ? [`weight ${print(weightMod)}`] : []), ...(outputMod ? [`output ${print(outputMod)}`] : []),
    `captures ${JSON.stringify(allSlots)}`,
  ].join("\n");
  // A mask that is always true asks for no mask code.
  const maskMod = maskExpr?.kind === "const" && maskExpr.value === 1 ? undefined : maskExpr;
  return { mods: { scoreMod, maskMod, ...(weightMod && { weightMod }), ...(outputMod && { outputMod }) }, bindings, scaleName, text };
}

/** Adds the mod's captures to `bindings`; returns the names that those take there. */
function addBindings(bindings: Binding[], mod: LoweredMod): ReadonlyMap<string, string> {
  const renamed = new Map<string, string>();
  for (const binding of mod.bindings) {
    const { slot } = binding;
    const same = bindings.find((b) => b.owner === binding.owner && b.key === binding.key && b.slot.type === slot.type);
    const name = same?.slot.name ?? freeName(slot.name, bindings);
    renamed.set(slot.name, name);
    if (!same) bindings.push({ ...binding, slot: { ...slot, name } });
  }
  return renamed;
}

/** `name`, with a number where it is taken. */
function freeName(name: string, bindings: readonly Binding[]): string {
  let free = name;
  for (let n = 2; bindings.some((b) => b.slot.name === free); n++) free = `${name}${n}`;
  return free;
}

function replaceScore(e: Expr, by: Expr): Expr {
  const done = new Map<Expr, Expr>();
  for (const node of postOrder(e)) done.set(node, node.kind === "score" ? by : rebuild(node, (child) => done.get(child)!));
  return done.get(e)!;
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

/** The kernel of an attention on a backend, in its tiles unless the spec has others; compiled once for each plan text. */
export async function compileAttention(backend: Backend, spec: AttentionSpec): Promise<CompiledAttention> {
  const { tiles } = backend.caps;
  return compilePlanned(backend, planAttention({ ...spec, queryTile: spec.queryTile ?? tiles.queryTile, kvTile: spec.kvTile ?? tiles.kvTile }));
}

/** As `compileAttention`, of an attention that is planned. */
export async function compilePlanned(backend: Backend, planned: PlannedAttention): Promise<CompiledAttention> {
  const { plan } = planned;
  const compiled = kernels.get(backend) ?? new Map<string, Promise<AttentionKernel>>();
  kernels.set(backend, compiled);
  const compiling = compiled.get(plan.key) ?? backend.compile(plan);
  compiled.set(plan.key, compiling);
  try {
    const kernel = await compiling;
    return { ...planned, kernel, mask: plan.maskMod ? analyse(plan.maskMod) : undefined };
  } catch (error) {
    compiled.delete(plan.key);
    throw error;
  }
}
