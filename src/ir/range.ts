/**
 * Between which bounds an expression stays over a whole box of indices: interval analysis, sound for every operator.
 *
 * A mask over a box is thereby always, never or sometimes true without being evaluated anywhere in it. The expression is
 * compiled once to closures over one array of cells (range-ops.ts), so that a box costs a fraction of a microsecond; what
 * does not depend on the box is computed when captures are bound. It knows no tiles.
 */
import { UsageError } from "../core/errors.ts";
import { children, coerce, type Expr, type IndexName } from "./expr.ts";
import type { CaptureEnv, Table } from "./interpret.ts";
import { binaryRanges, cell, copyCell, join, markInt, setAnyF32, setI32, setInterval, unaryRanges } from "./range-ops.ts";
import { tape } from "./range-tape.ts";
import { type TableSlot, tableStats, type TableStats } from "./table-stats.ts";

/** Both ends belong to the box. */
export type Box = Readonly<Record<IndexName, readonly [lo: number, hi: number]>>;

/** Every value lies in lo..hi, or is NaN where `nan`. A bool has 0 and 1. */
export interface Range {
  readonly lo: number;
  readonly hi: number;
  readonly nan: boolean;
}

/** What a mask is over a box. */
export const verdict = { never: 0, always: 1, sometimes: 2 } as const;
export type Verdict = (typeof verdict)[keyof typeof verdict];

/** Something that knows what a mask is over a box; both ends belong to the box. What covers several heads holds for all of them. */
export interface Classifier {
  classify(b0: number, b1: number, h0: number, h1: number, q0: number, q1: number, kv0: number, kv1: number): Verdict;
}

export interface RangeAnalysis extends Classifier {
  /** Reads the captured values; again whenever they may have changed. Returns itself. */
  bind(captures: CaptureEnv): RangeAnalysis;
  /** Bounds of the expression over a box. */
  range(box: Box): Range;
  /** Bounds of every part of the expression over a box. */
  ranges(box: Box): ReadonlyMap<Expr, Range>;
  /** Bounds of a bool expression over a box, without garbage. Ends belong to the box; the range of indices is 0 .. 2^31 - 1. */
  classify(b0: number, b1: number, h0: number, h1: number, q0: number, q1: number, kv0: number, kv1: number): Verdict;
}

interface Bound {
  captures: CaptureEnv;
  readonly slots: Map<string, TableSlot>;
}

const { lo: LO, hi: HI, nan: NAN, words } = cell;
/** Most rows of a table that a load looks at one by one; beyond it takes the whole stretch from the first row to the last. */
const maxRows = 256;

/** Words of the box at the front of the cells; q and kv are where range-ops.ts wants them. */
const boxWord: Readonly<Record<IndexName, number>> = { q: 0, kv: 2, b: 4, h: 6 };

/** Prepares `e` for many boxes. Call `bind` before the first. */
export function analyse(e: Expr): RangeAnalysis {
  const order = postOrder(e);
  const at = new Map<Expr, number>();
  order.forEach((node, i) => at.set(node, words * (i + 1)));
  const v = new Float64Array(words * (order.length + 1));
  const state: Bound = { captures: { uniforms: {}, tables: {} }, slots: new Map() };
  for (const node of order) if (node.kind === "load") state.slots.set(node.table, { table: { data: [], shape: [] }, stats: tableStats({ data: [], shape: [] }), length: 0 });

  const varies = new Set<Expr>();
  const fixedSteps: (() => void)[] = [];
  const boxSteps: (() => void)[] = [];
  for (const node of order) {
    const moves = node.kind === "index" || node.kind === "score" || children(node).some((child) => varies.has(child));
    if (moves) varies.add(node);
    (moves ? boxSteps : fixedSteps).push(step(node, at, v, state));
  }
  const root = at.get(e)!;
  const run = tape({ order: order.filter((node) => varies.has(node)), at, v, step: (node) => step(node, at, v, state), slot: (table) => state.slots.get(table)! });

  const analysis: RangeAnalysis = {
    bind(captures) {
      state.captures = captures;
      for (const [name, slot] of state.slots) {
        slot.table = given(captures.tables[name], name);
        slot.stats = tableStats(slot.table);
        slot.length = slot.table.data.length;
      }
      for (const fixed of fixedSteps) fixed();
      return analysis;
    },
    range: (box) => analysis.ranges(box).get(e)!,
    ranges(box) {
      for (const name of ["b", "h", "q", "kv"] as const) v.set(box[name], boxWord[name]);
      for (const step of boxSteps) step();
      return new Map(order.map((node): [Expr, Range] => {
        const o = at.get(node)!;
        return [node, { lo: v[o + LO]!, hi: v[o + HI]!, nan: v[o + NAN] === 1 }];
      }));
    },
    classify(b0, b1, h0, h1, q0, q1, kv0, kv1) {
      v[0] = q0; v[1] = q1; v[2] = kv0; v[3] = kv1; v[4] = b0; v[5] = b1; v[6] = h0; v[7] = h1;
      run();
      return v[root + LO] === 1 ? verdict.always : v[root + HI] === 0 ? verdict.never : verdict.sometimes;
    },
  };
  return analysis;
}

/** The closure that fills the node's cell from its operands' cells. */
function step(node: Expr, at: ReadonlyMap<Expr, number>, v: Float64Array, state: Bound): () => void {
  const o = at.get(node)!;
  switch (node.kind) {
    case "const": {
      const { value, type } = node;
      return () => point(v, o, type === "f32", value);
    }
    case "index": {
      const from = boxWord[node.name];
      const line = node.name === "q" ? cell.aq : node.name === "kv" ? cell.ak : undefined;
      return () => {
        setInterval(v, o, v[from]!, v[from + 1]!);
        if (line === undefined) return;
        v[o + line] = 1;
        v[o + cell.rlo] = 0;
        v[o + cell.rhi] = 0;
      };
    }
    case "score": return () => setAnyF32(v, o);
    case "uniform": {
      const { name, type } = node;
      return () => point(v, o, type === "f32", coerce(type, given(state.captures.uniforms[name], name)));
    }
    case "extent": {
      const { table, dim } = node;
      return () => point(v, o, false, given(state.captures.tables[table], table).shape[dim]!);
    }
    case "load": {
      const { table, type } = node;
      const indices = node.indices.map((i) => at.get(i)!);
      const slot = state.slots.get(table)!;
      return () => loadRange(v, o, type, indices, slot.table, slot.stats);
    }
    case "unary": {
      const row = unaryRanges[node.op];
      const f = typeof row === "function" ? row : row[node.x.type]!;
      const x = at.get(node.x)!;
      return () => f(v, o, x);
    }
    case "binary": {
      const row = binaryRanges[node.op];
      const f = typeof row === "function" ? row : row[node.a.type]!;
      const a = at.get(node.a)!, b = at.get(node.b)!;
      return () => f(v, o, a, b);
    }
    case "select": {
      const c = at.get(node.condition)!, a = at.get(node.a)!, b = at.get(node.b)!;
      return () => {
        if (v[c + LO] === 1) copyCell(v, o, a);
        else if (v[c + HI] === 0) copyCell(v, o, b);
        else join(v, o, a, b);
      };
    }
    default: return node satisfies never;
  }
}

function point(v: Float64Array, o: number, isF32: boolean, value: number): void {
  if (Number.isNaN(value)) return setAnyF32(v, o);
  setInterval(v, o, value, value);
  if (isF32 && Number.isInteger(value)) markInt(v, o);
}

/** The bounds of the elements that a box of indices can reach; any value at all where an index may leave the table. */
function loadRange(v: Float64Array, o: number, type: "i32" | "f32", indices: readonly number[], table: Table, stats: TableStats): void {
  const any = (): void => (type === "f32" ? setAnyF32(v, o) : setI32(v, o, -Infinity, Infinity));
  const last = indices.length - 1;
  // Rows are the stretches along the last dimension; first and last row of the box, and how many it has.
  let firstRow = 0, lastRow = 0, rows = 1;
  for (let d = 0; d <= last; d++) {
    const lo = v[indices[d]! + LO]!, hi = v[indices[d]! + HI]!, extent = table.shape[d]!;
    if (lo < 0 || hi >= extent) return any();
    if (d === last) break;
    firstRow = firstRow * extent + lo;
    lastRow = lastRow * extent + hi;
    rows *= hi - lo + 1;
  }
  if (stats.nan) return any();
  const width = table.shape[last]!, from = v[indices[last]! + LO]!, to = v[indices[last]! + HI]!;
  if (rows !== lastRow - firstRow + 1 || rows > maxRows) stats.query(firstRow * width + (rows === 1 ? from : 0), lastRow * width + (rows === 1 ? to : width - 1));
  else {
    let lo = Infinity, hi = -Infinity;
    for (let row = firstRow; row <= lastRow; row++) {
      stats.query(row * width + from, row * width + to);
      if (stats.lo < lo) lo = stats.lo;
      if (stats.hi > hi) hi = stats.hi;
    }
    stats.lo = lo;
    stats.hi = hi;
  }
  if (type === "i32") setI32(v, o, stats.lo, stats.hi);
  else setInterval(v, o, Math.fround(stats.lo), Math.fround(stats.hi));
}

/** Which of b, h, q and kv the expression reads. */
export function indicesOf(e: Expr): ReadonlySet<IndexName> {
  return new Set(postOrder(e).flatMap((node) => (node.kind === "index" ? [node.name] : [])));
}

/** Every node once, operands before users. */
export function postOrder(root: Expr): Expr[] {
  const order: Expr[] = [];
  const seen = new Set<Expr>();
  // A stack of our own: expressions of unrolled loops are deeper than the machine's. `next` is the operand to look at.
  const stack: { readonly e: Expr; next: number }[] = [{ e: root, next: 0 }];
  for (let top = stack.at(-1); top; top = stack.at(-1)) {
    const child = children(top.e)[top.next++];
    if (child === undefined) {
      stack.pop();
      if (!seen.has(top.e)) order.push(top.e);
      seen.add(top.e);
    } else if (!seen.has(child)) stack.push({ e: child, next: 0 });
  }
  return order;
}

function given<T>(value: T | undefined, name: string): T {
  if (value === undefined) throw new UsageError(`the captured '${name}' has no value in this call`);
  return value;
}
