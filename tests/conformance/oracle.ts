/**
 * The oracle: attention by its formula, every pair of positions, in plain loops. Twice at once: in doubles (gold), and rounded to f32 after
 * every operation (what the type itself costs). No blocks, pages or tiles, and nothing of any backend.
 */
import { fromBf16, fromF16, fromFp8, toBf16, toF16, toFp8 } from "../../src/core/dtype.ts";
import type { Mod } from "../../src/attention/mod.ts";
import { evaluator } from "../../src/ir/interpret.ts";
import type { KvFormat } from "../../src/ir/plan.ts";
import type { Mods, Shape } from "./case.ts";

/** Rows by sequence: query [heads, rows, dim], key [kvHeads, kvLength, dim], value [kvHeads, kvLength, valueDim]; keys and values as stored, widened. */
export interface Data {
  readonly query: readonly Float32Array[];
  readonly key: readonly Float32Array[];
  readonly value: readonly Float32Array[];
}

/** About normal numbers, a function of the seed alone. */
function noise(seed: number): () => number {
  let state = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) | 0;
  const uniform = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return () => (uniform() + uniform() + uniform() - 1.5) * 2;
}

/** Scale of int8 and fp8 rows: a power of two that differs from token to token, so that code * scale is exact. */
export function scaleOf(format: KvFormat, token: number): number {
  return format === "int8" ? 2 ** (-6 - (token % 2)) : format === "fp8" ? 2 ** (-1 - (token % 2)) : 1;
}

/** The stored code of x in a format, before its scale. */
export function encode(format: KvFormat, x: number, scale: number): number {
  switch (format) {
    case "f32": return x;
    case "bf16": return toBf16(x);
    case "f16": return toF16(x);
    case "int8": return Math.max(-127, Math.min(127, Math.round(x / scale)));
    case "fp8": return toFp8(x / scale);
    default: return format satisfies never;
  }
}

function decode(format: KvFormat, code: number, scale: number): number {
  switch (format) {
    case "f32": return code;
    case "bf16": return fromBf16(code);
    case "f16": return fromF16(code);
    case "int8": return code * scale;
    case "fp8": return fromFp8(code) * scale;
    default: return format satisfies never;
  }
}

/** Codes by sequence, in the order of Data; and the data itself. */
export interface Stored extends Data {
  readonly queryCodes: readonly Float64Array[];
  readonly keyCodes: readonly Float64Array[];
  readonly valueCodes: readonly Float64Array[];
}

export function makeData(shape: Shape, mods: Mods): Stored {
  const { heads, kvHeads, dim, valueDim, sequences, kvSource = (head) => head } = shape;
  const side = (format: KvFormat, d: number, salt: number): { codes: Float64Array[]; values: Float32Array[] } => {
    const codes: Float64Array[] = [], values: Float32Array[] = [];
    for (const s of sequences) {
      const code = new Float64Array(kvHeads * s.kvLength * d), value = new Float32Array(code.length);
      for (let g = 0, at = 0; g < kvHeads; g++) for (let t = 0; t < s.kvLength; t++) {
        const next = noise(s.key(t) * 64 + kvSource(g) + salt), scale = scaleOf(format, s.key(t));
        for (let i = 0; i < d; i++, at++) {
          code[at] = encode(format, Math.fround(next()), scale);
          value[at] = decode(format, code[at]!, scale);
        }
      }
      codes.push(code);
      values.push(value);
    }
    return { codes, values };
  };
  const key = side(mods.keyFormat ?? "f32", dim, 0x10000000), value = side(mods.valueFormat ?? "f32", valueDim, 0x20000000);
  const format = mods.queryFormat ?? "f32", queryCodes: Float64Array[] = [], query: Float32Array[] = [];
  for (const s of sequences) {
    const code = new Float64Array(heads * s.rows * dim);
    for (let h = 0, at = 0; h < heads; h++) for (let r = 0; r < s.rows; r++) {
      const next = noise(s.query(r) * 64 + h);
      for (let i = 0; i < dim; i++, at++) code[at] = encode(format, Math.fround(next()), 1);
    }
    queryCodes.push(code);
    query.push(Float32Array.from(code, (x) => decode(format, x, 1)));
  }
  return { query, queryCodes, key: key.values, value: value.values, keyCodes: key.codes, valueCodes: value.codes };
}

/** One row's answer. `lse` and `max` are NaN under a weightMod. */
export interface Row {
  readonly sequence: number;
  readonly head: number;
  readonly row: number;
  readonly gold: { readonly out: Float64Array; readonly lse: number; readonly max: number };
  readonly single: { readonly out: Float32Array; readonly lse: number; readonly max: number };
  /** Whether no key was allowed. */
  readonly empty: boolean;
}

/** Which rows of a sequence are asked for: all up to `most`, else the ends, the edges of tiles and some between. */
export function rowsToAsk(rows: number, most: number): number[] {
  if (rows <= most) return Array.from({ length: rows }, (_, i) => i);
  const picked = new Set([0, 1, 15, 16, 31, 32, 127, 128, 1023, 1024, rows - 2, rows - 1].filter((r) => r < rows));
  for (let i = 0; picked.size < most; i++) picked.add(Math.floor(((i * 0.6180339887 + 0.31) % 1) * rows));
  return [...picked].toSorted((a, b) => a - b);
}

const f32 = Math.fround;

/**
 * The answers of the rows asked for, in order of sequence, head, row. `compute`: what the type itself costs is that of a 16-bit type: scores, the score
 * mod's results and the weights are rounded to it, as an eager implementation in that type does; sums stay f32.
 */
export function answers(shape: Shape, mods: Mods, data: Data, mostRows = Infinity, compute?: "bf16" | "f16"): Row[] {
  const half = (x: number): number => (compute ? decode(compute, encode(compute, x, 1), 1) : x);
  const { heads, kvHeads, dim, valueDim } = shape;
  const { scoreMod, maskMod, weightMod, outputMod } = mods;
  // One mutable environment for each mod: the loops below ask millions of times.
  const at: { b: number; h: number; q: number; kv: number; score: number } = { b: 0, h: 0, q: 0, kv: 0, score: 0 };
  const prepared = (mod: Mod | undefined) => {
    if (!mod) return undefined;
    const env = { ...at, ...mod.values() }, gold = evaluator(mod.expr(), "double"), single = evaluator(mod.expr());
    const ask = (f: typeof gold) => (score: number): number => {
      env.b = at.b; env.h = at.h; env.q = at.q; env.kv = at.kv; env.score = score;
      return f(env);
    };
    return { gold: ask(gold), single: ask(single) };
  };
  const mask = prepared(maskMod), score = prepared(scoreMod), weight = prepared(weightMod), output = prepared(outputMod);
  const scale = f32(1 / Math.sqrt(dim));
  const rows: Row[] = [];
  shape.sequences.forEach((s, b) => {
    const query = data.query[b]!, key = data.key[b]!, value = data.value[b]!, S = s.kvLength;
    const goldScores = new Float64Array(S), singleScores = new Float32Array(S), allowed: number[] = [];
    for (let h = 0; h < heads; h++) for (const row of rowsToAsk(s.rows, mostRows)) {
      const q = s.firstPosition + row, g = Math.floor(h / (heads / kvHeads)), queryAt = (h * s.rows + row) * dim;
      allowed.length = 0;
      at.b = b; at.h = h; at.q = q;
      for (let kv = 0; kv < S; kv++) {
        at.kv = kv;
        if (mask && !mask.gold(0)) continue;
        const keyAt = (g * S + kv) * dim;
        let exact = 0, rounded = f32(0);
        for (let d = 0; d < dim; d++) {
          const x = query[queryAt + d]!, y = key[keyAt + d]!;
          exact += x * y;
          rounded = f32(rounded + f32(x * y));
        }
        exact *= scale;
        rounded = half(f32(rounded * scale));
        if (score) {
          exact = score.gold(exact);
          rounded = half(score.single(rounded));
        }
        if (weight) {
          exact = weight.gold(exact);
          rounded = half(weight.single(rounded));
        }
        if (exact === -Infinity && !weight) continue;
        goldScores[kv] = exact;
        singleScores[kv] = rounded;
        allowed.push(kv);
      }
      const extra = mods.softmax === "one" ? 0 : mods.sink ? mods.sink[h]! : -Infinity;
      const finish = (x: number, d: number, rounding: "gold" | "single"): number => {
        at.kv = d;
        const y = output ? output[rounding](x) : x;
        return rounding === "single" && mods.queryFormat ? decode(mods.queryFormat, encode(mods.queryFormat, y, 1), 1) : y;
      };

      const gold = new Float64Array(valueDim);
      let goldMax = extra;
      for (const kv of allowed) goldMax = Math.max(goldMax, goldScores[kv]!);
      let goldSum = extra === -Infinity ? 0 : Math.exp(extra - goldMax);
      for (const kv of allowed) {
        const w = weight ? goldScores[kv]! : Math.exp(goldScores[kv]! - goldMax), valueAt = (g * S + kv) * valueDim;
        goldSum += w;
        for (let d = 0; d < valueDim; d++) gold[d]! += w * value[valueAt + d]!;
      }
      for (let d = 0; d < valueDim; d++) gold[d] = finish(weight || allowed.length === 0 ? gold[d]! : gold[d]! / goldSum, d, "gold");

      const single = new Float32Array(valueDim);
      let singleMax = extra;
      for (const kv of allowed) singleMax = Math.max(singleMax, singleScores[kv]!);
      let singleSum = extra === -Infinity ? 0 : f32(Math.exp(f32(extra - singleMax)));
      for (const kv of allowed) {
        const w = weight ? singleScores[kv]! : f32(Math.exp(f32(singleScores[kv]! - singleMax))), valueAt = (g * S + kv) * valueDim;
        singleSum = f32(singleSum + w);
        for (let d = 0; d < valueDim; d++) single[d] = f32(single[d]! + f32(half(w) * value[valueAt + d]!));
      }
      for (let d = 0; d < valueDim; d++) single[d] = finish(weight || allowed.length === 0 ? single[d]! : f32(single[d]! / singleSum), d, "single");

      rows.push({
        sequence: b, head: h, row, empty: allowed.length === 0,
        gold: { out: gold, lse: weight ? NaN : goldMax + Math.log(goldSum), max: weight ? NaN : goldMax },
        single: { out: single, lse: weight ? NaN : f32(singleMax + f32(Math.log(singleSum))), max: weight ? NaN : singleMax },
      });
    }
  });
  return rows;
}

/**
 * PyTorch's rule: mean |gold - found| <= factor * mean |gold - single|. Where single happens to be exact (one key: out is the value), half a unit in
 * the last place of f32, as the mean magnitude has it, stands for it. The largest error is held to the largest in the same way, so that one wrong
 * element among many is seen; `largestFactor`, where it differs: of two things rounded to 16 bits in another order either may have the unluckier element.
 */
export function judge(pairs: Iterable<readonly [gold: number, single: number, found: number]>, what: "out" | "lse" | "maxScore", factor: number, largestFactor = factor): { readonly ratio: number; readonly problem: string | undefined } {
  let n = 0, wrong = 0, alone = 0, size = 0, worst = 0, worstAlone = 0, largest = 0, odd: string | undefined;
  for (const [gold, single, found] of pairs) {
    if (!Number.isFinite(gold)) {
      if (!Object.is(gold, found)) odd ??= `${what} is ${found} where it must be ${gold}`;
      continue;
    }
    if (!Number.isFinite(found)) odd ??= `${what} is ${found} where it must be ${gold}`;
    n++;
    wrong += Math.abs(gold - found);
    alone += Math.abs(gold - single);
    size += Math.abs(gold);
    worst = Math.max(worst, Math.abs(gold - found));
    worstAlone = Math.max(worstAlone, Math.abs(gold - single));
    largest = Math.max(largest, Math.abs(gold));
  }
  if (odd || n === 0) return { ratio: 0, problem: odd };
  const unavoidable = Math.max(alone / n, (size / n) * 2 ** -25, 1e-30), ratio = wrong / n / unavoidable;
  if (!(ratio <= factor)) return { ratio, problem: `${what}: mean error ${(wrong / n).toExponential(2)} is ${ratio.toFixed(1)} times what the type costs, over ${factor}` };
  const most = largestFactor * Math.max(worstAlone, largest * 2 ** -24, 1e-30);
  return { ratio, problem: worst <= most ? undefined : `${what}: largest error ${worst.toExponential(2)} is over ${most.toExponential(2)}, ${largestFactor} times the largest that the type costs` };
}
