/**
 * What running statements comes to: a value returned never, always, or when a condition holds. It knows no syntax.
 */
import type { Expr } from "../ir/expr.ts";
import { and, choose, not, or, type Value } from "./values.ts";

/** What a stretch of statements does: it returns never, always, or when a condition holds. */
export type Flow = { readonly returns: "never" } | { readonly returns: "always"; readonly value: Value } | { readonly returns: "maybe"; readonly when: Expr; readonly value: Value };
export const never: Flow = { returns: "never" };

/** The flow of `if (c) a else b`. */
export function joinFlows(c: Expr, a: Flow, b: Flow): Flow {
  if (a.returns === "never" && b.returns === "never") return never;
  if (a.returns === "always" && b.returns === "always") return { returns: "always", value: choose(c, a.value, b.value) };
  const whenA = a.returns === "always" ? c : a.returns === "maybe" ? and(c, a.when) : undefined;
  const whenB = b.returns === "always" ? not(c) : b.returns === "maybe" ? and(not(c), b.when) : undefined;
  if (a.returns === "never") return { returns: "maybe", when: whenB!, value: (b as Exclude<Flow, { returns: "never" }>).value };
  if (b.returns === "never") return { returns: "maybe", when: whenA!, value: a.value };
  return { returns: "maybe", when: or(whenA!, whenB!), value: choose(c, a.value, b.value) };
}
