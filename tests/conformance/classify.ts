/** Blocks that range analysis calls full or empty are so at every point; how many it left open without need. */
import { blockState, createBlockMask } from "../../src/attention/block-mask.ts";
import { evaluator } from "../../src/ir/interpret.ts";
import { indicesOf } from "../../src/ir/range.ts";
import type { MaskMod } from "../../src/attention/mod.ts";
import type { Geometry } from "./case.ts";

export interface Classified {
  /** "32x32: 3 of 40" for each block size with blocks left open without need: how many, of how many partial. */
  readonly loose: readonly string[];
  readonly problem: string | undefined;
}

export function classifyAll(mask: MaskMod, g: Geometry, blockSizes: readonly (readonly [number, number])[]): Classified {
  const reads = indicesOf(mask.expr());
  const batch = reads.has("b") ? g.batch : 1, heads = reads.has("h") ? g.heads : 1;
  const { queries, keys } = g;
  // Sums of the mask over [0, q) x [0, kv), so that any block is counted with four looks.
  const evaluate = evaluator(mask.expr()), width = keys + 1;
  const env = { b: 0, h: 0, q: 0, kv: 0, score: 0, ...mask.values() };
  const planes = Array.from({ length: batch * heads }, (_, plane) => {
    const sums = new Int32Array((queries + 1) * width);
    env.b = Math.floor(plane / heads);
    env.h = plane % heads;
    for (let q = 0; q < queries; q++) for (let kv = 0, row = 0; kv < keys; kv++) {
      env.q = q;
      env.kv = kv;
      row += evaluate(env);
      sums[(q + 1) * width + kv + 1] = sums[q * width + kv + 1]! + row;
    }
    return sums;
  });
  const unlike = differs(mask, g);
  if (unlike) return { loose: [], problem: unlike };
  const loose: string[] = [];
  for (const [bq, bk] of blockSizes) {
    const blocks = createBlockMask(mask, { batch, heads, queryLength: queries, kvLength: keys, blockSize: [bq, bk] });
    const states = blocks.toDense().data, { numRows, numColumns } = blocks;
    let partial = 0, avoidable = 0;
    for (let plane = 0, at = 0; plane < planes.length; plane++) for (let r = 0; r < numRows; r++) for (let c = 0; c < numColumns; c++, at++) {
      const q0 = r * bq, q1 = Math.min(q0 + bq, queries), k0 = c * bk, k1 = Math.min(k0 + bk, keys), sums = planes[plane]!;
      const count = sums[q1 * width + k1]! - sums[q0 * width + k1]! - sums[q1 * width + k0]! + sums[q0 * width + k0]!;
      const truth = count === 0 ? blockState.empty : count === (q1 - q0) * (k1 - k0) ? blockState.full : blockState.partial;
      if (states[at] === blockState.partial) {
        partial++;
        if (truth !== blockState.partial) avoidable++;
      } else if (states[at] !== truth) {
        return { loose, problem: `block ${r}, ${c} of ${bq}x${bk} is called ${states[at] === blockState.full ? "full" : "empty"}, and the mask holds at ${count} of its ${(q1 - q0) * (k1 - k0)} points` };
      }
    }
    if (avoidable > 0) loose.push(`${bq}x${bk}: ${avoidable} of ${partial}`);
  }
  return { loose, problem: undefined };
}

/** Where the mask called as a plain function says something else than its expression; a thousand points are tried. */
function differs(mask: MaskMod, g: Geometry): string | undefined {
  const evaluate = evaluator(mask.expr()), captures = mask.values();
  for (let i = 0; i < 1000; i++) {
    const b = i % g.batch, h = (i * 7) % g.heads, q = Math.floor(((i * 0.6180339887) % 1) * g.queries), kv = Math.floor(((i * 0.7548776662) % 1) * g.keys);
    const plain = Boolean(mask(b, h, q, kv)), lowered = evaluate({ b, h, q, kv, score: 0, ...captures }) === 1;
    if (plain !== lowered) return `the function says ${plain} at b ${b}, h ${h}, q ${q}, kv ${kv}, its expression ${lowered}`;
  }
  return undefined;
}
