/**
 * The attention kernel: ragged, paged, block-sparse, online softmax; one module per plan, the mods written into it.
 *
 *   O = softmax(mask(scoreMod(scale * Q K^T))) V          one pass over the keys, no score matrix in memory
 *
 * A piece of work is (work item, kv head): the item's query rows times the query heads that share the kv head, so K and V are
 * read once for all of them. Where that makes too few pieces for the threads, each segment of keys is one, and whoever ends last joins them.
 * Keys come in blocks of kvTile. For each block, four rows at a time (then two, then one):
 *
 *   scores   s[row][key] = scale * q . k      four keys in the lanes, mods and mask applied to the lanes
 *   softmax  m' = max(m, max s)   p = exp(s - m')   l = l exp(m - m') + p   acc = acc exp(m - m')
 *   values   acc += p V                       head dim in the lanes, keys ascending
 *
 * With a weightMod p is its value, and softmax falls away. A sink is a first key without a value. Keys and values that are not f32 are
 * widened in registers (bf16), or a block at a time for all rows that share them.
 *
 * The bits of a row depend on that row alone. q . k adds four lanes (d mod 4), d ascending, then (l0 + l2) + (l1 + l3); blocks
 * start at multiples of kvTile in every sequence, segments of them have sums of their own that join in order; a key that is masked adds
 * an exact zero. So tiles, chunks and neighbours do not show.
 */
import { invariant } from "../../core/errors.ts";
import { runWords, workHeaderWords, workItem, type AttentionPlan } from "../../ir/plan.ts";
import { block, branch, branchIf, call, comment, constant, forRange, i32, loop, Module, when, type Local, type Node } from "./assembler.ts";
import { findKeys } from "./attention-keys.ts";
import { attentionArgs, blocksPerSegment, type Names, type ScratchLayout, scratchLayout } from "./attention-layout.ts";
import { addStates, findRows, finishRows, startWithSink } from "./attention-rows.ts";
import { addTile } from "./attention-tile.ts";
import { addReport } from "./expr.ts";
import { argument, forEachClaimed, kernel, type MakeLocal, scratchAddress } from "./kernel.ts";
import { MathLibrary } from "./math.ts";
import { control } from "./memory.ts";
import { least, most } from "./rows.ts";

export { attentionArgs, scratchLayout } from "./attention-layout.ts";

/** The module of a plan; exports `attention`. */
export function attentionModule(plan: AttentionPlan): Module {
  const { kvTile, queryTile, headDimQk, headDimV, numQueryHeads, numKvHeads } = plan;
  const positive = [kvTile, queryTile, headDimQk, headDimV, numQueryHeads, numKvHeads].every((n) => Number.isInteger(n) && n > 0);
  // Four keys stand in the lanes, and a block's scores fill whole vectors.
  invariant(positive && kvTile % 4 === 0 && numQueryHeads % numKvHeads === 0,
    `an attention plan with kvTile ${kvTile}, queryTile ${queryTile}, heads ${numQueryHeads} over ${numKvHeads} of ${headDimQk} and ${headDimV}`);
  const m = new Module();
  const cache = m.memory("cache");
  const math = new MathLibrary(m);
  const report = addReport(m);
  const layout = scratchLayout(plan);
  const group = plan.numQueryHeads / plan.numKvHeads;
  const segmentBlocks = blocksPerSegment(plan), states = addStates(m, plan, layout);
  const tiles = new Map([4, 2, 1].map((rows) => [rows, addTile(m, plan, layout, rows, math, report)]));

  kernel(m, "attention", (args, thread, local) => {
    const i = (name: string): Local => local("i32", name);
    const scratch = i("scratch"), work = i("work"), pairs = i("pairs"), segments = i("segments"), pieces = i("pieces"), piece = i("piece"), pair = i("pair"), segment = i("segment");
    const item = i("item"), head = i("head"), sequence = i("sequence"), numRows = i("numRows"), kvLength = i("kvLength"), run = i("run"), lastRun = i("lastRun");
    const blockIndex = i("block"), lastBlock = i("lastBlock"), endBlock = i("endBlock"), segmentEnd = i("segmentEnd"), partial = i("partial"), kv0 = i("kv0");
    const row = i("row"), at = i("at"), state = i("state"), total = i("total"), merged = i("merged"), shared = i("shared"), from = i("from"), numSegments = i("numSegments");
    const sharedState = i("sharedStateBytes");

    /** The states of segments join in order; the first is taken as it is. */
    const join = (rows: Local): Node[] => [when(merged, [call(states.merge, total, rows, numRows)], [call(states.copy, total, rows, numRows)]), merged.set(1)];
    const startTotal: readonly Node[] = plan.denominator === undefined ? [merged.set(0)]
      : [call(states.empty, total, numRows), ...startWithSink(plan, layout, { args, head, numRows }, total, local), merged.set(1)];
    const nextSegment: Node[] = [
      comment("The first block of another segment: what was before it joins the total."),
      when(segmentEnd, [...join(state), call(states.empty, state, numRows)]),
      segmentEnd.set(i32.mul(i32.add(i32.div_u(blockIndex, segmentBlocks), 1), segmentBlocks)),
    ];
    return [
      scratch.set(scratchAddress(thread)),
      state.set(i32.add(scratch, layout.state)),
      work.set(argument(args, attentionArgs.work)),
      pairs.set(i32.mul(i32.load(work), plan.numKvHeads)),
      segments.set(1),
      comment("Too few pairs of item and head for so many threads: then each segment of keys is a piece of its own."),
      when(tooFewFor(pairs), shareSegments(layout, segmentBlocks * kvTile, { work, pairs, segments, shared, sharedState }, group, local)),
      pieces.set(i32.mul(pairs, segments)),
      forEachClaimed(piece, pieces, [block("piece_done", (done) => [
        pair.set(i32.div_u(piece, segments)),
        segment.set(i32.rem_u(piece, segments)),
        item.set(i32.add(work, i32.add(4 * workHeaderWords, i32.mul(i32.div_u(pair, plan.numKvHeads), 4 * workItem.words)))),
        head.set(i32.rem_u(pair, plan.numKvHeads)),
        sequence.set(i32.load(item, 4 * workItem.sequence)),
        kvLength.set(i32.load(item, 4 * workItem.kvLength)),
        numRows.set(i32.mul(i32.load(item, 4 * workItem.numRows), group)),
        total.set(i32.add(scratch, layout.total)),
        blockIndex.set(0),
        endBlock.set(0x7fffffff),
        when(i32.gt_u(segments, 1), [
          numSegments.set(i32.add(i32.div_u(i32.sub(i32.select(kvLength, 1, kvLength), 1), segmentBlocks * kvTile), 1)),
          branchIf(done, i32.ge_u(segment, numSegments)),
          endBlock.set(i32.mul(i32.add(segment, 1), segmentBlocks)),
        ]),
        comment("Row r of the piece is query row r / group, query head head * group + r % group."),
        ...findRows(plan, layout, { args, scratch, item, sequence, head, numRows }, local),
        call(states.empty, state, numRows),
        when(i32.eq(segments, 1), startTotal),
        segmentEnd.set(0),
        run.set(i32.add(work, i32.add(i32.shl(i32.load(work, 4), 2), i32.mul(i32.load(item, 4 * workItem.firstRun), 4 * runWords)))),
        lastRun.set(i32.add(run, i32.mul(i32.load(item, 4 * workItem.numRuns), 4 * runWords))),
        block("runs_done", (runsDone) => [loop("next_run", (nextRun) => [
          branchIf(runsDone, i32.ge_u(run, lastRun)),
          partial.set(i32.and(i32.load(run, 4), 1)),
          blockIndex.set(i32.load(run)),
          lastBlock.set(least(i32.add(blockIndex, i32.shr_u(i32.load(run, 4), 1)), endBlock)),
          when(i32.gt_u(segments, 1), [blockIndex.set(most(blockIndex, i32.sub(endBlock, segmentBlocks)))]),
          run.set(i32.add(run, 4 * runWords)),
          branchIf(nextRun, i32.ge_s(blockIndex, lastBlock)),
          loop("next_block", (nextBlock) => [
            when(i32.ge_s(blockIndex, segmentEnd), nextSegment),
            kv0.set(i32.mul(blockIndex, plan.kvTile)),
            ...findKeys(plan, cache, layout, { args, scratch, sequence, head, kv0, kvLength }, local),
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
          branch(nextRun),
        ])]),
        when(i32.eq(segments, 1), [when(merged, join(state), [total.set(state)])], [
          comment("Whoever ends the last segment of a pair merges them all."),
          from.set(i32.add(shared, i32.add(countersBytes(), i32.mul(i32.mul(pair, segments), sharedState)))),
          call(states.copy, i32.add(from, i32.mul(segment, sharedState)), state, numRows),
          at.set(i32.add(shared, i32.shl(pair, 2))),
          branchIf(done, i32.lt_s(i32.add(i32["atomic.rmw.add"](at, 1), 1), numSegments)),
          i32["atomic.store"](at, 0),
          ...startTotal,
          forRange(segment, 0, numSegments, 1, [...join(from), from.set(i32.add(from, sharedState))]),
        ]),
        ...finishRows(plan, layout, math, report, { args, scratch, item, sequence, head, numRows, row, at, state: total }, local),
      ])]),
    ];
  });
  return m;
}

const numThreads = (): Node => i32.load(constant("i32", 0), control.threads);
/** Threads that claim at least this many pieces each end at about the same time. */
const piecesPerThread = 4;
const tooFewFor = (pairs: Local): Node => i32.and(i32.gt_u(numThreads(), 1), i32.lt_u(pairs, i32.mul(numThreads(), piecesPerThread)));
/** The shared memory starts with a word for each pair: how many of its segments are done. */
const countersBytes = (): Node => i32.shl(numThreads(), Math.log2(4 * piecesPerThread));

/** Sets `segments` to how many the longest item has, if there is room in the shared memory for a state of all rows of each. */
function shareSegments(layout: ScratchLayout, segmentKeys: number, c: Names<"work" | "pairs" | "segments" | "shared" | "sharedState">, group: number, local: MakeLocal): Node[] {
  const item = local("i32", "eachItem"), end = local("i32", "itemsEnd"), keys = local("i32", "mostKeys"), rows = local("i32", "mostRows");
  return [
    item.set(i32.add(c.work, 4 * workHeaderWords)),
    end.set(i32.add(item, i32.mul(i32.load(c.work), 4 * workItem.words))),
    keys.set(1),
    rows.set(1),
    forRange(item, item, end, 4 * workItem.words, [
      keys.set(most(keys, i32.load(item, 4 * workItem.kvLength))),
      rows.set(most(rows, i32.load(item, 4 * workItem.numRows))),
    ]),
    c.shared.set(i32.load(constant("i32", 0), control.shared)),
    c.sharedState.set(i32.mul(rows, group * layout.stateBytes)),
    c.segments.set(i32.add(i32.div_u(i32.sub(keys, 1), segmentKeys), 1)),
    when(i32.gt_u(i32.mul(c.pairs, c.segments), i32.div_u(i32.sub(i32.load(constant("i32", 0), control.sharedBytes), countersBytes()), c.sharedState)), [c.segments.set(1)]),
  ];
}
