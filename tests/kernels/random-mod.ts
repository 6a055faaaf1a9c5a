/**
 * Random mods for the fuzz test: `randomExpr`'s programs, and around them loads that only a condition keeps in range.
 *
 * A guard is a choice, `&&` or `||`, and one load may stand under several guards. It also says how far a program's value may
 * be off: an emitter's exp is not Math.exp, and what follows may blow the difference up.
 */
import { binary, children, constant, type Expr, extent, load, select, type Type, unary } from "../../src/ir/expr.ts";
import { randomExpr, type RandomOptions } from "../../src/ir/generate.ts";
import { evaluator, type Env } from "../../src/ir/interpret.ts";
import { postOrder } from "../../src/ir/range.ts";
import { rebuild } from "../../src/ir/simplify.ts";

/** A program of `type` over `randomSlots`; no load of it fails, and about half of them only because of a guard. */
export function randomMod(random: () => number, type: Type, options: RandomOptions): Expr {
  const below = (n: number): number => Math.floor(random() * n);
  const part = (t: Type, depth = 2): Expr => randomExpr(random, t, below(depth + 1), options);

  const and = (a: Expr, b: Expr): Expr => binary("and", a, b);
  const inRange = (i: Expr, table: string, dim: number): Expr => and(binary("ge", i, constant("i32", 0)), binary("lt", i, extent(table, dim)));
  /** A load that may leave its table, and the condition under which it does not. */
  const wildLoad = (t: "i32" | "f32"): { readonly guard: Expr; readonly value: Expr } => {
    const i = part("i32");
    if (t === "f32") return { guard: inRange(i, "bias", 0), value: load("f32", "bias", [i]) };
    if (random() < 0.4) {
      const j = part("i32");
      return { guard: and(inRange(i, "grid", 0), inRange(j, "grid", 1)), value: load("i32", "grid", [i, j]) };
    }
    const ids = load("i32", "ids", [i]);
    if (random() < 0.5) return { guard: inRange(i, "ids", 0), value: ids };
    // The outer index is itself a wild load: asked for only behind the inner guard.
    return { guard: and(inRange(i, "ids", 0), inRange(ids, "ids", 0)), value: load("i32", "ids", [ids]) };
  };
  const number = (t: "i32" | "f32"): Expr => {
    const { guard, value } = wildLoad(t);
    const chosen = random() < 0.5 ? select(guard, value, part(t)) : select(unary("not", guard), part(t), value);
    if (random() < 0.5) return chosen;
    // The same load once more, under a narrower guard of another shape.
    const again = select(and(part("bool"), guard), binary("add", value, part(t)), part(t));
    const op = random() < 0.5 ? "sub" : "max";
    return random() < 0.5 ? binary(op, chosen, again) : binary(op, again, chosen);
  };
  const truth = (): Expr => {
    const { guard, value } = wildLoad("i32");
    const compared = binary(random() < 0.5 ? "lt" : "ne", value, part("i32"));
    return random() < 0.5 ? and(guard, compared) : binary("or", unary("not", guard), compared);
  };

  if (random() < 0.4) return randomExpr(random, type, 5, options);
  if (type === "bool") {
    const op = (["and", "or", "eq", "ne"] as const)[below(4)]!;
    return random() < 0.4 ? binary("lt", number("i32"), part("i32", 3)) : binary(op, truth(), part("bool", 3));
  }
  return random() < 0.3 ? select(truth(), part(type, 3), number(type)) : binary((["add", "mul", "min"] as const)[below(3)]!, number(type), part(type, 3));
}

/** What machines compute to a few ulp; every other operator is exactly rounded, or exact. */
const inexact: ReadonlySet<string> = new Set(["exp", "log", "log2", "log1p", "sin", "cos", "tan", "tanh", "pow", "hypot"]);

/** Every operator and kind of node in the program. */
export function partsOf(e: Expr): Set<string> {
  return new Set(postOrder(e).map((node) => (node.kind === "unary" || node.kind === "binary" ? `${node.op} ${children(node)[0]!.type}` : node.kind)));
}

export interface Judge {
  /** What the program gives, and how far from it a right emitter may be: 0 is exactly that. Undefined: this value can not be judged. */
  expect(env: Env): { readonly value: number; readonly tolerance: number } | undefined;
}

/**
 * A program without inexact operators has one right value. In the others each inexact result is moved by 8 ulp, up or down, in
 * several ways: the value may be off by a few times what that does to it. If it changes much (by a hundredth, from or to NaN,
 * or at all where the result is whole), the program is ill-conditioned there, and the value is not judged. `more`: operators that are inexact besides.
 */
export function judge(e: Expr, random: () => number, more: ReadonlySet<string> = new Set()): Judge {
  const exact = evaluator(e), isInexact = (op: string): boolean => inexact.has(op) || more.has(op);
  if (!postOrder(e).some((node) => (node.kind === "unary" || node.kind === "binary") && isInexact(node.op))) {
    return { expect: (env) => ({ value: exact(env), tolerance: 0 }) };
  }
  const moved = [() => 1, () => -1, ...Array.from({ length: 4 }, () => () => (random() < 0.5 ? 1 : -1))].map((sign) => evaluator(perturbed(e, sign, isInexact)));
  return {
    expect(env) {
      const value = exact(env);
      let most = 0;
      for (const evaluate of moved) {
        const other = evaluate(env);
        if (Object.is(value, other)) continue;
        const change = Math.abs(other - value);
        if (e.type !== "f32" || !(change <= 0.01 * Math.abs(value))) return undefined;
        most = Math.max(most, change);
      }
      return { value, tolerance: 4 * most };
    },
  };
}

function perturbed(e: Expr, sign: () => number, isInexact: (op: string) => boolean): Expr {
  const done = new Map<Expr, Expr>();
  const visit = (node: Expr): Expr => {
    const known = done.get(node);
    if (known) return known;
    let result = rebuild(node, visit);
    if ((node.kind === "unary" || node.kind === "binary") && isInexact(node.op)) {
      const s = sign();
      result = binary("mul", result, constant("f32", 1 + s * 8 * 2 ** -23));
      // A denormal's ulp is absolute.
      if (node.op === "exp" || node.op === "pow") result = binary("add", result, constant("f32", s * 2 ** -148));
    }
    done.set(node, result);
    return result;
  };
  return visit(e);
}
