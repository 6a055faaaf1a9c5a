/**
 * What an expression means: the living definition that every emitter is compared with.
 *
 * A node's value is its row's `eval`, brought to the node's type. A load fails only when its value is asked for: `select`
 * asks for one side, and `and`/`or` ask for the right operand only when the left one does not decide. A node that several
 * others share is evaluated once. It knows no machine and no call.
 */
import { UsageError } from "../core/errors.ts";
import { binaryOps, children, coerce, type Expr, type IndexName, type Type, unaryOps } from "./expr.ts";

/** A captured array: row-major elements and the extent of each dimension. */
export interface Table {
  readonly data: ArrayLike<number>;
  readonly shape: readonly number[];
}

/** The captured values of one call, by name. */
export interface CaptureEnv {
  readonly uniforms: Readonly<Record<string, number>>;
  readonly tables: Readonly<Record<string, Table>>;
}

/** Everything an expression may read. */
export interface Env extends CaptureEnv, Readonly<Record<IndexName, number>> {
  readonly score: number;
}

/** "f32" is the definition: each operation rounds. "double" leaves f32 operations unrounded, for gold references. */
export type Rounding = "f32" | "double";

type Eval = (env: Env) => number;

/**
 * The value of `e`: a number, or 0 and 1 for bool.
 * @throws UsageError when a load that is asked for leaves its table, naming the table, the index and the extent.
 */
export function interpret(e: Expr, env: Env, rounding: Rounding = "f32"): number {
  return evaluator(e, rounding)(env);
}

/** `interpret` prepared once for many environments. */
export function evaluator(e: Expr, rounding: Rounding = "f32"): Eval {
  const round = rounding === "f32" ? coerce : (type: Type, x: number) => (type === "f32" ? x : coerce(type, x));
  const uses = countUses(e);
  const built = new Map<Expr, Eval>();
  let epoch = 0;

  const of = (node: Expr): Eval => {
    const known = built.get(node);
    if (known) return known;
    const plain = build(node);
    const result = (uses.get(node) ?? 0) > 1 && children(node).length > 0 ? once(plain) : plain;
    built.set(node, result);
    return result;
  };

  /** A shared node keeps its value for the rest of the evaluation. */
  const once = (plain: Eval): Eval => {
    let at = -1;
    let value = 0;
    return (env) => {
      if (at === epoch) return value;
      value = plain(env);
      at = epoch;
      return value;
    };
  };

  const build = (node: Expr): Eval => {
    switch (node.kind) {
      case "const": { const { value } = node; return () => value; }
      case "index": { const { name } = node; return (env) => env[name]; }
      case "score": return (env) => round("f32", env.score);
      case "uniform": { const { name, type } = node; return (env) => round(type, given(env.uniforms[name], name)); }
      case "extent": { const { table, dim } = node; return (env) => given(env.tables[table], table).shape[dim]!; }
      case "load": {
        const { table, type } = node;
        const indices = node.indices.map(of);
        return (env) => {
          const { data, shape } = given(env.tables[table], table);
          let at = 0;
          for (let d = 0; d < indices.length; d++) {
            const i = indices[d]!(env);
            if (!(i >= 0 && i < shape[d]!)) throw outOfRange(table, d, i, shape);
            at = at * shape[d]! + i;
          }
          return round(type, data[at]!);
        };
      }
      case "unary": {
        const { type } = node;
        const { eval: f } = unaryOps[node.op];
        const x = of(node.x);
        return (env) => round(type, f(x(env)));
      }
      case "binary": {
        const { type, op } = node;
        const a = of(node.a), b = of(node.b);
        if (op === "and") return (env) => (a(env) ? b(env) : 0);
        if (op === "or") return (env) => (a(env) ? 1 : b(env));
        const row = binaryOps[op];
        const f = (node.a.type === "i32" && row.evalI32) || row.eval;
        return (env) => round(type, f(a(env), b(env)));
      }
      case "select": {
        const condition = of(node.condition), a = of(node.a), b = of(node.b);
        return (env) => (condition(env) ? a(env) : b(env));
      }
      default: return node satisfies never;
    }
  };

  const root = of(e);
  return (env) => {
    epoch++;
    return root(env);
  };
}

/** The error of a live load: `docs[3][12] is out of range: ...`. Emitters report through it too, so that all backends say the same. */
export function outOfRange(table: string, dim: number, i: number, shape: readonly number[]): UsageError {
  return new UsageError(
    `index ${i} is outside dimension ${dim} of the captured table '${table}', which has ${shape[dim]} elements there (shape [${shape.join(", ")}]). ` +
      `Make the table longer, or guard the load: i < n ? ${table}[i] : 0`,
  );
}

/** How many parents (counting repeats) each node has; the root has 1. */
export function countUses(root: Expr): Map<Expr, number> {
  const uses = new Map<Expr, number>();
  const visit = (e: Expr): void => {
    const n = uses.get(e) ?? 0;
    uses.set(e, n + 1);
    if (n === 0) for (const child of children(e)) visit(child);
  };
  visit(root);
  return uses;
}

function given<T>(value: T | undefined, name: string): T {
  if (value === undefined) throw new UsageError(`the captured '${name}' has no value in this call`);
  return value;
}
