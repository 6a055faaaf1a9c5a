/**
 * A smaller expression with the same value, bit for bit: constants folded, exact identities applied, equal parts made one object.
 *
 * Only what holds for every value of the type is done: x * 0 is 0 for integers but not for f32 (NaN, -0), x + 0 is x for
 * integers only. An error of a load whose value cannot matter may disappear; no other meaning does.
 */
import { binary, binaryOps, children, constant, type Expr, load, select, unary, unaryOps } from "./expr.ts";
import { print } from "./print.ts";

/** The simplified expression. Equal subexpressions of it are one object, so that an emitter may compute each once. */
export function simplify(e: Expr): Expr {
  const canonical = new Map<string, Expr>();
  const ids = new Map<Expr, number>();
  const done = new Map<Expr, Expr>();

  /** The one object for this node, whose operands are such objects already. */
  const share = (node: Expr): Expr => {
    const own = children(node);
    const key = own.length === 0 ? print(node) + node.type : `${head(node)}(${own.map((child) => ids.get(child)).join()})`;
    const known = canonical.get(key);
    if (known) return known;
    canonical.set(key, node);
    ids.set(node, ids.size);
    return node;
  };

  /** Rewrites until no rule applies; operands are done. */
  const settle = (node: Expr): Expr => {
    const next = rewrite(node);
    return next === node ? share(node) : visit(next);
  };

  const visit = (node: Expr): Expr => {
    const known = done.get(node) ?? (ids.has(node) ? node : undefined);
    if (known) return known;
    const result = settle(rebuild(node, visit));
    done.set(node, result);
    return result;
  };

  return visit(e);
}

function head(e: Expr): string {
  return e.kind === "unary" || e.kind === "binary" ? e.op : e.kind === "load" ? `load ${e.table}` : e.kind;
}

/** The node with its operands replaced; the same object when none changed. */
export function rebuild(e: Expr, f: (child: Expr) => Expr): Expr {
  switch (e.kind) {
    case "const": case "index": case "score": case "uniform": case "extent": return e;
    case "load": {
      const indices = e.indices.map(f);
      return indices.every((x, i) => x === e.indices[i]) ? e : load(e.type, e.table, indices);
    }
    case "unary": {
      const x = f(e.x);
      return x === e.x ? e : unary(e.op, x);
    }
    case "binary": {
      const a = f(e.a), b = f(e.b);
      return a === e.a && b === e.b ? e : binary(e.op, a, b);
    }
    case "select": {
      const condition = f(e.condition), a = f(e.a), b = f(e.b);
      return condition === e.condition && a === e.a && b === e.b ? e : select(condition, a, b);
    }
    default: return e satisfies never;
  }
}

type Const = Extract<Expr, { kind: "const" }>;
const isConst = (e: Expr): e is Const => e.kind === "const";
/** Whether `e` is this very constant: -0 is not 0. */
const is = (e: Expr, value: number): boolean => e.kind === "const" && Object.is(e.value, value);
const yes = constant("bool", 1);
const no = constant("bool", 0);

/** One step at the root; the node itself when no rule applies. */
function rewrite(e: Expr): Expr {
  if (e.kind === "unary") return rewriteUnary(e);
  if (e.kind === "binary") return rewriteBinary(e);
  if (e.kind === "select") return rewriteSelect(e);
  return e;
}

/** not (a op b) where that is one comparison; only these hold for NaN too when the operands are f32. */
const opposite = { eq: "ne", ne: "eq" } as const;
const oppositeI32 = { lt: "ge", ge: "lt", le: "gt", gt: "le", ...opposite } as const;

function oppositeOf(x: Extract<Expr, { kind: "binary" }>): (typeof oppositeI32)[keyof typeof oppositeI32] | undefined {
  const table: Readonly<Partial<Record<string, (typeof oppositeI32)[keyof typeof oppositeI32]>>> = x.a.type === "f32" ? opposite : oppositeI32;
  return table[x.op];
}

function rewriteUnary(e: Extract<Expr, { kind: "unary" }>): Expr {
  const { op, x } = e;
  if (isConst(x)) return constant(e.type, unaryOps[op].eval(x.value));
  switch (op) {
    case "neg": case "bitNot": case "not":
      if (x.kind === "unary" && x.op === op) return x.x;
      if (op === "not" && x.kind === "binary") {
        const other = oppositeOf(x);
        if (other) return binary(other, x.a, x.b);
      }
      return e;
    case "abs":
      if (x.type === "i32" && nonNegative(x)) return x;
      return x.kind === "unary" && (x.op === "abs" || (x.op === "neg" && x.type === "f32")) ? unary("abs", x.x) : e;
    case "floor": case "ceil": case "round": case "trunc":
      return x.kind === "unary" && (x.op === "toF32" || x.op === "floor" || x.op === "ceil" || x.op === "round" || x.op === "trunc") ? x : e;
    default: return e;
  }
}

const commutative: ReadonlySet<string> = new Set(["add", "mul", "min", "max", "eq", "ne", "bitAnd", "bitOr", "bitXor"]);

function rewriteBinary(e: Extract<Expr, { kind: "binary" }>): Expr {
  const { op, a, b } = e;
  const row = binaryOps[op];
  if (isConst(a) && isConst(b)) return constant(e.type, ((a.type === "i32" && row.evalI32) || row.eval)(a.value, b.value));
  if (commutative.has(op) && isConst(a)) return binary(op, b, a);
  if (e.type === "bool") return rewriteTruth(e);
  return e.type === "i32" ? rewriteI32(e) : rewriteF32(e);
}

/** Most facts that are followed, so that long chains of conditions stay cheap. */
const maxFacts = 32;

/** What surely holds where `e` is `truth`: conditions and their values. */
function factsOf(e: Expr, truth: boolean, facts: Map<Expr, boolean> = new Map()): ReadonlyMap<Expr, boolean> {
  if (facts.size >= maxFacts || facts.has(e)) return facts;
  facts.set(e, truth);
  if (e.kind === "unary" && e.op === "not") return factsOf(e.x, !truth, facts);
  if (e.kind === "binary" && e.op === (truth ? "and" : "or")) return factsOf(e.b, truth, factsOf(e.a, truth, facts) as Map<Expr, boolean>);
  return facts;
}

/** `e` where the facts hold: a && !(a && b) is a && !b, and the right side of q >= kv && q < kv is false. */
function assuming(e: Expr, facts: ReadonlyMap<Expr, boolean>): Expr {
  const done = new Map<Expr, Expr>();
  const visit = (x: Expr): Expr => {
    const known = done.get(x);
    if (known) return known;
    const result = decided(x, facts) ?? ((x.kind === "binary" && (x.op === "and" || x.op === "or")) || (x.kind === "unary" && x.op === "not") ? rebuild(x, visit) : x);
    done.set(x, result);
    return result;
  };
  return visit(e);
}

/** The condition's value by a fact: it or its opposite is one. */
function decided(e: Expr, facts: ReadonlyMap<Expr, boolean>): Expr | undefined {
  const same = facts.get(e);
  if (same !== undefined) return same ? yes : no;
  if (e.kind !== "binary") return undefined;
  for (const [fact, truth] of facts) if (fact.kind === "binary" && fact.a === e.a && fact.b === e.b && oppositeOf(fact) === e.op) return truth ? no : yes;
  return undefined;
}

function rewriteTruth(e: Extract<Expr, { kind: "binary" }>): Expr {
  const { op, a, b } = e;
  // a && (a && x), a || (a || x)
  if ((op === "and" || op === "or") && b.kind === "binary" && b.op === op && b.a === a) return b;
  if ((op === "and" || op === "or") && !isConst(a) && !isConst(b)) {
    const rest = assuming(b, factsOf(a, op === "and"));
    if (rest !== b) return binary(op, a, rest);
  }
  switch (op) {
    case "and": return isConst(a) ? (a.value ? b : no) : is(b, 1) || a === b ? a : is(b, 0) ? no : e;
    case "or": return isConst(a) ? (a.value ? yes : b) : is(b, 0) || a === b ? a : is(b, 1) ? yes : e;
    case "eq": case "ne": {
      if (a.type === "bool" && isConst(b)) return Boolean(b.value) === (op === "eq") ? a : unary("not", a);
      if (a === b && a.type !== "f32") return op === "eq" ? yes : no;
      // 0 and 1 standing for a truth value, compared with 0 or 1.
      if (a.kind === "unary" && a.op === "boolToI32" && isConst(b)) {
        if (b.value !== 0 && b.value !== 1) return op === "eq" ? no : yes;
        return Boolean(b.value) === (op === "eq") ? a.x : unary("not", a.x);
      }
      return e;
    }
    case "le": case "ge": return a === b && a.type === "i32" ? yes : e;
    case "lt": case "gt": return a === b ? no : e;
    default: return e;
  }
}

function rewriteI32(e: Extract<Expr, { kind: "binary" }>): Expr {
  const { op, a, b } = e;
  const zero = constant("i32", 0);
  const truths = a.kind === "unary" && a.op === "boolToI32" && b.kind === "unary" && b.op === "boolToI32" ? [a.x, b.x] as const : undefined;
  switch (op) {
    case "add":
      if (is(b, 0)) return a;
      // (x + c) + d
      return isConst(b) && a.kind === "binary" && a.op === "add" && isConst(a.b) ? binary("add", a.a, constant("i32", a.b.value + b.value)) : e;
    case "sub":
      if (is(b, 0)) return a;
      if (isConst(b)) return binary("add", a, constant("i32", -b.value));
      if (is(a, 0)) return unary("neg", b);
      return a === b ? zero : e;
    case "mul": return is(b, 1) ? a : is(b, 0) ? zero : is(b, -1) ? unary("neg", a) : e;
    case "floorDiv":
      if (is(b, 1)) return a;
      if (is(b, 0) || is(a, 0)) return zero;
      return isConst(b) && b.value > 0 && isPowerOfTwo(b.value) ? binary("shr", a, constant("i32", Math.log2(b.value))) : quotientOfDifference(e);
    case "floorMod":
      if (is(b, 1) || is(b, 0) || is(a, 0)) return zero;
      return isConst(b) && b.value > 0 && isPowerOfTwo(b.value) ? binary("bitAnd", a, constant("i32", b.value - 1)) : e;
    case "rem":
      if (is(b, 1) || is(b, -1) || is(b, 0) || is(a, 0)) return zero;
      return isConst(b) && b.value > 0 && nonNegative(a) ? binary("floorMod", a, b) : e;
    case "min": case "max": return a === b ? a : e;
    case "bitAnd":
      if (truths) return unary("boolToI32", binary("and", ...truths));
      return a === b || is(b, -1) ? a : is(b, 0) ? zero : e;
    case "bitOr":
      if (truths) return unary("boolToI32", binary("or", ...truths));
      return a === b || is(b, 0) ? a : is(b, -1) ? b : e;
    case "bitXor":
      if (truths) return unary("boolToI32", binary("ne", ...truths));
      return a === b ? zero : is(b, 0) ? a : e;
    case "shl": case "shr": return isConst(b) && (b.value & 31) === 0 ? a : is(a, 0) ? zero : e;
    default: return e;
  }
}

/** floorDiv(x - x rem c, c), the truncated quotient, is the floored one where x is not negative. */
function quotientOfDifference(e: Extract<Expr, { kind: "binary" }>): Expr {
  const { a, b } = e;
  if (a.kind !== "binary" || a.op !== "sub" || !isConst(b) || b.value <= 0 || !nonNegative(a.a)) return e;
  const rest = a.b;
  const sameRest = rest.kind === "binary" && rest.a === a.a && ((rest.op === "floorMod" && rest.b === b) || (rest.op === "bitAnd" && is(rest.b, b.value - 1)));
  return sameRest ? binary("floorDiv", a.a, b) : e;
}

function rewriteF32(e: Extract<Expr, { kind: "binary" }>): Expr {
  const { op, a, b } = e;
  switch (op) {
    case "add": return is(b, -0) ? a : e;
    case "sub": return is(b, 0) ? a : e;
    case "mul": return is(b, 1) ? a : is(b, -1) ? unary("neg", a) : e;
    case "div":
      if (is(b, 1)) return a;
      // Dividing by a power of two is multiplying by its inverse, as long as that is no subnormal.
      return isConst(b) && Math.abs(b.value) >= 2 ** -126 && Math.abs(b.value) <= 2 ** 126 && isPowerOfTwo(Math.abs(b.value)) ? binary("mul", a, constant("f32", 1 / b.value)) : e;
    case "min": case "max": return a === b ? a : e;
    default: return e;
  }
}

function rewriteSelect(e: Extract<Expr, { kind: "select" }>): Expr {
  const { condition, a, b } = e;
  if (isConst(condition)) return condition.value ? a : b;
  if (a === b) return a;
  if (condition.kind === "unary" && condition.op === "not") return select(condition.x, b, a);
  if (e.type !== "bool") return e;
  if (isConst(a)) return a.value ? binary("or", condition, b) : binary("and", unary("not", condition), b);
  if (isConst(b)) return b.value ? binary("or", unary("not", condition), a) : binary("and", condition, a);
  return e;
}

function isPowerOfTwo(x: number): boolean {
  return x > 0 && Number.isInteger(Math.log2(x)) && 2 ** Math.log2(x) === x;
}

/** Whether an i32 is surely not negative: indices count from 0. */
function nonNegative(e: Expr): boolean {
  switch (e.kind) {
    case "const": return e.value >= 0;
    case "index": case "extent": return true;
    case "select": return nonNegative(e.a) && nonNegative(e.b);
    case "unary": return e.op === "boolToI32";
    case "binary": switch (e.op) {
      case "bitAnd": return (isConst(e.b) && e.b.value >= 0) || (nonNegative(e.a) && nonNegative(e.b));
      case "min": case "bitOr": case "bitXor": return nonNegative(e.a) && nonNegative(e.b);
      case "max": return nonNegative(e.a) || nonNegative(e.b);
      case "floorMod": return isConst(e.b) && e.b.value > 0;
      case "floorDiv": case "shr": case "rem": return nonNegative(e.a) && (e.op !== "floorDiv" || (isConst(e.b) && e.b.value >= 0));
      default: return false;
    }
    default: return false;
  }
}
