/**
 * Mods: plain functions of (b, h, q, kv), of the score and of the output, callable as such and readable by the compiler.
 *
 * `maskMod(fn)`, `scoreMod(fn)`, `weightMod(fn)` and `outputMod(fn)` return a function with the same meaning as `fn`; `and`, `or` and
 * `not` make masks of masks.
 * Reading waits until the compiler asks, and is done again only when a capture changed its type.
 */
import { UsageError } from "../core/errors.ts";
import { binary, children, type Expr, index, score, unary, uniform } from "../ir/expr.ts";
import type { CaptureEnv } from "../ir/interpret.ts";
import { postOrder } from "../ir/range.ts";
import { rebuild, simplify } from "../ir/simplify.ts";
import { verify } from "../ir/verify.ts";
import { type Binding, type Captures, CaptureSlots, inlineKey, readCaptures, type Seen, seenCaptures } from "./captures.ts";
import { callSite, ModError } from "./mod-error.ts";
import { parseMod } from "./parse.ts";
import { article, asExpr, expression, type Inlinable, type ModKind, toF32, truthy, type Value } from "./values.ts";

/** True where a key may be attended. `h` is the query head; positions count from 0 in the sequence. */
export type MaskFunction = (b: number, h: number, q: number, kv: number) => boolean | number;
/** The score that replaces `score`, which is scale * q.k. */
export type ScoreFunction = (score: number, b: number, h: number, q: number, kv: number) => number;

/** The weight of a key, instead of softmax, from its score after the score mod. */
export type WeightFunction = ScoreFunction;
/** What replaces `out`, the element `d` of query `q`'s finished row. */
export type OutputFunction = (out: number, b: number, h: number, q: number, d: number) => number;

/** A mod as the compiler reads it: one expression and the captures it needs, in order. */
export interface LoweredMod {
  readonly expr: Expr;
  readonly bindings: readonly Binding[];
}

interface ModParts<Kind extends ModKind> {
  readonly kind: Kind;
  /** The function as written; undefined for one made by and, or, not. */
  readonly fn: ((...args: never) => unknown) | undefined;
  readonly captures: Captures;
  readonly [inlineKey]: Inlinable;
  /** The simplified expression and its captures. @throws ModError when the source is not in the language. */
  lower(): LoweredMod;
  /** The simplified expression. */
  expr(): Expr;
  /** The captured values now, by slot name. */
  values(): CaptureEnv;
}

export type MaskMod = MaskFunction & ModParts<"mask">;
export type ScoreMod = ScoreFunction & ModParts<"score">;
export type WeightMod = WeightFunction & ModParts<"weight">;
export type OutputMod = OutputFunction & ModParts<"output">;
export type Mod = MaskMod | ScoreMod | WeightMod | OutputMod;

/** A mask of `fn`, or of the function that `fn` returns for its captures. */
export function maskMod(fn: MaskFunction): MaskMod;
export function maskMod<const C extends Captures>(fn: (captures: Seen<C>) => MaskFunction, captures: C): MaskMod;
export function maskMod(fn: (...args: never) => unknown, captures?: Captures): MaskMod {
  return makeMod("mask", fn, captures, maskMod) as MaskMod;
}

/** A score mod of `fn`, or of the function that `fn` returns for its captures. */
export function scoreMod(fn: ScoreFunction): ScoreMod;
export function scoreMod<const C extends Captures>(fn: (captures: Seen<C>) => ScoreFunction, captures: C): ScoreMod;
export function scoreMod(fn: (...args: never) => unknown, captures?: Captures): ScoreMod {
  return makeMod("score", fn, captures, scoreMod) as ScoreMod;
}

/** A weight mod: what a key's value is multiplied by, instead of softmax of the scores. Nothing divides by the sum. */
export function weightMod(fn: WeightFunction): WeightMod;
export function weightMod<const C extends Captures>(fn: (captures: Seen<C>) => WeightFunction, captures: C): WeightMod;
export function weightMod(fn: (...args: never) => unknown, captures?: Captures): WeightMod {
  return makeMod("weight", fn, captures, weightMod) as WeightMod;
}

/** An output mod, of each finished output element. */
export function outputMod(fn: OutputFunction): OutputMod;
export function outputMod<const C extends Captures>(fn: (captures: Seen<C>) => OutputFunction, captures: C): OutputMod;
export function outputMod(fn: (...args: never) => unknown, captures?: Captures): OutputMod {
  return makeMod("output", fn, captures, outputMod) as OutputMod;
}

/** Keys that every mask allows. */
export function and(...masks: readonly MaskMod[]): MaskMod {
  return combine("and", masks, (b, h, q, kv) => masks.every((mask) => mask(b, h, q, kv)));
}

/** Keys that some mask allows. */
export function or(...masks: readonly MaskMod[]): MaskMod {
  return combine("or", masks, (b, h, q, kv) => masks.some((mask) => mask(b, h, q, kv)));
}

/** Keys that an odd number of the masks allow: of two, those that one of them allows and the other does not. */
export function xor(...masks: readonly MaskMod[]): MaskMod {
  return combine("xor", masks, (b, h, q, kv) => masks.filter((mask) => mask(b, h, q, kv)).length % 2 === 1);
}

/** Keys that the mask forbids. */
export function not(mask: MaskMod): MaskMod {
  const inline: Inlinable["inline"] = (slots, args) => expression(unary("not", asExpr(mask[inlineKey].inline(slots, args))));
  return finishMod("mask", (b: number, h: number, q: number, kv: number) => !mask(b, h, q, kv), undefined, {}, { kind: "mask", inline }) as MaskMod;
}

/** The mask seen from further on: offset(mask, { query: n }) at q is mask at q + n. Decoding after n cached tokens is one use. */
export function offset(mask: MaskMod, by: { readonly query?: number; readonly kv?: number }): MaskMod {
  const captures = { query: by.query ?? 0, kv: by.kv ?? 0 };
  const moved = maskMod(({ query, kv: kvBy, mask: inner }) => (b, h, q, kv) => inner(b, h, q + query, kv + kvBy), { ...captures, mask });
  return moved;
}

function combine(op: "and" | "or" | "xor", masks: readonly MaskMod[], fn: MaskFunction): MaskMod {
  if (masks.length === 0) throw new UsageError(`${op}() needs at least one mask`);
  for (const mask of masks) if (mask?.kind !== "mask") throw new UsageError(`${op}() joins masks made with maskMod()`);
  const inline: Inlinable["inline"] = (slots, args) =>
    expression(masks.map((mask) => asExpr(mask[inlineKey].inline(slots, args))).reduce((a, b) => binary(op === "xor" ? "ne" : op, a, b)));
  return finishMod("mask", fn, undefined, {}, { kind: "mask", inline }) as MaskMod;
}

function makeMod(kind: ModKind, fn: (...args: never) => unknown, captures: Captures | undefined, callee: (...args: never) => unknown): Mod {
  if (typeof fn !== "function") throw new UsageError(`${kind}Mod() takes a function, not ${fn === null ? "null" : typeof fn}`);
  if (inlineKey in fn) throw new UsageError(`${kind}Mod() was given a mod; it is one already`);
  if (captures !== undefined && (typeof captures !== "object" || captures === null)) throw new UsageError("the captures are one object: { size: 1024 }");
  const site = callSite(callee);
  let parsed: Inlinable | undefined;
  const reader: Inlinable = { kind, inline: (slots, args) => (parsed ??= parseMod(kind, fn, captures, site)).inline(slots, args) };
  const plain = fn as unknown as (...args: number[]) => unknown;
  const call = captures === undefined ? plain : (...args: number[]) => (plain as unknown as (seen: unknown) => (...args: number[]) => unknown)(seenCaptures(captures))(...args);
  const place = (message: string): never => {
    throw new ModError(message, Function.prototype.toString.call(fn), 0, site);
  };
  return finishMod(kind, (...args: number[]) => call(...args), fn, captures ?? {}, reader, place);
}

/** An output element's place in its head stands where a key's position does (ir/plan.ts). */
const indices: readonly Value[] = [index("b"), index("h"), index("q"), index("kv")].map(expression);

function finishMod(kind: ModKind, call: (...args: number[]) => unknown, fn: ((...args: never) => unknown) | undefined, captures: Captures, reader: Inlinable, place?: (message: string) => never): Mod {
  let known: { readonly slots: CaptureSlots; readonly lowered: LoweredMod } | undefined;
  const parts = {
    kind, fn, captures,
    [inlineKey]: reader,
    lower: (): LoweredMod => {
      if (!known?.slots.stillValid()) {
        const slots = new CaptureSlots();
        const value = reader.inline(slots, kind === "mask" ? indices : [expression(score), ...indices]);
        known = { slots, lowered: finish(kind, value, slots, place) };
      }
      return known.lowered;
    },
    expr: (): Expr => parts.lower().expr,
    values: (): CaptureEnv => readCaptures(parts.lower().bindings),
  };
  return Object.assign(call, parts) as unknown as Mod;
}

/** Types the result, lets captured numbers be f32 where only that is used, and drops captures that nothing reads. */
function finish(kind: ModKind, value: Value, slots: CaptureSlots, fail: (message: string) => never = usage): LoweredMod {
  const typed = kind === "mask" ? truthy(value) : numberResult(kind, value, fail);
  const depth = depthOf(typed);
  if (depth > maxDepth) fail(`the mod is ${depth} operations deep once its loops are unrolled, and ${maxDepth} is the most; shorten the loops, or sum in several variables and add those`);
  const { expr, asF32 } = preferF32(simplify(typed));
  const used = new Set(postOrder(expr).flatMap((e) => (e.kind === "uniform" ? [e.name] : e.kind === "load" || e.kind === "extent" ? [e.table] : [])));
  const bindings = slots.bindings.filter((b) => used.has(b.slot.name))
    .map((b): Binding => (asF32.has(b.slot.name) && b.slot.kind === "uniform" ? { ...b, slot: { ...b.slot, type: "f32" } } : b));
  verify(expr, kind === "mask" ? "mask" : "score", bindings.map((b) => b.slot));
  return { expr, bindings };
}

/** Operations one inside the other: what emitters, which follow the expression by recursion, surely manage. */
const maxDepth = 1500;

function depthOf(e: Expr): number {
  const depths = new Map<Expr, number>();
  for (const node of postOrder(e)) depths.set(node, 1 + Math.max(0, ...children(node).map((child) => depths.get(child)!)));
  return depths.get(e)!;
}

function usage(message: string): never {
  throw new UsageError(message);
}

const remedies: Readonly<Record<Exclude<ModKind, "mask">, string>> = { score: "score : -Infinity", weight: "1 : 0", output: "out : 0" };

function numberResult(kind: Exclude<ModKind, "mask">, value: Value, fail: (message: string) => never): Expr {
  if (value.kind === "expr" && value.expr.type === "bool") fail(`${article(kind)} mod returns a number, and this one returns true or false; return condition ? ${remedies[kind]}`);
  return toF32(value);
}

/**
 * A whole number captured where only f32 is asked for (`cap` in `cap * Math.tanh(score / cap)`) is read as f32 at once, so that
 * 50 may become 50.5 without a new kernel. The value is the same: both ways it is the f32 nearest to the number.
 */
function preferF32(e: Expr): { readonly expr: Expr; readonly asF32: ReadonlySet<string> } {
  const converted = new Set<string>(), other = new Set<string>();
  for (const node of postOrder(e)) {
    for (const child of children(node)) {
      if (child.kind === "uniform" && child.type === "i32") (node.kind === "unary" && node.op === "toF32" ? converted : other).add(child.name);
    }
  }
  const asF32 = new Set([...converted].filter((name) => !other.has(name)));
  if (asF32.size === 0) return { expr: e, asF32 };
  const done = new Map<Expr, Expr>();
  const visit = (node: Expr): Expr => {
    const known = done.get(node);
    if (known) return known;
    const result = node.kind === "unary" && node.op === "toF32" && node.x.kind === "uniform" && asF32.has(node.x.name) ? uniform("f32", node.x.name) : rebuild(node, visit);
    done.set(node, result);
    return result;
  };
  return { expr: simplify(visit(e)), asF32 };
}
