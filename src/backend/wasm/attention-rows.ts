/** The rows of a piece of attention: their addresses and empty states before the first key, and what is written after the last. */
import { workItem, type AttentionPlan } from "../../ir/plan.ts";
import {
  call, comment, constant, f32, f32x4, forRange, i32, i32x4, lanes, splat, v128, when, type Func, type Local, type Module, type Node, type Operand,
} from "./assembler.ts";
import { attentionArgs, type Names, type ScratchLayout } from "./attention-layout.ts";
import { captureWords, ExprEmitter, type EmitContext } from "./expr.ts";
import { argument, type MakeLocal } from "./kernel.ts";
import { expOfNonPositive, type MathLibrary } from "./math.ts";

/** Addresses of the piece's query rows. */
export function findRows(plan: AttentionPlan, layout: ScratchLayout, c: Names<"args" | "scratch" | "item" | "sequence" | "head" | "numRows">, local: MakeLocal): Node[] {
  const group = plan.numQueryHeads / plan.numKvHeads;
  const r = local("i32", "startRow"), base = local("i32", "queryBase");
  return [
    base.set(i32.add(argument(c.args, attentionArgs.query), i32.add(
      i32.mul(c.sequence, argument(c.args, attentionArgs.querySequence)),
      i32.add(i32.mul(i32.load(c.item, 4 * workItem.firstRow), argument(c.args, attentionArgs.queryRow)),
        i32.mul(i32.mul(c.head, group), argument(c.args, attentionArgs.queryHead)))))),
    forRange(r, 0, c.numRows, 1, [
      i32.store(i32.add(c.scratch, i32.shl(r, 2)),
        i32.add(base, i32.add(i32.mul(i32.div_u(r, group), argument(c.args, attentionArgs.queryRow)), i32.mul(i32.rem_u(r, group), argument(c.args, attentionArgs.queryHead)))),
        layout.queryAddress),
    ]),
  ];
}

/** States of rows, one behind the other: acc, l and m. All are functions (rows at `to`, `numRows` of them). */
export interface States {
  /** No key yet: acc = 0, l = 0, m = -Infinity. */
  readonly empty: Func;
  /** (to, from, numRows) */
  readonly copy: Func;
  /** (to, from, numRows): the keys of `from` join those of `to`. A row without keys on one side is the other's, bit by bit. */
  readonly merge: Func;
}

export function addStates(m: Module, plan: AttentionPlan, layout: ScratchLayout): States {
  const { stateBytes } = layout, accBytes = stateBytes - 32;
  const empty = m.func("emptyStates", { to: "i32", numRows: "i32" }, "none", ({ to, numRows }, local) => {
    const at = local("i32", "at"), end = local("i32", "end");
    return [
      end.set(i32.add(to, i32.mul(numRows, stateBytes))),
      forRange(at, to, end, 16, [v128.store(at, splat.f32(0))]),
      forRange(at, to, end, stateBytes, [f32.store(at, -Infinity, accBytes + 16)]),
    ];
  }, { internal: true });
  const copy = m.func("copyStates", { to: "i32", from: "i32", numRows: "i32" }, "none", ({ to, from, numRows }, local) => {
    const at = local("i32", "at"), end = local("i32", "end");
    return [end.set(i32.mul(numRows, stateBytes)), forRange(at, 0, end, 16, [v128.store(i32.add(to, at), v128.load(i32.add(from, at)))])];
  }, { internal: true });
  const merge = m.func("mergeStates", { to: "i32", from: "i32", numRows: "i32" }, "none", ({ to, from, numRows }, local) => {
    const row = local("i32", "row"), at = local("i32", "at"), mine = local("f32", "mine"), theirs = local("f32", "theirs"), top = local("v128", "top");
    const x = local("v128", "x"), keep = local("v128", "keep"), add = local("v128", "add");
    const next = [to.set(i32.add(to, stateBytes)), from.set(i32.add(from, stateBytes))];
    if (plan.weightMod) {
      return [forRange(row, 0, numRows, 1, [forRange(at, 0, accBytes, 16, [v128.store(i32.add(to, at), f32x4.add(v128.load(i32.add(to, at)), v128.load(i32.add(from, at))))]), ...next])];
    }
    return [
      forRange(row, 0, numRows, 1, [
        mine.set(f32.load(to, accBytes + 16)),
        theirs.set(f32.load(from, accBytes + 16)),
        when(f32.ne(theirs, -Infinity), [when(f32.eq(mine, -Infinity), [call(copy, to, from, 1)], [
          comment("m' = max(m, m2)   acc = acc exp(m - m') + acc2 exp(m2 - m')   and so l, which stands behind acc"),
          top.set(f32x4.pmax(f32x4.splat(mine), f32x4.splat(theirs))),
          x.set(f32x4.sub(f32x4.splat(mine), top)),
          ...expOfNonPositive(local, x, keep),
          x.set(f32x4.sub(f32x4.splat(theirs), top)),
          ...expOfNonPositive(local, x, add),
          forRange(at, 0, accBytes + 16, 16, [
            v128.store(i32.add(to, at), f32x4.relaxed_madd(v128.load(i32.add(from, at)), add, f32x4.mul(v128.load(i32.add(to, at)), keep))),
          ]),
          v128.store32_lane(to, top, 0, accBytes + 16),
        ])]),
        ...next,
      ]),
    ];
  }, { internal: true });
  return { empty, copy, merge };
}

/** A sink is a first key without a value, before all segments: l = 1 and m its logit. */
export function startWithSink(plan: AttentionPlan, layout: ScratchLayout, c: Names<"args" | "head" | "numRows">, total: Local, local: MakeLocal): Node[] {
  const group = plan.numQueryHeads / plan.numKvHeads, accBytes = layout.stateBytes - 32;
  const r = local("i32", "sinkRow"), at = local("i32", "sinkAt");
  const head = i32.add(i32.mul(c.head, group), i32.rem_u(r, group));
  const logit = plan.denominator === "one" ? constant("f32", 0) : f32.load(i32.add(argument(c.args, attentionArgs.sink), i32.shl(head, 2)));
  return [
    at.set(total),
    forRange(r, 0, c.numRows, 1, [v128.store(at, f32x4.replace_lane(splat.f32(0), 1, 0), accBytes), f32.store(at, logit, accBytes + 16), at.set(i32.add(at, layout.stateBytes))]),
  ];
}

/** From the states at `state`, which moves on: out = acc / l, or 0 for a row with no key, then the output mod; lse = m + ln l. Under a weightMod acc is the output. */
export function finishRows(
  plan: AttentionPlan, layout: ScratchLayout, math: MathLibrary, report: Func,
  c: Names<"args" | "scratch" | "item" | "sequence" | "head" | "numRows" | "row" | "at" | "state">, local: MakeLocal,
): Node[] {
  const group = plan.numQueryHeads / plan.numKvHeads;
  const accBytes = layout.stateBytes - 32;
  const l = local("v128", "l"), sum = local("f32", "sum"), d = local("i32", "d"), whole = 4 * (plan.headDimV & ~3), lanesLeft = plan.headDimV & 3;
  const m = local("f32", "m"), queryRow = local("i32", "queryRow"), head = local("i32", "queryHead"), to = local("i32", "statisticAt");
  const element = local("v128", "element");
  const mod = outputCode(plan, math, report, { ...c, queryHead: head }, local);
  const finished = (offset: Operand): Node[] => [
    element.set(plan.weightMod ? v128.load(i32.add(c.state, offset)) : f32x4.div(v128.load(i32.add(c.state, offset)), l)),
    ...mod.of(element, offset),
  ];
  const statistic = (word: number, value: Node): Node[] => [
    to.set(argument(c.args, word)),
    when(to, [f32.store(i32.add(to, i32.add(i32.mul(c.sequence, argument(c.args, word + 1)), i32.shl(i32.add(i32.mul(queryRow, plan.numQueryHeads), head), 2))), value)]),
  ];
  const elements = [
    ...(whole > 0 ? [forRange(d, 0, whole, 16, [...finished(d), v128.store(i32.add(c.at, d), element)])] : []),
    ...(lanesLeft > 0 ? [d.set(whole), ...finished(d), ...Array.from({ length: lanesLeft }, (_, lane) => v128.store32_lane(c.at, element, lane, whole + 4 * lane))] : []),
  ];
  return [
    forRange(c.row, 0, c.numRows, 1, [
      queryRow.set(i32.add(i32.load(c.item, 4 * workItem.firstRow), i32.div_u(c.row, group))),
      head.set(i32.add(i32.mul(c.head, group), i32.rem_u(c.row, group))),
      ...(plan.weightMod ? [] : [
        l.set(v128.load(c.state, accBytes)),
        sum.set(f32.add(f32.add(f32x4.extract_lane(l, 0), f32x4.extract_lane(l, 2)), f32.add(f32x4.extract_lane(l, 1), f32x4.extract_lane(l, 3)))),
        m.set(f32.load(c.state, accBytes + 16)),
        comment("Without keys acc is 0: dividing by 1 leaves it so."),
        l.set(f32x4.splat(f32.select(1, sum, f32.eq(sum, 0)))),
      ]),
      c.at.set(i32.add(argument(c.args, attentionArgs.out), i32.add(i32.mul(c.sequence, argument(c.args, attentionArgs.outSequence)),
        i32.add(i32.mul(queryRow, argument(c.args, attentionArgs.outRow)), i32.mul(head, argument(c.args, attentionArgs.outHead)))))),
      ...mod.once(),
      ...elements,
      ...(plan.weightMod ? [] : [
        ...statistic(attentionArgs.lse, f32.add(m, f32x4.extract_lane(math.log(l), 0))),
        ...statistic(attentionArgs.maxScore, m.get),
      ]),
      c.state.set(i32.add(c.state, layout.stateBytes)),
    ]),
  ];
}

/**
 * The output mod's code: `of` for four elements at byte offset `offset` of the head; `once`, asked for after it, for what a row
 * computes once.
 */
function outputCode(
  plan: AttentionPlan, math: MathLibrary, report: Func, c: Names<"args" | "item" | "sequence" | "row" | "queryHead">, local: MakeLocal,
): { once(): readonly Node[]; of(element: Local, offset: Operand): readonly Node[] } {
  const { outputMod } = plan;
  if (!outputMod) return { once: () => [], of: () => [] };
  const group = plan.numQueryHeads / plan.numKvHeads;
  const b = local("v128", "b"), h = local("v128", "h"), q = local("v128", "q"), place = local("v128", "place"), live = local("v128", "live"), element = local("v128", "value");
  const context: EmitContext = { local, math, report, args: c.args, captures: plan.captures, captureAt: captureWords(plan.captures, attentionArgs.captures).at };
  const hoisted: Node[] = [];
  const of = (target: Local, offset: Operand): Node[] => {
    const emitter = new ExprEmitter(context, { b, h, q }, place, element);
    const value = emitter.value(outputMod, live);
    hoisted.push(...emitter.hoisted);
    return [
      element.set(target),
      place.set(i32x4.add(i32x4.splat(i32.shr_u(offset, 2)), lanes(0, 1, 2, 3))),
      live.set(i32x4.lt_s(place, splat.i32(plan.headDimV))),
      ...emitter.take(),
      target.set(value),
    ];
  };
  const indices = [
    b.set(i32x4.splat(c.sequence)),
    h.set(i32x4.splat(c.queryHead)),
    q.set(i32x4.splat(i32.add(i32.load(c.item, 4 * workItem.firstPosition), i32.div_u(c.row, group)))),
  ];
  return { once: () => [...indices, ...hoisted], of };
}
