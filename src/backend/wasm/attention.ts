/**
 * The attention kernel: ragged, paged, block-sparse, online softmax; one module per plan, the mods written into it.
 *
 *   O = softmax(mask(scoreMod(scale * Q K^T))) V          one pass over the keys, no score matrix in memory
 *
 * A piece of work is (work item, kv head): the item's query rows times the query heads that share the kv head, so K and V are
 * read once for all of them. Keys come in blocks of kvTile. For each block, four rows at a time (then two, then one):
 *
 *   scores   s[row][key] = scale * q . k      four keys in the lanes, mods and mask applied to the lanes
 *   softmax  m' = max(m, max s)   p = exp(s - m')   l = l exp(m - m') + p   acc = acc exp(m - m')
 *   values   acc += p V                       head dim in the lanes, keys ascending
 *
 * With a weightMod p is its value, and softmax falls away. A sink is a first key without a value. Keys and values that are not f32 are
 * widened a block at a time, for all rows that share them.
 *
 * The bits of a row depend on that row alone. q . k adds four lanes (d mod 4), d ascending, then (l0 + l2) + (l1 + l3); blocks
 * start at multiples of kvTile in every sequence; a key that is masked adds an exact zero. So tiles, chunks and neighbours do not show.
 */
import { invariant } from "../../core/errors.ts";
import { runWords, workHeaderWords, workItem, type AttentionPlan, type KvFormat } from "../../ir/plan.ts";
import {
  block, branch, branchIf, call, comment, constant, f32, f32x4, forRange, i32, i32x4, i8x16, lanes, loop, Module, splat, v128, when,
  type Func, type Local, type Node, type Operand,
} from "./assembler.ts";
import { addReport, captureWords, type Columns, ExprEmitter, type EmitContext } from "./expr.ts";
import { argument, forEachClaimed, kernel, scratchAddress, type MakeLocal } from "./kernel.ts";
import { expOfNonPositive, MathLibrary } from "./math.ts";
import { least } from "./rows.ts";
import { isWidened, widenRow } from "./widen.ts";

/** Words of the argument block; the captures follow (expr.ts). Strides and `pageBytes` count bytes. */
export const attentionArgs = {
  work: 0,
  query: 1, querySequence: 2, queryRow: 3, queryHead: 4,
  out: 5, outSequence: 6, outRow: 7, outHead: 8,
  key: 9, keyPage: 10, keyToken: 11, keyHead: 12,
  value: 13, valuePage: 14, valueToken: 15, valueHead: 16,
  pageSize: 17, blockTable: 18, maxPagesPerSequence: 19,
  /** 0 where they are not wanted. */
  lse: 20, lseSequence: 21, maxScore: 22, maxScoreSequence: 23,
  /** f32 [numQueryHeads]; read where the plan's denominator is "sink". */
  sink: 24,
  /** Factors of quantised keys and values; read where the plan's formats have them. */
  keyScale: 25, keyScalePage: 26, keyScaleToken: 27, keyScaleHead: 28,
  valueScale: 29, valueScalePage: 30, valueScaleToken: 31, valueScaleHead: 32,
  captures: 33,
} as const;

/** Where a plan's scratch memory lies, in bytes from its start. */
export interface ScratchLayout {
  /** i32 [kvTile]: addresses of the block's K and V rows. */
  readonly keyAddress: number;
  readonly valueAddress: number;
  /** f32 [4, kvTile]: scores, then probabilities, of the rows at hand. */
  readonly scores: number;
  /** i32 [rows]: addresses of the item's query rows. */
  readonly queryAddress: number;
  /** f32 [kvTile, headDim rounded up to 4]: the block's keys and values widened, where they are not f32 in memory. */
  readonly keyTile: number;
  readonly valueTile: number;
  /** [rows] of state: acc f32 [headDimV rounded up to 4], l f32x4, m f32. */
  readonly state: number;
  readonly stateBytes: number;
  readonly bytes: number;
}

const up = (n: number, to: number): number => Math.ceil(n / to) * to;

export function scratchLayout(plan: AttentionPlan): ScratchLayout {
  const rows = plan.queryTile * (plan.numQueryHeads / plan.numKvHeads);
  const keyAddress = 0;
  const valueAddress = keyAddress + up(4 * plan.kvTile, 16);
  const scores = valueAddress + up(4 * plan.kvTile, 16);
  const queryAddress = scores + 4 * 4 * up(plan.kvTile, 4);
  const keyTile = queryAddress + up(4 * rows, 16);
  const valueTile = keyTile + (isWidened(plan.keyFormat) ? 4 * plan.kvTile * up(plan.headDimQk, 4) : 0);
  const state = valueTile + (isWidened(plan.valueFormat) ? 4 * plan.kvTile * up(plan.headDimV, 4) : 0);
  const stateBytes = 4 * up(plan.headDimV, 4) + 32;
  return { keyAddress, valueAddress, scores, queryAddress, keyTile, valueTile, state, stateBytes, bytes: state + rows * stateBytes };
}

/** The module of a plan; exports `attention`. */
export function attentionModule(plan: AttentionPlan): Module {
  const { kvTile, queryTile, headDimQk, headDimV, numQueryHeads, numKvHeads } = plan;
  const positive = [kvTile, queryTile, headDimQk, headDimV, numQueryHeads, numKvHeads].every((n) => Number.isInteger(n) && n > 0);
  // Four keys stand in the lanes, and a block's scores fill whole vectors.
  invariant(positive && kvTile % 4 === 0 && numQueryHeads % numKvHeads === 0,
    `an attention plan with kvTile ${kvTile}, queryTile ${queryTile}, heads ${numQueryHeads} over ${numKvHeads} of ${headDimQk} and ${headDimV}`);
  const m = new Module();
  const math = new MathLibrary(m);
  const report = addReport(m);
  const layout = scratchLayout(plan);
  const group = plan.numQueryHeads / plan.numKvHeads;
  const tiles = new Map([4, 2, 1].map((rows) => [rows, addTile(m, plan, layout, rows, math, report)]));

  kernel(m, "attention", (args, thread, local) => {
    const i = (name: string): Local => local("i32", name);
    const scratch = i("scratch"), work = i("work"), pieces = i("pieces"), piece = i("piece"), item = i("item"), head = i("head");
    const sequence = i("sequence"), numRows = i("numRows"), kvLength = i("kvLength"), run = i("run"), lastRun = i("lastRun");
    const blockIndex = i("block"), lastBlock = i("lastBlock"), partial = i("partial"), kv0 = i("kv0"), row = i("row"), at = i("at"), state = i("state");
    return [
      scratch.set(scratchAddress(thread)),
      work.set(argument(args, attentionArgs.work)),
      pieces.set(i32.mul(i32.load(work), plan.numKvHeads)),
      forEachClaimed(piece, pieces, [
        item.set(i32.add(work, i32.add(4 * workHeaderWords, i32.mul(i32.div_u(piece, plan.numKvHeads), 4 * workItem.words)))),
        head.set(i32.rem_u(piece, plan.numKvHeads)),
        sequence.set(i32.load(item, 4 * workItem.sequence)),
        kvLength.set(i32.load(item, 4 * workItem.kvLength)),
        numRows.set(i32.mul(i32.load(item, 4 * workItem.numRows), group)),
        comment("Row r of the piece is query row r / group, query head head * group + r % group."),
        ...startRows(plan, layout, { args, scratch, item, sequence, head, numRows }, local),
        run.set(i32.add(work, i32.add(i32.shl(i32.load(work, 4), 2), i32.mul(i32.load(item, 4 * workItem.firstRun), 4 * runWords)))),
        lastRun.set(i32.add(run, i32.mul(i32.load(item, 4 * workItem.numRuns), 4 * runWords))),
        block("runs_done", (done) => [loop("next_run", (nextRun) => [
          branchIf(done, i32.ge_u(run, lastRun)),
          blockIndex.set(i32.load(run)),
          partial.set(i32.and(i32.load(run, 4), 1)),
          lastBlock.set(i32.add(blockIndex, i32.shr_u(i32.load(run, 4), 1))),
          loop("next_block", (nextBlock) => [
            kv0.set(i32.mul(blockIndex, plan.kvTile)),
            ...findKeys(plan, layout, { args, scratch, sequence, head, kv0, kvLength }, local),
            row.set(0),
            ...[4, 2, 1].map((rows) => {
              const step: Node[] = [call(tiles.get(rows)!, args, scratch, item, head, row, kv0, kvLength, partial), row.set(i32.add(row, rows))];
              const enough = i32.ge_s(i32.sub(numRows, row), rows);
              return rows === 4
                ? block("fours_done", (foursDone) => [loop("next_four", (next) => [branchIf(foursDone, i32.eqz(enough)), ...step, branch(next)])])
                : when(enough, step);
            }),
            branchIf(nextBlock, i32.lt_s(blockIndex.tee(i32.add(blockIndex, 1)), lastBlock)),
          ]),
          run.set(i32.add(run, 4 * runWords)),
          branch(nextRun),
        ])]),
        ...finishRows(plan, layout, math, report, { args, scratch, item, sequence, head, numRows, row, at, state }, local),
      ]),
    ];
  });
  return m;
}

type Names<K extends string> = { readonly [name in K]: Local };

/** l and m at `at` before any key: 0 and -Infinity; with a sink, 1 and its logit, as if a key without a value had come first. */
function emptySum(plan: AttentionPlan, args: Local, head: Node, at: Local): Node[] {
  if (plan.denominator === undefined) return [v128.store(at, splat.f32(0)), f32.store(at, -Infinity, 16)];
  const logit = plan.denominator === "one" ? constant("f32", 0) : f32.load(i32.add(argument(args, attentionArgs.sink), i32.shl(head, 2)));
  return [v128.store(at, f32x4.replace_lane(splat.f32(0), 1, 0)), f32.store(at, logit, 16)];
}

/** Query addresses, and empty states: acc = 0, l and m as above. */
function startRows(plan: AttentionPlan, layout: ScratchLayout, c: Names<"args" | "scratch" | "item" | "sequence" | "head" | "numRows">, local: MakeLocal): Node[] {
  const group = plan.numQueryHeads / plan.numKvHeads;
  const r = local("i32", "startRow"), base = local("i32", "queryBase"), state = local("i32", "startState"), d = local("i32", "startAt");
  const accBytes = layout.stateBytes - 32;
  return [
    base.set(i32.add(argument(c.args, attentionArgs.query), i32.add(
      i32.mul(c.sequence, argument(c.args, attentionArgs.querySequence)),
      i32.add(i32.mul(i32.load(c.item, 4 * workItem.firstRow), argument(c.args, attentionArgs.queryRow)),
        i32.mul(i32.mul(c.head, group), argument(c.args, attentionArgs.queryHead)))))),
    state.set(i32.add(c.scratch, layout.state)),
    forRange(r, 0, c.numRows, 1, [
      i32.store(i32.add(c.scratch, i32.shl(r, 2)),
        i32.add(base, i32.add(i32.mul(i32.div_u(r, group), argument(c.args, attentionArgs.queryRow)), i32.mul(i32.rem_u(r, group), argument(c.args, attentionArgs.queryHead)))),
        layout.queryAddress),
      d.set(i32.add(state, accBytes)),
      ...emptySum(plan, c.args, i32.add(i32.mul(c.head, group), i32.rem_u(r, group)), d),
      loop("clear", (again) => [v128.store(d.tee(i32.sub(d, 16)), splat.f32(0)), branchIf(again, i32.gt_u(d, state))]),
      state.set(i32.add(state, layout.stateBytes)),
    ]),
  ];
}

/** Addresses of the block's K and V rows through the block table. Past the end the last row stands in: its scores are masked. */
function findKeys(plan: AttentionPlan, layout: ScratchLayout, c: Names<"args" | "scratch" | "sequence" | "head" | "kv0" | "kvLength">, local: MakeLocal): Node[] {
  const i = (name: string): Local => local("i32", name);
  const pageSize = i("pageSize"), table = i("table"), page = i("page"), token = i("token"), j = i("key_j"), last = i("lastKey"), at = i("slotAt");
  const keyBase = i("keyBase"), valueBase = i("valueBase"), keyAddress = i("keyAddress"), valueAddress = i("valueAddress");
  const openPage = (): Node[] => [
    keyAddress.set(i32.add(keyBase, i32.add(i32.mul(i32.load(page), argument(c.args, attentionArgs.keyPage)), i32.mul(token, argument(c.args, attentionArgs.keyToken))))),
    valueAddress.set(i32.add(valueBase, i32.add(i32.mul(i32.load(page), argument(c.args, attentionArgs.valuePage)), i32.mul(token, argument(c.args, attentionArgs.valueToken))))),
  ];
  /** The row's address for the tile functions: itself where it is f32, else that of its widened copy. */
  const placeRow = (format: KvFormat | undefined, dim: number, tile: number, addresses: number, scale: number, address: Local): Node[] => {
    if (!isWidened(format)) return [i32.store(at, address, addresses)];
    const to = i("widened"), rowBytes = 4 * up(dim, 4);
    const factor = i32.add(i32.add(argument(c.args, scale), i32.mul(i32.load(page), argument(c.args, scale + 1))),
      i32.add(i32.mul(token, argument(c.args, scale + 2)), i32.mul(c.head, argument(c.args, scale + 3))));
    return [
      to.set(i32.add(i32.add(c.scratch, tile), i32.mul(least(j, last), rowBytes))),
      i32.store(at, to, addresses),
      when(i32.le_s(j, last), widenRow(local, format, dim, address, to, factor)),
    ];
  };
  return [
    pageSize.set(argument(c.args, attentionArgs.pageSize)),
    table.set(i32.add(argument(c.args, attentionArgs.blockTable), i32.shl(i32.mul(c.sequence, argument(c.args, attentionArgs.maxPagesPerSequence)), 2))),
    keyBase.set(i32.add(argument(c.args, attentionArgs.key), i32.mul(c.head, argument(c.args, attentionArgs.keyHead)))),
    valueBase.set(i32.add(argument(c.args, attentionArgs.value), i32.mul(c.head, argument(c.args, attentionArgs.valueHead)))),
    last.set(i32.sub(i32.sub(c.kvLength, c.kv0), 1)),
    page.set(i32.add(table, i32.shl(i32.div_u(c.kv0, pageSize), 2))),
    token.set(i32.rem_u(c.kv0, pageSize)),
    ...openPage(),
    forRange(j, 0, plan.kvTile, 1, [
      at.set(i32.add(c.scratch, i32.shl(j, 2))),
      ...placeRow(plan.keyFormat, plan.headDimQk, layout.keyTile, layout.keyAddress, attentionArgs.keyScale, keyAddress),
      ...placeRow(plan.valueFormat, plan.headDimV, layout.valueTile, layout.valueAddress, attentionArgs.valueScale, valueAddress),
      when(i32.lt_s(j, last), [
        when(i32.lt_u(token.tee(i32.add(token, 1)), pageSize), [
          keyAddress.set(i32.add(keyAddress, argument(c.args, attentionArgs.keyToken))),
          valueAddress.set(i32.add(valueAddress, argument(c.args, attentionArgs.valueToken))),
        ], [token.set(0), page.set(i32.add(page, 4)), ...openPage()]),
      ]),
    ]),
  ];
}

/** out = acc / l, or 0 for a row with no key, then the output mod; lse = m + ln l. Under a weightMod acc is the output. */
function finishRows(
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
    c.row.set(0),
    c.state.set(i32.add(c.scratch, layout.state)),
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

/** One block of keys for `rows` consecutive rows. */
function addTile(m: Module, plan: AttentionPlan, layout: ScratchLayout, rows: number, math: MathLibrary, report: Func): Func {
  const group = plan.numQueryHeads / plan.numKvHeads;
  const each = Array.from({ length: rows }, (_, r) => r);
  const params = { args: "i32", scratch: "i32", item: "i32", head: "i32", row: "i32", kv0: "i32", kvLength: "i32", partial: "i32" } as const;
  return m.func(`tile${rows}`, params, "none", (p, local) => {
    const vectors = (name: string): Local[] => each.map((r) => local("v128", `${name}${r}`));
    const query = each.map((r) => local("i32", `query${r}`)), state = each.map((r) => local("i32", `state${r}`)), score = vectors("score"), max = vectors("max");
    const q = vectors("q"), h = vectors("h"), b = local("v128", "b"), kv = local("v128", "kv"), valid = local("v128", "valid"), live = vectors("allowed");
    const j = local("i32", "j"), at = local("i32", "at"), isTail = local("i32", "isTail");
    const context: EmitContext = { local, math, report, args: p.args, captures: plan.captures, captureAt: captureWords(plan.captures, attentionArgs.captures).at };

    const keyCode: Node[] = [], hoisted: Node[] = [];
    const columns = (): Columns | undefined => rows === 1 ? undefined
      : { emitter: new ExprEmitter(context, { b, h: h[0]!, q: q[0]! }, kv, score[0]!), live: valid, oneHead: group === 1 };
    const maskColumns = columns(), scoreColumns = columns();
    for (const r of each) {
      const indices = { b, h: h[r]!, q: q[r]! };
      keyCode.push(live[r]!.set(valid));
      if (plan.maskMod) {
        const mask = new ExprEmitter(context, indices, kv, score[r]!, maskColumns);
        const allowed = mask.value(plan.maskMod, valid);
        keyCode.push(when(p.partial, [...mask.take(), live[r]!.set(v128.and(valid, allowed))]));
        hoisted.push(...mask.hoisted);
      }
      if (plan.scoreMod.kind !== "score") {
        const mod = new ExprEmitter(context, indices, kv, score[r]!, scoreColumns);
        const value = mod.value(plan.scoreMod, live[r]!);
        keyCode.push(...mod.take(), score[r]!.set(value));
        hoisted.push(...mod.hoisted);
      }
      if (plan.weightMod) {
        const mod = new ExprEmitter(context, indices, kv, score[r]!, scoreColumns);
        const weight = mod.value(plan.weightMod, live[r]!);
        keyCode.push(...mod.take(), score[r]!.set(v128.and(weight, live[r]!)));
        hoisted.push(...mod.hoisted);
      } else {
        keyCode.push(score[r]!.set(v128.bitselect(score[r]!, splat.f32(-Infinity), live[r]!)), max[r]!.set(f32x4.pmax(max[r]!, score[r]!)));
      }
      keyCode.push(v128.store(at, score[r]!, layout.scores + 4 * plan.kvTile * r));
    }
    const ofColumns = maskColumns?.emitter.take() ?? [];
    keyCode.unshift(...(ofColumns.length > 0 ? [when(p.partial, ofColumns)] : []), ...(scoreColumns?.emitter.take() ?? []));
    hoisted.unshift(...(maskColumns?.emitter.hoisted ?? []), ...(scoreColumns?.emitter.hoisted ?? []));
    return [
      ...each.flatMap((r) => [
        query[r]!.set(i32.load(i32.add(p.scratch, i32.shl(i32.add(p.row, r), 2)), layout.queryAddress)),
        state[r]!.set(i32.add(i32.add(p.scratch, layout.state), i32.mul(i32.add(p.row, r), layout.stateBytes))),
        q[r]!.set(i32x4.splat(i32.add(i32.load(p.item, 4 * workItem.firstPosition), i32.div_u(i32.add(p.row, r), group)))),
        h[r]!.set(i32x4.splat(i32.add(i32.mul(p.head, group), i32.rem_u(i32.add(p.row, r), group)))),
        max[r]!.set(splat.f32(plan.weightMod ? 1 : -Infinity)),
      ]),
      b.set(i32x4.splat(i32.load(p.item, 4 * workItem.sequence))),
      ...hoisted,
      comment("Scores, four keys at a time."),
      forRange(j, 0, plan.kvTile, 4, [
        at.set(i32.add(p.scratch, i32.shl(j, 2))),
        ...dotProducts(plan, layout, query, score, at, local),
        kv.set(i32x4.add(i32x4.splat(i32.add(p.kv0, j)), lanes(0, 1, 2, 3))),
        valid.set(i32x4.lt_s(kv, i32x4.splat(p.kvLength))),
        ...keyCode,
      ]),
      ...(plan.weightMod ? [] : [comment("Online softmax."), ...softmax(plan, layout, p.scratch, state, max, local)]),
      comment("Values, keys ascending."),
      isTail.set(i32.select(i32.sub(p.kvLength, p.kv0), plan.kvTile, i32.lt_s(i32.sub(p.kvLength, p.kv0), plan.kvTile))),
      ...accumulate(plan, layout, p.scratch, state, max, isTail, local),
    ];
  }, { internal: true });
}

/** score[r] = scale * (query r . the four keys whose addresses stand at `at`) */
function dotProducts(plan: AttentionPlan, layout: ScratchLayout, query: readonly Local[], score: readonly Local[], at: Local, local: MakeLocal): Node[] {
  const rows = query.length;
  // Four rows by four keys would need 16 accumulators of the 16 vector registers: then two keys at a time.
  const keysAtOnce = rows === 4 ? 2 : 4;
  const d = local("i32", "dotAt"), key = [0, 1, 2, 3].map((k) => local("i32", `key${k}`));
  const sums = query.map((_, r) => [0, 1, 2, 3].map((k) => local("v128", `dot${r}${k}`)));
  const x = query.map((_, r) => local("v128", `x${r}`)), k128 = local("v128", "k");
  const whole = plan.headDimQk & ~3;
  const unroll = [4, 2, 1].find((u) => (whole / 4) % u === 0)!;
  const step = (keys: readonly number[], load: (address: Operand, offset: number) => Node, offset: number): Node[] => [
    ...query.map((address, r) => x[r]!.set(load(i32.add(address, d), offset))),
    ...keys.flatMap((k) => [
      k128.set(load(i32.add(key[k]!, d), offset)),
      ...query.map((_, r) => sums[r]![k]!.set(f32x4.relaxed_madd(x[r]!, k128, sums[r]![k]!))),
    ]),
  ];
  const code: Node[] = key.map((k, n) => k.set(i32.load(at, layout.keyAddress + 4 * n)));
  for (let first = 0; first < 4; first += keysAtOnce) {
    const keys = Array.from({ length: keysAtOnce }, (_, n) => first + n);
    code.push(...keys.flatMap((k) => sums.map((s) => s[k]!.set(splat.f32(0)))));
    if (whole > 0) code.push(forRange(d, 0, 4 * whole, 16 * unroll, Array.from({ length: unroll }, (_, u) => step(keys, v128.load, 16 * u)).flat()));
    else code.push(d.set(0));
    // After the loop d stands at its end: the rest of the head, one element at a time into lane 0.
    for (let rest = 0; rest < plan.headDimQk - whole; rest++) code.push(...step(keys, v128.load32_zero, 4 * rest));
  }
  const pick = (a: Node | Local, c: Node | Local, from: readonly [number, number, number, number]): Node => i8x16.shuffle(a, c, from.flatMap((word) => [0, 1, 2, 3].map((byte) => 4 * word + byte)));
  sums.forEach((s, r) => {
    // [a0+a2, b0+b2, a1+a3, b1+b3], the same of c and d, then the two halves added: lane k is the sum for key k.
    const pair = (a: Local, c: Local): Node => f32x4.add(pick(a, c, [0, 4, 1, 5]), pick(a, c, [2, 6, 3, 7]));
    code.push(s[0]!.set(pair(s[0]!, s[1]!)), s[2]!.set(pair(s[2]!, s[3]!)));
    code.push(score[r]!.set(f32x4.mul(f32x4.add(pick(s[0]!, s[2]!, [0, 1, 4, 5]), pick(s[0]!, s[2]!, [2, 3, 6, 7])), splat.f32(plan.scale))));
  });
  return code;
}

/** Turns the scores in scratch into probabilities; leaves in `factor` (the maxima's locals) what the old sums are multiplied by. */
function softmax(plan: AttentionPlan, layout: ScratchLayout, scratch: Local, state: readonly Local[], factor: readonly Local[], local: MakeLocal): Node[] {
  const top = local("v128", "top"), old = local("v128", "old"), base = local("v128", "base"), sum = local("v128", "sum"), p = local("v128", "p"), j = local("i32", "softmaxAt"), at = local("i32", "scoreAt");
  const accBytes = layout.stateBytes - 32;
  const swap = (v: Local, order: readonly [number, number, number, number]): Node => i8x16.shuffle(v, v, order.flatMap((word) => [0, 1, 2, 3].map((byte) => 4 * word + byte)));
  return state.flatMap((s, r) => [
    old.set(v128.load32_splat(s, accBytes + 16)),
    top.set(f32x4.pmax(factor[r]!, old)),
    top.set(f32x4.pmax(top, swap(top, [2, 3, 0, 1]))),
    top.set(f32x4.pmax(top, swap(top, [1, 0, 3, 2]))),
    v128.store32_lane(s, top, 0, accBytes + 16),
    comment("A row without a key so far: -Infinity - -Infinity would be NaN."),
    base.set(v128.andnot(top, f32x4.eq(top, splat.f32(-Infinity)))),
    p.set(f32x4.sub(old, base)),
    ...expOfNonPositive(local, p, factor[r]!),
    sum.set(f32x4.mul(v128.load(s, accBytes), factor[r]!)),
    forRange(j, 0, 4 * plan.kvTile, 16, [
      at.set(i32.add(scratch, j)),
      p.set(f32x4.sub(v128.load(at, layout.scores + 4 * plan.kvTile * r), base)),
      ...expOfNonPositive(local, p, p),
      v128.store(at, p, layout.scores + 4 * plan.kvTile * r),
      sum.set(f32x4.add(sum, p)),
    ]),
    v128.store(s, sum, accBytes),
  ]);
}

/**
 * acc[r] = acc[r] * factor[r] + sum over the first `count` keys of p[r][key] * V[key].
 * Eight accumulators at a time, rows times vectors of the head: enough to hide the latency of a multiply-add, few enough for registers.
 */
function accumulate(plan: AttentionPlan, layout: ScratchLayout, scratch: Local, state: readonly Local[], factor: readonly Local[], count: Local, local: MakeLocal): Node[] {
  const most = 8 / state.length;
  const d = local("i32", "valueAt"), at = local("i32", "keyAt"), end = local("i32", "keysEnd"), row = local("i32", "valueRow"), p = local("v128", "weight");
  const parts = Array.from({ length: most }, (_, part) => part);
  const acc = state.map((_, r) => parts.map((part) => local("v128", `acc${r}${part}`))), value = parts.map((part) => local("v128", `value${part}`));
  const overKeys = (vectors: number, load: (part: number) => Node): Node[] => {
    const used = parts.slice(0, vectors);
    return [
      ...state.flatMap((s, r) => used.map((part) => acc[r]![part]!.set(f32x4.mul(v128.load(i32.add(s, d), 16 * part), factor[r]!)))),
      at.set(scratch),
      loop("next_key", (next) => [
        row.set(i32.add(i32.load(at, layout.valueAddress), d)),
        ...used.map((part) => value[part]!.set(load(part))),
        ...state.flatMap((_, r) => [
          p.set(v128.load32_splat(at, layout.scores + 4 * plan.kvTile * r)),
          ...used.map((part) => acc[r]![part]!.set(f32x4.relaxed_madd(p, value[part]!, acc[r]![part]!))),
        ]),
        branchIf(next, i32.lt_u(at.tee(i32.add(at, 4)), end)),
      ]),
      ...state.flatMap((s, r) => used.map((part) => v128.store(i32.add(s, d), acc[r]![part]!, 16 * part))),
    ];
  };
  const whole = Math.floor(plan.headDimV / (4 * most)) * 16 * most;
  const rest = Math.floor(plan.headDimV / 4) % most, lanesLeft = plan.headDimV % 4;
  const code: Node[] = [end.set(i32.add(scratch, i32.shl(count, 2)))];
  if (whole > 0) code.push(forRange(d, 0, whole, 16 * most, overKeys(most, (part) => v128.load(row, 16 * part))));
  if (rest > 0) code.push(d.set(whole), ...overKeys(rest, (part) => v128.load(row, 16 * part)));
  if (lanesLeft > 0) {
    // The last one to three elements, without reading past the row's end.
    const partial = [1, 2].filter((lane) => lane < lanesLeft).reduce<Node>((v, lane) => v128.load32_lane(row, v, lane, 4 * lane), v128.load32_zero(row));
    code.push(d.set(whole + 16 * rest), ...overKeys(1, () => partial));
  }
  return code;
}
