/** A few rows of attention in float64, as the formula says it: what a kernel has to give before its time counts. */
import { toFloat32 } from "../../src/core/dtype.ts";
import { type Case, type Problem, problems } from "./cases.ts";

/**
 * Most of |out - oracle| / |oracle| over the sampled rows of a case. A result rounded to bf16 is off by 0.0011 (2^-9 at most, evenly spread), probabilities rounded
 * to bf16 before they are summed as much again; PyTorch's kernels come to 0.0012 to 0.0023 on these problems.
 */
export const mostError = 0.005;

/** One query head of one sequence, as numbers. */
export interface Head {
  readonly h: number;
  /** Rows that are compared, and their queries and results, [rows, D] each. */
  readonly rows: readonly number[];
  readonly query: Float32Array;
  readonly out: Float32Array;
  /** [S, D] each. */
  readonly key: Float32Array;
  readonly value: Float32Array;
}

export const numbersOf = (bf16: Uint8Array): Float32Array => toFloat32(bf16, "bf16");

/** |out - oracle| / |oracle| over all rows of all heads, in Frobenius norms. */
export function errorOf({ length, dim, heads, problem }: Case, sampled: readonly Head[]): number {
  let above = 0, below = 0;
  for (const head of sampled) {
    head.rows.forEach((q, i) => {
      const wanted = rowOf(problems[problem], head, head.query.subarray(i * dim, (i + 1) * dim), q, { length, dim, heads });
      for (let d = 0; d < dim; d++) {
        above += (head.out[i * dim + d]! - wanted[d]!) ** 2;
        below += wanted[d]! ** 2;
      }
    });
  }
  return Math.sqrt(above / below);
}

function rowOf({ allows, scored }: Problem, { h, key, value }: Head, query: Float32Array, q: number, { length, dim, heads }: Pick<Case, "length" | "dim" | "heads">): Float64Array {
  const scores = new Float64Array(length).fill(-Infinity);
  for (let kv = 0; kv < length; kv++) {
    if (!allows(q, kv)) continue;
    let dot = 0;
    for (let d = 0; d < dim; d++) dot += query[d]! * key[kv * dim + d]!;
    scores[kv] = scored(dot / Math.sqrt(dim), h, q, kv, heads);
  }
  const most = scores.reduce((a, b) => Math.max(a, b)), weights = scores.map((score) => Math.exp(score - most)), sum = weights.reduce((a, b) => a + b);
  const out = new Float64Array(dim);
  for (let kv = 0; kv < length; kv++) if (weights[kv]! > 0) for (let d = 0; d < dim; d++) out[d]! += (weights[kv]! / sum) * value[kv * dim + d]!;
  return out;
}
