/**
 * An expression as text: for people, and as the key by which kernels are cached.
 *
 * Equal text means equal expressions. Shared parts are named once, in order of first use, so that the text grows with the
 * number of nodes, not of paths.
 */
import { children, type BinaryOp, type Expr } from "./expr.ts";
import { countUses } from "./interpret.ts";
import { postOrder } from "./range.ts";

const infix: Readonly<Partial<Record<BinaryOp, string>>> = {
  add: "+", sub: "-", mul: "*", div: "/", rem: "%", lt: "<", le: "<=", gt: ">", ge: ">=", eq: "==", ne: "!=", and: "&&", or: "||",
  bitAnd: "&", bitOr: "|", bitXor: "^", shl: "<<", shr: ">>",
};

/** `let t0 = ...; q - t0`: one line; `separator` goes between the shared parts and the result. */
export function print(e: Expr, separator = "; "): string {
  const uses = countUses(e);
  const names = new Map<Expr, string>();
  const lets: string[] = [];
  for (const node of postOrder(e)) {
    if (node === e || (uses.get(node) ?? 0) < 2 || children(node).length === 0) continue;
    const name = `t${names.size}`;
    lets.push(`let ${name} = ${text(node, names)}`);
    names.set(node, name);
  }
  return [...lets, text(e, names)].join(separator);
}

function text(e: Expr, names: ReadonlyMap<Expr, string>): string {
  const of = (child: Expr): string => names.get(child) ?? text(child, names);
  const inner = (child: Expr): string => (!names.has(child) && (child.kind === "binary" && infix[child.op] || child.kind === "select") ? `(${of(child)})` : of(child));
  switch (e.kind) {
    case "const": return e.type === "bool" ? (e.value ? "true" : "false") : e.type === "i32" ? String(e.value) : floatText(e.value);
    case "index": return e.name;
    case "score": return "score";
    case "uniform": return `${e.name}:${e.type}`;
    case "extent": return `length(${e.table}, ${e.dim})`;
    case "load": return `${e.table}:${e.type}${e.indices.map((i) => `[${of(i)}]`).join("")}`;
    case "unary": return `${e.op}(${of(e.x)})`;
    case "binary": {
      const sign = infix[e.op];
      return sign ? `${inner(e.a)} ${sign} ${inner(e.b)}` : `${e.op}(${of(e.a)}, ${of(e.b)})`;
    }
    case "select": return `${inner(e.condition)} ? ${inner(e.a)} : ${inner(e.b)}`;
    default: return e satisfies never;
  }
}

/** An f32 always shows that it is one, and -0 that it is not 0. */
function floatText(x: number): string {
  const digits = Object.is(x, -0) ? "-0" : String(x);
  return /^-?\d+$/.test(digits) ? `${digits}.0` : digits;
}
