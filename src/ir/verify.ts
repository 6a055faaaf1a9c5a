/**
 * Whether an expression is well formed, for those that come from outside: the compiler's constructors cannot build a wrong one,
 * but an expression may also have crossed a thread or been written by hand.
 */
import { UsageError } from "../core/errors.ts";
import { binaryOps, type Expr, type Type, unaryOps } from "./expr.ts";
import type { CaptureSlot } from "./plan.ts";
import { postOrder } from "./range.ts";

/**
 * Returns `e`.
 * @throws UsageError when a node's type is not what its operands give, a mask reads the score, the result has the wrong type, or a
 * capture is missing, of another type or indexed by another number of indices than its slot says.
 */
export function verify(e: Expr, kind: "mask" | "score", captures: readonly CaptureSlot[]): Expr {
  const slots = new Map(captures.map((slot) => [slot.name, slot]));
  const wanted: Type = kind === "mask" ? "bool" : "f32";
  check(e.type === wanted, `a ${kind} mod must give ${wanted}, this one gives ${e.type}`);
  for (const node of postOrder(e)) {
    switch (node.kind) {
      case "const": check(Object.is(node.value, node.type === "i32" ? node.value | 0 : node.type === "f32" ? Math.fround(node.value) : node.value ? 1 : 0), `the constant ${node.value} is not of type ${node.type}`); break;
      case "index": break;
      case "score": check(kind === "score", "a mask cannot depend on the score; use a score mod that returns -Infinity"); break;
      case "uniform": {
        const slot = slots.get(node.name);
        check(slot?.kind === "uniform" && slot.type === node.type, `the captured number '${node.name}' has no slot of type ${node.type}`);
        break;
      }
      case "extent": {
        const slot = slots.get(node.table);
        check(slot?.kind === "table" && node.dim >= 0 && node.dim < slot.rank, `the captured table '${node.table}' has no dimension ${node.dim}`);
        break;
      }
      case "load": {
        const slot = slots.get(node.table);
        check(slot?.kind === "table" && slot.type === node.type, `the captured table '${node.table}' has no slot of type ${node.type}`);
        check(slot.rank === node.indices.length, `the captured table '${node.table}' has ${slot.rank} dimensions and is read with ${node.indices.length} indices`);
        for (const i of node.indices) check(i.type === "i32", `an index of '${node.table}' is ${i.type}`);
        break;
      }
      case "unary": check(unaryOps[node.op]?.types[node.x.type] === node.type, `'${node.op}' of ${node.x.type} does not give ${node.type}`); break;
      case "binary":
        check(node.a.type === node.b.type && binaryOps[node.op]?.types[node.a.type] === node.type, `'${node.op}' of ${node.a.type} and ${node.b.type} does not give ${node.type}`);
        break;
      case "select":
        check(node.condition.type === "bool" && node.a.type === node.type && node.b.type === node.type, `a choice by ${node.condition.type} of ${node.a.type} and ${node.b.type} does not give ${node.type}`);
        break;
      default: node satisfies never;
    }
  }
  return e;
}

function check(ok: unknown, message: string): asserts ok {
  if (!ok) throw new UsageError(message);
}
