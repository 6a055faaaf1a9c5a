/**
 * The steps of a range analysis as a tape of small instructions: what a box costs when millions are asked about.
 *
 * The operators that masks are made of run in one loop without a call; the others call their closure (range.ts). Of `a && b` the
 * cheaper side comes first, and where it decides the other is skipped. It answers as the closures do, and a test compares them.
 */
import { type BinaryOp, children, type Expr } from "./expr.ts";
import { addCells, cell, maxCoefficient, maxRest, setAnyF32, setI32, setInterval, subtractCells } from "./range-ops.ts";
import type { TableSlot } from "./table-stats.ts";

const { lo: LO, hi: HI, aq: AQ, ak: AK, rlo: RLO, rhi: RHI, nan: NAN, int: INT } = cell;
/** Sums within it do not wrap. */
const exactI32 = 2 ** 31;

/** Instructions are five words: one of these, the cell of the result, then operands. Literals, so that they compile to a jump. */
const CALL = 0, INDEX = 1, ADD = 2, SUB = 3, LT = 4, LE = 5, EQ = 6, NE = 7, AND = 8, OR = 9, SKIP_IF_NEVER = 10, SKIP_IF_ALWAYS = 11, LOAD = 12;
const instructionWords = 5;

/** Of integers: gt and ge with their operands exchanged. */
const compares: Readonly<Partial<Record<BinaryOp, readonly [code: number, flipped: boolean]>>> = {
  lt: [LT, false], le: [LE, false], gt: [LT, true], ge: [LE, true], eq: [EQ, false], ne: [NE, false],
};

/** Beyond this many parts nothing is skipped: finding what may be skipped takes time in proportion to its square. */
const mostNodes = 500;

export interface TapeParts {
  /** The parts that depend on the box, operands before users; the last is the whole. */
  readonly order: readonly Expr[];
  readonly at: ReadonlyMap<Expr, number>;
  readonly v: Float64Array;
  readonly step: (node: Expr) => () => void;
  /** What a load of one index reads; filled anew by each `bind`. */
  readonly slot: (table: string) => TableSlot;
}

/** Returns what fills the cell of the last of `order` (and such others as it needed) from the box. */
export function tape({ order, at, v, step, slot }: TapeParts): () => void {
  const words: number[] = [];
  const calls: (() => void)[] = [];
  const slots: TableSlot[] = [];
  const varies = new Set(order);
  const users = new Map<Expr, Expr[]>();
  for (const node of order) for (const child of children(node)) if (varies.has(child)) users.set(child, [...(users.get(child) ?? []), node]);
  const done = new Set<Expr>();
  const ends = (node: Expr): number => placeOf(node) ?? at.get(node)!;

  const put = (...instruction: readonly number[]): void => void words.push(...instruction, ...new Array<number>(instructionWords - instruction.length).fill(0));
  const write = (node: Expr): void => {
    done.add(node);
    const o = at.get(node)!;
    const place = placeOf(node);
    if (place !== undefined) return (users.get(node) ?? [node]).some((user) => !readsEnds(user)) ? put(INDEX, o, place, place === 0 ? AQ : AK) : undefined;
    if (node.kind === "load" && node.indices.length === 1) return put(LOAD, o, ends(node.indices[0]!), slots.push(slot(node.table)) - 1, Number(node.type === "i32"));
    if (node.kind === "binary") {
      const { op } = node, a = at.get(node.a)!, b = at.get(node.b)!, isInt = node.a.type === "i32";
      if (op === "and" || op === "or") return put(op === "and" ? AND : OR, o, a, b);
      if (isInt && (op === "add" || op === "sub")) return put(op === "add" ? ADD : SUB, o, a, b);
      const compare = isInt ? compares[op] : undefined;
      if (compare && readsEnds(node)) return put(compare[0], o, ...(compare[1] ? [ends(node.b), ends(node.a)] : [ends(node.a), ends(node.b)]), 1);
      if (compare) return put(compare[0], o, ...(compare[1] ? [b, a] : [a, b]));
    }
    put(CALL, o, calls.push(step(node)) - 1);
  };
  /** The parts of `node` not yet written, operands first. */
  const missing = (node: Expr, found = new Set<Expr>()): Set<Expr> => {
    if (!varies.has(node) || done.has(node) || found.has(node)) return found;
    for (const child of children(node)) missing(child, found);
    return found.add(node);
  };
  const emit = (node: Expr): void => {
    if (!varies.has(node) || done.has(node)) return;
    if (node.kind !== "binary" || (node.op !== "and" && node.op !== "or")) {
      for (const child of children(node)) emit(child);
      return write(node);
    }
    const [first, second] = missing(node.b).size < missing(node.a).size ? [node.b, node.a] : [node.a, node.b];
    emit(first);
    // What others use as well is not skipped: a part stays inside if all its users do.
    const inside = missing(second);
    for (let changed = true; changed;) {
      changed = false;
      for (const part of inside) {
        if (users.get(part)!.every((user) => user === node || inside.has(user))) continue;
        inside.delete(part);
        changed = true;
      }
    }
    for (const part of missing(second)) if (!inside.has(part)) emit(part);
    const skip = words.length;
    put(node.op === "and" ? SKIP_IF_NEVER : SKIP_IF_ALWAYS, at.get(node)!, at.get(first)!);
    emit(second);
    write(node);
    words[skip + 3] = words.length;
  };
  if (order.length <= mostNodes && order.length > 0) emit(order.at(-1)!);
  else order.forEach(write);

  const code = Int32Array.from(words), end = code.length;
  return () => {
    for (let pc = 0; pc < end; pc += instructionWords) {
      const o = code[pc + 1]!, a = code[pc + 2]!, b = code[pc + 3]!;
      switch (code[pc]) {
        case CALL:
          calls[a]!();
          break;
        case INDEX:
          v[o + LO] = v[a]!; v[o + HI] = v[a + 1]!;
          v[o + AQ] = 0; v[o + AK] = 0; v[o + RLO] = 0; v[o + RHI] = 0;
          v[o + b] = 1;
          break;
        case ADD:
        case SUB: {
          // Without a call, which would box each number: the commonest case, where nothing can wrap and the line stays exact.
          const minus = code[pc] === SUB, sign = minus ? -1 : 1;
          const aq = v[a + AQ]! + sign * v[b + AQ]!, ak = v[a + AK]! + sign * v[b + AK]!;
          const rlo = v[a + RLO]! + (minus ? -v[b + RHI]! : v[b + RLO]!), rhi = v[a + RHI]! + (minus ? -v[b + RLO]! : v[b + RHI]!);
          const lo = Math.max(v[a + LO]! + (minus ? -v[b + HI]! : v[b + LO]!), rlo + (aq > 0 ? aq * v[0]! : aq * v[1]!) + (ak > 0 ? ak * v[2]! : ak * v[3]!));
          const hi = Math.min(v[a + HI]! + (minus ? -v[b + LO]! : v[b + HI]!), rhi + (aq > 0 ? aq * v[1]! : aq * v[0]!) + (ak > 0 ? ak * v[3]! : ak * v[2]!));
          if (!(lo > -exactI32 && hi < exactI32 && Math.abs(aq) <= maxCoefficient && Math.abs(ak) <= maxCoefficient && rlo >= -maxRest && rhi <= maxRest)) {
            (minus ? subtractCells : addCells)(v, o, a, b);
            break;
          }
          v[o + LO] = lo; v[o + HI] = hi;
          v[o + AQ] = aq; v[o + AK] = ak; v[o + RLO] = rlo; v[o + RHI] = rhi;
          v[o + NAN] = 0; v[o + INT] = 1;
          break;
        }
        case LT:
        case LE:
        case EQ:
        case NE: {
          // Bounds of a - b: by the two ranges, and by the two lines where that leaves the sign open.
          let lo = v[a + LO]! - v[b + HI]!, hi = v[a + HI]! - v[b + LO]!;
          if (lo <= 0 && hi >= 0 && code[pc + 4] === 0) {
            const aq = v[a + AQ]! - v[b + AQ]!, ak = v[a + AK]! - v[b + AK]!;
            lo = Math.max(lo, v[a + RLO]! - v[b + RHI]! + (aq > 0 ? aq * v[0]! : aq * v[1]!) + (ak > 0 ? ak * v[2]! : ak * v[3]!));
            hi = Math.min(hi, v[a + RHI]! - v[b + RLO]! + (aq > 0 ? aq * v[1]! : aq * v[0]!) + (ak > 0 ? ak * v[3]! : ak * v[2]!));
          }
          let yes: boolean, no: boolean;
          switch (code[pc]) {
            case LT: yes = hi < 0; no = lo >= 0; break;
            case LE: yes = hi <= 0; no = lo > 0; break;
            case EQ: yes = lo === 0 && hi === 0; no = lo > 0 || hi < 0; break;
            default: yes = lo > 0 || hi < 0; no = lo === 0 && hi === 0;
          }
          setBool(v, o, yes ? 1 : 0, no ? 0 : 1);
          break;
        }
        case AND:
          setBool(v, o, Math.min(v[a + LO]!, v[b + LO]!), Math.min(v[a + HI]!, v[b + HI]!));
          break;
        case OR:
          setBool(v, o, Math.max(v[a + LO]!, v[b + LO]!), Math.max(v[a + HI]!, v[b + HI]!));
          break;
        case SKIP_IF_NEVER:
          if (v[a + HI] === 0) {
            setBool(v, o, 0, 0);
            pc = b - instructionWords;
          }
          break;
        case SKIP_IF_ALWAYS:
          if (v[a + LO] === 1) {
            setBool(v, o, 1, 1);
            pc = b - instructionWords;
          }
          break;
        case LOAD: {
          const from = v[a + LO]!, to = v[a + HI]!;
          const { stats, length } = slots[b]!;
          if (from < 0 || to >= length || stats.nan) {
            if (code[pc + 4]) setI32(v, o, -Infinity, Infinity);
            else setAnyF32(v, o);
            break;
          }
          stats.query(from, to);
          if (code[pc + 4]) setI32(v, o, stats.lo, stats.hi);
          else setInterval(v, o, Math.fround(stats.lo), Math.fround(stats.hi));
          break;
        }
      }
    }
  };
}

/** Where the ends of q and kv stand in the box, which is as in a cell; undefined for anything else. */
function placeOf(node: Expr): 0 | 2 | undefined {
  return node.kind !== "index" ? undefined : node.name === "q" ? 0 : node.name === "kv" ? 2 : undefined;
}

/** Whether of its operands that are q or kv a node needs no more than the ends: a load, and q against kv, whose line says nothing new. */
function readsEnds(node: Expr): boolean {
  if (node.kind === "load") return node.indices.length === 1;
  return node.kind === "binary" && node.op in compares && placeOf(node.a) !== undefined && placeOf(node.b) !== undefined && placeOf(node.a) !== placeOf(node.b);
}

/** A bool's cell: of the line only the rest, which is the range. */
function setBool(v: Float64Array, o: number, lo: number, hi: number): void {
  v[o + LO] = lo; v[o + HI] = hi;
  v[o + RLO] = lo; v[o + RHI] = hi;
}
