/**
 * Where a prefix of a row's order ends that has so many logits, or so much mass: the logits near the border are found and copied, and among these
 * the border, by histograms of their keys.
 *
 *   by count   maxima of groups of logits: if k of them reach a bound, k logits do. Few others reach it
 *   by mass    a histogram over bins of equal width, whose masses are added up on the way; the border's bin
 *
 * Whatever is copied may be the whole row: a bound is only ever a shortcut. All sums are of whole numbers. Knows no choices.
 */
import { greatestFloat32 } from "../../core/dtype.ts";
import {
  block, branch, branchIf, call, constant, f32, f32x4, f64, f64x2, forRange, i32, i32x4, i64, i64x2, lanes, leave, loop, splat, v128, when, type Func, type Local, type Module, type Node, type Operand,
} from "./assembler.ts";
import { type LogitRows, keyOf, keysOf, logitOf } from "./logit-rows.ts";
import type { MakeLocal } from "./kernel.ts";
import { massBits, massesOf, massOfOne } from "./masses.ts";
import { half, KeptConstants } from "./math.ts";
import { least } from "./rows.ts";

/** Keys are looked at by digits of so many bits, the most that needs no fifth. Bins of equal width are more, to be narrow. */
const digitBits = 8, equalBins = 512;
/** A bin has a part for each lane, so that neighbours in a row seldom wait for each other. */
const laneBytes = { count: 4, mass: 8 } as const;
type Weight = keyof typeof laneBytes;

/**
 * Byte offsets in a thread's scratch memory. key, offset: the prefix (prefix.ts). one: a logit by itself, as a row. compact: maxima, then copied logits, then
 * sums of tiles.
 */
export const scratchAt = { key: 0, offset: 4, one: 8, table: 64, compact: 64 + 4 * laneBytes.mass * (equalBins + 2) } as const;
/** Maxima of groups take the most: 16 bytes for up to 4 logits. */
export const scratchBytes = (columns: number): number => scratchAt.compact + 4 * (columns + 4);
/** The offset of a prefix that keeps all logits of its key. */
export const every = 0x7ffffff0;

/** What functions start with: a row, and what its masses are of (masses.ts). */
export const ranked = { row: "i32", bytes: "i32", scratch: "i32", largest: "f64", rate: "f64" } as const;
/** Where a prefix's first bound ends, as an offset of at most `to`. */
export const splitAt = (scratch: Local, to: Local): Node => least(i32.add(i32.load(scratch, scratchAt.offset), 4), to);

const mostUnsigned = (a: Operand, b: Operand): Node => i32.select(a, b, i32.gt_u(a, b));
const largestKey = (local: MakeLocal, largest: Local): Node => keyOf(local, f32.demote_f64(largest));

/** Both shorten the prefix in the scratch. */
export interface Borders {
  /** To the first (.., k: i64) logits. The prefix must have one bound. */
  readonly byCount: Func;
  /** To the shortest that has (.., topP: f64) of its mass. */
  readonly byMass: Func;
}

export function addBorders(m: Module, rows: LogitRows, massSum: Func): Borders {
  const collect = addCollect(m, rows);
  return { byCount: addByCount(m, rows, massSum, collect), byMass: addByMass(m, rows, massSum, collect) };
}

/** (row, from, to, low, high, into): copies the logits from `low` to `high`, in their order. Returns the address behind them; the word there may be written too. */
function addCollect(m: Module, rows: LogitRows): Func {
  return m.func("collect", { row: "i32", from: "i32", to: "i32", low: "f32", high: "f32", into: "i32" }, "i32", ({ row, from, to, low, high, into }, local) => {
    const lows = local("v128", "lows"), highs = local("v128", "highs"), mask = local("i32", "mask");
    return [
      lows.set(f32x4.splat(low)),
      highs.set(f32x4.splat(high)),
      ...rows.over(local, row, from, to, 1, ([x]) => [
        mask.set(i32x4.bitmask(v128.and(f32x4.ge(x!, lows), f32x4.le(x!, highs)))),
        when(mask, [0, 1, 2, 3].flatMap((lane) => [
          v128.store32_lane(into, x!, lane),
          into.set(i32.add(into, lane < 2 ? i32.shl(i32.and(lane === 0 ? mask : i32.shr_u(mask, 1), 1), 2) : i32.and(lane === 2 ? mask : i32.shr_u(mask, 1), 4))),
        ])),
      ]),
      into.get,
    ];
  }, { internal: true });
}

/** Adds to the four parts of bins what four logits weigh; `bin`: four byte offsets. */
function scatter(table: Local, at: Local, bin: Local, weight: Weight, masses: readonly Local[]): Node[] {
  return [0, 1, 2, 3].flatMap((lane) => [
    at.set(i32.add(table, i32x4.extract_lane(bin, lane))),
    weight === "count" ? i32.store(at, i32.add(i32.load(at), 1)) : i64.store(at, i64.add(i64.load(at), i64x2.extract_lane(masses[lane >> 1]!, lane & 1))),
  ]);
}
/** Byte offsets of bins, each lane's in its part. */
const binOffsets = (bin: Operand, weight: Weight): Node =>
  i32x4.add(i32x4.shl(bin, Math.log2(4 * laneBytes[weight])), lanes(0, laneBytes[weight], 2 * laneBytes[weight], 3 * laneBytes[weight]));

/** The weight of a bin: of its four parts. */
function binWeight(local: MakeLocal, weight: Weight, bin: Local): Node {
  const parts = local("v128", "parts");
  if (weight === "mass") return i64.add(i64x2.extract_lane(parts.tee(i64x2.add(v128.load(bin), v128.load(bin, 16))), 0), i64x2.extract_lane(parts, 1));
  const lane = (i: number): Node => i32x4.extract_lane(i === 0 ? parts.tee(v128.load(bin)) : parts, i);
  return i64.extend_i32_u(i32.add(i32.add(lane(0), lane(1)), i32.add(lane(2), lane(3))));
}

/** Empties `count` bins from `table` on, of which there is one at least. */
const clear = (bin: Local, table: Local, end: Local, count: Node, weight: Weight): Node[] => [
  bin.set(table),
  end.set(i32.add(table, i32.mul(count, 4 * laneBytes[weight]))),
  loop("clear", (next) => [v128.store(bin, splat.i32(0)), branchIf(next, i32.lt_u(bin.tee(i32.add(bin, 16)), end))]),
];

/** The bin at which the running sum, `before` in front of the first, reaches `wanted`: its number into `bin`, what is before it and in it. */
function findBin(local: MakeLocal, weight: Weight, table: Local, wanted: Local, before: Local, inside: Local, bin: Local): Node[] {
  const sum = local("i64", "sum"), binBytes = 4 * laneBytes[weight];
  return [
    bin.set(table),
    sum.set(before),
    loop("next_bin", (next) => [
      before.set(sum),
      inside.set(binWeight(local, weight, bin)),
      sum.set(i64.add(sum, inside)),
      bin.set(i32.add(bin, binBytes)),
      branchIf(next, i64.lt_u(sum, wanted)),
    ]),
    bin.set(i32.shr_u(i32.sub(i32.sub(bin, binBytes), table), Math.log2(binBytes))),
  ];
}

/** (row, bytes, table, low, high, shift, ..): weights of the logits with keys from low to high, in bins of 2^shift keys from the highest on. */
function addHistogram(m: Module, rows: LogitRows, weight: Weight): Func {
  const params = { row: "i32", bytes: "i32", table: "i32", low: "i32", high: "i32", shift: "i32", largest: "f64", rate: "f64" } as const;
  return m.func(`histogram_${weight}`, params, "none", ({ row, bytes, table, low, high, shift, largest, rate }, local) => {
    const v = (name: string): Local => local("v128", name), zero = local("i32", "zero"), at = local("i32", "at"), constants = new KeptConstants(local);
    const ranges = v("ranges"), key = v("keys"), bin = v("bins"), inside = v("inside"), top = v("top"), tops = v("largests"), rates = v("rates"), masses = [v("massesLow"), v("massesHigh")];
    const walk = rows.over(local, row, 0, bytes, 1, ([x]) => [
      bin.set(i32x4.sub(top, keysOf(x!, key))),
      inside.set(i32x4.ge_u(ranges, bin)),
      when(v128.any_true(inside), [
        bin.set(binOffsets(v128.bitselect(i32x4.shr_u(bin, shift), splat.i32(2 ** digitBits), inside), weight)),
        ...(weight === "mass" ? masses.flatMap((part, i) => massesOf(local, half(x!, i === 1), tops, rates, part, constants.f64, "exact")) : []),
        ...scatter(table, at, bin, weight, masses),
      ]),
    ]);
    return [
      zero.set(i32.shr_u(bytes, 31)),
      ...constants.code(zero),
      top.set(i32x4.splat(high)),
      ranges.set(i32x4.splat(i32.sub(high, low))),
      tops.set(f64x2.splat(largest)),
      rates.set(f64x2.splat(rate)),
      ...walk,
    ];
  }, { internal: true });
}

/**
 * (.., end, low, high, wanted, before): ends the prefix where the weight, `before` in front of the copied logits, reaches `wanted`. They stand in the scratch
 * up to `end`, and all logits of the prefix with keys from low to high are among them.
 */
function addFinish(m: Module, rows: LogitRows, weight: Weight, massSum: Func): Func {
  const histogram = addHistogram(m, rows, weight);
  const params = { ...ranked, end: "i32", low: "i32", high: "i32", wanted: "i64", before: "i64" } as const;
  return m.func(`finish_${weight}`, params, "none", ({ row, bytes, scratch, largest, rate, end, low, high, wanted, before }, local) => {
    const i = (name: string): Local => local("i32", name), l = (name: string): Local => local("i64", name);
    const shift = i("shift"), table = i("table"), tableEnd = i("tableEnd"), bin = i("bin"), compact = i("compact"), offset = i("offset"), inside = l("inside"), each = l("each"), needed = l("needed");
    const one = massOfOne(massSum, i32.add(scratch, scratchAt.one), logitOf(high), largest, rate);
    return [
      table.set(i32.add(scratch, scratchAt.table)),
      compact.set(i32.add(scratch, scratchAt.compact)),
      loop("next_digit", (nextDigit) => [
        shift.set(i32.sub(32 - digitBits, i32.clz(i32.sub(high, low)))),
        shift.set(i32.select(shift, 0, i32.gt_s(shift, 0))),
        ...clear(bin, table, tableEnd, i32.add(i32.shr_u(i32.sub(high, low), shift), 1), weight),
        call(histogram, compact, i32.sub(end, compact), table, low, high, shift, largest, rate),
        ...findBin(local, weight, table, wanted, before, inside, bin),
        high.set(i32.sub(high, i32.shl(bin, shift))),
        low.set(mostUnsigned(low, i32.sub(i32.add(high, 1), i32.shl(1, shift)))),
        branchIf(nextDigit, shift),
      ]),
      ...(weight === "count" ? [each.set(1)] : [one.write, each.set(one.mass)]),
      needed.set(i64.div_u(i64.sub(i64.add(i64.sub(wanted, before), each), 1), each)),
      // Of equal logits the lowest ids; where all are needed it is as it was.
      offset.set(i32.select(i32.load(scratch, scratchAt.offset), every, i32.eq(high, i32.load(scratch, scratchAt.key)))),
      when(i64.lt_u(i64.mul(needed, each), inside), [offset.set(call(rows.nth, row, bytes, logitOf(high), i32.wrap_i64(needed)))]),
      i32.store(scratch, high, scratchAt.key),
      i32.store(scratch, offset, scratchAt.offset),
    ];
  }, { internal: true });
}

function addByCount(m: Module, rows: LogitRows, massSum: Func, collect: Func): Func {
  const finish = addFinish(m, rows, "count", massSum);
  /** (row, bytes, to): the largest of every 8 logits, 32 apart in a row, and what is left as it is. Returns the bytes of them. */
  const maxima = m.func("groupMaxima", { row: "i32", bytes: "i32", to: "i32" }, "i32", ({ row, bytes, to }, local) => {
    const at = local("i32", "at");
    const most = (x: readonly Local[]): Node => (x.length === 1 ? x[0]!.get : f32x4.pmax(most(x.slice(0, x.length / 2)), most(x.slice(x.length / 2))));
    return [at.set(to), ...rows.over(local, row, 0, bytes, 8, (x) => [v128.store(at, most(x)), at.set(i32.add(at, 16))]), i32.sub(at, to)];
  }, { internal: true });
  const countFrom = m.func("countFrom", { row: "i32", bytes: "i32", low: "f32" }, "i32", ({ row, bytes, low }, local) => {
    const lows = local("v128", "lows"), count = [0, 1, 2, 3].map((j) => local("v128", `count${j}`)), total = count[0]!;
    const lane = (i: number): Node => i32x4.extract_lane(total, i);
    return [
      lows.set(f32x4.splat(low)),
      ...rows.over(local, row, 0, bytes, 4, (x) => x.map((v, j) => count[j]!.set(i32x4.sub(count[j]!, f32x4.ge(v, lows))))),
      total.set(i32x4.add(i32x4.add(count[0]!, count[1]!), i32x4.add(count[2]!, count[3]!))),
      i32.add(i32.add(lane(0), lane(1)), i32.add(lane(2), lane(3))),
    ];
  }, { internal: true });
  /** A key from `low` on that k logits of the row have, or larger ones; `low` itself where that is not known. */
  const bound = m.func("boundOfCount", { row: "i32", bytes: "i32", scratch: "i32", low: "i32", high: "i32", k: "i32" }, "i32", ({ row, bytes, scratch, low, high, k }, local) => {
    const compact = local("i32", "compact"), middle = local("i32", "middle"), count = local("i32", "count");
    return [
      compact.set(i32.add(scratch, scratchAt.compact)),
      bytes.set(call(maxima, row, bytes, compact)),
      when(i32.lt_s(call(countFrom, compact, bytes, logitOf(low)), k), [leave(low.get)]),
      high.set(i32.add(high, 1)),
      block("near", (near) => [loop("halve", (next) => [
        middle.set(i32.add(low, i32.shr_u(i32.sub(high, low), 1))),
        branchIf(near, i32.eq(middle, low)),
        count.set(call(countFrom, compact, bytes, logitOf(middle))),
        when(i32.lt_s(count, k), [high.set(middle), branch(next)]),
        low.set(middle),
        branchIf(next, i32.gt_s(count, i32.shl(k, 1))),
      ])]),
      low.get,
    ];
  }, { internal: true });
  return m.func("shorten_count", { ...ranked, k: "i32" }, "none", ({ row, bytes, scratch, largest, rate, k }, local) => {
    const key = local("i32", "key"), low = local("i32", "low"), high = local("i32", "high"), end = local("i32", "end"), compact = local("i32", "compact");
    return [
      key.set(i32.load(scratch, scratchAt.key)),
      high.set(largestKey(local, largest)),
      low.set(call(bound, row, bytes, scratch, key, high, k)),
      compact.set(i32.add(scratch, scratchAt.compact)),
      end.set(call(collect, row, 0, bytes, logitOf(low), Infinity, compact)),
      when(i32.gt_u(i32.sub(end, compact), i32.shl(k, 2)), [call(finish, row, bytes, scratch, largest, rate, end, low, high, i64.extend_i32_u(k), 0)], [i32.store(scratch, low, scratchAt.key)]),
    ];
  }, { internal: true });
}

/** Tiles of a row after which is asked anew how little is too little to be near the border. */
const binTileBytes = 4096;
const floatBits23 = 0x4b000000; // of 2^23: added to a float, its nearest whole number is left in the low bits

function addByMass(m: Module, rows: LogitRows, massSum: Func, collect: Func): Func {
  const finish = addFinish(m, rows, "mass", massSum);
  /**
   * (total, share, largest, rate): a bound such that what is below has less than 1 - topP of a mass of at least `total`, share being (1 - topP) / (2 numLogits):
   * the border is not there. Two octaves below the unit every mass is 0.
   */
  const boundOf = m.func("boundOfMass", { total: "i64", share: "f64", largest: "f64", rate: "f64" }, "f32", ({ total, share, largest, rate }, local) => {
    const octave = local("i32", "octave");
    return [
      octave.set(i32.sub(i32.wrap_i64(i64.shr_u(i64.reinterpret_f64(f64.mul(f64.convert_i64_u(total), share)), 52)), 1023)),
      octave.set(i32.sub(i32.select(octave, -2, i32.gt_s(octave, -2)), massBits)),
      f32.max(f32.demote_f64(f64.add(largest, f64.div(f64.convert_i32_s(octave), rate))), -greatestFloat32),
    ];
  }, { internal: true });

  /** Bins of equal width from the largest logit down; halves, as a difference of whole ones may be beyond f32. */
  const binOf = (x: Node, top: Local, scale: Local): Node => i32.sub(i32.reinterpret_f32(f32.add(f32.mul(f32.sub(top, f32.mul(x, 0.5)), scale), 2 ** 23)), floatBits23);
  /** The least key from low to high whose logit's bin is at most `bin`; high's is 0. */
  const edge = m.func("edgeOfBin", { bin: "i32", low: "i32", high: "i32", top: "f32", scale: "f32" }, "i32", ({ bin, low, high, top, scale }, local) => {
    const middle = local("i32", "middle");
    return [
      block("found", (found) => [loop("halve", (next) => [
        branchIf(found, i32.ge_u(low, high)),
        middle.set(i32.add(low, i32.shr_u(i32.sub(high, low), 1))),
        when(i32.le_s(binOf(logitOf(middle), top, scale), bin), [high.set(middle)], [low.set(i32.add(middle, 1))]),
        branch(next),
      ])]),
      low.get,
    ];
  }, { internal: true });

  const params = { row: "i32", from: "i32", to: "i32", table: "i32", kept: "f32", low: "f32", top: "f32", scale: "f32", share: "f64", largest: "f64", rate: "f64", total: "i64" } as const;
  /** Adds the masses of logits from `kept` on to `total`, which it returns, and to bins those of at least `low` and the bound of the total so far. */
  const fill = m.func("fillBins", params, "i64", ({ row, from, to, table, kept, low, top, scale, share, largest, rate, total }, local) => {
    const v = (name: string): Local => local("v128", name), zero = local("i32", "zero"), at = local("i32", "at"), tile = local("i32", "tile"), constants = new KeptConstants(local);
    const lows = v("lows"), keptFrom = v("keptFrom"), dropped = v("dropped"), topHalf = v("topHalf"), scales = v("scales"), bin = v("bins"), near = v("near"), sum = v("sum");
    const tops = v("largests"), rates = v("rates"), masses = [v("massesLow"), v("massesHigh")], bound = local("f32", "bound");
    const walk = rows.over(local, row, tile, least(i32.add(tile, binTileBytes), to), 1, ([x]) => [
      dropped.set(f32x4.lt(x!, keptFrom)),
      when(i32.ne(i32x4.bitmask(dropped), 15), [
        x!.set(v128.or(x!, dropped)), // NaN
        ...masses.flatMap((part, i) => [...massesOf(local, half(x!, i === 1), tops, rates, part, constants.f64, "exact"), sum.set(i64x2.add(sum, part))]),
        near.set(f32x4.ge(x!, lows)),
        when(i32x4.bitmask(near), [
          bin.set(i32x4.sub(f32x4.add(f32x4.mul(f32x4.sub(topHalf, f32x4.mul(x!, splat.f32(0.5))), scales), splat.f32(2 ** 23)), splat.i32(floatBits23))),
          bin.set(binOffsets(v128.bitselect(bin, splat.i32(equalBins + 1), near), "mass")),
          ...scatter(table, at, bin, "mass", masses),
        ]),
      ]),
    ]);
    return [
      zero.set(i32.shr_u(from, 31)),
      ...constants.code(zero),
      keptFrom.set(f32x4.splat(kept)),
      topHalf.set(f32x4.splat(top)),
      scales.set(f32x4.splat(scale)),
      tops.set(f64x2.splat(largest)),
      rates.set(f64x2.splat(rate)),
      forRange(tile, from, to, binTileBytes, [
        bound.set(call(boundOf, total, share, largest, rate)),
        lows.set(f32x4.splat(f32.select(bound, low, f32.gt(bound, low)))),
        sum.set(splat.i32(0)),
        ...walk,
        total.set(i64.add(total, i64.add(i64x2.extract_lane(sum, 0), i64x2.extract_lane(sum, 1)))),
      ]),
      total.get,
    ];
  }, { internal: true });

  return m.func("shorten_mass", { ...ranked, topP: "f64" }, "none", ({ row, bytes, scratch, largest, rate, topP }, local) => {
    const i = (name: string): Local => local("i32", name), l = (name: string): Local => local("i64", name), f = (name: string): Local => local("f32", name);
    const key = i("key"), split = i("split"), table = i("table"), tableEnd = i("tableEnd"), bin = i("bin"), end = i("end"), low = i("low"), high = i("high"), from = i("from");
    const total = l("total"), wanted = l("wanted"), before = l("before"), inside = l("inside"), share = local("f64", "share");
    const kept = f("kept"), start = f("start"), top = f("top"), scale = f("scale");
    /** What `of` makes of the prefix's two parts, one after the other, with `from` the least key of each. */
    const inBoth = (of: (begin: Operand, until: Operand) => Node): Node[] => [
      from.set(key), of(0, split), from.set(i32.add(key, 1)), when(i32.lt_s(split, bytes), [of(split, bytes)]),
    ];
    return [
      key.set(i32.load(scratch, scratchAt.key)),
      split.set(splitAt(scratch, bytes)),
      share.set(f64.div(f64.sub(1, topP), f64.convert_i32_s(i32.shr_u(bytes, 1)))),
      kept.set(logitOf(key)),
      start.set(call(boundOf, constant("i64", 2 ** massBits), share, largest, rate)),
      start.set(f32.select(start, kept, f32.gt(start, kept))),
      top.set(f32.mul(f32.demote_f64(largest), 0.5)),
      scale.set(f32.min(f32.div(equalBins, f32.sub(top, f32.mul(start, 0.5))), greatestFloat32)),
      table.set(i32.add(scratch, scratchAt.table)),
      ...clear(bin, table, tableEnd, constant("i32", equalBins + 1), "mass"),
      ...inBoth((begin, until) => total.set(call(fill, row, begin, until, table, logitOf(from), start, top, scale, share, largest, rate, total))),
      wanted.set(i64.trunc_sat_f64_u(f64.ceil(f64.mul(topP, f64.convert_i64_u(total))))),
      wanted.set(i64.add(wanted, i64.extend_i32_u(i64.eqz(wanted)))),
      when(i64.ge_u(wanted, total), [leave()]),
      ...findBin(local, "mass", table, wanted, before, inside, bin),
      high.set(largestKey(local, largest)),
      low.set(call(edge, bin, keyOf(local, start.get), high, top, scale)),
      when(bin, [high.set(i32.sub(call(edge, i32.sub(bin, 1), low, high, top, scale), 1))]),
      end.set(i32.add(scratch, scratchAt.compact)),
      ...inBoth((begin, until) => block("part", (out) => [
        from.set(mostUnsigned(from, low)),
        branchIf(out, i32.gt_u(from, high)),
        end.set(call(collect, row, begin, until, logitOf(from), logitOf(high), end)),
      ])),
      call(finish, row, bytes, scratch, largest, rate, end, low, high, wanted, before),
    ];
  }, { internal: true });
}
