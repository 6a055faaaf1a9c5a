/**
 * What an emitter may know: the whole of one attention kernel, without names of mods or models.
 *
 * Everything that a kernel is specialised by stands in `AttentionPlan`; everything that may change from call to call
 * (lengths, tables, captured values) stands in `AttentionCall` and never asks for a new kernel.
 */
import type { Expr } from "./expr.ts";

/** A value a mod captured, in the order of the kernel's parameter block. */
export type CaptureSlot =
  | { readonly kind: "uniform"; readonly name: string; readonly type: "i32" | "f32" }
  | { readonly kind: "table"; readonly name: string; readonly type: "i32" | "f32"; readonly rank: number };

/** How keys or values lie in memory. int8 and fp8 (e4m3, no infinities) are multiplied by a scale that the call gives. */
export type KvFormat = "f32" | "bf16" | "f16" | "int8" | "fp8";
export const bytesPerKvElement: Readonly<Record<KvFormat, number>> = { f32: 4, bf16: 2, f16: 2, int8: 1, fp8: 1 };

export interface AttentionPlan {
  /** Equal plans have equal keys: the compiled kernel is cached by it. Deterministic text of everything below. */
  readonly key: string;
  /** f32; the identity is the bare `score` node. */
  readonly scoreMod: Expr;
  /** bool; undefined when every key is allowed. Evaluated only in partial blocks. */
  readonly maskMod: Expr | undefined;
  readonly captures: readonly CaptureSlot[];
  /**
   * What joins the sum of exponentials: nothing when undefined; "one": 1, so that a row may attend to nothing much; "sink": exp of a logit
   * that the call gives for each query head. Neither has a value. A row's lse counts it, and its maxScore too.
   */
  readonly denominator?: "one" | "sink" | undefined;
  /** f32 of the modded score: the weight of a key, instead of softmax. No row statistics then: out = sum of weight * v. */
  readonly weightMod?: Expr | undefined;
  /** f32 of each output element, at the very end: `score` stands for the element, `kv` for its place in the head. */
  readonly outputMod?: Expr | undefined;
  /** Of the rows of queries and of outputs. f32 when undefined. */
  readonly queryFormat?: "bf16" | "f16" | undefined;
  /** f32 when undefined. */
  readonly keyFormat?: KvFormat | undefined;
  readonly valueFormat?: KvFormat | undefined;
  /** Elements of one query and key row. */
  readonly headDimQk: number;
  /** Elements of one value and output row. */
  readonly headDimV: number;
  readonly numQueryHeads: number;
  /** Divides numQueryHeads; query head h reads kv head floor(h / (numQueryHeads / numKvHeads)). */
  readonly numKvHeads: number;
  /** Factor of q.k, before the score mod. */
  readonly scale: number;
  /** Most query rows of one work item, and keys of one block. Blocks start at multiples of `kvTile` in every sequence. */
  readonly queryTile: number;
  readonly kvTile: number;
}

/**
 * A work list: which (query tile, key blocks) pairs a launch computes. One list serves all layers with the same mask.
 *
 *   word 0      number of items        word 1      words before the first run
 *   word 2      blocks of partial runs in all
 *   item i      8 words from 8 + 8 i   (fields below)
 *   run r       2 words: first block, (number of blocks << 1) | partial
 *
 * A run is a stretch of consecutive blocks that are all full (no mask code) or all partial (the mask decides each key).
 * Runs of an item ascend. Blocks in no run are empty. Items are sorted by cost, longest first.
 */
export const workItem = {
  words: 8,
  /** Row of the block table and of seqLens; the mods' `b`. */
  sequence: 0,
  /** First row in the packed query, and how many. */
  firstRow: 1,
  numRows: 2,
  /** The mods' `q` of the first row. */
  firstPosition: 3,
  firstRun: 4,
  numRuns: 5,
  /** Keys of the sequence: `kv` runs over 0 .. kvLength - 1. */
  kvLength: 6,
  /** Blocks of partial runs of the items before it: its own have numbers from here on. */
  firstPartial: 7,
} as const;

/** Positions of queries and keys are below this: an f32 holds each exactly, and their differences. */
export const maxPositions = 2 ** 24;

export const workHeaderWords = 8;
export const runWords = 2;
