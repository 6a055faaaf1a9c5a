/**
 * What bundlers, minifiers and coverage tools do to a function's text and a mod may ignore. It looks at syntax only; what it does not
 * know is refused by name (refusals.ts).
 */
import type { CallExpression, Expression } from "acorn";
import { packageFunctions } from "./language.ts";
import type { Scope, Value } from "./values.ts";

/** A counter of istanbul's, as a statement or before a comma: cov_1x2y().s[3]++, cov_1x2y.b[0][1]++. It changes nothing that a mod reads. */
export function isCounter(node: Expression): boolean {
  if (node.type !== "UpdateExpression") return false;
  let at: Expression | CallExpression["callee"] = node.argument;
  while (at.type === "MemberExpression") at = at.object;
  if (at.type === "CallExpression" && at.arguments.length === 0) at = at.callee;
  return at.type === "Identifier" && /^(cov_|__cov)/.test(at.name) && node.argument.type === "MemberExpression";
}

/** The function in esbuild's __name(function, "name"), which is how keepNames has it. */
export function keptFunction(node: Expression, scope: Scope): Expression | undefined {
  if (node.type !== "CallExpression" || node.callee.type !== "Identifier" || !/^__name\d*$/.test(node.callee.name) || scope.find(node.callee.name)) return undefined;
  return namesFunction(node) ? (node.arguments[0] as Expression) : undefined;
}

/** f(function, "name"): what a helper that keeps names looks like, whatever it is called. */
export function namesFunction({ arguments: [f, name, more] }: CallExpression): boolean {
  return f !== undefined && f.type !== "SpreadElement" && name?.type === "Literal" && typeof name.value === "string" && more === undefined;
}

/** This package's functions as bundlers and namespace imports write them: `x.floorDiv(...)` and `(0, x.floorDiv)(...)`. */
export function imported(callee: Expression, scope: Scope): Value | undefined {
  const inner = callee.type === "ParenthesizedExpression" ? callee.expression : callee;
  const member = inner.type === "SequenceExpression" ? inner.expressions.at(-1)! : inner;
  if (member.type !== "MemberExpression" || member.computed || member.object.type !== "Identifier" || member.property.type !== "Identifier") return undefined;
  const { name } = member.property;
  return Object.hasOwn(packageFunctions, name) && !scope.find(member.object.name) ? { kind: "builtin", name } : undefined;
}

