/**
 * The quad-tree: which blocks a mask leaves empty, full or partial, asked of range analysis box by box.
 *
 * A box that is surely empty or surely full is settled whole; any other is cut in four, down to one block. A block still open
 * is mixed if its corners differ (a point is always certain); else its quarters are asked, which proves what `a || b` covers only together.
 */
import { type Classifier, verdict, type Verdict } from "../ir/range.ts";
import type { RunSink } from "./row-runs.ts";

export interface BlockGrid {
  readonly queryLength: number;
  readonly kvLength: number;
  /** Queries and keys of a block. */
  readonly queries: number;
  readonly keys: number;
}

/** Blocks of rows r0 .. r1 - 1 and columns c0 .. c1 - 1. */
export interface BlockRegion {
  readonly r0: number;
  readonly r1: number;
  readonly c0: number;
  readonly c1: number;
}

/** How often a block that is open is cut in four once more, to see whether its parts agree. */
const quarterings = 2;

/** Adds the blocks of sequence `b` and head `h` that are not empty, of a region, to `runs`. `point`, where given, settles by evaluation what is still open. */
export function classifyBlocks(mask: Classifier, b: number, h: number, grid: BlockGrid, region: BlockRegion, runs: RunSink, point: ((q: number, kv: number) => boolean) | undefined): void {
  const { queryLength, kvLength, queries, keys } = grid;
  /** Blocks rows r0..r1-1, columns c0..c1-1. */
  const descend = (r0: number, r1: number, c0: number, c1: number): void => {
    const q0 = r0 * queries, q1 = Math.min(r1 * queries, queryLength) - 1, kv0 = c0 * keys, kv1 = Math.min(c1 * keys, kvLength) - 1;
    let is = mask.classify(b, b, h, h, q0, q1, kv0, kv1);
    if (is === verdict.never) return;
    const tall = r1 - r0 > 1, wide = c1 - c0 > 1;
    if (is === verdict.sometimes && (tall || wide)) {
      const r = tall ? (r0 + r1) >>> 1 : r1, c = wide ? (c0 + c1) >>> 1 : c1;
      descend(r0, r, c0, c);
      if (wide) descend(r0, r, c, c1);
      if (tall) descend(r, r1, c0, c);
      if (tall && wide) descend(r, r1, c, c1);
      return;
    }
    if (is === verdict.sometimes && !isMixed(mask, b, h, q0, q1, kv0, kv1)) {
      is = quarter(mask, b, h, q0, q1, kv0, kv1, quarterings);
      if (is === verdict.sometimes && point) is = everywhere(point, q0, q1, kv0, kv1);
      if (is === verdict.never) return;
    }
    for (let r = r0; r < r1; r++) runs.add(r, c0, c1 - c0, is === verdict.always ? 0 : 1);
  };
  if (region.r0 < region.r1 && region.c0 < region.c1) descend(region.r0, region.r1, region.c0, region.c1);
}

/** Whether corners of the box surely differ; those that a causal edge parts are asked first. */
function isMixed(mask: Classifier, b: number, h: number, q0: number, q1: number, kv0: number, kv1: number): boolean {
  const first = mask.classify(b, b, h, h, q0, q0, kv1, kv1), second = mask.classify(b, b, h, h, q1, q1, kv0, kv0);
  if (first === verdict.sometimes || second === verdict.sometimes) return false;
  if (first !== second) return true;
  const third = mask.classify(b, b, h, h, q0, q0, kv0, kv0);
  if (third !== verdict.sometimes && third !== first) return true;
  const fourth = mask.classify(b, b, h, h, q1, q1, kv1, kv1);
  return fourth !== verdict.sometimes && fourth !== first;
}

/** What a box is by its parts. Stops at the first two that differ. */
function quarter(mask: Classifier, b: number, h: number, q0: number, q1: number, kv0: number, kv1: number, levels: number): Verdict {
  const qs = q1 > q0 ? [q0, (q0 + q1 + 1) >>> 1, q1 + 1] : [q0, q1 + 1], kvs = kv1 > kv0 ? [kv0, (kv0 + kv1 + 1) >>> 1, kv1 + 1] : [kv0, kv1 + 1];
  const open: (readonly [q0: number, q1: number, kv0: number, kv1: number])[] = [];
  let seen: Verdict | undefined;
  for (let i = 0; i + 1 < qs.length; i++) for (let j = 0; j + 1 < kvs.length; j++) {
    const part = [qs[i]!, qs[i + 1]! - 1, kvs[j]!, kvs[j + 1]! - 1] as const;
    const is = mask.classify(b, b, h, h, ...part);
    if (is === verdict.sometimes) open.push(part);
    else if (seen !== undefined && seen !== is) return verdict.sometimes;
    else seen = is;
  }
  for (const part of open) {
    if (levels === 1) return verdict.sometimes;
    const is = quarter(mask, b, h, ...part, levels - 1);
    if (is === verdict.sometimes || (seen !== undefined && seen !== is)) return verdict.sometimes;
    seen = is;
  }
  return seen!;
}

/** What `mask` is at all points of a box, by asking at each until both answers were seen. */
function everywhere(mask: (q: number, kv: number) => boolean, q0: number, q1: number, kv0: number, kv1: number): Verdict {
  const first = mask(q0, kv0);
  for (let q = q0; q <= q1; q++) for (let kv = kv0; kv <= kv1; kv++) if (mask(q, kv) !== first) return verdict.sometimes;
  return first ? verdict.always : verdict.never;
}
