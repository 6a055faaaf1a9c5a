/**
 * Attention variants that people use, as mods: what the compiler must take, whatever it was tried on before.
 *
 * Sizes: 2 sequences, 4 query heads, `length` queries and keys. The formulas stand beside each.
 */
import { and, clamp, fixed, floorDiv, floorMod, type MaskMod, maskMod, offset, or, type ScoreMod, scoreMod, tensor } from "../../src/attention/index.ts";

export const length = 72;

const i32 = (n: number, f: (i: number) => number): Int32Array => Int32Array.from({ length: n }, (_, i) => f(i));
const f32 = (n: number, f: (i: number) => number): Float32Array => Float32Array.from({ length: n }, (_, i) => f(i));
/** A fixed scatter of whole numbers below n. */
const mix = (i: number, n: number): number => (Math.imul(i + 1, 0x9e3779b1) >>> 8) % n;

const causal = maskMod((_b, _h, q, kv) => q >= kv);
const doc = i32(length, (i) => [0, 0, 1, 1, 1, 2, 3, 3][Math.floor(i / 9)]!);
const start = i32(4, (d) => doc.indexOf(d));
const image = i32(length, (i) => (i % 24 < 8 ? Math.floor(i / 24) : -1));

export const masks: Readonly<Record<string, MaskMod>> = {
  "no mask": maskMod(() => true),
  "causal with cached tokens: q + off[b] >= kv": maskMod(({ off }) => (b, _h, q, kv) => q + off[b]! >= kv, { off: Int32Array.of(0, 9) }),
  "window of both conventions": or(maskMod(({ w }) => (_b, _h, q, kv) => q >= kv && q - kv <= w, { w: 7 }), maskMod(({ w }) => (_b, _h, q, kv) => Math.abs(q - kv) < w, { w: 3 })),
  "prefix-LM of FlashAttention 4": maskMod(({ p }) => (_b, _h, q, kv) => (q < p && kv < p) || q >= kv, { p: 20 }),
  "documents with an inner mask on local positions": maskMod(({ inner, doc, start }) => (b, h, q, kv) => doc[q] === doc[kv] && inner(b, h, q - start[doc[q]!]!, kv - start[doc[kv]!]!), { inner: causal, doc, start }),
  "batches packed in one sequence": maskMod(({ n, inner }) => (b, h, q, kv) => floorDiv(q, n) === floorDiv(kv, n) && inner(b, h, q % n, kv % n), { n: 24, inner: causal }),
  "dilated window": maskMod(({ w, d }) => (_b, _h, q, kv) => Math.abs(q - kv) <= w && Math.abs(q - kv) % d === 0, { w: 12, d: 3 }),
  "global tokens and a window (Longformer)": maskMod(({ w, g }) => (_b, _h, q, kv) => Math.abs(q - kv) <= w || !!g[q] || !!g[kv], { w: 5, g: Uint8Array.from({ length }, (_, i) => Number(i % 30 === 0)) }),
  "cross attention to images (Flamingo)": maskMod(({ from, per }) => (_b, _h, q, kv) => from[Math.floor(kv / per)]![0]! <= q && q < from[Math.floor(kv / per)]![1]!, { from: tensor(Int32Array.of(0, 20, 20, 50, 50, 72), [3, 2]), per: 24 }),
  "block diffusion (BD3-LM)": maskMod(({ n, c }) => (_b, _h, q, kv) => {
    const qNoisy = q < n, kvNoisy = kv < n;
    const qBlock = floorDiv(q % n, c), kvBlock = floorDiv(kv % n, c);
    return (qBlock === kvBlock && qNoisy === kvNoisy) || (qBlock > kvBlock && qNoisy && !kvNoisy) || (qBlock >= kvBlock && !qNoisy && !kvNoisy);
  }, { n: 36, c: 6 }),
  "a tree after a prefix (Medusa, EAGLE)": maskMod(({ p, n, ancestor }) => (_b, _h, q, kv) => kv < p || (kv < p + n && ancestor[clamp(q - p, 0, n - 1)]![clamp(kv - p, 0, n - 1)] !== 0), {
    p: 40, n: 32, ancestor: tensor(Uint8Array.from({ length: 32 * 32 }, (_, i) => { let at = Math.floor(i / 32); while (at > i % 32) at = (at - 1) >> 1; return Number(at === i % 32); }), [32, 32]),
  }),
  "speculative training": maskMod(({ p, c }) => (_b, _h, q, kv) => kv < p || (kv >= p && floorDiv(q, c) === floorDiv(kv - p, c) && (kv - p) % c <= q % c), { p: 16, c: 8 }),
  "neighbourhood in two dimensions (NATTEN)": maskMod(({ w, height, kw, kh }) => (_b, _h, q, kv) => {
    const cx = clamp(q % w, kw >> 1, w - 1 - (kw >> 1)), cy = clamp(floorDiv(q, w), kh >> 1, height - 1 - (kh >> 1));
    return Math.abs(cx - (kv % w)) <= kw >> 1 && Math.abs(cy - floorDiv(kv, w)) <= kh >> 1;
  }, { w: 9, height: 8, kw: 5, kh: 3 }),
  "neighbourhood in Morton order": maskMod((_b, _h, q, kv) => {
    const even = (x: number): number => { let v = x & 0x55555555; v = (v | (v >> 1)) & 0x33333333; v = (v | (v >> 2)) & 0x0f0f0f0f; return (v | (v >> 4)) & 0x00ff00ff; };
    return Math.abs(even(q) - even(kv)) <= 2 && Math.abs(even(q >> 1) - even(kv >> 1)) <= 2;
  }),
  "sliding tiles with text": maskMod(({ v, t, k }) => (_b, _h, q, kv) => {
    if (q >= v || kv >= v) return true;
    const centre = clamp(floorDiv(q, t), k >> 1, floorDiv(v, t) - 1 - ((k - 1) >> 1));
    const tile = floorDiv(kv, t);
    return tile >= centre - (k >> 1) && tile <= centre + ((k - 1) >> 1);
  }, { v: 64, t: 8, k: 3 }),
  "frames and space (sparse video)": maskMod(({ p, f, w }) => (_b, _h, q, kv) => q < p || kv < p || Math.abs(((q - p) % f) - ((kv - p) % f)) < w, { p: 6, f: 11, w: 2 }),
  "shared prefix": maskMod(({ doc, pre, start }) => (_b, _h, q, kv) => {
    const d = doc[q]!, p = pre[d]!;
    return (kv >= start[d]! && q >= kv) || (d !== p && start[p]! <= kv && kv < start[p + 1]!);
  }, { doc, pre: Int32Array.of(0, 0, 0, 1), start }),
  "attention sink and window (StreamingLLM)": maskMod(({ k0, w }) => (_b, _h, q, kv) => q >= kv && (kv < k0 || q - kv < w), { k0: 4, w: 16 }),
  "local chunks (Llama 4)": maskMod(({ c }) => (_b, _h, q, kv) => floorDiv(q, c) === floorDiv(kv, c) && q >= kv, { c: 16 }),
  "strided": maskMod(({ s, c }) => (_b, _h, q, kv) => q >= kv && (q - kv < s || kv % s >= s - c), { s: 8, c: 2 }),
  "BigBird": maskMod(({ random }) => (_b, _h, q, kv) => Math.abs(floorDiv(q, 8) - floorDiv(kv, 8)) <= 1 || kv < 8 || q < 8 || random[floorDiv(q, 8)]![floorDiv(kv, 8)] === 1, { random: tensor(i32(81, (i) => Number(mix(i, 5) === 0)), [9, 9]) }),
  "mini-causal": maskMod(({ c }) => (_b, _h, q, kv) => q % c >= kv % c, { c: 10 }),
  "anti-causal checker": maskMod((_b, _h, q, kv) => q <= kv && (q + kv) % 2 === 0),
  "padding on both sides, with empty rows": maskMod(({ len, pad }) => (b, _h, q, kv) => q >= kv && kv < len[b]! && kv >= pad[b]!, { len: Int32Array.of(72, 50), pad: Int32Array.of(13, 0) }),
  "images whole, text causal (Transfusion)": maskMod(({ image }) => (_b, _h, q, kv) => q >= kv || (image[q]! >= 0 && image[q] === image[kv]), { image }),
  "ranges that see themselves whole": maskMod(({ n, s, e }) => (_b, _h, q, kv) => {
    if (q >= kv) return true;
    for (let r = 0; r < n; r++) if (s[r]! <= q && q <= e[r]! && s[r]! <= kv && kv <= e[r]!) return true;
    return false;
  }, { n: fixed(3), s: Int32Array.of(2, 30, 60), e: Int32Array.of(9, 44, 70) }),
  "shifted windows (Swin)": maskMod(({ region, w }) => (_b, _h, q, kv) => floorDiv(q, w) === floorDiv(kv, w) && region[q] === region[kv], { region: i32(length, (i) => Number(i > 50)), w: 12 }),
  "a window for each token, and each head": maskMod(({ w, wh }) => (_b, h, q, kv) => kv <= q && q - kv <= w[q]! && q - kv < wh[h]!, { w: i32(length, (i) => mix(i, 30)), wh: Int32Array.of(4, 12, 40, 100) }),
  "a threshold of each key": maskMod(({ threshold }) => (_b, _h, q, kv) => q >= threshold[kv]!, { threshold: i32(length, (i) => mix(i, 60)) }),
  "any mask, packed in bits": maskMod(({ bits }) => (b, h, q, kv) => ((bits[b]![h]![q]![kv >> 5]! >> (kv & 31)) & 1) === 1, { bits: tensor(i32(2 * 4 * length * 3, (i) => Math.imul(i + 7, 0x85ebca6b) | 1), [2, 4, length, 3]) }),
  "a permutation (zig-zag ring)": maskMod(({ at }) => (_b, _h, q, kv) => at[q]! >= at[kv]!, { at: i32(length, (i) => (i % 2 ? length - 1 - i : i)) }),
  "selected blocks of each head (NSA, MoBA)": maskMod(({ chosen }) => (b, h, q, kv) => q >= kv && chosen[b]![h]![floorDiv(q, 8)]![floorDiv(kv, 12)] !== 0, { chosen: tensor(Uint8Array.from({ length: 2 * 4 * 9 * 6 }, (_, i) => Number(mix(i, 3) === 0)), [2, 4, 9, 6]) }),
  "two ends": maskMod((_b, _h, _q, kv) => kv < 10 || kv >= 60),
  "four strided regions": maskMod(({ n, s }) => (_b, _h, q, kv) => {
    const a = q < n, c = kv < n;
    if (a && c) return floorDiv(q, s) === floorDiv(kv, s);
    if (a) return q % s === floorMod(kv - n, s);
    if (c) return (q - n) % s >= kv % s;
    return q >= kv;
  }, { n: 30, s: 5 }),
  "an intersection that is empty": and(maskMod((_b, _h, q, kv) => q > kv), maskMod((_b, _h, q, kv) => q < kv)),
  "moved by a number captured": offset(causal, { query: 5, kv: 2 }),
};

export const scores: Readonly<Record<string, ScoreMod>> = {
  "squared": scoreMod((score) => score * score + score ** 3 / 8),
  "masking by where": scoreMod((score, _b, _h, q, kv) => (q >= kv ? score : -Infinity)),
  "relative position": scoreMod((score, _b, _h, q, kv) => score + 0.05 * Math.abs(q - kv) - Math.min(Math.abs(q - kv), 6) / 4),
  "ALiBi by formula": scoreMod(({ heads }) => (score, _b, h, q, kv) => score + (kv - q) * 2 ** ((-8 * (h + 1)) / heads), { heads: 4 }),
  "soft caps": scoreMod(({ c }) => (score) => c * Math.tanh(score / c), { c: 20 }),
  "sandwich": scoreMod(({ t, n, heads }) => (score, _b, h, q, kv) => score + (t[q - kv + n - 1]! * heads) / (8 * (h + 1)), { t: f32(2 * length, (i) => Math.cos(Math.abs(i - length + 1) / 9)), n: length, heads: 4 }),
  "graph distance (Graphormer)": scoreMod(({ bias, distance }) => (score, b, h, q, kv) => score + bias[h]![distance[b]![q]![kv]!]!, { bias: tensor(f32(4 * 6, (i) => Math.sin(i)), [4, 6]), distance: tensor(i32(2 * length * length, (i) => mix(i, 6)), [2, length, length]) }),
  "graph edges, a short loop": scoreMod(({ e, type, n, len }) => (score, _b, h, q, kv) => {
    let sum = 0;
    for (let i = 0; i < n; i++) if (i < len[kv]!) sum += e[i]![h]![type[(q + i) % 10]!]!;
    return score + sum / Math.max(len[kv]!, 1);
  }, { e: tensor(f32(3 * 4 * 5, (i) => Math.cos(i)), [3, 4, 5]), type: i32(10, (i) => mix(i, 5)), n: fixed(3), len: i32(length, (i) => i % 4) }),
  "decoupled rope (MLA), a reduction": scoreMod(({ qr, kr, d }) => (score, _b, h, q, kv) => {
    let dot = 0;
    for (let i = 0; i < d; i++) dot += qr[h]![q]![i]! * kr[h >> 1]![kv]![i]!;
    return score + 0.125 * dot;
  }, { qr: tensor(f32(4 * length * 16, (i) => Math.sin(i * 0.7)), [4, length, 16]), kr: tensor(f32(2 * length * 16, (i) => Math.cos(i * 0.3)), [2, length, 16]), d: fixed(16) }),
  "T5 buckets, both directions": scoreMod(({ e, half, far }) => (score, _b, h, q, kv) => {
    const n = Math.abs(kv - q), exact = half >> 1;
    const bucket = n < exact ? n : Math.min(exact + Math.floor((Math.log(Math.max(n, 1) / exact) / Math.log(far / exact)) * (half - exact)), half - 1);
    return score + e[h]![bucket + (kv > q ? half : 0)]!;
  }, { e: tensor(f32(4 * 32, (i) => Math.sin(i * 1.3)), [4, 32]), half: 16, far: 64 }),
  "tables by q, kv, b and h": scoreMod(({ qp, kp, bb, hs }) => (score, b, h, q, kv) => score * hs[h]! + bb[b]! + qp[q]! + kp[kv]!, { qp: f32(length, Math.sin), kp: f32(length, Math.cos), bb: Float32Array.of(1, -1), hs: Float32Array.of(0.5, 1, 1.5, 2) }),
  "sines": scoreMod((score, b) => Math.sin(Math.cos(score)) + Math.tan(b * 0.3) + score / (1 + Math.exp(-score))),
  "floor division": scoreMod((score, _b, _h, q, kv) => score - 0.1 * floorDiv(q, 1 + kv)),
  "exclusive or": scoreMod(({ c, r, m }) => (score, _b, _h, q, kv) => score + 0.001 * ((q ^ kv) & 255) + c[kv]! + 0.1 * r[clamp(q - kv + m, 0, 2 * m)]!, { c: f32(length, Math.cos), r: f32(41, Math.sin), m: 20 }),
  "local boost": scoreMod((score, _b, _h, q, kv) => (Math.abs(q - kv) <= 8 ? 2 * score : score)),
  "radial bases": scoreMod(({ a, s, k }) => (score, _b, h, q, kv) => {
    let x = score;
    const d = Math.abs(q - kv);
    for (let i = 0; i < k; i++) x += a[h]![i]! * Math.exp(-s[h]![i]! * (d - 4 * i) ** 2);
    return x;
  }, { a: tensor(f32(16, Math.sin), [4, 4]), s: tensor(f32(16, (i) => 0.01 + (i % 5) / 50), [4, 4]), k: fixed(4) }),
  "logarithmic bias (Kerple)": scoreMod(({ r1, r2 }) => (score, _b, h, q, kv) => score - r1[h]! * Math.log(1 + r2[h]! * Math.abs(q - kv)), { r1: Float32Array.of(1, 0.5, 2, 0.1), r2: Float32Array.of(0.1, 1, 0.5, 2) }),
  "temperature by length": scoreMod(({ n }) => (score, _b, _h, q) => (score * Math.log(q + 2)) / Math.log(n), { n: 512 }),
  "a row of nothing": scoreMod((score, _b, _h, q) => (q % 7 === 3 ? -Infinity : score)),
  "branches": scoreMod((score, _b, h, q, kv) => {
    if (h === 0) return score;
    let x = score;
    if (q < kv) { x -= 1; if (h > 2) return -x; } else if ((q - kv) % 3 === 0) x *= 1.5;
    return Math.max(x, -4);
  }),
};
