/**
 * What a conformance case is: data. A case says the mods (made for the positions, heads and sequences of a shape) and what they
 * should be; nothing here or in cases/ knows a backend, a page or a block.
 */
import type { KvFormat } from "../../src/ir/plan.ts";
import type { MaskMod, OutputMod, ScoreMod, WeightMod } from "../../src/attention/mod.ts";
import type { Backend } from "../../src/backend/backend.ts";

/** What mods may ask about: their indices stay below these. Tables are made as long. */
export interface Geometry {
  readonly batch: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly queries: number;
  readonly keys: number;
  /** max(queries, keys): for tables that both index. */
  readonly positions: number;
}

/** Everything that a case may ask of one launch. */
export interface Mods {
  readonly scoreMod?: ScoreMod | undefined;
  readonly maskMod?: MaskMod | undefined;
  /** Logits of the query heads that join the denominator. */
  readonly sink?: Float32Array;
  /** "one": the denominator plus one. */
  readonly softmax?: "one";
  readonly weightMod?: WeightMod;
  readonly outputMod?: OutputMod;
  /** Of query and out; f32 when left out. The engine's are always f32: for dense cases only. */
  readonly queryFormat?: "bf16" | "f16";
  readonly keyFormat?: KvFormat;
  readonly valueFormat?: KvFormat;
}

export interface Case {
  /** As in the list of design pages: "M12", "M12 ...", several cases may share one. */
  readonly id: string;
  readonly title: string;
  readonly mods: (g: Geometry) => Mods;
  /** Tried through flexAttention alone. */
  readonly denseOnly?: boolean;
  /** Range analysis must leave no block open that is not mixed. */
  readonly tight?: boolean;
  /** Changes captured values (content, never kind) of what `mods` last gave; the case is run again, and nothing may be compiled. */
  readonly change?: () => void;
}

/** A weighted sum of several launches on the same tensors. */
export interface Composite {
  readonly id: string;
  readonly title: string;
  readonly parts: (g: Geometry) => readonly Mods[];
  /** One output row from each part's row; `sumOfValues` is the sum of all value rows of the head. In doubles. */
  readonly combine: Combine;
  /** The library's own way to do it, used on what was launched; `combine` when left out. */
  readonly library?: Combine;
}

export type Combine = (rows: readonly { readonly out: readonly number[]; readonly lse: number }[], sumOfValues: readonly number[]) => number[];

/** A sequence of a launch. A token's data is a function of its seed alone, so that two launches can speak of the same token. */
export interface Sequence {
  readonly rows: number;
  readonly firstPosition: number;
  readonly kvLength: number;
  /** Seeds of the token whose query stands in a row, and of the token whose key and value stand at a position. */
  readonly query: (row: number) => number;
  readonly key: (position: number) => number;
}

export interface Shape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly dim: number;
  readonly valueDim: number;
  readonly sequences: readonly Sequence[];
  /** Which head's data a kv head has; its own when left out. */
  readonly kvSource?: (kvHead: number) => number;
}

/** How a shape is laid out and launched. "dense": flexAttention over whole tensors, `transposed` ones stored [B, L, H, D]. "paged": one ragged launch. */
export type Form =
  | { readonly kind: "dense"; readonly kvBatch?: 1; readonly transposed?: true }
  | { readonly kind: "paged"; readonly pageSize: number; readonly queryTile?: number; readonly kvTile?: number };

/** Two launches that must agree on every token and head they both have. */
export interface Agreement {
  readonly id: string;
  readonly title: string;
  readonly sides: readonly [Side, Side];
  /** To the bit, or within the tolerance of the oracle's rule. "one kernel": to the bit where a backend has one kernel for all rows; those of 16 bits have two. */
  readonly bits: boolean | "one kernel";
}

export interface Side {
  readonly mods: Mods;
  readonly shape: Shape;
  readonly form: Form;
}

/** What the list names and this project refuses: by name, with what to do instead. */
export interface Refused {
  readonly id: string;
  readonly title: string;
  readonly ask: (backend: Backend) => Promise<unknown>;
  readonly says: RegExp;
}

export function geometryOf(shape: Shape): Geometry {
  const queries = Math.max(1, ...shape.sequences.map((s) => s.firstPosition + s.rows)), keys = Math.max(1, ...shape.sequences.map((s) => s.kvLength));
  return { batch: shape.sequences.length, heads: shape.heads, kvHeads: shape.kvHeads, queries, keys, positions: Math.max(queries, keys) };
}

/** A sequence of its own data: rows at the end of its keys, or wherever `firstPosition` says. */
export function sequence(of: number, rows: number, kvLength: number, firstPosition = kvLength - rows): Sequence {
  const token = (position: number): number => of * 1_000_003 + position;
  return { rows, firstPosition, kvLength, query: (row) => token(firstPosition + row), key: token };
}

/** `count` sequences from position 0, as flexAttention sees tensors. */
export function denseSequences(count: number, queryLength: number, kvLength: number): Sequence[] {
  return Array.from({ length: count }, (_, of) => sequence(of, queryLength, kvLength, 0));
}
