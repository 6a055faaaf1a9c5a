/**
 * The prefix of a row's order (larger logits first, equal ones by lowest id) that is kept: how it is cut shorter, and the token drawn of it.
 *
 * A prefix is a key and an offset, two words of the thread's scratch memory: all logits with a larger key, and of those with this one the ones up
 * to that offset. So what is kept up to the offset are logits from one bound on, and behind it from another: a walk compares once for four logits.
 * A border is found by histograms, radix 2048: first of all kept keys, then of those in the bin that holds it, until a bin is one key.
 */
import {
  block, branch, branchIf, call, f32, f32x4, f64, f64x2, forRange, i32, i32x4, i64, i64x2, lanes, leave, loop, splat, v128, when, type Func, type Local, type Module, type Node, type Operand,
} from "./assembler.ts";
import { type LogitRows, keyOf, keysOf, logitOf } from "./logit-rows.ts";
import type { MakeLocal } from "./kernel.ts";
import { massesOf, massOctaves } from "./masses.ts";
import { half, KeptConstants } from "./math.ts";
import { least } from "./rows.ts";

const binBits = 11, bins = 2 ** binBits;
/** A bin has a part for each lane, so that neighbours in a row seldom wait for each other; what counts nowhere goes to a bin behind the last. */
const laneBytes = { count: 4, mass: 8 } as const;
type Weight = keyof typeof laneBytes;
/** Masses are added up by so many bytes of a row, and where the drawn token is, in halves of that. */
const tileBytes = 2048;

/** Byte offsets in a thread's scratch memory. one: a logit by itself, as a row. */
export const prefixLayout = { key: 0, offset: 4, one: 8, histogram: 64, tiles: 64 + 4 * laneBytes.mass * (bins + 1) } as const;
export const prefixScratchBytes = (columns: number): number => prefixLayout.tiles + 8 * Math.ceil((4 * columns) / tileBytes);
/** The offset of a prefix that keeps all logits of its key. */
const every = 0x7ffffff0;

/** Functions over (row, bytes, scratch, largest: f64, rate: f64), the last two as in masses.ts. */
export interface Prefixes {
  /** Keeps every logit that has a mass of at least (.., minMass: i64). */
  readonly start: Func;
  /** Keeps the first (.., k: i64). */
  readonly byCount: Func;
  /** Keeps the shortest prefix with (.., topP: f64) of the mass. */
  readonly byMass: Func;
  /** The offset of the kept logit at which the running sum of masses passes (.., uniform: f64) of all. */
  readonly draw: Func;
}

const ranked = { row: "i32", bytes: "i32", scratch: "i32", largest: "f64", rate: "f64" } as const;
const most_u = (a: Operand, b: Operand): Node => i32.select(a, b, i32.gt_u(a, b));

export function addPrefixes(m: Module, rows: LogitRows): Prefixes {
  const massSum = addMassSum(m, rows), keptMass = addKeptMass(m, massSum);
  return {
    start: addStart(m, massSum),
    byCount: addBorder(m, rows, "count", (k) => k.get, massSum),
    byMass: addBorder(m, rows, "mass", (topP, total) => atLeastOne(i64.trunc_sat_f64_u(f64.ceil(f64.mul(topP, f64.convert_i64_u(total))))), massSum),
    draw: addDraw(m, keptMass),
  };
}

const atLeastOne = (x: Node): Node => i64.add(x, i64.extend_i32_u(i64.eqz(x)));

/** (row, from, to, low, largest, rate): the masses of the logits from `low` on. */
function addMassSum(m: Module, rows: LogitRows): Func {
  return m.func("massSum", { row: "i32", from: "i32", to: "i32", low: "f32", largest: "f64", rate: "f64" }, "i64", ({ row, from, to, low, largest, rate }, local) => {
    const v = (name: string): Local => local("v128", name), zero = local("i32", "zero"), constants = new KeptConstants(local);
    const lows = v("lows"), tops = v("largests"), rates = v("rates"), kept = v("kept"), masses = v("masses"), sum = [v("sumLow"), v("sumHigh")];
    const walk = rows.over(local, row, from, to, 1, ([x]) => [
      kept.set(f32x4.ge(x!, lows)),
      when(v128.any_true(kept), [
        x!.set(v128.bitselect(x!, constants.f32(-Infinity), kept)),
        ...sum.flatMap((s, i) => [...massesOf(local, half(x!, i === 1), tops, rates, masses, constants.f64), s.set(i64x2.add(s, masses))]),
      ]),
    ]);
    return [
      zero.set(i32.shr_u(from, 31)),
      ...constants.code(zero),
      lows.set(f32x4.splat(low)),
      tops.set(f64x2.splat(largest)),
      rates.set(f64x2.splat(rate)),
      ...walk,
      sum[0]!.set(i64x2.add(sum[0]!, sum[1]!)),
      i64.add(i64x2.extract_lane(sum[0]!, 0), i64x2.extract_lane(sum[0]!, 1)),
    ];
  }, { internal: true });
}

/** The mass of one logit: as a row by itself, so that it is the same. */
const massOfOne = (massSum: Func, scratch: Local, logit: Node, largest: Local, rate: Local): Node[] =>
  [f32.store(scratch, logit, prefixLayout.one), call(massSum, i32.add(scratch, prefixLayout.one), 0, 4, -Infinity, largest, rate)];

/** Where a prefix's first bound ends, as an offset of at most `to`. */
const splitAt = (scratch: Local, to: Local): Node => least(i32.add(i32.load(scratch, prefixLayout.offset), 4), to);

/** (row, from, to, scratch, largest, rate): the masses of what is kept between two offsets. */
function addKeptMass(m: Module, massSum: Func): Func {
  return m.func("keptMass", { row: "i32", from: "i32", to: "i32", scratch: "i32", largest: "f64", rate: "f64" }, "i64", ({ row, from, to, scratch, largest, rate }, local) => {
    const key = local("i32", "key"), split = local("i32", "split"), sum = local("i64", "sum");
    return [
      key.set(i32.load(scratch, prefixLayout.key)),
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
    const [store, mass] = massOfOne(massSum, scratch, logitOf(middle), largest, rate) as [Node, Node];
    return [
      low.set(keyOf(local, f32.max(f32.demote_f64(f64.sub(largest, f64.div(massOctaves, rate))), -3.4028234663852886e38))),
      high.set(keyOf(local, f32.demote_f64(largest))),
      when(i64.gt_u(minMass, 1), [block("found", (found) => [loop("halve", (next) => [
        branchIf(found, i32.ge_u(low, high)),
        middle.set(i32.add(low, i32.shr_u(i32.sub(high, low), 1))),
        store,
        when(i64.ge_u(mass, minMass), [high.set(middle)], [low.set(i32.add(middle, 1))]),
        branch(next),
      ])])]),
      i32.store(scratch, low, prefixLayout.key),
      i32.store(scratch, every, prefixLayout.offset),
    ];
  }, { internal: true });
}

/** (row, from, to, table, low, high, shift, ..): adds up the weights of logits with keys from low to high, in bins of 2^shift keys from the highest on. */
function addHistogram(m: Module, rows: LogitRows, weight: Weight): Func {
  const params = { row: "i32", from: "i32", to: "i32", table: "i32", low: "i32", high: "i32", shift: "i32", largest: "f64", rate: "f64" } as const;
  return m.func(`histogram_${weight}`, params, "none", ({ row, from, to, table, low, high, shift, largest, rate }, local) => {
    const v = (name: string): Local => local("v128", name), zero = local("i32", "zero"), at = local("i32", "at"), constants = new KeptConstants(local);
    const lows = v("lows"), highs = v("highs"), ranges = v("ranges"), key = v("keys"), bin = v("bins"), tops = v("largests"), rates = v("rates"), masses = [v("massesLow"), v("massesHigh")];
    const bytes = laneBytes[weight], top = v("top");
    const add = (lane: number): Node[] => [
      at.set(i32.add(table, i32x4.extract_lane(bin, lane))),
      weight === "count" ? i32.store(at, i32.add(i32.load(at), 1)) : i64.store(at, i64.add(i64.load(at), i64x2.extract_lane(masses[lane >> 1]!, lane & 1))),
    ];
    const walk = rows.over(local, row, from, to, 1, ([x]) => [
      when(v128.any_true(v128.and(f32x4.ge(x!, lows), f32x4.le(x!, highs))), [
        bin.set(i32x4.sub(top, keysOf(x!, key))),
        key.set(i32x4.ge_u(ranges, bin)),
        bin.set(v128.bitselect(i32x4.shr_u(bin, shift), splat.i32(bins), key)),
        bin.set(i32x4.add(i32x4.shl(bin, Math.log2(4 * bytes)), lanes(0, bytes, 2 * bytes, 3 * bytes))),
        ...(weight === "mass" ? masses.flatMap((part, i) => massesOf(local, half(x!, i === 1), tops, rates, part, constants.f64)) : []),
        ...[0, 1, 2, 3].flatMap(add),
      ]),
    ]);
    return [
      zero.set(i32.shr_u(from, 31)),
      ...constants.code(zero),
      lows.set(f32x4.splat(logitOf(low))),
      highs.set(f32x4.splat(logitOf(high))),
      top.set(i32x4.splat(high)),
      ranges.set(i32x4.splat(i32.sub(high, low))),
      tops.set(f64x2.splat(largest)),
      rates.set(f64x2.splat(rate)),
      ...walk,
    ];
  }, { internal: true });
}

/** (.., goal): shortens the prefix to the shortest that has `wanted(goal, weight of all)` of weight, where it has more. */
function addBorder(m: Module, rows: LogitRows, weight: Weight, wantedOf: (goal: Local, total: Local) => Node, massSum: Func): Func {
  const histogram = addHistogram(m, rows, weight), goalType = weight === "count" ? "i64" : "f64";
  return m.func(`shorten_${weight}`, { ...ranked, goal: goalType }, "none", ({ row, bytes, scratch, largest, rate, goal }, local) => {
    const i = (name: string): Local => local("i32", name), l = (name: string): Local => local("i64", name);
    const key = i("key"), split = i("split"), low = i("low"), high = i("high"), from = i("from"), shift = i("shift"), table = i("table"), end = i("end"), bin = i("bin");
    const total = l("total"), wanted = l("wanted"), before = l("before"), sum = l("sum"), inside = l("inside"), each = l("each"), needed = l("needed");
    const binBytes = 4 * laneBytes[weight];
    const fill = (begin: Operand, until: Operand): Node => call(histogram, row, begin, until, table, from, high, shift, largest, rate);
    const [store, mass] = massOfOne(massSum, scratch, logitOf(high), largest, rate) as [Node, Node];
    return [
      key.set(i32.load(scratch, prefixLayout.key)),
      split.set(splitAt(scratch, bytes)),
      table.set(i32.add(scratch, prefixLayout.histogram)),
      low.set(key),
      high.set(keyOf(local, f32.demote_f64(largest))),
      loop("next_digit", (nextDigit) => [
        shift.set(i32.sub(32 - binBits, i32.clz(i32.sub(high, low)))),
        shift.set(i32.select(shift, 0, i32.gt_s(shift, 0))),
        end.set(i32.add(table, i32.mul(i32.add(i32.shr_u(i32.sub(high, low), shift), 1), binBytes))),
        ...overAddresses(bin, table, end, 16, [v128.store(bin, splat.i32(0))]),
        from.set(low),
        fill(0, split),
        from.set(most_u(low, i32.add(key, 1))),
        when(i32.and(i32.lt_s(split, bytes), i32.le_u(from, high)), [fill(split, bytes)]),
        when(i64.eqz(wanted), [
          ...overAddresses(bin, table, end, binBytes, [total.set(i64.add(total, binWeight(local, weight, bin)))]),
          wanted.set(wantedOf(goal, total)),
          when(i64.ge_u(wanted, total), [leave()]),
        ]),
        bin.set(table),
        sum.set(before),
        loop("next_bin", (nextBin) => [
          before.set(sum),
          inside.set(binWeight(local, weight, bin)),
          sum.set(i64.add(sum, inside)),
          bin.set(i32.add(bin, binBytes)),
          branchIf(nextBin, i64.lt_u(sum, wanted)),
        ]),
        bin.set(i32.shr_u(i32.sub(i32.sub(bin, binBytes), table), Math.log2(binBytes))),
        high.set(i32.sub(high, i32.shl(bin, shift))),
        low.set(most_u(low, i32.sub(i32.add(high, 1), i32.shl(1, shift)))),
        branchIf(nextDigit, shift),
      ]),
      ...(weight === "count" ? [each.set(1)] : [store, each.set(mass)]),
      needed.set(i64.div_u(i64.sub(i64.add(i64.sub(wanted, before), each), 1), each)),
      // Of equal logits the lowest ids; where all are needed it is as it was.
      split.set(i32.select(i32.load(scratch, prefixLayout.offset), every, i32.eq(high, key))),
      when(i64.lt_u(i64.mul(needed, each), inside), [
        split.set(-4),
        loop("next_equal", (next) => [
          split.set(call(rows.next, row, i32.add(split, 4), bytes, logitOf(high))),
          needed.set(i64.sub(needed, 1)),
          branchIf(next, i32.eqz(i64.eqz(needed))),
        ]),
      ]),
      i32.store(scratch, high, prefixLayout.key),
      i32.store(scratch, split, prefixLayout.offset),
    ];
  }, { internal: true });
}

/** The weight of a bin: of its four parts. */
function binWeight(local: MakeLocal, weight: Weight, bin: Local): Node {
  const parts = local("v128", "parts");
  if (weight === "mass") return i64.add(i64x2.extract_lane(parts.tee(i64x2.add(v128.load(bin), v128.load(bin, 16))), 0), i64x2.extract_lane(parts, 1));
  const lane = (i: number): Node => i32x4.extract_lane(i === 0 ? parts.tee(v128.load(bin)) : parts, i);
  return i64.extend_i32_u(i32.add(i32.add(lane(0), lane(1)), i32.add(lane(2), lane(3))));
}

/** for (at = from; at < to; at += step) body, of addresses, which may lie above 2 GiB; there is at least one. */
const overAddresses = (at: Local, from: Local, to: Local, step: number, body: readonly Node[]): Node[] =>
  [at.set(from), loop(`next_${at.name}`, (next) => [...body, branchIf(next, i32.lt_u(at.tee(i32.add(at, step)), to))])];

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
      tile.set(i32.add(scratch, prefixLayout.tiles)),
      forRange(low, 0, bytes, tileBytes, [
        sum.set(call(keptMass, row, low, least(i32.add(low, tileBytes), bytes), scratch, largest, rate)),
        i64.store(tile, sum),
        total.set(i64.add(total, sum)),
        tile.set(i32.add(tile, 8)),
      ]),
      target.set(call(share, i64.trunc_sat_f64_u(f64.mul(uniform, 2 ** 53)), total)),
      tile.set(i32.add(scratch, prefixLayout.tiles)),
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
