/** A tile of attention: one block of keys for a few rows. Scores, the online softmax, and the weighted values. */
import { bytesPerKvElement, workItem, type AttentionPlan } from "../../ir/plan.ts";
import {
  branchIf, comment, f32x4, forRange, i32, i32x4, i8x16, lanes, loop, splat, v128, when, type Func, type Local, type Memory, type Module, type Node, type Operand,
} from "./assembler.ts";
import { inRow } from "./attention-keys.ts";
import { attentionArgs, type ScratchLayout } from "./attention-layout.ts";
import { captureWords, type Columns, ExprEmitter, type EmitContext } from "./expr.ts";
import type { MakeLocal } from "./kernel.ts";
import { expOfNonPositive, KeptConstants, type MathLibrary } from "./math.ts";
import { least } from "./rows.ts";
import { isCopied, isWidenedInPlace, widenEight } from "./widen.ts";

/** One block of keys for `rows` consecutive rows. */
export function addTile(m: Module, plan: AttentionPlan, layout: ScratchLayout, rows: number, math: MathLibrary, report: Func): Func {
  const group = plan.numQueryHeads / plan.numKvHeads, cache = m.memory("cache");
  const each = Array.from({ length: rows }, (_, r) => r);
  const params = { args: "i32", scratch: "i32", item: "i32", head: "i32", row: "i32", kv0: "i32", kvLength: "i32", partial: "i32" } as const;
  return m.func(`tile${rows}`, params, "none", (p, local) => {
    const vectors = (name: string): Local[] => each.map((r) => local("v128", `${name}${r}`));
    const query = each.map((r) => local("i32", `query${r}`)), state = each.map((r) => local("i32", `state${r}`)), score = vectors("score"), max = vectors("max");
    const q = vectors("q"), h = vectors("h"), b = local("v128", "b"), kv = local("v128", "kv"), valid = local("v128", "valid"), live = vectors("allowed");
    const j = local("i32", "j"), at = local("i32", "at"), numKeys = local("i32", "numKeys"), touched = local("i32", "touched");
    const context: EmitContext = { local, math, report, args: p.args, captures: plan.captures, captureAt: captureWords(plan.captures, attentionArgs.captures).at };

    /** Without mods of the score, a block that is wholly allowed needs nothing of what a key is but its score. */
    const plain = plan.scoreMod.kind === "score" && !plan.weightMod;
    const keyCode: Node[] = [], lastCode: Node[] = [], hoisted: Node[] = [];
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
        keyCode.push(score[r]!.set(v128.bitselect(score[r]!, splat.f32(-Infinity), live[r]!)));
        lastCode.push(max[r]!.set(f32x4.pmax(max[r]!, score[r]!)));
      }
      lastCode.push(v128.store(at, score[r]!, layout.scores + 4 * plan.kvTile * r));
    }
    const ofColumns = maskColumns?.emitter.take() ?? [];
    keyCode.unshift(...(ofColumns.length > 0 ? [when(p.partial, ofColumns)] : []), ...(scoreColumns?.emitter.take() ?? []));
    hoisted.unshift(...(maskColumns?.emitter.hoisted ?? []), ...(scoreColumns?.emitter.hoisted ?? []));
    keyCode.unshift(
      kv.set(i32x4.add(i32x4.splat(i32.add(p.kv0, j)), lanes(0, 1, 2, 3))),
      valid.set(i32x4.lt_s(kv, i32x4.splat(p.kvLength))),
    );
    const touch = touchValues(plan, cache, layout, p.row, at, touched, local);
    return [
      numKeys.set(least(i32.sub(p.kvLength, p.kv0), plan.kvTile)),
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
        ...touch,
        ...dotProducts(plan, cache, layout, query, score, at, local),
        ...(plain ? [when(i32.or(p.partial, i32.lt_s(numKeys, plan.kvTile)), keyCode)] : keyCode),
        ...lastCode,
      ]),
      ...(touch.length > 0 ? [i32.store(p.scratch, touched, layout.touched)] : []),
      ...(plan.weightMod ? [] : [comment("Online softmax."), ...softmax(plan, layout, p.scratch, state, max, p.partial, local)]),
      comment("Values, keys ascending."),
      ...accumulate(plan, cache, layout, p.scratch, state, max, numKeys, local),
    ];
  }, { internal: true });
}

/**
 * The first tile of a block reads a word of each cache line of the values' rows, long before they are used and in order: what fetches memory
 * ahead follows steps of a line, and `accumulate` takes a few elements of each row at a time. `touched` makes the loads wanted.
 */
function touchValues(plan: AttentionPlan, cache: Memory, layout: ScratchLayout, firstRow: Local, at: Local, touched: Local, local: MakeLocal): Node[] {
  const lineBytes = 64, lines = Math.floor((plan.headDimV * bytesPerKvElement[plan.valueFormat ?? "f32"]) / lineBytes);
  if (lines === 0 || isCopied(plan.valueFormat, plan.headDimV)) return [];
  const row = local("i32", "touchedRow");
  return [when(i32.eqz(firstRow), [0, 1, 2, 3].flatMap((key) => [
    row.set(i32.load(at, layout.valueAddress + 4 * key)),
    ...Array.from({ length: lines }, (_, line) => touched.set(i32.or(touched, i32.load(cache.at(row), lineBytes * line)))),
  ]))];
}

/** score[r] = scale * (query r . the four keys whose addresses stand at `at`) */
function dotProducts(plan: AttentionPlan, cache: Memory, layout: ScratchLayout, query: readonly Local[], score: readonly Local[], at: Local, local: MakeLocal): Node[] {
  const rows = query.length;
  // Four rows by four keys would need 16 accumulators of the 16 vector registers: then two keys at a time.
  const keysAtOnce = rows === 4 ? 2 : 4;
  if (isWidenedInPlace(plan.keyFormat, plan.headDimQk)) return wideningDotProducts(plan, cache, layout, query, score, at, keysAtOnce, local);
  const d = local("i32", "dotAt"), key = [0, 1, 2, 3].map((k) => local("i32", `key${k}`));
  const sums = query.map((_, r) => [0, 1, 2, 3].map((k) => local("v128", `dot${r}${k}`)));
  const x = query.map((_, r) => local("v128", `x${r}`)), k128 = local("v128", "k");
  const whole = plan.headDimQk & ~3;
  const unroll = [4, 2, 1].find((u) => (whole / 4) % u === 0)!;
  const inKey = inRow(cache, plan.keyFormat, plan.headDimQk);
  const step = (keys: readonly number[], load: (address: Operand, offset: number) => Node, offset: number): Node[] => [
    ...query.map((address, r) => x[r]!.set(load(i32.add(address, d), offset))),
    ...keys.flatMap((k) => [
      k128.set(load(inKey(i32.add(key[k]!, d)), offset)),
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
  return [...code, ...scaledSums(plan, sums, score)];
}

/** score[r] = scale * the sums of the four vectors of row r, one for each key. */
function scaledSums(plan: AttentionPlan, sums: readonly (readonly Local[])[], score: readonly Local[]): Node[] {
  const pick = (a: Node | Local, c: Node | Local, from: readonly [number, number, number, number]): Node => i8x16.shuffle(a, c, from.flatMap((word) => [0, 1, 2, 3].map((byte) => 4 * word + byte)));
  return sums.flatMap((s, r) => {
    // [a0+a2, b0+b2, a1+a3, b1+b3], the same of c and d, then the two halves added: lane k is the sum for key k.
    const pair = (a: Local, c: Local): Node => f32x4.add(pick(a, c, [0, 4, 1, 5]), pick(a, c, [2, 6, 3, 7]));
    return [
      s[0]!.set(pair(s[0]!, s[1]!)), s[2]!.set(pair(s[2]!, s[3]!)),
      score[r]!.set(f32x4.mul(f32x4.add(pick(s[0]!, s[2]!, [0, 1, 4, 5]), pick(s[0]!, s[2]!, [2, 3, 6, 7])), splat.f32(plan.scale))),
    ];
  });
}

/** As `dotProducts`, of keys that are widened here, eight elements a load. */
function wideningDotProducts(plan: AttentionPlan, cache: Memory, layout: ScratchLayout, query: readonly Local[], score: readonly Local[], at: Local, keysAtOnce: number, local: MakeLocal): Node[] {
  const d = local("i32", "dotAt"), half = local("i32", "keyOffset"), key = [0, 1, 2, 3].map((k) => local("i32", `key${k}`));
  const sums = query.map((_, r) => [0, 1, 2, 3].map((k) => local("v128", `dot${r}${k}`)));
  const chunks = plan.headDimQk / 8, unroll = [8, 4, 2, 1].find((u) => chunks % u === 0)!;
  const raw = local("v128", "raw");
  const madd = (sum: Local, x: Local, k: Local): Node => sum.set(f32x4.relaxed_madd(x, k, sum));
  const loadQuery = (r: number, offset: number): Node => v128.load(i32.add(query[r]!, d), offset);
  const loadKey = (k: number, u: number, to: readonly [Local, Local]): Node[] => [raw.set(v128.load(cache.at(i32.add(key[k]!, half)), 16 * u)), ...widenEight(raw, to)];
  const two = (name: string): readonly [Local, Local] => [local("v128", `${name}low`), local("v128", `${name}high`)];
  /** Whichever there are fewer of, rows or keys, stay in registers; the others pass by. */
  const step = (keys: readonly number[], u: number): Node[] => {
    if (query.length > keys.length) {
      const k128 = keys.map((k) => two(`k${k % keysAtOnce}`)), x = local("v128", "x");
      return [
        ...keys.flatMap((k, n) => loadKey(k, u, k128[n]!)),
        ...query.flatMap((_, r) => [0, 1].flatMap((half) => [x.set(loadQuery(r, 32 * u + 16 * half)), ...keys.map((k, n) => madd(sums[r]![k]!, x, k128[n]![half]!))])),
      ];
    }
    const x = query.map((_, r) => two(`x${r}`)), k128 = two("k");
    return [
      ...query.flatMap((_, r) => [0, 1].map((half) => x[r]![half]!.set(loadQuery(r, 32 * u + 16 * half)))),
      ...keys.flatMap((k) => [...loadKey(k, u, k128), ...[0, 1].flatMap((half) => query.map((_, r) => madd(sums[r]![k]!, x[r]![half]!, k128[half]!)))]),
    ];
  };
  const code: Node[] = key.map((k, n) => k.set(i32.load(at, layout.keyAddress + 4 * n)));
  for (let first = 0; first < 4; first += keysAtOnce) {
    const keys = Array.from({ length: keysAtOnce }, (_, n) => first + n);
    code.push(
      ...keys.flatMap((k) => sums.map((s) => s[k]!.set(splat.f32(0)))),
      forRange(d, 0, 4 * plan.headDimQk, 32 * unroll, [half.set(i32.shr_u(d, 1)), ...Array.from({ length: unroll }, (_, u) => step(keys, u)).flat()]),
    );
  }
  return [...code, ...scaledSums(plan, sums, score)];
}

/** Turns the scores in scratch into probabilities; leaves in `factor` (the maxima's locals) what the old sums are multiplied by. */
function softmax(plan: AttentionPlan, layout: ScratchLayout, scratch: Local, state: readonly Local[], factor: readonly Local[], partial: Local, local: MakeLocal): Node[] {
  const zero = local("i32", "zero"), constants = new KeptConstants(local);
  const top = local("v128", "top"), old = local("v128", "old"), base = local("v128", "base"), sum = local("v128", "sum"), p = local("v128", "p"), j = local("i32", "softmaxAt"), at = local("i32", "scoreAt");
  const accBytes = layout.stateBytes - 32;
  const swap = (v: Local, order: readonly [number, number, number, number]): Node => i8x16.shuffle(v, v, order.flatMap((word) => [0, 1, 2, 3].map((byte) => 4 * word + byte)));
  const code = state.flatMap((s, r) => [
    old.set(v128.load32_splat(s, accBytes + 16)),
    top.set(f32x4.pmax(factor[r]!, old)),
    top.set(f32x4.pmax(top, swap(top, [2, 3, 0, 1]))),
    top.set(f32x4.pmax(top, swap(top, [1, 0, 3, 2]))),
    v128.store32_lane(s, top, 0, accBytes + 16),
    comment("A row without a key so far: -Infinity - -Infinity would be NaN."),
    base.set(v128.andnot(top, f32x4.eq(top, splat.f32(-Infinity)))),
    p.set(f32x4.sub(old, base)),
    ...expOfNonPositive(local, p, factor[r]!, constants.f32),
    sum.set(f32x4.mul(v128.load(s, accBytes), factor[r]!)),
    forRange(j, 0, 4 * plan.kvTile, 16, [
      at.set(i32.add(scratch, j)),
      p.set(f32x4.sub(v128.load(at, layout.scores + 4 * plan.kvTile * r), base)),
      ...expOfNonPositive(local, p, p, constants.f32),
      v128.store(at, p, layout.scores + 4 * plan.kvTile * r),
      sum.set(f32x4.add(sum, p)),
    ]),
    v128.store(s, sum, accBytes),
  ]);
  // What is always 0, though nobody who compiles this can know.
  return [zero.set(i32.shr_u(partial, 1)), ...constants.code(zero), ...code];
}

/**
 * acc[r] = acc[r] * factor[r] + sum over the first `count` keys of p[r][key] * V[key].
 * Eight accumulators at a time, rows times vectors of the head: enough to hide the latency of a multiply-add, few enough for registers.
 */
function accumulate(plan: AttentionPlan, cache: Memory, layout: ScratchLayout, scratch: Local, state: readonly Local[], factor: readonly Local[], count: Local, local: MakeLocal): Node[] {
  const most = 8 / state.length;
  const d = local("i32", "valueAt"), at = local("i32", "keyAt"), end = local("i32", "keysEnd"), row = local("i32", "valueRow"), p = local("v128", "weight");
  const parts = Array.from({ length: most }, (_, part) => part);
  const acc = state.map((_, r) => parts.map((part) => local("v128", `acc${r}${part}`))), value = parts.map((part) => local("v128", `value${part}`));
  const inPlace = isWidenedInPlace(plan.valueFormat, plan.headDimV), inValue = inRow(cache, plan.valueFormat, plan.headDimV);
  /** The values at `row`: a load each, or one for two vectors. */
  const loadValues = (used: readonly number[], load: (part: number) => Node): Node[] => used.flatMap((part) => {
    if (!inPlace) return [value[part]!.set(load(part))];
    const raw = local("v128", "raw");
    return part % 2 === 0 ? [raw.set(v128.load(inValue(row), 8 * part)), ...widenEight(raw, [value[part]!, value[part + 1]!])] : [];
  });
  const overKeys = (vectors: number, load: (part: number) => Node): Node[] => {
    const used = parts.slice(0, vectors);
    return [
      ...state.flatMap((s, r) => used.map((part) => acc[r]![part]!.set(f32x4.mul(v128.load(i32.add(s, d), 16 * part), factor[r]!)))),
      at.set(scratch),
      loop("next_key", (next) => [
        row.set(i32.add(i32.load(at, layout.valueAddress), inPlace ? i32.shr_u(d, 1) : d)),
        ...loadValues(used, load),
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
  if (whole > 0) code.push(forRange(d, 0, whole, 16 * most, overKeys(most, (part) => v128.load(inValue(row), 16 * part))));
  if (rest > 0) code.push(d.set(whole), ...overKeys(rest, (part) => v128.load(inValue(row), 16 * part)));
  if (lanesLeft > 0) {
    // The last one to three elements, without reading past the row's end.
    const partial = [1, 2].filter((lane) => lane < lanesLeft).reduce<Node>((v, lane) => v128.load32_lane(inValue(row), v, lane, 4 * lane), v128.load32_zero(inValue(row)));
    code.push(d.set(whole + 16 * rest), ...overKeys(1, () => partial));
  }
  return code;
}
