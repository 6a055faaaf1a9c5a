/**
 * One ragged, paged attention launch on any backend: random data, a permuted block table, NaN in every slot that no token fills
 * and in every output element before the launch.
 */
import { planWork } from "../../src/attention/work-list.ts";
import type { Backend, Buffer, CaptureValue, Layout } from "../../src/backend/backend.ts";
import { fromFloat32, toFp8 } from "../../src/core/dtype.ts";
import { stream } from "../../src/core/random.ts";
import type { Expr } from "../../src/ir/expr.ts";
import { score } from "../../src/ir/expr.ts";
import type { AttentionPlan, CaptureSlot, KvFormat } from "../../src/ir/plan.ts";
import { analyse } from "../../src/ir/range.ts";

export interface Capture { readonly name: string; readonly type: "i32" | "f32"; readonly value: number | { readonly data: ArrayLike<number>; readonly shape: readonly number[] } }

export interface Case {
  readonly scoreMod?: Expr;
  readonly maskMod?: Expr;
  readonly captures?: readonly Capture[];
  readonly denominator?: "one" | "sink";
  readonly weightMod?: Expr;
  readonly outputMod?: Expr;
  readonly keyFormat?: KvFormat;
  readonly valueFormat?: KvFormat;
  /** Whether int8 and fp8 rows share a scale with their page or have one each. */
  readonly scalePer?: "page" | "token";
  readonly numQueryHeads: number;
  readonly numKvHeads: number;
  readonly headDimQk: number;
  readonly headDimV: number;
  readonly pageSize: number;
  /** Query rows of each sequence, and tokens before them: `kv` runs over both. */
  readonly sequences: readonly { readonly rows: number; readonly before: number }[];
  readonly queryTile?: number;
  readonly kvTile?: number;
  readonly seed: number;
}

export interface Outcome { readonly out: Float32Array; readonly lse: Float32Array; readonly maxScore: Float32Array }

export function planOf(c: Case): AttentionPlan {
  const captures = (c.captures ?? []).map((k): CaptureSlot => typeof k.value === "number" ? { kind: "uniform", name: k.name, type: k.type } : { kind: "table", name: k.name, type: k.type, rank: k.value.shape.length });
  const rest = {
    scoreMod: c.scoreMod ?? score, maskMod: c.maskMod, captures, denominator: c.denominator, weightMod: c.weightMod, outputMod: c.outputMod,
    keyFormat: c.keyFormat, valueFormat: c.valueFormat, headDimQk: c.headDimQk, headDimV: c.headDimV, numQueryHeads: c.numQueryHeads,
    numKvHeads: c.numKvHeads, scale: 1 / Math.sqrt(c.headDimQk), queryTile: c.queryTile ?? 16, kvTile: c.kvTile ?? 32,
  };
  return { key: JSON.stringify(rest), ...rest };
}

/** Runs the case; rows of all sequences are packed in order. */
export async function attend(backend: Backend, c: Case): Promise<Outcome> {
  const plan = planOf(c);
  const kernel = await backend.compile(plan);
  const random = stream(c.seed);
  /** A token's q, k and v depend on the seed, its sequence and its position alone, so that a chunk has the whole's data. */
  const dataOf = (sequence: number, position: number): (() => number) => {
    const token = stream(c.seed + 1_000_000 * (sequence + 1) + 1000 * position);
    return () => (token() + token() + token() + token() - 2) * 1.7;
  };
  const buffers: Buffer[] = [];
  const upload = (data: Float32Array | Int32Array): Buffer => {
    const buffer = backend.alloc(Math.max(4, data.byteLength));
    backend.write(buffer, 0, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    buffers.push(buffer);
    return buffer;
  };

  const numRows = c.sequences.reduce((n, s) => n + s.rows, 0);
  const lengths = c.sequences.map((s) => s.rows + s.before);
  const maxPages = Math.max(1, ...lengths.map((n) => Math.ceil(n / c.pageSize)));
  const numPages = lengths.reduce((n, l) => n + Math.ceil(l / c.pageSize), 0) + 3;
  const order = Array.from({ length: numPages }, (_, i) => i);
  for (let i = numPages - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  const blockTable = new Int32Array(c.sequences.length * maxPages).fill(0x7fffffff); // garbage beyond the length
  const key = new Float32Array(numPages * c.pageSize * c.numKvHeads * c.headDimQk).fill(NaN);
  const value = new Float32Array(numPages * c.pageSize * c.numKvHeads * c.headDimV).fill(NaN);
  const query: number[] = [];
  let nextPage = 0;
  lengths.forEach((length, s) => {
    for (let t = 0; t < length; t++) {
      if (t % c.pageSize === 0) blockTable[s * maxPages + t / c.pageSize] = order[nextPage++]!;
      const slot = blockTable[s * maxPages + Math.floor(t / c.pageSize)]! * c.pageSize + (t % c.pageSize);
      const normal = dataOf(s, t);
      for (let i = 0; i < c.numQueryHeads * c.headDimQk; i++) {
        const x = normal();
        if (t >= c.sequences[s]!.before) query.push(x);
      }
      for (let i = 0; i < c.numKvHeads * c.headDimQk; i++) key[slot * c.numKvHeads * c.headDimQk + i] = normal();
      for (let i = 0; i < c.numKvHeads * c.headDimV; i++) value[slot * c.numKvHeads * c.headDimV + i] = normal();
    }
  });
  const captures = (c.captures ?? []).map((k): CaptureValue => typeof k.value === "number"
    ? { kind: "uniform", value: k.value }
    : { kind: "table", shape: k.value.shape, data: upload(k.type === "f32" ? Float32Array.from(k.value.data) : Int32Array.from(k.value.data)) });
  const mask = c.maskMod && analyse(c.maskMod).bind({
    uniforms: Object.fromEntries((c.captures ?? []).flatMap((k) => (typeof k.value === "number" ? [[k.name, k.value]] : []))),
    tables: Object.fromEntries((c.captures ?? []).flatMap((k) => (typeof k.value === "number" ? [] : [[k.name, k.value]]))),
  });
  const firstRow = Int32Array.from(c.sequences, (_, i) => c.sequences.slice(0, i).reduce((n, s) => n + s.rows, 0));
  const work = planWork(mask, {
    numSequences: c.sequences.length, firstRow, numRows: Int32Array.from(c.sequences, (s) => s.rows),
    firstPosition: Int32Array.from(c.sequences, (s) => s.before), kvLength: Int32Array.from(lengths),
  }, plan);

  const pageRows = numPages * c.pageSize;
  const perToken = c.scalePer !== "page";
  const scaleOf = (format: KvFormat | undefined): { readonly scale: Layout; readonly values: Float32Array } | undefined => {
    if (format !== "int8" && format !== "fp8") return undefined;
    const count = (perToken ? pageRows : numPages) * c.numKvHeads;
    const values = Float32Array.from({ length: count }, (_, i) => (format === "int8" ? 0.02 : 0.3) * (1 + (i % 7) / 7));
    return { values, scale: { data: upload(values), sequenceStride: (perToken ? c.pageSize : 1) * c.numKvHeads, rowStride: perToken ? c.numKvHeads : 0, headStride: 1 } };
  };
  /** The pool in its format; unused slots stay NaN where the format has one, else a large number. */
  const stored = (data: Float32Array, dim: number, format: KvFormat | undefined, scales: Float32Array | undefined): Buffer => {
    const scaleAt = (i: number): number => scales![(perToken ? Math.floor(i / dim) : Math.floor(i / (dim * c.numKvHeads * c.pageSize)) * c.numKvHeads + (Math.floor(i / dim) % c.numKvHeads))]!;
    const bytes: Readonly<Record<KvFormat, () => Uint8Array>> = {
      f32: () => fromFloat32(data, "f32"), bf16: () => fromFloat32(data, "bf16"), f16: () => fromFloat32(data, "f16"),
      int8: () => Uint8Array.from(data, (x, i) => (Number.isNaN(x) ? 127 : Math.max(-127, Math.min(127, Math.round(x / scaleAt(i)))))),
      fp8: () => Uint8Array.from(data, (x, i) => toFp8(x / scaleAt(i))),
    };
    const raw = bytes[format ?? "f32"]();
    const buffer = backend.alloc(Math.max(4, raw.length));
    backend.write(buffer, 0, raw);
    buffers.push(buffer);
    return buffer;
  };
  const keyScale = scaleOf(c.keyFormat), valueScale = scaleOf(c.valueFormat);
  const outBytes = 4 * numRows * c.numQueryHeads * c.headDimV;
  const out = upload(new Float32Array(outBytes / 4).fill(NaN)), lse = upload(new Float32Array(numRows * c.numQueryHeads).fill(NaN)), maxScore = upload(new Float32Array(numRows * c.numQueryHeads).fill(NaN));
  backend.ops.attention({
    kernel, captures,
    query: { data: upload(Float32Array.from(query)), sequenceStride: 0, rowStride: c.numQueryHeads * c.headDimQk, headStride: c.headDimQk },
    out: { data: out, sequenceStride: 0, rowStride: c.numQueryHeads * c.headDimV, headStride: c.headDimV },
    key: { data: stored(key, c.headDimQk, c.keyFormat, keyScale?.values), sequenceStride: c.pageSize * c.numKvHeads * c.headDimQk, rowStride: c.numKvHeads * c.headDimQk, headStride: c.headDimQk },
    value: { data: stored(value, c.headDimV, c.valueFormat, valueScale?.values), sequenceStride: c.pageSize * c.numKvHeads * c.headDimV, rowStride: c.numKvHeads * c.headDimV, headStride: c.headDimV },
    pageSize: c.pageSize, blockTable: upload(blockTable), maxPagesPerSequence: maxPages, work: upload(Int32Array.from(work)), lse: { data: lse, sequenceStride: 0 }, maxScore: { data: maxScore, sequenceStride: 0 },
    ...(c.denominator === "sink" ? { sink: upload(Float32Array.from({ length: c.numQueryHeads }, (_, h) => h - 2.5)) } : {}),
    ...(keyScale && { keyScale: keyScale.scale }), ...(valueScale && { valueScale: valueScale.scale }),
  });
  try {
    return {
      out: new Float32Array((await backend.read(out, 0, outBytes)).slice().buffer),
      lse: new Float32Array((await backend.read(lse, 0, 4 * numRows * c.numQueryHeads)).slice().buffer),
      maxScore: new Float32Array((await backend.read(maxScore, 0, 4 * numRows * c.numQueryHeads)).slice().buffer),
    };
  } finally {
    for (const buffer of buffers) backend.free(buffer);
  }
}
