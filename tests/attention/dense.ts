/**
 * Attention as its formula says, in doubles, for every option of flexAttention: loops over all pairs, mods called as the plain functions they
 * are, tensors read element by element through their strides. Slow, and independent of all that the compiler and the kernels do.
 */
import type { FlexAttentionOptions, Tensor } from "../../src/attention/index.ts";
import { fromBf16, fromF16, fromFp8 } from "../../src/core/dtype.ts";

export interface Dense {
  /** [B, Hq, L, Dv] */
  readonly out: Float64Array;
  /** [B, Hq, L] */
  readonly lse: Float64Array;
  readonly maxScore: Float64Array;
}

/** All elements widened, row-major, found one by one through the strides. */
function elements(t: Tensor): Float64Array {
  const strides = t.strides ?? t.shape.map((_, i) => t.shape.slice(i + 1).reduce((a, b) => a * b, 1));
  const widen = t.dtype === "bf16" ? fromBf16 : t.dtype === "f16" ? fromF16 : t.dtype === "fp8" ? fromFp8 : (x: number): number => x;
  return Float64Array.from({ length: t.shape.reduce((a, b) => a * b, 1) }, (_, n) => {
    let at = t.offset ?? 0;
    for (let dim = t.shape.length - 1, rest = n; dim >= 0; rest = Math.floor(rest / t.shape[dim--]!)) at += (rest % t.shape[dim]!) * strides[dim]!;
    return widen(t.data[at]!);
  });
}

function scaleReader(scale: Tensor | number | undefined): (b: number, h: number, s: number) => number {
  if (scale === undefined || typeof scale === "number") return () => scale ?? 1;
  const all = elements(scale), [B, H, S] = (scale.shape.length === 1 ? [1, 1, 1] : scale.shape) as [number, number, number];
  return (b, h, s) => all[(Math.min(b, B - 1) * H + Math.min(h, H - 1)) * S + Math.min(s, S - 1)]!;
}

export function dense(query: Tensor, key: Tensor, value: Tensor, options: FlexAttentionOptions = {}): Dense {
  const [B, H, L, D] = query.shape as [number, number, number, number];
  const [kvB, G, S] = key.shape as [number, number, number], Dv = value.shape[3]!;
  const q = elements(query), k = elements(key), v = elements(value), kScale = scaleReader(options.keyScale), vScale = scaleReader(options.valueScale);
  const { scoreMod = (s: number) => s, maskMod = options.blockMask?.mask ?? (() => true), weightMod, outputMod = (x: number) => x, softmax } = options;
  const sink = options.sink instanceof Float32Array ? options.sink : options.sink && elements(options.sink);
  const scale = Math.fround(options.scale ?? 1 / Math.sqrt(D));
  const out = new Float64Array(B * H * L * Dv), lse = new Float64Array(B * H * L), maxScore = new Float64Array(B * H * L);
  for (let b = 0, row = 0; b < B; b++) for (let h = 0; h < H; h++) for (let i = 0; i < L; i++, row++) {
    const kb = kvB === 1 ? 0 : b, g = Math.floor(h / (H / G)), keys = (kb * G + g) * S;
    const scores = Array.from({ length: S }, (_, j) => {
      if (!maskMod(b, h, i, j)) return -Infinity;
      let dot = 0;
      for (let d = 0; d < D; d++) dot += q[row * D + d]! * k[(keys + j) * D + d]!;
      return scoreMod(scale * dot * kScale(kb, g, j), b, h, i, j);
    });
    const extra = sink ? sink[h]! : softmax === "one" ? 0 : -Infinity;
    const most = Math.max(extra, ...scores);
    const total = scores.reduce((sum, s) => sum + (s === -Infinity ? 0 : Math.exp(s - most)), extra === -Infinity ? 0 : Math.exp(extra - most));
    maxScore[row] = most;
    lse[row] = most + Math.log(total);
    const weights = scores.map((s, j) => (s === -Infinity ? 0 : weightMod ? weightMod(s, b, h, i, j) : Math.exp(s - most) / total));
    for (let d = 0; d < Dv; d++) {
      let sum = 0;
      for (let j = 0; j < S; j++) if (scores[j] !== -Infinity) sum += weights[j]! * v[(keys + j) * Dv + d]! * vScale(kb, g, j);
      out[row * Dv + d] = outputMod(sum, b, h, i, d);
    }
  }
  return { out, lse, maxScore };
}
