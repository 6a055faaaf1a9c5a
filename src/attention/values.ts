/**
 * What an expression of a mod's source can be while it is lowered, and how numbers get their types.
 *
 * Rules: a literal takes the type of what it meets; i32 and f32 meet as f32; a bool counts as 0 or 1; `/` is always f32.
 * Literals among themselves are computed in doubles, as JavaScript does, and become f32 or i32 only when they meet a value.
 */
import { UsageError } from "../core/errors.ts";
import { binary, type BinaryOp, coerce, constant, type Expr, extent, select, unary } from "../ir/expr.ts";
import type { ArrowFunctionExpression, FunctionDeclaration, FunctionExpression } from "acorn";
import type { Captures, CaptureSlots } from "./captures.ts";
import type { CallSite } from "./mod-error.ts";

export type FunctionNode = ArrowFunctionExpression | FunctionExpression | FunctionDeclaration;

export type Value =
  | { readonly kind: "expr"; readonly expr: Expr }
  /** A number known now. */
  | { readonly kind: "literal"; readonly value: number }
  /** A captured table with some of its indices given. */
  | { readonly kind: "table"; readonly name: string; readonly type: "i32" | "f32"; readonly rank: number; readonly indices: readonly Expr[] }
  /** A local helper. */
  | { readonly kind: "function"; readonly node: FunctionNode; readonly scope: Scope }
  | { readonly kind: "mod"; readonly mod: Inlinable }
  /** floorDiv, floorMod, clamp, Number, Boolean; or a member of Math as `Math.x`. */
  | { readonly kind: "builtin"; readonly name: string }
  | { readonly kind: "math" }
  /** The captures object as a whole: (c) => ... c.size */
  | { readonly kind: "captures"; readonly captures: Captures };

/** What a mod decides: which keys are seen, the score, the weight that stands for softmax, or the finished output. */
export type ModKind = "mask" | "score" | "weight" | "output";
export const article = (kind: ModKind): string => `${kind === "output" ? "an" : "a"} ${kind}`;

/** A mod as the compiler sees it: gives its expression for given arguments. */
export interface Inlinable {
  readonly kind: ModKind;
  inline(slots: CaptureSlots, args: readonly Value[]): Value;
}

/** A variable of the source. `value` is undefined until assigned; captures and parameters of the language cannot be assigned. */
export interface Variable {
  value: Value | undefined;
  readonly assignable: boolean;
  /** Why not, for the error. */
  readonly is: string;
  /** The call that it belongs to: what another call assigns to it, it does only if it has not returned before. */
  readonly call?: object | undefined;
}

export class Scope {
  readonly #own = new Map<string, Variable>();
  readonly #parent: Scope | undefined;
  /** Of a function's body: where a `var` belongs. */
  readonly #isBody: boolean;
  constructor(parent?: Scope, isBody = parent === undefined) {
    this.#parent = parent;
    this.#isBody = isBody;
  }
  declare(name: string, variable: Variable): void {
    this.#own.set(name, variable);
  }
  find(name: string): Variable | undefined {
    return this.#own.get(name) ?? this.#parent?.find(name);
  }
  /** Declares what `var` does: once for the whole function, wherever it stands. */
  declareVar(name: string, variable: Variable): void {
    if (!this.#isBody) this.#parent!.declareVar(name, variable);
    else if (!this.#own.has(name)) this.#own.set(name, variable);
  }
}

/** The text a node's positions refer to, and where the mod was made. */
export interface Source {
  readonly text: string;
  readonly site: CallSite | undefined;
  readonly kind: ModKind;
  /** How its author lists its parameters, once they were found: what advice quotes. */
  readonly params: string;
}

export const literal = (value: number): Value => ({ kind: "literal", value });
export const expression = (expr: Expr): Value => ({ kind: "expr", expr });

const isI32 = (x: number): boolean => Object.is(x | 0, x);

/** A value as an expression. @throws UsageError when it is not a number (a table, a function). */
export function asExpr(v: Value): Expr {
  if (v.kind === "expr") return v.expr;
  if (v.kind === "literal") return constant(isI32(v.value) ? "i32" : "f32", v.value);
  throw new UsageError(`${describe(v)} is used as a number${v.kind === "table" ? `; it needs ${v.rank - v.indices.length} more ${v.rank - v.indices.length === 1 ? "index" : "indices"}: ${v.name}[...]` : ""}`);
}

export function describe(v: Value): string {
  switch (v.kind) {
    case "expr": return `a value of type ${v.expr.type}`;
    case "literal": return String(v.value);
    case "table": return `the captured array '${v.name}'`;
    case "function": return "a function";
    case "mod": return `${article(v.mod.kind)} mod`;
    case "builtin": return `the function ${v.name}`;
    case "math": return "Math";
    case "captures": return "the captures object";
    default: return v satisfies never;
  }
}

/** A number: a bool counts as 0 or 1. */
export function numeric(v: Value): Expr {
  const e = asExpr(v);
  return e.type === "bool" ? (e.kind === "const" ? constant("i32", e.value) : unary("boolToI32", e)) : e;
}

export function toF32(v: Value): Expr {
  if (v.kind === "literal") return constant("f32", v.value);
  const e = numeric(v);
  return e.type === "f32" ? e : e.kind === "const" ? constant("f32", e.value) : unary("toF32", e);
}

/** An f32 whose values are whole numbers, so that it may serve where an integer is needed. */
export function isWhole(e: Expr): boolean {
  switch (e.kind) {
    case "const": return Number.isInteger(e.value);
    case "unary":
      if (e.op === "toF32" || e.op === "floor" || e.op === "ceil" || e.op === "round" || e.op === "trunc" || e.op === "sign") return true;
      return (e.op === "neg" || e.op === "abs") && isWhole(e.x);
    case "binary": return ["add", "sub", "mul", "min", "max", "rem"].includes(e.op) && isWhole(e.a) && isWhole(e.b);
    case "select": return isWhole(e.a) && isWhole(e.b);
    default: return e.type === "i32";
  }
}

/** As bit operations see a number: truncated to 32 bits. */
export function toI32(v: Value): Expr {
  if (v.kind === "literal") return constant("i32", v.value);
  const e = numeric(v);
  if (e.type === "i32") return e;
  return e.kind === "unary" && e.op === "toF32" ? e.x : e.kind === "const" ? constant("i32", Math.trunc(e.value)) : unary("toI32", e);
}

/** Whether the element that a load asks for exists in its row, as `t[i] ?? x` asks; undefined for what is no load. */
export function isThere(v: Value): Expr | undefined {
  if (v.kind !== "expr" || v.expr.kind !== "load") return undefined;
  const { table, indices } = v.expr, last = indices.length - 1, i = indices[last]!;
  return binary("and", binary("ge", i, constant("i32", 0)), binary("lt", i, extent(table, last)));
}

/** An index into a table. @throws UsageError for a fraction: JavaScript would read `undefined`. */
export function toIndex(v: Value): Expr {
  if (v.kind === "literal" && !isI32(v.value)) throw new UsageError(`the index ${v.value} is not an integer`);
  const e = asExpr(v);
  if (e.type === "bool") throw new UsageError("an index must be an integer, and this is true or false; write c ? 1 : 0");
  if (e.type === "f32" && !isWhole(e)) throw new UsageError("an index must be an integer, and this may be a fraction; write Math.floor(...)");
  return toI32(v);
}

/** Both as numbers of one type. */
export function unify(a: Value, b: Value): readonly [Expr, Expr] {
  if (a.kind === "literal" && b.kind !== "literal" && isI32(a.value) && numeric(b).type === "i32") return [constant("i32", a.value), numeric(b)];
  if (b.kind === "literal" && a.kind !== "literal" && isI32(b.value) && numeric(a).type === "i32") return [numeric(a), constant("i32", b.value)];
  const x = numeric(a), y = numeric(b);
  return x.type === "i32" && y.type === "i32" ? [x, y] : [toF32(a), toF32(b)];
}

/** JavaScript's truth: a number other than 0 and NaN. */
export function truthy(v: Value): Expr {
  if (v.kind === "literal") return constant("bool", v.value ? 1 : 0);
  const e = asExpr(v);
  if (e.type === "bool") return e;
  if (e.kind === "const") return constant("bool", e.value ? 1 : 0);
  const zero = constant(e.type, 0);
  return e.type === "i32" ? binary("ne", e, zero) : binary("or", binary("lt", e, zero), binary("gt", e, zero));
}

const isConst = (e: Expr): e is Extract<Expr, { kind: "const" }> => e.kind === "const";

/** condition ? a : b, in the one type that holds both. */
export function choose(condition: Expr, a: Value, b: Value): Value {
  if (isConst(condition)) return condition.value ? a : b;
  if (a === b || (a.kind === "literal" && b.kind === "literal" && Object.is(a.value, b.value))) return a;
  if (a.kind === "expr" && b.kind === "expr" && a.expr.type === b.expr.type) return expression(select(condition, a.expr, b.expr));
  const [x, y] = unify(a, b);
  return expression(select(condition, x, y));
}

export function not(e: Expr): Expr {
  return isConst(e) ? constant("bool", 1 - e.value) : unary("not", e);
}
export function and(a: Expr, b: Expr): Expr {
  return isConst(a) ? (a.value ? b : a) : isConst(b) && b.value ? a : binary("and", a, b);
}
export function or(a: Expr, b: Expr): Expr {
  return isConst(a) ? (a.value ? a : b) : isConst(b) && !b.value ? a : binary("or", a, b);
}

const literalOps: Readonly<Record<string, (a: number, b: number) => number>> = {
  "+": (a, b) => a + b, "-": (a, b) => a - b, "*": (a, b) => a * b, "/": (a, b) => a / b, "%": (a, b) => a % b, "**": (a, b) => a ** b,
  "&": (a, b) => a & b, "|": (a, b) => a | b, "^": (a, b) => a ^ b, "<<": (a, b) => a << b, ">>": (a, b) => a >> b, ">>>": (a, b) => a >>> b,
};
const arithmetic: Readonly<Record<string, BinaryOp>> = { "+": "add", "-": "sub", "*": "mul", "%": "rem" };
const bitwise: Readonly<Record<string, BinaryOp>> = { "&": "bitAnd", "|": "bitOr", "^": "bitXor", "<<": "shl", ">>": "shr" };

/** a op b for the operators that give numbers. @throws UsageError for one the language has not. */
export function arithmeticOp(op: string, a: Value, b: Value): Value {
  const fold = literalOps[op];
  if (!fold) throw new UsageError(`the operator ${op} is not in the language`);
  if (a.kind === "literal" && b.kind === "literal") return literal(fold(a.value, b.value));
  const plain = arithmetic[op];
  if (plain) return expression(binary(plain, ...unify(a, b)));
  if (op === "/") return expression(binary("div", toF32(a), toF32(b)));
  if (op === "**") return power(a, b);
  if (op === "|" && b.kind === "literal" && b.value === 0) return expression(quotient(a, truncDiv) ?? toI32(a));
  const bits = bitwise[op];
  if (bits) return expression(binary(bits, toI32(a), toI32(b)));
  if (b.kind !== "literal" || (b.value & 31) === 0) throw new UsageError("x >>> n gives numbers above 2^31; write x >> n, or a literal n from 1 to 31");
  const shift = b.value & 31;
  return expression(binary("bitAnd", binary("shr", toI32(a), constant("i32", shift)), constant("i32", 2 ** (32 - shift) - 1)));
}

/** Small whole powers are products: exact where they can be, and of the base's own type. */
export function power(a: Value, b: Value): Value {
  if (a.kind === "literal" && b.kind === "literal") return literal(a.value ** b.value);
  if (b.kind === "literal" && (b.value === 2 || b.value === 3 || b.value === 4)) {
    const x = numeric(a), square = binary("mul", x, x);
    return expression(b.value === 2 ? square : binary("mul", square, b.value === 3 ? x : square));
  }
  if (b.kind === "literal" && b.value === 1) return a;
  return expression(binary("pow", toF32(a), toF32(b)));
}

/** For a / b of integers, `divide` of the two; undefined for anything else. */
export function quotient(v: Value, divide: (a: Expr, b: Expr) => Expr): Expr | undefined {
  if (v.kind !== "expr" || v.expr.kind !== "binary" || v.expr.op !== "div") return undefined;
  const a = wholeI32(v.expr.a), b = wholeI32(v.expr.b);
  return a && b && divide(a, b);
}

/** The i32 that an f32 was made from. */
function wholeI32(e: Expr): Expr | undefined {
  if (e.kind === "unary" && e.op === "toF32") return e.x;
  return e.kind === "const" && isI32(e.value) ? constant("i32", e.value) : undefined;
}

export const floorDivI32 = (a: Expr, b: Expr): Expr => binary("floorDiv", a, b);
/** a - a % b is a multiple of b, so its floor is its quotient. */
export const truncDiv = (a: Expr, b: Expr): Expr => binary("floorDiv", binary("sub", a, binary("rem", a, b)), b);
export const ceilDiv = (a: Expr, b: Expr): Expr => unary("neg", binary("floorDiv", unary("neg", a), b));

const comparisons: Readonly<Record<string, "lt" | "le" | "gt" | "ge" | "eq" | "ne">> = {
  "<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "===": "eq", "!=": "ne", "!==": "ne",
};
const literalComparisons: Readonly<Record<string, (a: number, b: number) => boolean>> = {
  lt: (a, b) => a < b, le: (a, b) => a <= b, gt: (a, b) => a > b, ge: (a, b) => a >= b, eq: (a, b) => a === b, ne: (a, b) => a !== b,
};
const mirrored = { lt: "gt", le: "ge", gt: "lt", ge: "le", eq: "eq", ne: "ne" } as const;

/** a op b as a bool; undefined when op is no comparison. */
export function comparisonOp(op: string, a: Value, b: Value): Value | undefined {
  const name = comparisons[op];
  if (!name) return undefined;
  if (a.kind === "literal" && b.kind === "literal") return expression(constant("bool", literalComparisons[name]!(a.value, b.value) ? 1 : 0));
  const x = asExpr(a), y = asExpr(b);
  if (x.type === "bool" && y.type === "bool") return expression(binary(name, ...(name === "eq" || name === "ne" ? [x, y] as const : [numeric(a), numeric(b)] as const)));
  if ((op === "===" || op === "!==") && (x.type === "bool") !== (y.type === "bool")) {
    throw new UsageError(`${op} of a number and a boolean is always ${op === "!=="}; compare the number with 0: x != 0`);
  }
  if (b.kind === "literal" && x.type === "i32" && !isI32(b.value)) return expression(compareFraction(name, x, b.value));
  if (a.kind === "literal" && y.type === "i32" && !isI32(a.value)) return expression(compareFraction(mirrored[name], y, a.value));
  return expression(binary(name, ...unify(a, b)));
}

/** An i32 against a literal that is none (a fraction, or beyond 32 bits): exact, by the nearest integer that says the same. */
function compareFraction(op: "lt" | "le" | "gt" | "ge" | "eq" | "ne", x: Expr, c: number): Expr {
  const always = (is: boolean): Expr => constant("bool", is ? 1 : 0);
  if (Number.isNaN(c)) return always(op === "ne");
  const bound = op === "lt" || op === "ge" ? Math.ceil(c) : Math.floor(c);
  const isZero = c === 0;
  if (op === "eq" || op === "ne") return isZero ? binary(op, x, constant("i32", 0)) : always(op === "ne");
  if (bound > 2 ** 31 - 1) return always(op === "lt" || op === "le");
  if (bound < -(2 ** 31)) return always(op === "gt" || op === "ge");
  return binary(op, x, constant("i32", coerce("i32", bound)));
}
