/**
 * Random well-typed expressions with captures to go with them, for tests that compare two ways of computing the same.
 *
 * Everything follows from the random stream passed in. Every load is guarded, so that no program fails.
 */
import { binary, type BinaryOp, binaryOps, constant, type Expr, extent, index, load, score, select, type Type, unary, type UnaryOp, unaryOps, uniform } from "./expr.ts";
import type { CaptureEnv } from "./interpret.ts";
import type { CaptureSlot } from "./plan.ts";

/** What `randomExpr` may capture, in slot order. */
export const randomSlots: readonly CaptureSlot[] = [
  { kind: "uniform", name: "n", type: "i32" },
  { kind: "uniform", name: "f", type: "f32" },
  { kind: "table", name: "ids", type: "i32", rank: 1 },
  { kind: "table", name: "bias", type: "f32", rank: 1 },
  { kind: "table", name: "grid", type: "i32", rank: 2 },
];

/** Values for `randomSlots`: small numbers, tables of 1 to 40 elements, sorted or not. */
export function randomCaptures(random: () => number): CaptureEnv & { readonly uniforms: { readonly n: number; readonly f: number } } {
  const below = (n: number): number => Math.floor(random() * n);
  const length = 1 + below(40), rows = 1 + below(3), columns = 1 + below(20);
  const ids = Int32Array.from({ length }, () => below(6) - 1);
  if (random() < 0.5) ids.sort();
  return {
    uniforms: { n: below(24) - 4, f: Math.fround((random() - 0.4) * 8) },
    tables: {
      ids: { data: ids, shape: [length] },
      bias: { data: Float32Array.from({ length }, () => random() * 4 - 2), shape: [length] },
      grid: { data: Int32Array.from({ length: rows * columns }, () => below(9)), shape: [rows, columns] },
    },
  };
}

const types: readonly Type[] = ["i32", "f32", "bool"];
const unaryNames = Object.keys(unaryOps) as UnaryOp[];
const binaryNames = Object.keys(binaryOps) as BinaryOp[];

export interface RandomOptions {
  /** Whether the score may appear. */
  readonly score: boolean;
  /** Operators to leave out: those whose bits differ between machines. */
  readonly without?: ReadonlySet<string>;
}

/** An expression of `type`, of at most `depth` levels of operators. Parts are sometimes shared. */
export function randomExpr(random: () => number, type: Type, depth: number, options: RandomOptions): Expr {
  const below = (n: number): number => Math.floor(random() * n);
  const pick = <T>(items: readonly T[]): T => items[below(items.length)]!;
  const made: Expr[] = [];
  const allowed = (op: string): boolean => !options.without?.has(op);

  const leaf = (t: Type): Expr => {
    if (t === "bool") return random() < 0.1 ? constant("bool", below(2)) : binary(pick(["lt", "le", "gt", "ge", "eq", "ne"] as const), leaf("i32"), leaf("i32"));
    if (t === "f32") {
      const of = [
        () => constant("f32", pick([0, -0, 0.5, 1, -1, 2, 3, 0.1, 50, -7.25, Infinity, 1e-3])), () => uniform("f32", "f"),
        () => unary("toF32", leaf("i32")), () => (options.score ? score : constant("f32", 1.5)),
      ];
      return pick(of)();
    }
    const of = [
      () => index(pick(["b", "h", "q", "kv"] as const)), () => index("q"), () => index("kv"), () => uniform("i32", "n"), () => extent("ids", 0),
      () => constant("i32", pick([0, 1, -1, 2, 3, 4, 5, 7, 8, 16, 31, -3, 255, 2 ** 31 - 1, -(2 ** 31)])),
    ];
    return pick(of)();
  };

  const grow = (t: Type, d: number): Expr => {
    if (made.length > 0 && random() < 0.15) {
      const old = made.filter((e) => e.type === t);
      if (old.length > 0) return pick(old);
    }
    if (d === 0) return leaf(t);
    const kind = below(10);
    let e: Expr;
    if (kind === 0) e = select(grow("bool", d - 1), grow(t, d - 1), grow(t, d - 1));
    else if (kind <= 2 && t !== "bool") e = guardedLoad(t, d);
    else if (kind <= 4) {
      const [op, from] = pick(unaryNames.filter(allowed).flatMap((name) => types.flatMap((x) => (unaryOps[name].types[x] === t ? [[name, x] as const] : []))));
      e = unary(op, grow(from, d - 1));
    } else {
      const [op, from] = pick(binaryNames.filter(allowed).flatMap((name) => types.flatMap((x) => (binaryOps[name].types[x] === t ? [[name, x] as const] : []))));
      e = binary(op, grow(from, d - 1), grow(from, d - 1));
    }
    made.push(e);
    return e;
  };

  const guardedLoad = (t: "i32" | "f32", d: number): Expr => {
    const guard = (table: string, dim: number): Expr => binary("floorMod", grow("i32", d - 1), extent(table, dim));
    if (t === "f32") return load("f32", "bias", [guard("bias", 0)]);
    return random() < 0.5 ? load("i32", "ids", [guard("ids", 0)]) : load("i32", "grid", [guard("grid", 0), guard("grid", 1)]);
  };

  return grow(type, depth);
}
