/**
 * From a mod's function to its expression: reads the function's own text.
 *
 * A mod is `(b, h, q, kv) => ...` or, with captures, `({ size }) => (b, h, q, kv) => ...`. Its text is what the runtime keeps
 * (`fn.toString()`), types already removed. This file finds the function in the text; lower.ts reads what it says.
 */
import { type Expression, parseExpressionAt } from "acorn";
import type { Captures } from "./captures.ts";
import { Lowering } from "./lower.ts";
import { type CallSite, ModError } from "./mod-error.ts";
import { article, type FunctionNode, type Inlinable, type ModKind, Scope, type Source, type Value } from "./values.ts";

/** The parameters of each kind of mod, as this package names them. */
const params: Readonly<Record<ModKind, readonly string[]>> = {
  mask: ["b", "h", "q", "kv"], score: ["score", "b", "h", "q", "kv"], weight: ["score", "b", "h", "q", "kv"], output: ["out", "b", "h", "q", "d"],
};

/**
 * Reads a mod's text. What it refers to is looked up at each `inline`, so that captures may change between calls.
 * @throws ModError when the text is not a function the compiler can read (native, bound, a method, a class).
 */
export function parseMod(kind: ModKind, fn: (...args: never) => unknown, captures: Captures | undefined, site: CallSite | undefined): Inlinable {
  const text = Function.prototype.toString.call(fn);
  const outer = parseFunction({ text, site, kind, params: params[kind].join(", ") });
  const source: Source = { text, site, kind, params: writtenParameters(text, outer, captures !== undefined) ?? params[kind].join(", ") };
  return {
    kind,
    inline: (slots, args) => {
      const lowering = new Lowering(source, slots);
      const inner = captures ? innerFunction(lowering, source, outer, captures) : { node: outer, scope: new Scope() };
      checkParameters(lowering, source, inner.node, captures !== undefined);
      return lowering.call(inner.node, inner.node, inner.scope, args, kind === "mask");
    },
  };
}

function parseFunction(source: Source): FunctionNode {
  const { text } = source;
  const fail = (message: string): never => {
    throw new ModError(message, text, 0, source.site);
  };
  if (/\{\s*\[native code\]\s*\}\s*$/.test(text)) fail("a native or bound function has no source to compile; write (...args) => ... and pass what it was bound to as a capture");
  if (text.startsWith("class")) fail("a class is not a mod; write an arrow function");
  const shape = `write it as an arrow function: (${source.params}) => ...`;
  let node: Expression;
  try {
    node = parseExpressionAt(text, 0, { ecmaVersion: "latest" });
  } catch {
    return fail(`this function's text cannot be read on its own (a method, a getter, or source altered by a tool); ${shape}`);
  }
  if (node.type !== "ArrowFunctionExpression" && node.type !== "FunctionExpression") return fail(`a method is not a mod; ${shape}`);
  return node;
}

/** The mod's own parameter list as its author wrote it; undefined where it has none, or where the outer function is more than a return. */
function writtenParameters(text: string, outer: FunctionNode, hasCaptures: boolean): string | undefined {
  const { body } = outer;
  const returned = body.type !== "BlockStatement" ? body : body.body.find((s) => s.type === "ReturnStatement")?.argument;
  const mod = hasCaptures ? returned : outer;
  const plain = (mod?.type === "ArrowFunctionExpression" || mod?.type === "FunctionExpression") && mod.params.length > 0 && mod.params.every((p) => p.type === "Identifier");
  return plain ? mod.params.map((p) => text.slice(p.start, p.end)).join(", ") : undefined;
}

/** Runs the outer function on the captures: it must return the mod's function. */
function innerFunction(lowering: Lowering, source: Source, outer: FunctionNode, captures: Captures): Extract<Value, { kind: "function" }> {
  const scope = new Scope(), form = `({ ${Object.keys(captures).join(", ")} }) => (${source.params}) => ...`;
  const asFunction = (value: Value): Extract<Value, { kind: "function" }> =>
    value.kind === "function" ? value : lowering.fail(outer.body, `with captures, the function returns the mod's function: ${form}`);
  if (outer.params.length > 1) lowering.fail(outer.params[1]!, `the outer function takes the captures only: ${form}`);
  if (outer.params[0]) lowering.bindCaptures(outer.params[0], captures, scope);
  if (outer.body.type !== "BlockStatement") return asFunction(lowering.expression(outer.body, scope));
  const flow = lowering.statements(outer.body.body, scope, false);
  if (flow.returns !== "always") return lowering.fail(outer.body, "the outer function must return the mod's function");
  return asFunction(flow.value);
}

function checkParameters(lowering: Lowering, source: Source, f: FunctionNode, hasCaptures: boolean): void {
  const names = params[source.kind];
  const first = f.params[0];
  if (!hasCaptures && first?.type === "ObjectPattern") lowering.fail(first, `no captures were passed; pass them second: ${source.kind}Mod(({ size }) => ..., { size })`);
  if (f.params.length > names.length) {
    lowering.fail(f.params[names.length]!, `${article(source.kind)} mod has ${names.length} parameters: (${names.join(", ")})${source.kind === "mask" ? "; one that takes the score is made with scoreMod" : ""}`);
  }
  if (f.body.type !== "BlockStatement" && (f.body.type === "ArrowFunctionExpression" || f.body.type === "FunctionExpression")) {
    lowering.fail(f.body, `a mod returns a ${source.kind === "mask" ? "condition" : "number"}, not a function${hasCaptures ? "" : "; with captures, pass them second"}`);
  }
}
