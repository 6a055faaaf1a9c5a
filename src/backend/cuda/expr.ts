/**
 * Writes a mod's expression as a CUDA device function of one (score, b, h, q, kv): two tables of operators, and loads.
 *
 * A subexpression shared by identity is a named value, computed once; what depends on rows or keys alone is moved out of loops by NVRTC,
 * as the functions are inlined. Every load is guarded: where `live` (a lane whose value can matter: under the chosen side of a choice, where `&&`
 * and `||` get as far) an index out of range is noted, and the call fails by name; elsewhere element 0 is read.
 * Knows no tile, no thread and no memory but the captures in `p`.
 */
import { invariant } from "../../core/errors.ts";
import { type BinaryOp, children, type Expr, type IndexName, type Type, type UnaryOp } from "../../ir/expr.ts";
import { countUses } from "../../ir/interpret.ts";
import { Loads } from "../../ir/loads.ts";
import type { CaptureSlot } from "../../ir/plan.ts";
import { postOrder } from "../../ir/range.ts";
import type { Field } from "./struct.ts";

const cType: Readonly<Record<Type, string>> = { i32: "int", f32: "float", bool: "bool" };

/** Names of a capture's members in the parameter struct. Captures are numbered: their own names may be no identifiers of C++. */
export const captureField = (slot: number): string => `capture${slot}`;
export const extentField = (slot: number, dim: number): string => `extent${slot}_${dim}`;
/** How a failed load names its place; read back by `placeOf`. */
const placeWord = (slot: number, dim: number): number => 1 + 8 * slot + dim;
export const placeOf = (word: number): { readonly slot: number; readonly dim: number } => ({ slot: (word - 1) >> 3, dim: (word - 1) & 7 });

/** The members that the captures take in the parameter struct, pointers first. */
export function captureFields(captures: readonly CaptureSlot[]): readonly Field[] {
  const pointers = captures.flatMap((slot, i): Field[] => (slot.kind === "table" ? [{ name: captureField(i), type: "pointer", to: `const ${cType[slot.type]}` }] : []));
  const words = captures.flatMap((slot, i): Field[] =>
    slot.kind === "uniform" ? [{ name: captureField(i), type: slot.type }] : Array.from({ length: slot.rank }, (_, dim): Field => ({ name: extentField(i, dim), type: "i32" })));
  return [...pointers, ...words];
}

/** Whether any load is in `e`: only then does its function ask which lanes are live. */
export function holdsLoad(e: Expr): boolean {
  return new Loads().holds(e);
}

/**
 * `type name<guarded>(p, failure, live, score, b, h, q, kv)`, the expression as a device function. `title` is a comment above it. Where `guarded` is
 * false, loads by q or kv themselves are not looked after: the caller has asked `emitPlainInRange`'s function.
 * The text is a function of the expression and of the captures' places alone.
 */
export function emitFunction(name: string, e: Expr, captures: readonly CaptureSlot[], title: string): string {
  const body = new FunctionBody(e, captures);
  const result = body.value(e, "live");
  return [
    `/// ${title}`,
    `template <bool guarded> __device__ __forceinline__ ${cType[e.type]} ${name}(const Params& p, Failure& failure, bool live, float score, int b, int h, int q, int kv) {`,
    ...body.statements.map((line) => `  ${line}`),
    `  return ${result};`,
    "}",
  ].join("\n");
}

/** Loads by q or kv themselves that are worth asking for once a block; of more, NVRTC would write more code than it saves. */
const mostPlain = 4;
const isPlain = (index: Expr): boolean => index.kind === "index" && (index.name === "q" || index.name === "kv");
const fewPlain = (e: Expr): boolean => postOrder(e).reduce((sum, node) => sum + (node.kind === "load" ? node.indices.filter(isPlain).length : 0), 0) <= mostPlain;

/** Loads of mods that have few whose indices are q and kv themselves, by table and dimension. */
function plainLoads(mods: readonly Expr[], captures: readonly CaptureSlot[]): readonly { readonly slot: number; readonly dim: number; readonly index: IndexName }[] {
  const found = new Map<string, { slot: number; dim: number; index: IndexName }>();
  for (const e of mods) for (const node of fewPlain(e) ? postOrder(e) : []) {
    if (node.kind !== "load") continue;
    const slot = captures.findIndex((c) => c.name === node.table && c.kind === "table");
    node.indices.forEach((index, dim) => {
      if (index.kind === "index" && isPlain(index)) found.set(`${slot} ${dim} ${index.name}`, { slot, dim, index: index.name });
    });
  }
  return [...found.values()];
}

/**
 * `bool plainInRange(p, q, kv)`: whether tables reach beyond these, the largest of their kind, wherever a mod indexes them by q or kv itself.
 * Undefined where none does, or one too often.
 */
export function emitPlainInRange(mods: readonly Expr[], captures: readonly CaptureSlot[]): string | undefined {
  const loads = plainLoads(mods, captures);
  if (loads.length === 0) return undefined;
  return [
    "/// Whether every table that a mod indexes by q or kv itself reaches beyond these.",
    "__device__ __forceinline__ bool plainInRange(const Params& p, int q, int kv) {",
    `  return ${loads.map(({ slot, dim, index }) => `${index} < p.${extentField(slot, dim)}`).join(" & ")};`,
    "}",
  ].join("\n");
}

class FunctionBody {
  readonly statements: string[] = [];
  readonly #captures: readonly CaptureSlot[];
  readonly #uses: ReadonlyMap<Expr, number>;
  readonly #done = new Map<Expr, string>();
  /** What holds loads is right only for the lanes it was written for, or fewer. */
  readonly #doneFor = new Map<string, Map<Expr, string>>();
  readonly #wider = new Map<string, string>();
  readonly #loads = new Loads();
  readonly #exact: ReadonlySet<Expr>;
  readonly #fewPlain: boolean;
  #count = 0;

  constructor(root: Expr, captures: readonly CaptureSlot[]) {
    this.#captures = captures;
    this.#uses = countUses(root);
    this.#exact = exactNodes(root);
    this.#fewPlain = fewPlain(root);
  }

  /** Text of e's value where `live` (the name of a bool) holds. */
  value(e: Expr, live: string): string {
    if (e.kind === "const") return literal(e.type, e.value);
    const loads = this.#loads.holds(e);
    const known = loads ? this.#knownFor(e, live) : this.#done.get(e);
    if (known !== undefined) return known;
    const text = this.#write(e, live);
    const simple = children(e).length === 0 && e.kind !== "load";
    const result = simple || (!loads && (this.#uses.get(e) ?? 0) <= 1 && text.length < 100) ? text : this.#keep(e, text);
    if (!loads) this.#done.set(e, result);
    else {
      const memo = this.#doneFor.get(live) ?? new Map<Expr, string>();
      this.#doneFor.set(live, memo.set(e, result));
    }
    return result;
  }

  #knownFor(e: Expr, live: string): string | undefined {
    for (let lanes: string | undefined = live; lanes !== undefined; lanes = this.#wider.get(lanes)) {
      const known = this.#doneFor.get(lanes)?.get(e);
      if (known !== undefined) return known;
    }
    return undefined;
  }

  #keep(e: Expr, text: string): string {
    const name = `${e.kind === "binary" || e.kind === "unary" ? e.op : e.kind}${this.#count++}`;
    this.statements.push(`const ${cType[e.type]} ${name} = ${text};`);
    return name;
  }

  #write(e: Exclude<Expr, { kind: "const" }>, live: string): string {
    switch (e.kind) {
      case "index": return e.name;
      case "score": return "score";
      case "uniform": return `p.${captureField(this.#slot(e.name, "uniform"))}`;
      case "extent": return `p.${extentField(this.#slot(e.table, "table"), e.dim)}`;
      case "load": return this.#load(e, live);
      case "unary": {
        if (isDistance(e)) return `(__int2float_rn(${this.value(e.x.a, live)}) - __int2float_rn(${this.value(e.x.b, live)}))`;
        return (this.#exact.has(e) ? unary[e.op] : smoothUnary[e.op] ?? unary[e.op])(this.value(e.x, live), e.x.type === "i32");
      }
      case "binary": {
        const a = this.value(e.a, live);
        const right = e.op === "and" ? this.#narrow(e.b, live, a) : e.op === "or" ? this.#narrow(e.b, live, `!${a}`) : live;
        return (this.#exact.has(e) ? binary[e.op] : smoothBinary[e.op] ?? binary[e.op])(a, this.value(e.b, right), e.a.type === "i32");
      }
      case "select": {
        const condition = this.value(e.condition, live);
        // What both sides ask for is asked for in every live lane: written once, not once for each side.
        for (const shared of this.#loads.ofBoth(e.a, e.b)) this.value(shared, live);
        const a = this.value(e.a, this.#narrow(e.a, live, condition)), b = this.value(e.b, this.#narrow(e.b, live, `!${condition}`));
        return `(${condition} ? ${a} : ${b})`;
      }
      default: return e satisfies never;
    }
  }

  /** The lanes of `live` where `condition` holds; asked for only where `e` holds a load. */
  #narrow(e: Expr, live: string, condition: string): string {
    if (!this.#loads.holds(e)) return live;
    const name = `live${this.#count++}`;
    this.#wider.set(name, live);
    this.statements.push(`const bool ${name} = ${live} & ${condition};`);
    return name;
  }

  #load(e: Extract<Expr, { kind: "load" }>, live: string): string {
    const slot = this.#slot(e.table, "table");
    let flat = "";
    e.indices.forEach((index, dim) => {
      const guarded = `failure.${this.#fewPlain && isPlain(index) ? "guard<guarded>" : "note"}(${this.value(index, live)}, p.${extentField(slot, dim)}, ${live}, ${placeWord(slot, dim)})`;
      flat = dim === 0 ? guarded : `(${flat} * p.${extentField(slot, dim)} + ${guarded})`;
    });
    return `__ldg(p.${captureField(slot)} + ${flat})`;
  }

  #slot(name: string, kind: CaptureSlot["kind"]): number {
    const slot = this.#captures.findIndex((c) => c.name === name && c.kind === kind);
    invariant(slot >= 0, `the plan has no ${kind} named ${name}`);
    return slot;
  }
}

/** Positions' difference as f32. Exact either way, as positions are below `maxPositions`; but so each is converted once, and not every pair. */
const isPosition = (e: Expr): boolean => e.kind === "index" && (e.name === "q" || e.name === "kv");
const isDistance = (e: Expr): e is Expr & { readonly x: Extract<Expr, { kind: "binary" }> } => e.kind === "unary" && e.op === "toF32" && e.x.kind === "binary" && e.x.op === "sub" && isPosition(e.x.a) && isPosition(e.x.b);

/**
 * Operators whose result jumps, also to NaN at an edge of what they are defined for (the root of 1 - q / q), or that blow a difference up (many turns of an
 * angle): what they are given must be exact to the last bit.
 */
const jumping: ReadonlySet<UnaryOp | BinaryOp> = new Set([
  "sign", "floor", "ceil", "round", "trunc", "toI32", "rem", "floorDiv", "floorMod", "lt", "le", "gt", "ge", "eq", "ne", "sqrt", "log", "log2", "log1p", "pow", "sin", "cos", "tan",
]);

/** The nodes that something jumping is made of; a few units in the last place of the others do not show in 16 bits. */
function exactNodes(root: Expr): ReadonlySet<Expr> {
  const exact = new Set<Expr>(), seen = new Set<Expr>();
  const visit = (e: Expr, mustBe: boolean): void => {
    if (mustBe ? exact.has(e) : seen.has(e) || exact.has(e)) return;
    (mustBe ? exact : seen).add(e);
    const jumps = (e.kind === "unary" || e.kind === "binary") && jumping.has(e.op);
    for (const child of children(e)) visit(child, mustBe || jumps || e.kind === "load");
  };
  visit(root, root.type !== "f32");
  return exact;
}

/** A constant, exactly: the shortest decimal of the f32 as a double reads back as that f32. */
export function literal(type: Type, value: number): string {
  if (type === "bool") return value ? "true" : "false";
  if (type === "i32") return value === -(2 ** 31) ? "(-2147483647 - 1)" : value < 0 ? `(${value})` : String(value);
  if (Number.isNaN(value)) return "nan32()";
  if (!Number.isFinite(value)) return value > 0 ? "infinity()" : "(-infinity())";
  const digits = String(value);
  const text = `${Object.is(value, -0) ? "-0" : digits}${/[.e]/.test(digits) ? "" : "."}f`;
  return value < 0 || Object.is(value, -0) ? `(${text})` : text;
}

type WriteUnary = (x: string, integer: boolean) => string;
const unary: Readonly<Record<UnaryOp, WriteUnary>> = {
  neg: (x, integer) => (integer ? `wrapNeg(${x})` : `(-${x})`),
  abs: (x, integer) => (integer ? `wrapAbs(${x})` : `fabsf(${x})`),
  sign: (x) => `sign(${x})`,
  not: (x) => `(!${x})`,
  bitNot: (x) => `(~${x})`,
  floor: (x) => `floorf(${x})`,
  ceil: (x) => `ceilf(${x})`,
  round: (x) => `roundHalfUp(${x})`,
  trunc: (x) => `truncf(${x})`,
  sqrt: (x) => `sqrtf(${x})`,
  exp: (x) => `expf(${x})`,
  log: (x) => `logf(${x})`,
  log2: (x) => `log2f(${x})`,
  log1p: (x) => `log1pf(${x})`,
  sin: (x) => `sine(${x})`,
  cos: (x) => `cosine(${x})`,
  tan: (x) => `tangent(${x})`,
  tanh: (x) => `tanhf(${x})`,
  toF32: (x) => `__int2float_rn(${x})`,
  toI32: (x) => `__float2int_rz(${x})`,
  boolToI32: (x) => `(int)(${x})`,
};

/** Of a smooth part of a mod: to a few units in the last place (tanh: to 2^-10.9), in one or two instructions. */
const smoothUnary: Readonly<Partial<Record<UnaryOp, WriteUnary>>> = { exp: (x) => `expApprox(${x})`, sqrt: (x) => `sqrtApprox(${x})`, tanh: (x) => `tanhApprox(${x})` };

type WriteBinary = (a: string, b: string, integer: boolean) => string;
const between = (operator: string): WriteBinary => (a, b) => `(${a} ${operator} ${b})`;
const called = (name: string): WriteBinary => (a, b) => `${name}(${a}, ${b})`;
/** i32 wraps, where C++ says nothing. */
const wrapping = (operator: string, name: string): WriteBinary => (a, b, integer) => (integer ? called(name) : between(operator))(a, b, integer);
const smoothBinary: Readonly<Partial<Record<BinaryOp, WriteBinary>>> = { mul: wrapping("*", "wrapMul"), div: called("quotientApprox") };
const binary: Readonly<Record<BinaryOp, WriteBinary>> = {
  add: wrapping("+", "wrapAdd"),
  sub: wrapping("-", "wrapSub"),
  /** Not to be fused with an addition behind it, as `*` would be. */
  mul: (a, b, integer) => called(integer ? "wrapMul" : "__fmul_rn")(a, b, integer),
  div: between("/"),
  rem: (a, b, integer) => called(integer ? "remainder" : "fmodf")(a, b, integer),
  floorDiv: called("floorDiv"),
  floorMod: called("floorMod"),
  min: called("least"),
  max: called("most"),
  pow: called("power"),
  hypot: called("hypotf"),
  lt: between("<"),
  le: between("<="),
  gt: between(">"),
  ge: between(">="),
  eq: between("=="),
  ne: between("!="),
  and: between("&"),
  or: between("|"),
  bitAnd: between("&"),
  bitOr: between("|"),
  bitXor: between("^"),
  shl: called("shiftLeft"),
  shr: called("shiftRight"),
};
