/** Where things lie for an attention kernel: the words of its arguments, and a thread's scratch memory. Knows no code. */
import type { AttentionPlan } from "../../ir/plan.ts";
import type { Local } from "./assembler.ts";
import { isCopied } from "./widen.ts";

/** Words of the argument block; the captures follow (expr.ts). Strides and `pageBytes` count bytes. */
export const attentionArgs = {
  work: 0,
  query: 1, querySequence: 2, queryRow: 3, queryHead: 4,
  out: 5, outSequence: 6, outRow: 7, outHead: 8,
  key: 9, keyPage: 10, keyToken: 11, keyHead: 12,
  value: 13, valuePage: 14, valueToken: 15, valueHead: 16,
  pageSize: 17, blockTable: 18, maxPagesPerSequence: 19,
  /** 0 where they are not wanted. */
  lse: 20, lseSequence: 21, maxScore: 22, maxScoreSequence: 23,
  /** f32 [numQueryHeads]; read where the plan's denominator is "sink". */
  sink: 24,
  /** Factors of quantised keys and values; read where the plan's formats have them. */
  keyScale: 25, keyScalePage: 26, keyScaleToken: 27, keyScaleHead: 28,
  valueScale: 29, valueScalePage: 30, valueScaleToken: 31, valueScaleHead: 32,
  captures: 33,
} as const;

/** Where a plan's scratch memory lies, in bytes from its start. */
export interface ScratchLayout {
  /** i32 [kvTile]: addresses of the block's K and V rows. */
  readonly keyAddress: number;
  readonly valueAddress: number;
  /** f32 [4, kvTile]: scores, then probabilities, of the rows at hand. */
  readonly scores: number;
  /** i32 [rows]: addresses of the item's query rows. */
  readonly queryAddress: number;
  /** f32 [kvTile, headDim rounded up to 4]: the block's keys and values widened, where that is not done in registers. */
  readonly keyTile: number;
  readonly valueTile: number;
  /** [rows] of state: acc f32 [headDimV rounded up to 4], l f32x4, m f32. */
  readonly state: number;
  readonly stateBytes: number;
  /** [rows] of state: the segments before the one at hand, merged. */
  readonly total: number;
  /** i32: where loads that only fetch leave what they read. */
  readonly touched: number;
  readonly bytes: number;
}

export const up = (n: number, to: number): number => Math.ceil(n / to) * to;

export function scratchLayout(plan: AttentionPlan): ScratchLayout {
  const rows = plan.queryTile * (plan.numQueryHeads / plan.numKvHeads);
  const keyAddress = 0;
  const valueAddress = keyAddress + up(4 * plan.kvTile, 16);
  const scores = valueAddress + up(4 * plan.kvTile, 16);
  const queryAddress = scores + 4 * 4 * up(plan.kvTile, 4);
  const keyTile = queryAddress + up(4 * rows, 16);
  const valueTile = keyTile + (isCopied(plan.keyFormat, plan.headDimQk) ? 4 * plan.kvTile * up(plan.headDimQk, 4) : 0);
  const state = valueTile + (isCopied(plan.valueFormat, plan.headDimV) ? 4 * plan.kvTile * up(plan.headDimV, 4) : 0);
  const stateBytes = 4 * up(plan.headDimV, 4) + 32;
  return { keyAddress, valueAddress, scores, queryAddress, keyTile, valueTile, state, stateBytes, total: state + rows * stateBytes, touched: state + 2 * rows * stateBytes, bytes: state + 2 * rows * stateBytes + 16 };
}

/** Keys are taken in segments of about so many, each with a state of its own; segments are merged in order, whoever computed them. */
const keysPerSegment = 512;
export const blocksPerSegment = (plan: AttentionPlan): number => Math.max(1, Math.floor(keysPerSegment / plan.kvTile));

/** The locals that parts of the kernel share, by name. */
export type Names<K extends string> = { readonly [name in K]: Local };
