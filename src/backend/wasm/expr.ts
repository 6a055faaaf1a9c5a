/**
 * Writes a mod's expression as SIMD code over four keys.
 *
 * i32 is i32x4, f32 is f32x4, bool is a lane mask (all ones or zeros). Parts that depend on neither the key nor the score are
 * written once per row, outside the loop over keys. A subexpression shared by identity is computed once.
 *
 * Every load is guarded. A lane is live where its value can matter: under the chosen side of a choice, where `&&` and `||` get
 * as far, and (in a score mod) where the mask allows the key. A live index out of range is written to the control block, and
 * the call fails by name; a lane that is not live reads element 0.
 */
import { invariant } from "../../core/errors.ts";
import { children, type BinaryOp, type Expr, type UnaryOp } from "../../ir/expr.ts";
import { Loads } from "../../ir/loads.ts";
import type { CaptureSlot } from "../../ir/plan.ts";
import {
  call, constant, f32x4, f64x2, i32, i32x4, i8x16, splat, v128, when, type Func, type Local, type Module, type Node, type Operand,
} from "./assembler.ts";
import { argument, type MakeLocal } from "./kernel.ts";
import { joinLow, MathLibrary } from "./math.ts";
import { control } from "./memory.ts";

type Vector = Local | Node;

/** The address of the first word of each capture in the argument block, counted in words from `firstWord`: one for a uniform, 1 + rank for a table. */
export function captureWords(captures: readonly CaptureSlot[], firstWord: number): { readonly at: readonly number[]; readonly end: number } {
  const at: number[] = [];
  let next = firstWord;
  for (const slot of captures) {
    at.push(next);
    next += slot.kind === "uniform" ? 1 : 1 + slot.rank;
  }
  return { at, end: next };
}

/** Adds `report(args, slot, dim, index)`, which writes the first load out of range to the control block. */
export function addReport(m: Module): Func {
  const zero = constant("i32", 0);
  return m.func("reportOutOfRange", { args: "i32", slot: "i32", dim: "i32", index: "i32" }, "none", ({ args, slot, dim, index }) => [
    // Several threads may report at once: the first one's words stand.
    when(i32.eqz(i32["atomic.rmw.cmpxchg"](zero, 0, 1, control.outOfRange)),
      [args, slot, dim, index].map((word, n) => i32.store(zero, word, control.outOfRange + 4 + 4 * n))),
  ], { internal: true });
}

export interface RowIndices { readonly b: Local; readonly h: Local; readonly q: Local }

export interface EmitContext {
  readonly local: MakeLocal;
  readonly math: MathLibrary;
  readonly report: Func;
  readonly args: Local;
  readonly captures: readonly CaptureSlot[];
  /** First word of each capture in the argument block. */
  readonly captureAt: readonly number[];
}

/** What the rows of a tile share: parts that depend on the keys alone are written once, by `emitter`, whose code comes before the rows'. */
export interface Columns {
  readonly emitter: ExprEmitter;
  /** The live lanes that all rows start from: loads under them are shared too. */
  readonly live: Local;
  /** All rows of the tile belong to one query head. */
  readonly oneHead: boolean;
}

/** Emits the mods of one row. `hoisted` goes before the loop over keys, what `take` returns into it. */
export class ExprEmitter {
  readonly hoisted: Node[] = [];
  #inner: Node[] = [];
  readonly #context: EmitContext;
  readonly #row: RowIndices;
  readonly #kv: Local;
  readonly #score: Local;
  readonly #done = new Map<Expr, Vector>();
  /** Values that hold loads are right only for the lanes they were computed for. */
  readonly #doneFor = new Map<Local, Map<Expr, Vector>>();
  /** The live lanes that others were narrowed from. */
  readonly #widerLive = new Map<Local, Local>();
  readonly #perKey = new Map<Expr, boolean>();
  readonly #loads = new Loads();
  readonly #perRow = new Map<Expr, boolean>();
  readonly #columns: Columns | undefined;

  constructor(context: EmitContext, row: RowIndices, kv: Local, score: Local, columns?: Columns) {
    this.#columns = columns;
    this.#context = context;
    this.#row = row;
    this.#kv = kv;
    this.#score = score;
  }

  /** The expression's value for the current four keys; `live` is a lane mask. */
  value(e: Expr, live: Local): Vector {
    return this.#value(e, live);
  }

  /** The code of the values asked for since the last `take`. */
  take(): Node[] {
    const code = this.#inner;
    this.#inner = [];
    return code;
  }

  #value(e: Expr, live: Local): Vector {
    if (e.kind === "const") return constantVector(e.type, e.value);
    const holdsLoad = this.#loads.holds(e);
    const columns = this.#columns;
    if (columns && this.#dependsOnKey(e) && !this.#dependsOnRow(e, columns) && (!holdsLoad || live === columns.live)) return columns.emitter.value(e, live);
    let memo = this.#done;
    if (holdsLoad) {
      memo = this.#doneFor.get(live) ?? new Map<Expr, Vector>();
      this.#doneFor.set(live, memo);
    }
    const known = holdsLoad ? this.#knownFor(e, live) : memo.get(e);
    if (known) return known;
    const made = this.#make(e, live);
    const result = made instanceof Object && "op" in made ? this.#keep(made, e, holdsLoad || this.#dependsOnKey(e)) : made;
    memo.set(e, result);
    return result;
  }

  /** What is right for more lanes is right for these. */
  #knownFor(e: Expr, live: Local): Vector | undefined {
    for (let lanes: Local | undefined = live; lanes; lanes = this.#widerLive.get(lanes)) {
      const known = this.#doneFor.get(lanes)?.get(e);
      if (known) return known;
    }
    return undefined;
  }

  #keep(node: Node, e: Expr, inner: boolean): Local {
    const kept = this.#context.local("v128", e.kind === "binary" || e.kind === "unary" ? e.op : e.kind);
    (inner ? this.#inner : this.hoisted).push(kept.set(node));
    return kept;
  }

  #make(e: Exclude<Expr, { kind: "const" }>, live: Local): Vector {
    switch (e.kind) {
      case "index": return e.name === "kv" ? this.#kv : this.#row[e.name];
      case "score": return this.#score;
      case "uniform": {
        const word = argument(this.#context.args, this.#captureWord(e.name, "uniform"));
        return i32x4.splat(word); // the same bits, whether i32 or f32
      }
      case "extent": return i32x4.splat(argument(this.#context.args, this.#captureWord(e.table, "table") + 1 + e.dim));
      case "load": return this.#load(e, live);
      case "unary": return unary[e.op](this.#value(e.x, live), e.x.type === "i32", this.#context.math);
      case "select": {
        const condition = this.#value(e.condition, live);
        // What both sides ask for is asked for in every live lane: written once, not once for each side.
        for (const shared of this.#loads.ofBoth(e.a, e.b)) this.#value(shared, live);
        const a = this.#value(e.a, this.#narrow(e.a, live, condition, false));
        const b = this.#value(e.b, this.#narrow(e.b, live, condition, true));
        return v128.bitselect(a, b, condition);
      }
      case "binary": {
        const a = this.#value(e.a, live);
        const right = e.op === "and" ? this.#narrow(e.b, live, a, false) : e.op === "or" ? this.#narrow(e.b, live, a, true) : live;
        const b = this.#value(e.b, right);
        return binary[e.op](a, b, e.a.type !== "f32", this.#context.math);
      }
      default: return e satisfies never;
    }
  }

  /** The lanes of `live` where `condition` holds (or does not): asked for only where `e` holds a load. */
  #narrow(e: Expr, live: Local, condition: Vector, negated: boolean): Local {
    if (!this.#loads.holds(e)) return live;
    const narrowed = this.#context.local("v128", "live");
    this.#widerLive.set(narrowed, live);
    this.#inner.push(narrowed.set(negated ? v128.andnot(live, condition) : v128.and(live, condition)));
    return narrowed;
  }

  /**
   * Four elements of a table. Each dimension's index is guarded; lanes out of range read element 0. Most masks and biases walk a table
   * by the key: then the four stand side by side, in one load, wherever all are in range.
   */
  #load(e: Extract<Expr, { kind: "load" }>, live: Local): Vector {
    const { local, args, report } = this.#context;
    const word = this.#captureWord(e.table, "table");
    const slot = this.#context.captures.findIndex((c) => c.name === e.table);
    const flat = local("v128", "flat"), bad = local("v128", "bad"), outside = local("v128", "outside"), extent = local("i32", "extent"), lane = local("i32", "lane");
    e.indices.forEach((index, dim) => {
      const at = this.#value(index, live);
      this.#inner.push(
        extent.set(argument(args, word + 1 + dim)),
        // As unsigned numbers negative indices are large: one comparison finds both ends.
        bad.set(i32x4.ge_u(at, i32x4.splat(extent))),
        when(v128.any_true(v128.and(bad, live)), [
          lane.set(i32.ctz(i32x4.bitmask(v128.and(bad, live)))),
          call(report, args, slot, dim, laneOf(at, lane)),
        ]),
        flat.set(dim === 0 ? v128.andnot(at, bad) : i32x4.add(i32x4.mul(flat, i32x4.splat(extent)), v128.andnot(at, bad))),
        outside.set(dim === 0 ? bad : v128.or(outside, bad)),
      );
    });
    const address = (n: number): Node => i32.add(argument(args, word), i32.shl(i32x4.extract_lane(flat, n), 2));
    const gathered = (): Node => v128.load32_lane(address(3), v128.load32_lane(address(2), v128.load32_lane(address(1), v128.load32_zero(address(0)), 1), 2), 3);
    const steps = e.indices.map((i) => this.#step(i));
    const last = steps.pop();
    if (last === 0 && steps.every((s) => s === 0)) return v128.load32_splat(address(0));
    const loaded = local("v128", "loaded");
    const choose = (condition: Node, fast: Node): Vector => {
      this.#inner.push(when(condition, [loaded.set(fast)], [loaded.set(gathered())]));
      return loaded;
    };
    if (steps.every((s) => s === 0) && last === 1) return choose(i32.eqz(v128.any_true(outside)), v128.load(address(0)));
    if (steps.every((s) => s === 0) && last === -1) {
      const backward = v128.load(address(3));
      return choose(i32.eqz(v128.any_true(outside)), i8x16.shuffle(backward, backward, [12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3]));
    }
    // Clamped distances, documents, buckets: neighbours often read the same element.
    return choose(i32x4.all_true(i32x4.eq(flat, i32x4.splat(i32x4.extract_lane(flat, 0)))), v128.load32_splat(address(0)));
  }

  /** By how much an index grows from one key to the next, where that is the same for all keys. */
  #step(e: Expr): number | undefined {
    if (!this.#dependsOnKey(e)) return 0;
    if (e.kind === "index") return 1;
    if (e.kind === "unary" && e.op === "neg") {
      const x = this.#step(e.x);
      return x === undefined ? undefined : -x;
    }
    if (e.kind !== "binary") return undefined;
    const a = this.#step(e.a), b = this.#step(e.b);
    if (a === undefined || b === undefined) return undefined;
    if (e.op === "add") return a + b;
    if (e.op === "sub") return a - b;
    if (e.op === "mul" && e.b.kind === "const") return a * e.b.value;
    return undefined;
  }

  #captureWord(name: string, kind: CaptureSlot["kind"]): number {
    const slot = this.#context.captures.findIndex((c) => c.name === name && c.kind === kind);
    invariant(slot >= 0, `the plan has no ${kind} named ${name}`);
    return this.#context.captureAt[slot]!;
  }

  #dependsOnKey(e: Expr): boolean {
    return memoised(this.#perKey, e, () => e.kind === "score" || (e.kind === "index" && e.name === "kv") || children(e).some((c) => this.#dependsOnKey(c)));
  }

  #dependsOnRow(e: Expr, columns: Columns): boolean {
    return memoised(this.#perRow, e, () => e.kind === "score" || (e.kind === "index" && (e.name === "q" || (e.name === "h" && !columns.oneHead))) ||
      children(e).some((c) => this.#dependsOnRow(c, columns)));
  }
}

function memoised(memo: Map<Expr, boolean>, e: Expr, compute: () => boolean): boolean {
  let known = memo.get(e);
  if (known === undefined) memo.set(e, (known = compute()));
  return known;
}

/** Lane number `lane` (0 to 3, known at run time) of a vector of i32. */
function laneOf(v: Vector, lane: Local): Node {
  const rest = [3, 2, 1].reduce<Node>((otherwise, n) => i32.select(i32x4.extract_lane(v, n), otherwise, i32.eq(lane, n)), i32x4.extract_lane(v, 0));
  return rest;
}

function constantVector(type: Expr["type"], value: number): Node {
  return type === "f32" ? splat.f32(value) : splat.i32(type === "bool" ? -value : value);
}

/** Applies an operation of doubles to the two halves of vectors of f32 or i32. */
function halves(operands: readonly Vector[], integer: boolean, op: (...halves: Node[]) => Node): [Node, Node] {
  const high = (v: Vector): Node => i8x16.shuffle(v, v, [8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15]);
  const widen = (v: Vector): Node => (integer ? f64x2.convert_low_i32x4_s(v) : f64x2.promote_low_f32x4(v));
  return [op(...operands.map(widen)), op(...operands.map((v) => widen(high(v))))];
}
const joinF32 = ([low, high]: [Node, Node]): Node => joinLow(f32x4.demote_f64x2_zero(low), f32x4.demote_f64x2_zero(high));
const joinI32 = ([low, high]: [Node, Node]): Node => joinLow(i32x4.trunc_sat_f64x2_s_zero(low), i32x4.trunc_sat_f64x2_s_zero(high));

/** A quotient of i32s through doubles, exact: the quotient of two such numbers is never within 2^-53 of an integer unless it is one. */
function integerQuotient(a: Vector, b: Vector, round: (x: Operand) => Node): Node {
  const quotient = joinI32(halves([a, b], true, (x, y) => round(f64x2.div(x!, y!))));
  // b = -1 may leave i32, where the language wraps; b = 0 gives 0.
  return v128.andnot(v128.bitselect(i32x4.neg(a), quotient, i32x4.eq(b, splat.i32(-1))), i32x4.eq(b, splat.i32(0)));
}
/** a - quotient * b, and 0 for b = 0. */
const integerRest = (a: Vector, b: Vector, round: (x: Operand) => Node): Node =>
  v128.andnot(i32x4.sub(a, i32x4.mul(integerQuotient(a, b, round), b)), i32x4.eq(b, splat.i32(0)));
/** a - floor(a / b) * b, each step rounded to a double. */
const realModulus = (a: Vector, b: Vector): Node =>
  joinF32(halves([a, b], false, (x, y) => f64x2.sub(x!, f64x2.mul(f64x2.floor(f64x2.div(x!, y!)), y!))));

/** WebAssembly shifts all lanes by one count. A constant is such a count; others may differ from lane to lane. */
const shift = (op: "shl" | "shr_s") => (a: Vector, b: Vector): Node => "op" in b && b.op === "const" ? i32x4[op](a, b.numbers![0]! & 31) :
  [0, 1, 2, 3].reduce<Node>((v, n) => i32x4.replace_lane(v, i32[op](i32x4.extract_lane(a, n), i32x4.extract_lane(b, n)), n), splat.i32(0));

type WriteUnary = (x: Vector, integer: boolean, math: MathLibrary) => Node;
const unary: Readonly<Record<UnaryOp, WriteUnary>> = {
  neg: (x, integer) => (integer ? i32x4.neg(x) : f32x4.neg(x)),
  abs: (x, integer) => (integer ? i32x4.abs(x) : f32x4.abs(x)),
  sign: (x, integer) => integer
    ? i32x4.sub(i32x4.lt_s(x, splat.i32(0)), i32x4.gt_s(x, splat.i32(0)))
    : v128.bitselect(splat.f32(1), v128.bitselect(splat.f32(-1), x, f32x4.lt(x, splat.f32(0))), f32x4.gt(x, splat.f32(0))),
  not: (x) => v128.not(x),
  bitNot: (x) => v128.not(x),
  floor: (x) => f32x4.floor(x),
  ceil: (x) => f32x4.ceil(x),
  // Halves go up. x + 0.5 could round; the distance to the floor does not cross 0.5. What is negative rounds to -0 at most.
  round: (x) => v128.or(f32x4.add(f32x4.floor(x), v128.and(f32x4.ge(f32x4.sub(x, f32x4.floor(x)), splat.f32(0.5)), splat.f32(1))), v128.and(x, splat.f32(-0))),
  trunc: (x) => f32x4.trunc(x),
  sqrt: (x) => f32x4.sqrt(x),
  exp: (x, _, math) => math.exp(x),
  log: (x, _, math) => math.log(x),
  log2: (x, _, math) => math.log2(x),
  log1p: (x, _, math) => math.log1p(x),
  sin: (x, _, math) => math.sin(x),
  cos: (x, _, math) => math.cos(x),
  tan: (x, _, math) => math.tan(x),
  tanh: (x, _, math) => math.tanh(x),
  toF32: (x) => f32x4.convert_i32x4_s(x),
  toI32: (x) => i32x4.trunc_sat_f32x4_s(x),
  boolToI32: (x) => v128.and(x, splat.i32(1)),
};

type WriteBinary = (a: Vector, b: Vector, integer: boolean, math: MathLibrary) => Node;
const binary: Readonly<Record<BinaryOp, WriteBinary>> = {
  add: (a, b, integer) => (integer ? i32x4.add(a, b) : f32x4.add(a, b)),
  sub: (a, b, integer) => (integer ? i32x4.sub(a, b) : f32x4.sub(a, b)),
  mul: (a, b, integer) => (integer ? i32x4.mul(a, b) : f32x4.mul(a, b)),
  div: (a, b) => f32x4.div(a, b),
  rem: (a, b, integer, math) => (integer ? integerRest(a, b, f64x2.trunc) : math.rem(a, b)),
  floorDiv: (a, b, integer) => integer ? integerQuotient(a, b, f64x2.floor) : joinF32(halves([a, b], false, (x, y) => f64x2.floor(f64x2.div(x!, y!)))),
  floorMod: (a, b, integer) => (integer ? integerRest(a, b, f64x2.floor) : realModulus(a, b)),
  min: (a, b, integer) => (integer ? i32x4.min_s(a, b) : f32x4.min(a, b)),
  max: (a, b, integer) => (integer ? i32x4.max_s(a, b) : f32x4.max(a, b)),
  pow: (a, b, _, math) => math.pow(a, b),
  hypot: (a, b, _, math) => math.hypot(a, b),
  lt: (a, b, integer) => (integer ? i32x4.lt_s(a, b) : f32x4.lt(a, b)),
  le: (a, b, integer) => (integer ? i32x4.le_s(a, b) : f32x4.le(a, b)),
  gt: (a, b, integer) => (integer ? i32x4.gt_s(a, b) : f32x4.gt(a, b)),
  ge: (a, b, integer) => (integer ? i32x4.ge_s(a, b) : f32x4.ge(a, b)),
  // Booleans are lane masks of all ones or zeros, and compare like integers.
  eq: (a, b, integer) => (integer ? i32x4.eq(a, b) : f32x4.eq(a, b)),
  ne: (a, b, integer) => (integer ? i32x4.ne(a, b) : f32x4.ne(a, b)),
  and: (a, b) => v128.and(a, b),
  or: (a, b) => v128.or(a, b),
  bitAnd: (a, b) => v128.and(a, b),
  bitOr: (a, b) => v128.or(a, b),
  bitXor: (a, b) => v128.xor(a, b),
  shl: shift("shl"),
  shr: shift("shr_s"),
};
