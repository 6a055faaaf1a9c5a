/** S0 to S24: score mods. */
import { clamp, floorDiv } from "../../../src/attention/language.ts";
import { fixed } from "../../../src/attention/captures.ts";
import { maskMod, type ScoreMod, scoreMod } from "../../../src/attention/mod.ts";
import { alibi, alibiSlopes } from "../../../src/attention/mods/alibi.ts";
import { causal } from "../../../src/attention/mods/causal.ts";
import { kerpleLog, kerplePower } from "../../../src/attention/mods/kerple.ts";
import { relativeBias } from "../../../src/attention/mods/relative-bias.ts";
import { sandwich, sandwichTable } from "../../../src/attention/mods/sandwich.ts";
import { softCap } from "../../../src/attention/mods/soft-cap.ts";
import { t5Bias } from "../../../src/attention/mods/t5-bias.ts";
import { tensor } from "../../../src/attention/tensor.ts";
import type { Case, Composite, Geometry } from "../case.ts";
import { floats, numbers } from "./tables.ts";

const wave = (n: number, scale = 1): Float32Array => floats(n, (i) => scale * Math.sin(1 + i * 1.7));
const plain = (id: string, title: string, mod: ScoreMod, masked = false): Case => ({ id, title, mods: () => ({ scoreMod: mod, ...(masked && { maskMod: causal }) }) });
const made = (id: string, title: string, mod: (g: Geometry) => ScoreMod, masked = false): Case => ({ id, title, mods: (g) => ({ scoreMod: mod(g), ...(masked && { maskMod: causal }) }) });

const cap = { cap: 20 };
const scalar = { bias: 0.5 };
const table: { c: Float32Array } = { c: new Float32Array(0) };

export const scores: readonly Case[] = [
  plain("S0", "identity", scoreMod((score) => score)),
  plain("S1", "twice the score", scoreMod((score) => score * 2)),
  plain("S2", "the square of the score", scoreMod((score) => score * score)),
  plain("S3", "causal by -Infinity", scoreMod((score, _b, _h, q, kv) => (q >= kv ? score : -Infinity))),
  plain("S4", "anti-causal by -Infinity", scoreMod((score, _b, _h, q, kv) => (q <= kv ? score : -Infinity))),
  plain("S5", "plus the distance", scoreMod((score, _b, _h, q, kv) => score + (q - kv))),
  plain("S5'", "plus the distance without its sign", scoreMod((score, _b, _h, q, kv) => score + Math.abs(q - kv))),
  plain("S5'", "plus the distance, at most C", scoreMod(({ c }) => (score, _b, _h, q, kv) => score + Math.min(Math.abs(q - kv), c), { c: 6 })),
  plain("S5'", "plus twice the distance", scoreMod((score, _b, _h, q, kv) => score + 2 * Math.abs(q - kv))),
  plain("S6", "plus the distance, causal", scoreMod((score, _b, _h, q, kv) => score + (q - kv)), true),
  made("S7", "ALiBi by a table of slopes", (g) => alibi(alibiSlopes(g.heads)), true),
  made("S7", "ALiBi, the slope computed", (g) => scoreMod(({ heads }) => (score, _b, h, q, kv) => score + (kv - q) * 2 ** ((-8 * (h + 1)) / heads), { heads: g.heads })),
  made("S7", "ALiBi on both sides", (g) => scoreMod(({ a }) => (score, _b, h, q, kv) => score - a[h]! * Math.abs(q - kv), { a: alibiSlopes(g.heads) })),
  { id: "S8", title: "soft cap, 20 and then 30.5", mods: () => { cap.cap = 20; return { scoreMod: scoreMod((c) => (score) => c.cap * Math.tanh(score / c.cap), cap), maskMod: causal }; }, change: () => { cap.cap = 30.5; } },
  plain("S8", "soft cap of 50", softCap(50)),
  plain("S8", "soft cap of 1, where it bites", softCap(1)),
  plain("S8", "soft cap in a form that cannot overflow", scoreMod(({ c }) => (score) => c - (2 * c) / (1 + Math.exp((2 * score) / c)), { c: 20 })),
  made("S9", "Sandwich", (g) => sandwich(sandwichTable(g.positions, 16), g.heads)),
  made("S10", "Graphormer, spatial", (g) => scoreMod(({ bias, dist }) => (score, b, h, q, kv) => score + bias[h]![dist[b]![q]![kv]!]!, {
    bias: tensor(wave(g.heads * 9), [g.heads, 9]), dist: tensor(numbers(g.batch * g.queries * g.keys, (i) => (i * 31) % 9), [g.batch, g.queries, g.keys]),
  })),
  made("S10", "Graphormer, edges by a loop", (g) => scoreMod(({ edges, type, len }) => (score, b, h, q, kv) => {
    let sum = 0;
    for (let n = 0; n < 4; n++) sum += n < len[b]! ? edges[n]![h]![type[kv]![n]!]! : 0;
    return score + sum / Math.max(len[b]! + (q % 2), 1);
  }, { edges: tensor(wave(4 * g.heads * 5), [4, g.heads, 5]), type: tensor(numbers(g.keys * 4, (i) => (i * 7) % 5), [g.keys, 4]), len: numbers(g.batch, (b) => (b * 3) % 5) })),
  made("S11", "a second product of 16 dimensions, by a loop", (g) => scoreMod(({ qr, kr, group, s, dims }) => (score, b, h, q, kv) => {
    let dot = 0;
    for (let d = 0; d < dims; d++) dot += qr[b]![h]![q]![d]! * kr[b]![Math.floor(h / group)]![kv]![d]!;
    return score + s * dot;
  }, {
    qr: tensor(wave(g.batch * g.heads * g.queries * 16), [g.batch, g.heads, g.queries, 16]), kr: tensor(wave(g.batch * g.kvHeads * g.keys * 16), [g.batch, g.kvHeads, g.keys, 16]),
    group: g.heads / g.kvHeads, s: 0.25, dims: fixed(16),
  })),
  made("S13", "T5, encoder", (g) => t5Bias(tensor(wave(g.heads * 32), [g.heads, 32]), { bidirectional: true })),
  made("S13", "T5, decoder", (g) => t5Bias(tensor(wave(g.heads * 32), [g.heads, 32]), { bidirectional: false }), true),
  made("S13", "T5, the bucket computed", (g) => scoreMod(({ bias, m }) => (score, _b, h, q, kv) => {
    // The offset of a third keeps the logarithm away from whole numbers, where f32 and doubles may fall on either side.
    const n = Math.max(q - kv, 0), far = m + Math.floor((Math.log((n + 0.3333) / m) / Math.log(131 / m)) * m);
    return score + bias[h]![n < m ? n : Math.min(far, 2 * m - 1)]!;
  }, { bias: tensor(wave(g.heads * 32), [g.heads, 32]), m: 16 }), true),
  made("S14", "a table of distances", (g) => scoreMod(({ r, n }) => (score, _b, _h, q, kv) => score + r[q - kv + n]!, { r: wave(2 * g.positions + 1), n: g.positions })),
  made("S14", "a table of distances for each head, clamped", (g) => relativeBias(tensor(wave(g.heads * 21), [g.heads, 21]))),
  made("S14", "by the key", (g) => scoreMod(({ c }) => (score, _b, _h, _q, kv) => score + c[kv]!, { c: wave(g.keys) })),
  { id: "S14", title: "by the query, refilled between calls", mods: (g) => { table.c = wave(g.queries); return { scoreMod: scoreMod((t) => (score, _b, _h, q, kv) => score * (1 + 0.1 * t.c[q]!) + 0.01 * kv, table) }; }, change: () => { table.c.forEach((x, i) => { table.c[i] = 1 - x; }); } },
  made("S14", "by both", (g) => scoreMod(({ c, r }) => (score, _b, _h, q, kv) => score + c[kv]! + r[q]! * 0.5, { c: wave(g.keys), r: wave(g.queries) })),
  made("S14", "by the sequence", (g) => scoreMod(({ t }) => (score, b) => score * t[b]!, { t: wave(g.batch) })),
  made("S14", "by the head", (g) => scoreMod(({ t }) => (score, _b, h) => score * t[h]!, { t: wave(g.heads) })),
  made("S14", "two tables", (g) => scoreMod(({ g: gain, p }) => (score, _b, h, q, kv) => score + (gain[h]! + p[q]!) * (kv % 2), { g: wave(g.heads), p: wave(g.queries) })),
  made("S14", "a bias for everything", (g) => scoreMod(({ bias }) => (score, b, h, q, kv) => score + bias[b]![h]![q]![kv]!, { bias: tensor(wave(g.batch * g.heads * g.queries * g.keys), [g.batch, g.heads, g.queries, g.keys]) })),
  { id: "S14", title: "a captured number that changes", mods: () => { scalar.bias = 0.5; return { scoreMod: scoreMod((c) => (score, _b, _h, q, kv) => score + c.bias * ((q ^ kv) & 3), scalar) }; }, change: () => { scalar.bias = -1.25; } },
  plain("S15", "silu", scoreMod((score) => score / (1 + Math.exp(-score)))),
  plain("S15", "sin, cos and tan", scoreMod((score, b) => Math.sin(Math.cos(score)) + Math.tan(b * 0.1))),
  plain("S15", "cos times sin, and tan", scoreMod((score, b) => Math.cos(score) * Math.sin(score) + Math.tan(b * 0.1))),
  plain("S15", "less a whole quotient", scoreMod((score, _b, _h, q, kv) => score - floorDiv(q, 1 + kv))),
  plain("S15", "sqrt, log, log2, log1p, pow, hypot, sign, round, ceil, trunc", scoreMod((score, _b, _h, q, kv) =>
    Math.sqrt(Math.abs(score)) * Math.sign(score) + Math.log(1 + kv) - 0.25 * Math.log2(q + 1) + 0.1 * Math.log1p(kv) + Math.hypot(score, 1) - (q + 1) ** 0.25
    + 0.125 * (Math.round(q / 3) - Math.ceil(kv / 5) + Math.trunc((q - kv) / 7)))),
  made("S16", "a pattern of exclusive or, and a table by the key", (g) => scoreMod(({ c }) => (score, _b, _h, q, kv) => score + 0.001 * ((q ^ kv) & 255) + c[kv]!, { c: wave(g.keys) })),
  made("S16", "five tables at once", (g) => scoreMod(({ hs, bb, qp, kp, rp, m }) => (score, b, h, q, kv) => score * hs[h]! + bb[b]! + qp[q]! + kp[kv]! + 0.1 * rp[clamp(q - kv + m, 0, 2 * m)]!, {
    hs: wave(g.heads), bb: wave(g.batch), qp: wave(g.queries), kp: wave(g.keys), rp: wave(65), m: 32,
  })),
  made("S17", "padding by -Infinity", (g) => scoreMod(({ len, inner }) => (score, b, h, q, kv) => (kv < len[b]! ? inner(score, b, h, q, kv) : -Infinity), { len: numbers(g.batch, (b) => Math.max(1, Math.floor(g.keys / (b + 2)))), inner: softCap(5) })),
  plain("S18", "near keys count twice", scoreMod(({ w }) => (score, _b, _h, q, kv) => (Math.abs(q - kv) <= w ? 2 * score : score), { w: 8 })),
  made("S19", "radial bumps by a loop", (g) => scoreMod(({ a, w, mu }) => (score, _b, h, q, kv) => {
    let sum = 0;
    for (let k = 0; k < 4; k++) sum += a[h]![k]! * Math.exp(-w[h]![k]! * (q - kv - mu[k]!) ** 2);
    return score + sum;
  }, { a: tensor(wave(g.heads * 4), [g.heads, 4]), w: tensor(floats(g.heads * 4, (i) => 0.01 * (1 + (i % 7))), [g.heads, 4]), mu: Float32Array.of(0, 4, 16, 40) })),
  made("S20", "Kerple, logarithmic", (g) => kerpleLog(floats(g.heads, (h) => 0.5 + h), floats(g.heads, (h) => 0.1 * (h + 1)))),
  made("S20", "Kerple, power", (g) => kerplePower(floats(g.heads, (h) => 0.1 + 0.05 * h), floats(g.heads, (h) => 0.5 + (h % 3) * 0.4))),
  plain("S21", "a temperature that grows with the length", scoreMod(({ n }) => (score, _b, _h, q) => (score * Math.log(q + 1)) / Math.log(n), { n: 64 }), true),
  plain("S22", "a scalar for all", scoreMod(({ g }) => (score) => g * score, { g: 1.7 })),
  made("S22", "a scale for each head", (g) => scoreMod(({ gain }) => (score, _b, h) => gain[h]! * score, { gain: floats(g.heads, (h) => 0.5 + h) })),
  plain("S23", "-Infinity for whole rows", scoreMod((score, _b, _h, q, kv) => (q % 4 === 2 || kv > q + 9 ? -Infinity : score))),
  plain("S24", "branches, early returns and a loop that assigns", scoreMod(({ w }) => (score, _b, h, q, kv) => {
    const d = q - kv;
    if (d < 0) return score - 0.5;
    let x = score;
    if (h % 2 === 1) {
      if (d > w) return x * 0.25;
      x = x + 1;
    } else if (d === 0) x = 2 * x;
    for (let i = 0; i < 3; i++) if (d > i * 10) x -= 0.1 * (i + 1);
    return x;
  }, { w: 20 })),
  { id: "S24", title: "a score mod under a mask of another shape", mods: () => ({ scoreMod: softCap(4), maskMod: maskMod((_b, h, q, kv) => { if (h === 0) return q >= kv; return Math.abs(q - kv) < 20; }) }) },
];

/** Mods that need more than one launch. */
export const scoreComposites: readonly Composite[] = [{
  id: "S12", title: "an activation instead of softmax: f(S) V = O e^lse - N sum(V), f = relu", parts: () => [{ scoreMod: scoreMod(({ n }) => (score) => Math.log(Math.max(score, 0) + n), { n: 1 }) }],
  combine: ([part], values) => part!.out.map((x, d) => x * Math.exp(part!.lse) - values[d]!),
}];
