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
import { type FunctionNode, type Inlinable, Scope, type Source, type Value } from "./values.ts";

const params = { mask: ["b", "h", "q", "kv"], score: ["score", "b", "h", "q", "kv"] } as const;

/**
 * Reads a mod's text. What it refers to is looked up at each `inline`, so that captures may change between calls.
 * @throws ModError when the text is not a function the compiler can read (native, bound, a method, a class).
 */
export function parseMod(kind: "mask" | "score", fn: (...args: never) => unknown, captures: Captures | undefined, site: CallSite | undefined): Inlinable {
  const source: Source = { text: Function.prototype.toString.call(fn), site, kind };
  const outer = parseFunction(source);
  return {
    kind,
    inline: (slots, args) => {
      const lowering = new Lowering(source, slots);
      const inner = captures ? innerFunction(lowering, outer, captures) : { node: outer, scope: new Scope() };
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
  const shape = `write it as an arrow function: (${params[source.kind].join(", ")}) => ...`;
  let node: Expression;
  try {
    node = parseExpressionAt(text, 0, { ecmaVersion: "latest" });
  } catch {
    return fail(`this function's text cannot be read on its own (a method, a getter, or source altered by a tool); ${shape}`);
  }
  if (node.type !== "ArrowFunctionExpression" && node.type !== "FunctionExpression") return fail(`a method is not a mod; ${shape}`);
  return node;
}

/** Runs the outer function on the captures: it must return the mod's function. */
function innerFunction(lowering: Lowering, outer: FunctionNode, captures: Captures): Extract<Value, { kind: "function" }> {
  const scope = new Scope();
  if (outer.params.length > 1) lowering.fail(outer.params[1]!, "the outer function takes the captures only: ({ size }) => (b, h, q, kv) => ...");
  if (outer.params[0]) lowering.bindCaptures(outer.params[0], captures, scope);
  if (outer.body.type !== "BlockStatement") return asFunction(lowering, outer.body, lowering.expression(outer.body, scope));
  const flow = lowering.statements(outer.body.body, scope, false);
  if (flow.returns !== "always") return lowering.fail(outer.body, "the outer function must return the mod's function");
  return asFunction(lowering, outer.body, flow.value);
}

function asFunction(lowering: Lowering, at: { readonly start: number }, value: Value): Extract<Value, { kind: "function" }> {
  if (value.kind === "function") return value;
  return lowering.fail(at, "with captures, the function returns the mod's function: ({ size }) => (b, h, q, kv) => ...");
}

function checkParameters(lowering: Lowering, source: Source, f: FunctionNode, hasCaptures: boolean): void {
  const names = params[source.kind];
  const first = f.params[0];
  if (!hasCaptures && first?.type === "ObjectPattern") lowering.fail(first, `no captures were passed; pass them second: ${source.kind}Mod(({ size }) => ..., { size })`);
  if (f.params.length > names.length) {
    lowering.fail(f.params[names.length]!, `a ${source.kind} mod has ${names.length} parameters: (${names.join(", ")})${source.kind === "mask" ? "; one that takes the score is made with scoreMod" : ""}`);
  }
  if (f.body.type !== "BlockStatement" && (f.body.type === "ArrowFunctionExpression" || f.body.type === "FunctionExpression")) {
    lowering.fail(f.body, `a mod returns a ${source.kind === "mask" ? "condition" : "number"}, not a function${hasCaptures ? "" : "; with captures, pass them second"}`);
  }
}
