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
import { runWords, workHeaderWords, workItem, type AttentionPlan } from "../../ir/plan.ts";
import { block, branch, branchIf, call, comment, i32, loop, Module, when, type Local, type Node } from "./assembler.ts";
import { findKeys } from "./attention-keys.ts";
import { attentionArgs, scratchLayout } from "./attention-layout.ts";
import { finishRows, startRows } from "./attention-rows.ts";
import { addTile } from "./attention-tile.ts";
import { addReport } from "./expr.ts";
import { argument, forEachClaimed, kernel, scratchAddress } from "./kernel.ts";
import { MathLibrary } from "./math.ts";

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
          run.set(i32.add(run, 4 * runWords)),
          branch(nextRun),
        ])]),
        ...finishRows(plan, layout, math, report, { args, scratch, item, sequence, head, numRows, row, at, state }, local),
      ]),
    ];
  });
  return m;
}
