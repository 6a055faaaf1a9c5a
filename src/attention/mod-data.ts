/**
 * A mod as plain data: what crosses to another thread, where functions cannot go.
 *
 * It is the expression, as a flat list of nodes, and the values that its captures have now. Numbers and ordinary arrays are copies;
 * a typed array over a SharedArrayBuffer stays the same memory, so that changing it goes on changing the mod. It survives
 * structuredClone and postMessage. What it was made of (source, captures by name, other mods) does not cross.
 */
import { invariant } from "../core/errors.ts";
import { binary, children, constant, type Expr, extent, index, type IndexName, load, score, select, type Type, unary, type BinaryOp, type UnaryOp, uniform } from "../ir/expr.ts";
import { evaluator } from "../ir/interpret.ts";
import type { CaptureSlot } from "../ir/plan.ts";
import { postOrder } from "../ir/range.ts";
import { type Binding, inlineKey, readCaptures } from "./captures.ts";
import type { LoweredMod, MaskMod, ScoreMod } from "./mod.ts";
import { tensor, type Tensor, type TypedArray } from "./tensor.ts";
import { asExpr, expression, type Inlinable } from "./values.ts";

/** A node of an expression; operands are positions in the list, all before the node itself. */
export type NodeData =
  | { readonly kind: "const"; readonly type: Type; readonly value: number }
  | { readonly kind: "index"; readonly name: IndexName }
  | { readonly kind: "score" }
  | { readonly kind: "uniform"; readonly type: "i32" | "f32"; readonly name: string }
  | { readonly kind: "extent"; readonly table: string; readonly dim: number }
  | { readonly kind: "load"; readonly type: "i32" | "f32"; readonly table: string; readonly operands: readonly number[] }
  | { readonly kind: "unary"; readonly op: UnaryOp; readonly operands: readonly number[] }
  | { readonly kind: "binary"; readonly op: BinaryOp; readonly operands: readonly number[] }
  | { readonly kind: "select"; readonly operands: readonly number[] };

export interface ModData {
  readonly kind: "mask" | "score";
  /** The last is the whole expression. */
  readonly nodes: readonly NodeData[];
  readonly captures: readonly { readonly slot: CaptureSlot; readonly value: number | Tensor }[];
}

/** The mod with the values that its captures have now. @throws ModError when it is not in the language */
export function serialiseMod(mod: MaskMod | ScoreMod): ModData {
  const { expr, bindings } = mod.lower();
  const order = postOrder(expr);
  const at = new Map(order.map((node, i) => [node, i]));
  const { uniforms, tables } = readCaptures(bindings);
  return {
    kind: mod.kind,
    nodes: order.map((node) => nodeData(node, children(node).map((child) => at.get(child)!))),
    captures: bindings.map(({ slot }) => ({ slot, value: slot.kind === "uniform" ? uniforms[slot.name]! : tableData(slot.type, tables[slot.name]!) })),
  };
}

function nodeData(node: Expr, operands: readonly number[]): NodeData {
  switch (node.kind) {
    case "const": return { kind: "const", type: node.type, value: node.value };
    case "index": return { kind: "index", name: node.name };
    case "score": return { kind: "score" };
    case "uniform": return { kind: "uniform", type: node.type, name: node.name };
    case "extent": return { kind: "extent", table: node.table, dim: node.dim };
    case "load": return { kind: "load", type: node.type, table: node.table, operands };
    case "unary": case "binary": return { kind: node.kind, op: node.op, operands } as NodeData;
    case "select": return { kind: "select", operands };
    default: return node satisfies never;
  }
}

/** Of a table that is not shared only its own part of its buffer is copied. */
function tableData(type: "i32" | "f32", { data, shape }: { readonly data: ArrayLike<number>; readonly shape: readonly number[] }): Tensor {
  const isView = ArrayBuffer.isView(data);
  const elements: TypedArray = isView && isShared(data as TypedArray) ? (data as TypedArray) : isView ? (data as TypedArray).slice() : (type === "f32" ? Float32Array : Int32Array).from(data);
  return tensor(elements, shape);
}

/** Whether other threads see what is written to it. */
export function isShared(data: TypedArray): boolean {
  return typeof SharedArrayBuffer !== "undefined" && data.buffer instanceof SharedArrayBuffer;
}

/** The mod again: callable, combinable, compilable. The captured tables are `data`'s own arrays. */
export function deserialiseMod(data: ModData): MaskMod | ScoreMod {
  const built: Expr[] = [];
  for (const node of data.nodes) built.push(expressionOf(node, (i) => built[i]!));
  const expr = built.at(-1);
  invariant(expr && expr.type === (data.kind === "mask" ? "bool" : "f32"), `a ${data.kind} mod of ${expr?.type ?? "nothing"}`);
  const captures: Readonly<Record<string, number | Tensor>> = Object.fromEntries(data.captures.map(({ slot, value }) => [slot.name, value]));
  const lowered: LoweredMod = { expr, bindings: data.captures.map(({ slot }): Binding => ({ slot, owner: captures, key: slot.name })) };
  const inline: Inlinable["inline"] = (slots, args) => {
    const values = args.map(asExpr);
    const [scoreValue, b, h, q, kv] = data.kind === "score" ? values : [undefined, ...values];
    const indices = { b, h, q, kv };
    const names = new Map(data.captures.map(({ slot }) => [slot.name, slots.slotName(captures, slot.name, slot.kind === "uniform" ? { ...slot, boolean: false } : slot)]));
    const placed: Expr[] = [];
    for (const node of data.nodes) {
      placed.push(node.kind === "index" ? indices[node.name]! : node.kind === "score" ? scoreValue! : expressionOf(renamed(node, names), (i) => placed[i]!));
    }
    return expression(placed.at(-1)!);
  };
  const evaluate = evaluator(expr);
  const values = () => readCaptures(lowered.bindings);
  const call = data.kind === "mask"
    ? (b: number, h: number, q: number, kv: number) => evaluate({ b, h, q, kv, score: 0, ...values() }) === 1
    : (s: number, b: number, h: number, q: number, kv: number) => evaluate({ b, h, q, kv, score: s, ...values() });
  const reader: Inlinable = { kind: data.kind, inline };
  return Object.assign(call, { kind: data.kind, fn: undefined, captures, [inlineKey]: reader, lower: () => lowered, expr: () => expr, values }) as MaskMod | ScoreMod;
}

function expressionOf(node: NodeData, operand: (i: number) => Expr): Expr {
  const at = (i: number): Expr => operand((node as { readonly operands: readonly number[] }).operands[i]!);
  switch (node.kind) {
    case "const": return constant(node.type, node.value);
    case "index": return index(node.name);
    case "score": return score;
    case "uniform": return uniform(node.type, node.name);
    case "extent": return extent(node.table, node.dim);
    case "load": return load(node.type, node.table, node.operands.map(operand));
    case "unary": return unary(node.op, at(0));
    case "binary": return binary(node.op, at(0), at(1));
    case "select": return select(at(0), at(1), at(2));
    default: return node satisfies never;
  }
}

function renamed(node: NodeData, names: ReadonlyMap<string, string>): NodeData {
  if (node.kind === "uniform") return { ...node, name: names.get(node.name)! };
  if (node.kind === "load" || node.kind === "extent") return { ...node, table: names.get(node.table)! };
  return node;
}
