/**
 * The conformance list on one backend, without a test runner: a stream of verdicts. Each case is tried dense, paged and ragged against the
 * oracle, and its mask's blocks against the mask itself; then what needs several launches, and what must agree with itself.
 */
import type { Backend } from "../../src/backend/backend.ts";
import type { MaskMod, Mod } from "../../src/attention/mod.ts";
import { evaluator } from "../../src/ir/interpret.ts";
import type { KvFormat } from "../../src/ir/plan.ts";
import { type Agreement, type Case, type Composite, geometryOf, type Geometry, type Mods, type Refused, type Shape, type Side } from "./case.ts";
import { agreements, cases, composites, refused } from "./cases/index.ts";
import { classifyAll } from "./classify.ts";
import { type Counted, counting, launch, type Result } from "./launch.ts";
import { answers, judge, makeData, type Row } from "./oracle.ts";
import { allShapes, blockSizes, type Launch, pagedShapes, quickShapes } from "./shapes.ts";

export interface Verdict {
  readonly id: string;
  readonly title: string;
  /** What was tried: "L 33, S 101", "pages of 16", "blocks", "change". */
  readonly trial: string;
  readonly status: "passed" | "failed" | "skipped";
  /** The reason or the problem. */
  readonly note: string;
  /** The error in units of what f32 itself costs. */
  readonly ratio?: number;
  /** Block sizes in which range analysis left blocks open without need. */
  readonly loose?: readonly string[];
}

export interface RunOptions {
  /** Every shape of the list, one of each kind, or one ragged batch in pages. */
  readonly shapes: keyof typeof shapesOf;
  /** Whether masks are classified and functions compared with their expressions, which no backend has a part in; true when left out. */
  readonly host?: boolean;
  /** The type of all tensors, for a backend that computes in 16 bits; what a case keeps in int8 or fp8 stays so. */
  readonly compute?: "bf16" | "f16" | undefined;
  /** Ids to run; all when left out. */
  readonly only?: ReadonlySet<string> | undefined;
  /** Trials are dealt to `of` processes, of which this is `part`; those of a case that share a kernel to the same one. All when left out. */
  readonly share?: { readonly part: number; readonly of: number } | undefined;
}

/** Times what the type itself costs that a launch may err: f32 dense and paged, and 16-bit results. */
const factors = { dense: 10, paged: 20, half: 1.1, halfLargest: 2 } as const;
/**
 * Roundings lie anywhere in half a unit, so their mean over so many rows differs by this part of itself from another such mean: sqrt(2 / 3 / rows), one
 * standard deviation. Of many rows it is left out: what is within 1.1 there without it shall stay so.
 */
const spread = (rows: number): number => (rows < fewRows ? Math.sqrt(2 / 3 / Math.max(1, rows)) : 0);
const fewRows = 16;

/** Rows of a sequence that the oracle answers: all of a short one, else its ends, the edges of tiles and some between. */
const rowsAsked = { all: 32, quick: 16, paged: 16 } as const;

interface Place extends Counted {
  readonly rows: number;
  readonly compute: RunOptions["compute"];
}

/** A case's mods over tensors of the type that the backend computes in. */
function typed<M extends Mods>({ compute }: Place, mods: M): M {
  if (!compute) return mods;
  const format = (f: KvFormat | undefined): KvFormat => (f === "int8" || f === "fp8" ? f : compute);
  return { ...mods, queryFormat: compute, keyFormat: format(mods.keyFormat), valueFormat: format(mods.valueFormat) };
}

const shapesOf = { all: allShapes, quick: quickShapes, paged: pagedShapes } as const;

export async function* run(backend: Backend, { shapes, only, compute, share = { part: 0, of: 1 }, host = true }: RunOptions): AsyncGenerator<Verdict> {
  /** With each case's place in the whole list: the shapes that it is tried in do not depend on what else is. */
  const chosen = <T extends { readonly id: string }>(list: readonly T[], from = 0): readonly (readonly [c: T, nth: number])[] => list.map((c, i) => [c, from + i] as const).filter(([{ id }]) => !only || only.has(id));
  const place: Place = { ...counting(backend), rows: rowsAsked[shapes], compute };
  let numDealt = 0;
  const mine = (): boolean => numDealt++ % share.of === share.part;
  for (const [c, nth] of chosen(cases)) {
    const dealt = new Map<string, boolean>();
    for (const l of shapesOf[shapes](nth)) {
      if (c.denseOnly && l.form.kind !== "dense") continue;
      const { heads, kvHeads, dim, valueDim } = l.shape, kernel = [heads, kvHeads, dim, valueDim].join();
      if (!dealt.has(kernel)) dealt.set(kernel, mine());
      if (dealt.get(kernel)) yield { ...named(c, l.name), ...(await caught(() => tryCase(place, c, l))) };
    }
    if (c.change && mine()) yield { ...named(c, "change"), ...(await caught(() => tryChange(place, c))) };
    if (host && mine()) yield* hostOnly(c);
  }
  for (const [c, nth] of chosen(composites, cases.length)) {
    for (const l of (shapes === "paged" ? pagedShapes : quickShapes)(nth)) if (mine()) yield { ...named(c, l.name), ...(await caught(() => tryComposite(place, c, l))) };
  }
  for (const [c] of chosen(agreements)) if (mine()) yield { ...named(c, "agree"), ...(await caught(() => tryAgreement(place, c))) };
  for (const [c] of chosen(refused)) if (mine()) yield { ...named(c, "refused"), ...(await tryRefused(place, c)) };
}

type Outcome = Pick<Verdict, "status" | "note" | "ratio" | "loose">;
const named = ({ id, title }: { readonly id: string; readonly title: string }, trial: string): Pick<Verdict, "id" | "title" | "trial"> => ({ id, title, trial });
const passed = (note = "", ratio = 0): Outcome => ({ status: "passed", note, ratio });
const failed = (note: string): Outcome => ({ status: "failed", note });

async function caught(trial: () => Promise<Outcome>): Promise<Outcome> {
  try {
    return await trial();
  } catch (error) {
    return failed(error instanceof Error ? error.message : String(error));
  }
}

async function tryCase(place: Place, c: Case, { shape, form }: Launch): Promise<Outcome> {
  return tryMods(place, typed(place, c.mods(geometryOf(shape))), shape, form);
}

async function tryMods(place: Place, mods: Mods, shape: Shape, form: Launch["form"]): Promise<Outcome> {
  const data = makeData(shape, mods);
  const result = await launch(place.backend, shape, mods, data, form);
  return compare(place, answers(shape, mods, data, place.rows, place.compute), result, shape, mods, form);
}

const factorsOf = ({ compute }: Place, { kind }: Launch["form"], rows: number): readonly [mean: number, largest: number] => (compute ? [factors.half + spread(rows), factors.halfLargest] : [factors[kind], factors[kind]]);

/** The launch against the oracle's rows. */
function compare(place: Place, rows: readonly Row[], result: Result, shape: Shape, mods: Mods, form: Launch["form"]): Outcome {
  const { valueDim, sequences } = shape, all = factorsOf(place, form, rows.length);
  const offset = (r: Row): number => r.head * sequences[r.sequence]!.rows + r.row;
  const outAt = (r: Row, d: number): number => result.out[r.sequence]![offset(r) * valueDim + d]!;
  if (!mods.outputMod) {
    for (const r of rows) for (let d = 0; r.empty && d < valueDim; d++) if (outAt(r, d) !== 0) return failed(`sequence ${r.sequence}, head ${r.head}, row ${r.row} sees nothing, and out is ${outAt(r, d)} there`);
  }
  const found = [
    judge(rows.flatMap((r) => Array.from(r.gold.out, (gold, d) => [gold, r.single.out[d]!, outAt(r, d)] as const)), "out", ...(mods.queryFormat && !place.compute ? [factors.half, factors.half] as const : all)),
    ...(mods.weightMod ? [] : (["lse", "maxScore"] as const).flatMap((what) => {
      const given = result[what];
      return given ? [judge(rows.map((r) => (what === "lse" ? [r.gold.lse, r.single.lse, given[r.sequence]![offset(r)]!] : [r.gold.max, r.single.max, given[r.sequence]![offset(r)]!])), what, ...all)] : [];
    })),
  ];
  const problem = found.find((f) => f.problem)?.problem;
  return problem ? failed(problem) : passed("", Math.max(...found.map((f) => f.ratio)));
}

/** The same case with other captured values: right again, and nothing compiled. */
async function tryChange(place: Place, c: Case): Promise<Outcome> {
  for (const { shape, form } of quickShapes(0)) {
    const mods = typed(place, c.mods(geometryOf(shape)));
    const before = await tryMods(place, mods, shape, form);
    if (before.status !== "passed") return before;
    const compiled = place.compiled(), data = makeData(shape, mods), first = await launch(place.backend, shape, mods, data, form);
    c.change!();
    const after = await tryMods(place, mods, shape, form);
    if (after.status !== "passed") return failed(`after the change: ${after.note}`);
    const second = await launch(place.backend, shape, mods, data, form);
    if (first.out.every((out, s) => out.every((x, i) => x === second.out[s]![i]))) return failed("the change changed nothing");
    if (place.compiled() !== compiled) return failed(`the change compiled ${place.compiled() - compiled} kernels`);
  }
  return passed("no kernel compiled");
}

const grid: Geometry = { batch: 2, heads: 3, kvHeads: 3, queries: 140, keys: 160, positions: 160 };

function* hostOnly(c: Case): Generator<Verdict> {
  const { maskMod, scoreMod, weightMod, outputMod } = c.mods(grid);
  for (const mod of [scoreMod, weightMod, outputMod]) {
    const problem = mod && scoreDiffers(mod);
    if (mod) yield { ...named(c, "function"), ...(problem ? failed(problem) : passed()) };
  }
  if (!maskMod || !c.id.startsWith("M")) return;
  try {
    const { loose, problem } = classifyAll(maskMod, grid, [...blockSizes.tight, ...blockSizes.any]);
    const must = c.tight ? loose.filter((l) => blockSizes.tight.some((size) => l.startsWith(`${size.join("x")}:`))) : [];
    const needless = must.length > 0 ? `blocks left open without need: ${must.join(", ")}` : undefined;
    yield { ...named(c, "blocks"), ...(problem ?? needless ? failed((problem ?? needless)!) : passed()), loose };
  } catch (error) {
    yield { ...named(c, "blocks"), ...failed(String(error)) };
  }
}

/** Where a mod of numbers called as a plain function (in doubles) says something else than its expression. */
function scoreDiffers(mod: Exclude<Mod, MaskMod>): string | undefined {
  const evaluate = evaluator(mod.expr(), "double"), captures = mod.values();
  for (let i = 0; i < 500; i++) {
    const b = i % grid.batch, h = (i * 7) % grid.heads, q = Math.floor(((i * 0.6180339887) % 1) * grid.queries), kv = Math.floor(((i * 0.7548776662) % 1) * grid.keys), score = ((i * 37) % 101) / 25 - 2;
    const plain = mod(score, b, h, q, kv), lowered = evaluate({ b, h, q, kv, score: Math.fround(score), ...captures });
    if (!(plain === lowered || Math.abs(plain - lowered) <= 1e-4 * (1 + Math.abs(plain)))) return `the function says ${plain} at score ${score}, b ${b}, h ${h}, q ${q}, kv ${kv}, its expression ${lowered}`;
  }
  return undefined;
}

async function tryComposite(place: Place, c: Composite, { shape, form }: Launch): Promise<Outcome> {
  const parts = c.parts(geometryOf(shape)).map((mods) => typed(place, mods)), data = makeData(shape, typed(place, {}));
  const results: Result[] = [];
  for (const mods of parts) results.push(await launch(place.backend, shape, mods, data, form));
  const rows = parts.map((mods) => answers(shape, mods, data, place.rows, place.compute));
  const { kvHeads, heads, valueDim } = shape;
  const pairs = rows[0]!.flatMap((first, i) => {
    const s = shape.sequences[first.sequence]!, value = data.value[first.sequence]!, g = Math.floor(first.head / (heads / kvHeads));
    const sums = Array.from({ length: valueDim }, (_, d) => Array.from({ length: s.kvLength }, (_, t) => value[(g * s.kvLength + t) * valueDim + d]!).reduce((a, b) => a + b, 0));
    const at = first.head * s.rows + first.row;
    const gold = c.combine(rows.map((r) => ({ out: [...r[i]!.gold.out], lse: r[i]!.gold.lse })), sums), single = c.combine(rows.map((r) => ({ out: [...r[i]!.single.out], lse: r[i]!.single.lse })), sums);
    const found = (c.library ?? c.combine)(results.map((r) => ({ out: [...r.out[first.sequence]!.subarray(at * valueDim, (at + 1) * valueDim)], lse: r.lse![first.sequence]![at]! })), sums);
    return gold.map((x, d) => [x, single[d]!, found[d]!] as const);
  });
  const { ratio, problem } = judge(pairs, "out", ...factorsOf(place, form, rows[0]!.length));
  return problem ? failed(problem) : passed("", ratio);
}

/** What is refused must be refused by name. */
async function tryRefused({ backend }: Counted, { ask, says }: Refused): Promise<Outcome> {
  try {
    await ask(backend);
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    return says.test(text) ? passed(text) : failed(`it is refused with: ${text}`);
  }
  return failed("it is not refused");
}

/** Rows of a launch by token and head. */
function byToken(side: Side, result: Result): Map<string, { readonly out: Float32Array; readonly lse: number }> {
  const { shape } = side, found = new Map<string, { readonly out: Float32Array; readonly lse: number }>();
  shape.sequences.forEach((s, b) => {
    for (let h = 0; h < shape.heads; h++) for (let r = 0; r < s.rows; r++) {
      const at = h * s.rows + r;
      found.set(`${s.query(r)} ${h}`, { out: result.out[b]!.subarray(at * shape.valueDim, (at + 1) * shape.valueDim), lse: result.lse![b]![at]! });
    }
  });
  return found;
}

async function tryAgreement(place: Place, { sides, bits: asked }: Agreement): Promise<Outcome> {
  const bits = asked === "one kernel" ? place.compute === undefined : asked;
  const [left, right] = sides.map((side) => ({ ...side, mods: typed(place, side.mods) })) as [Side, Side];
  const data = makeData(left.shape, left.mods), first = await launch(place.backend, left.shape, left.mods, data, left.form);
  const second = await launch(place.backend, right.shape, right.mods, makeData(right.shape, right.mods), right.form);
  const rows = answers(left.shape, left.mods, data, place.rows, place.compute);
  const true1 = compare(place, rows, first, left.shape, left.mods, left.form);
  if (true1.status !== "passed") return true1;
  const a = byToken(left, first), b = byToken(right, second);
  let common = 0;
  for (const [token, mine] of a) {
    const other = b.get(token);
    if (!other) continue;
    common++;
    if (!bits) continue;
    const same = (x: number, y: number): boolean => Object.is(x, y);
    if (!same(mine.lse, other.lse) || !mine.out.every((x, d) => same(x, other.out[d]!))) return failed(`token and head ${token}: out[0] is ${mine.out[0]} and ${other.out[0]}, lse ${mine.lse} and ${other.lse}`);
  }
  if (common === 0) return failed("the two launches have no row in common");
  if (bits) return passed(`${common} rows, to the bit`);
  const pairs = rows.flatMap((r) => {
    const other = b.get(`${left.shape.sequences[r.sequence]!.query(r.row)} ${r.head}`);
    return other ? Array.from(r.gold.out, (gold, d) => [gold, r.single.out[d]!, other.out[d]!] as const) : [];
  });
  const { ratio, problem } = judge(pairs, "out", ...(place.compute ? factorsOf(place, left.form, common) : [factors.paged, factors.paged] as const));
  return problem ? failed(problem) : passed(`${common} rows`, ratio);
}
