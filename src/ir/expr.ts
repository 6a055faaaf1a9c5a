/**
 * The language of mods: a closed union of typed expressions, and the only constructors of them.
 *
 * A mod is one expression of the indices `b h q kv`, the score, and its captures. It knows no machine. What an operator
 * means is the `eval` in its row; `interpret.ts` uses nothing else, and every emitter is compared with it.
 *
 *   i32   indices and integer arithmetic: exact, wraps at 32 bits (the compiler warns where that could happen)
 *   f32   scores and captured Float32Arrays
 *   bool  comparisons and masks
 */
import { invariant, UsageError } from "../core/errors.ts";

export type Type = "i32" | "f32" | "bool";
export type IndexName = "b" | "h" | "q" | "kv";

export type Expr =
  | { readonly kind: "const"; readonly type: Type; readonly value: number }
  | { readonly kind: "index"; readonly type: "i32"; readonly name: IndexName }
  | { readonly kind: "score"; readonly type: "f32" }
  /** A captured number: its value may change between calls without a new kernel. */
  | { readonly kind: "uniform"; readonly type: "i32" | "f32"; readonly name: string }
  /** The length of dimension `dim` of the captured table `table`, known at each call. */
  | { readonly kind: "extent"; readonly type: "i32"; readonly table: string; readonly dim: number }
  /** table[indices[0]][indices[1]]...; one index for each dimension. Out of range is an error of the call, never a stray read. */
  | { readonly kind: "load"; readonly type: "i32" | "f32"; readonly table: string; readonly indices: readonly Expr[] }
  | { readonly kind: "unary"; readonly type: Type; readonly op: UnaryOp; readonly x: Expr }
  | { readonly kind: "binary"; readonly type: Type; readonly op: BinaryOp; readonly a: Expr; readonly b: Expr }
  | { readonly kind: "select"; readonly type: Type; readonly condition: Expr; readonly a: Expr; readonly b: Expr };

export type UnaryOp =
  | "neg" | "abs" | "sign" | "not" | "bitNot"
  | "floor" | "ceil" | "round" | "trunc"
  | "sqrt" | "exp" | "log" | "log2" | "log1p" | "sin" | "cos" | "tan" | "tanh"
  | "toF32" | "toI32" | "boolToI32";

export type BinaryOp =
  | "add" | "sub" | "mul" | "div" | "rem" | "floorDiv" | "floorMod" | "min" | "max" | "pow" | "hypot"
  | "lt" | "le" | "gt" | "ge" | "eq" | "ne"
  | "and" | "or" | "bitAnd" | "bitOr" | "bitXor" | "shl" | "shr";

interface UnaryRow {
  /** Result type by operand type; a missing entry is a type error. */
  readonly types: Readonly<Partial<Record<Type, Type>>>;
  /** In doubles, before rounding to the result's type. Booleans are 0 and 1. */
  readonly eval: (x: number) => number;
}
interface BinaryRow {
  readonly types: Readonly<Partial<Record<Type, Type>>>;
  readonly eval: (a: number, b: number) => number;
  /** For i32 operands, where the exact result may not fit a double. */
  readonly evalI32?: (a: number, b: number) => number;
}

const number = { i32: "i32", f32: "f32" } as const;
const real = { f32: "f32" } as const;
const integer = { i32: "i32" } as const;
const compare = { i32: "bool", f32: "bool" } as const;
const equality = { i32: "bool", f32: "bool", bool: "bool" } as const;
const logic = { bool: "bool" } as const;

export const unaryOps: Readonly<Record<UnaryOp, UnaryRow>> = {
  neg: { types: number, eval: (x) => -x },
  abs: { types: number, eval: Math.abs },
  sign: { types: number, eval: Math.sign },
  not: { types: logic, eval: (x) => 1 - x },
  bitNot: { types: integer, eval: (x) => ~x },
  floor: { types: real, eval: Math.floor },
  ceil: { types: real, eval: Math.ceil },
  round: { types: real, eval: Math.round },
  trunc: { types: real, eval: Math.trunc },
  sqrt: { types: real, eval: Math.sqrt },
  exp: { types: real, eval: Math.exp },
  log: { types: real, eval: Math.log },
  log2: { types: real, eval: Math.log2 },
  log1p: { types: real, eval: Math.log1p },
  sin: { types: real, eval: Math.sin },
  cos: { types: real, eval: Math.cos },
  tan: { types: real, eval: Math.tan },
  tanh: { types: real, eval: Math.tanh },
  toF32: { types: { i32: "f32" }, eval: (x) => x },
  /** Truncates toward zero; saturates at the ends of i32; NaN gives 0 (as WASM's and CUDA's conversions do). */
  toI32: { types: { f32: "i32" }, eval: (x) => (Number.isNaN(x) ? 0 : Math.max(-(2 ** 31), Math.min(2 ** 31 - 1, Math.trunc(x)))) },
  boolToI32: { types: { bool: "i32" }, eval: (x) => x },
};

export const binaryOps: Readonly<Record<BinaryOp, BinaryRow>> = {
  add: { types: number, eval: (a, b) => a + b },
  sub: { types: number, eval: (a, b) => a - b },
  mul: { types: number, eval: (a, b) => a * b, evalI32: Math.imul },
  div: { types: real, eval: (a, b) => a / b },
  /** JavaScript's %: the sign of the dividend. An i32 divided by zero is 0 in rem, floorDiv and floorMod (JavaScript: NaN). */
  rem: { types: number, eval: (a, b) => a % b },
  floorDiv: { types: number, eval: (a, b) => Math.floor(a / b) },
  floorMod: { types: number, eval: (a, b) => a - Math.floor(a / b) * b },
  min: { types: number, eval: Math.min },
  max: { types: number, eval: Math.max },
  pow: { types: real, eval: (a, b) => a ** b },
  hypot: { types: real, eval: Math.hypot },
  lt: { types: compare, eval: (a, b) => Number(a < b) },
  le: { types: compare, eval: (a, b) => Number(a <= b) },
  gt: { types: compare, eval: (a, b) => Number(a > b) },
  ge: { types: compare, eval: (a, b) => Number(a >= b) },
  eq: { types: equality, eval: (a, b) => Number(a === b) },
  ne: { types: equality, eval: (a, b) => Number(a !== b) },
  and: { types: logic, eval: (a, b) => a & b },
  or: { types: logic, eval: (a, b) => a | b },
  bitAnd: { types: integer, eval: (a, b) => a & b },
  bitOr: { types: integer, eval: (a, b) => a | b },
  bitXor: { types: integer, eval: (a, b) => a ^ b },
  shl: { types: integer, eval: (a, b) => a << b },
  shr: { types: integer, eval: (a, b) => a >> b },
};

/** `x` as a value of `type`: i32 wraps (0 for NaN and infinities), f32 rounds, bool is 0 or 1. */
export function coerce(type: Type, x: number): number {
  return type === "i32" ? x | 0 : type === "f32" ? Math.fround(x) : x ? 1 : 0;
}

export const index = (name: IndexName): Expr => ({ kind: "index", type: "i32", name });
export const score: Expr = { kind: "score", type: "f32" };
export const uniform = (type: "i32" | "f32", name: string): Expr => ({ kind: "uniform", type, name });
export const extent = (table: string, dim: number): Expr => ({ kind: "extent", type: "i32", table, dim });

/** A literal. The value is brought to the type once, here. */
export function constant(type: Type, value: number): Expr {
  return { kind: "const", type, value: coerce(type, value) };
}

export function load(type: "i32" | "f32", table: string, indices: readonly Expr[]): Expr {
  for (const i of indices) invariant(i.type === "i32", `an index of ${table} is ${i.type}`);
  return { kind: "load", type, table, indices };
}

/** @throws UsageError when `op` has no meaning for the operand's type. */
export function unary(op: UnaryOp, x: Expr): Expr {
  const type = unaryOps[op].types[x.type];
  if (!type) throw new UsageError(`'${op}' does not apply to ${x.type}`);
  return { kind: "unary", type, op, x };
}

/** @throws UsageError when the operands' types differ or `op` has no meaning for them. */
export function binary(op: BinaryOp, a: Expr, b: Expr): Expr {
  const type = a.type === b.type ? binaryOps[op].types[a.type] : undefined;
  if (!type) throw new UsageError(`'${op}' does not apply to ${a.type} and ${b.type}`);
  return { kind: "binary", type, op, a, b };
}

/** condition ? a : b. Both sides are evaluated; neither can fail but by a load, and a load not chosen never does. */
export function select(condition: Expr, a: Expr, b: Expr): Expr {
  if (condition.type !== "bool") throw new UsageError(`a condition must be a comparison, not ${condition.type}`);
  if (a.type !== b.type) throw new UsageError(`the two sides of a choice are ${a.type} and ${b.type}`);
  return { kind: "select", type: a.type, condition, a, b };
}

/** The operands of a node, in order. */
export function children(e: Expr): readonly Expr[] {
  switch (e.kind) {
    case "const": case "index": case "score": case "uniform": case "extent": return [];
    case "load": return e.indices;
    case "unary": return [e.x];
    case "binary": return [e.a, e.b];
    case "select": return [e.condition, e.a, e.b];
    default: return e satisfies never;
  }
}
