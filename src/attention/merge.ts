/**
 * Attention over one set of keys from attentions over its parts: a shared prefix and each suffix, splits, or the steps of a ring.
 *
 *   m = max_i lse_i     w_i = exp(lse_i - m)     out = sum_i (w_i / sum_j w_j) out_i     lse = m + log sum_i w_i
 *
 * Exact but for rounding when the parts share no key; of one part it is that part, bit for bit. A row that a part has no key for has lse
 * -Infinity there and no part in the sum, whatever its `out` holds. Computed in doubles. A sink counted in each lse counts as often.
 */
import { fromFloat32 } from "../core/dtype.ts";
import { UsageError } from "../core/errors.ts";
import { floats, isTensor, type Tensor, tensor } from "./tensor.ts";

/** What a call with `aux: ["lse"]` gives: out [B, H, L, Dv] and lse f32 [B, H, L]. */
export interface AttentionState {
  readonly out: Tensor;
  readonly lse: Tensor;
}

/** `out` in f32, f16 or bf16, as the first state's. @throws UsageError when there is no state, or shapes differ. */
export function mergeStates(states: readonly AttentionState[]): AttentionState {
  const [first] = states;
  if (!first) throw new UsageError("mergeStates() needs at least one { out, lse }");
  states.forEach((state, i) => check(state, first, i));
  const outs = states.map(({ out }) => floats(out)), logs = states.map(({ lse }) => floats(lse));
  const dim = first.out.shape[3]!, rows = logs[0]!.length;
  const out = new Float32Array(rows * dim), lse = new Float32Array(rows);
  for (let row = 0; row < rows; row++) {
    const live = states.map((_, i) => i).filter((i) => logs[i]![row] !== -Infinity);
    const most = live.reduce((m, i) => Math.max(m, logs[i]![row]!), -Infinity);
    const weights = live.map((i) => (live.length === 1 ? 1 : Math.exp(logs[i]![row]! - most))), total = weights.reduce((a, b) => a + b, 0);
    lse[row] = live.length === 0 ? -Infinity : most + Math.log(total);
    for (let d = 0, at = row * dim; live.length > 0 && d < dim; d++, at++) {
      out[at] = live.map((i, n) => (weights[n]! / total) * outs[i]![at]!).reduce((a, b) => a + b);
    }
  }
  return { out: inDType(out, first.out.shape, first.out.dtype), lse: tensor(lse, first.lse.shape) };
}

function check({ out, lse }: AttentionState, first: AttentionState, i: number): void {
  if (!isTensor(out) || !isTensor(lse)) throw new UsageError(`state ${i} must be { out, lse }, as flexAttention gives it with aux: ["lse"]`);
  const text = (t: Tensor): string => `[${t.shape.join(", ")}]`;
  if (text(out) !== text(first.out) || out.shape.length !== 4) throw new UsageError(`state ${i} has out ${text(out)}; all must have the same [batch, heads, length, dim]${i > 0 ? `, here ${text(first.out)}` : ""}`);
  if (text(lse) !== `[${out.shape.slice(0, 3).join(", ")}]`) throw new UsageError(`state ${i} has lse ${text(lse)} and out ${text(out)}; lse must be [batch, heads, length] of out`);
}

/** `data` in `dtype`: 16-bit floats rounded, all else f32. */
export function inDType(data: Float32Array, shape: readonly number[], dtype: Tensor["dtype"]): Tensor {
  if (dtype !== "f16" && dtype !== "bf16") return tensor(data, shape);
  return tensor(new Uint16Array(fromFloat32(data, dtype).buffer), shape, dtype);
}
