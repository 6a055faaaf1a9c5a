/**
 * The prefix of a row's order (larger logits first, equal ones by lowest id) that is kept: how it is cut shorter, and the token drawn of it.
 *
 * A prefix is a key and an offset, two words of the thread's scratch memory: all logits with a larger key, and of those with this one the ones up
 * to that offset. So what is kept up to the offset are logits from one bound on, and behind it from another: a walk compares once for four logits.
 */
import { greatestFloat32 } from "../../core/dtype.ts";
import { block, branch, branchIf, call, f32, f64, forRange, i32, i64, loop, when, type Func, type Local, type Module, type Node } from "./assembler.ts";
import { addBorders, type Borders, every, ranked, scratchAt, splitAt } from "./borders.ts";
import { type LogitRows, keyOf, logitOf } from "./logit-rows.ts";
import { addMassSum, massOctaves, massOfOne } from "./masses.ts";
import { least } from "./rows.ts";

/** Masses are added up by so many bytes of a row, and where the drawn token is, in halves of that. */
const tileBytes = 2048;

/** Functions over (row, bytes, scratch, largest: f64, rate: f64), the last two as in masses.ts. */
export interface Prefixes extends Borders {
  /** Keeps every logit that has a mass of at least (.., minMass: i64). */
  readonly start: Func;
  /** The offset of the kept logit at which the running sum of masses passes (.., uniform: f64) of all. */
  readonly draw: Func;
}

export function addPrefixes(m: Module, rows: LogitRows): Prefixes {
  const massSum = addMassSum(m, rows);
  return { start: addStart(m, massSum), ...addBorders(m, rows, massSum), draw: addDraw(m, addKeptMass(m, massSum)) };
}

/** (row, from, to, scratch, largest, rate): the masses of what is kept between two offsets. */
function addKeptMass(m: Module, massSum: Func): Func {
  return m.func("keptMass", { row: "i32", from: "i32", to: "i32", scratch: "i32", largest: "f64", rate: "f64" }, "i64", ({ row, from, to, scratch, largest, rate }, local) => {
    const key = local("i32", "key"), split = local("i32", "split"), sum = local("i64", "sum");
    return [
      key.set(i32.load(scratch, scratchAt.key)),
      split.set(splitAt(scratch, to)),
      when(i32.lt_s(from, split), [sum.set(call(massSum, row, from, split, logitOf(key), largest, rate)), from.set(split)]),
      key.set(i32.add(key, 1)),
      when(i32.lt_s(from, to), [sum.set(i64.add(sum, call(massSum, row, from, to, logitOf(key), largest, rate)))]),
      sum.get,
    ];
  }, { internal: true });
}

/** What has a mass is within so many octaves of the largest; where more is asked for, the least logit that has as much is sought between the two. */
function addStart(m: Module, massSum: Func): Func {
  return m.func("startPrefix", { ...ranked, minMass: "i64" }, "none", ({ scratch, largest, rate, minMass }, local) => {
    const low = local("i32", "low"), high = local("i32", "high"), middle = local("i32", "middle");
    const one = massOfOne(massSum, i32.add(scratch, scratchAt.one), logitOf(middle), largest, rate);
    return [
      low.set(keyOf(local, f32.max(f32.demote_f64(f64.sub(largest, f64.div(massOctaves, rate))), -greatestFloat32))),
      high.set(keyOf(local, f32.demote_f64(largest))),
      when(i64.gt_u(minMass, 1), [block("found", (found) => [loop("halve", (next) => [
        branchIf(found, i32.ge_u(low, high)),
        middle.set(i32.add(low, i32.shr_u(i32.sub(high, low), 1))),
        one.write,
        when(i64.ge_u(one.mass, minMass), [high.set(middle)], [low.set(i32.add(middle, 1))]),
        branch(next),
      ])])]),
      i32.store(scratch, low, scratchAt.key),
      i32.store(scratch, every, scratchAt.offset),
    ];
  }, { internal: true });
}

/** floor(fraction * 2^-53 * total), exactly, for a total below 2^63: 32 bits of each at a time. */
function addShare(m: Module): Func {
  return m.func("shareOf", { fraction: "i64", total: "i64" }, "i64", ({ fraction, total }, local) => {
    const low = (x: Local): Node => i64.and(x, 0xffffffff), high = (x: Local): Node => i64.shr_u(x, 32);
    const middle = local("i64", "middle");
    return [
      middle.set(i64.add(i64.add(i64.mul(high(fraction), low(total)), i64.mul(low(fraction), high(total))), i64.shr_u(i64.mul(low(fraction), low(total)), 32))),
      i64.add(i64.shl(i64.mul(high(fraction), high(total)), 11), i64.shr_u(middle, 21)),
    ];
  }, { internal: true });
}

/** Sums of tiles, then the tile, then halves of it. */
function addDraw(m: Module, keptMass: Func): Func {
  const share = addShare(m);
  return m.func("draw", { ...ranked, uniform: "f64" }, "i32", ({ row, bytes, scratch, largest, rate, uniform }, local) => {
    const i = (name: string): Local => local("i32", name), low = i("low"), high = i("high"), middle = i("middle"), tile = i("tile");
    const sum = local("i64", "sum"), total = local("i64", "total"), target = local("i64", "target");
    return [
      tile.set(i32.add(scratch, scratchAt.compact)),
      forRange(low, 0, bytes, tileBytes, [
        sum.set(call(keptMass, row, low, least(i32.add(low, tileBytes), bytes), scratch, largest, rate)),
        i64.store(tile, sum),
        total.set(i64.add(total, sum)),
        tile.set(i32.add(tile, 8)),
      ]),
      target.set(call(share, i64.trunc_sat_f64_u(f64.mul(uniform, 2 ** 53)), total)),
      tile.set(i32.add(scratch, scratchAt.compact)),
      low.set(0),
      block("in_this_tile", (found) => [loop("next_tile", (next) => [
        sum.set(i64.load(tile)),
        branchIf(found, i64.gt_u(sum, target)),
        target.set(i64.sub(target, sum)),
        tile.set(i32.add(tile, 8)),
        low.set(i32.add(low, tileBytes)),
        branch(next),
      ])]),
      high.set(least(i32.add(low, tileBytes), bytes)),
      block("one_left", (found) => [loop("halve", (next) => [
        branchIf(found, i32.le_s(i32.sub(high, low), 4)),
        middle.set(i32.add(low, i32.shl(i32.shr_u(i32.sub(high, low), 3), 2))),
        sum.set(call(keptMass, row, low, middle, scratch, largest, rate)),
        when(i64.gt_u(sum, target), [high.set(middle)], [target.set(i64.sub(target, sum)), low.set(middle)]),
        branch(next),
      ])]),
      low.get,
    ];
  }, { internal: true });
}
