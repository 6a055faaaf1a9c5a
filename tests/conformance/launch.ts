/**
 * How a case reaches a backend: "dense" through flexAttention as a user calls it, "paged" through one ragged AttentionCall whose block table is
 * a random permutation, with NaN (or the worst code there is) in every slot that no token fills and in every output element.
 */
import { flexAttention, type WithAux } from "../../src/attention/attention.ts";
import { readCaptures } from "../../src/attention/captures.ts";
import { planAttention } from "../../src/attention/compile.ts";
import { floats, tensor, type Tensor, type TensorDType } from "../../src/attention/tensor.ts";
import { planWork } from "../../src/attention/work-list.ts";
import type { AttentionKernel, Backend, Buffer, CaptureValue, Layout } from "../../src/backend/backend.ts";
import { toFloat32 } from "../../src/core/dtype.ts";
import { stream } from "../../src/core/random.ts";
import { type AttentionPlan, bytesPerKvElement, type KvFormat } from "../../src/ir/plan.ts";
import { analyse } from "../../src/ir/range.ts";
import type { Form, Mods, Shape } from "./case.ts";
import { scaleOf, type Stored } from "./oracle.ts";

/** By sequence: out [heads, rows, valueDim], lse and maxScore [heads, rows]; those that the launch does not give are undefined. */
export interface Result {
  readonly out: readonly Float32Array[];
  readonly lse: readonly Float32Array[] | undefined;
  readonly maxScore: readonly Float32Array[] | undefined;
}

/** A backend that counts what it compiles. */
export interface Counted {
  readonly backend: Backend;
  compiled(): number;
}

export function counting(backend: Backend): Counted {
  let compiled = 0;
  const proxy = new Proxy(backend, {
    get(target, name) {
      if (name === "compile") return (plan: AttentionPlan) => { compiled++; return target.compile(plan); };
      const value: unknown = Reflect.get(target, name);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
  return { backend: proxy, compiled: () => compiled };
}

export async function launch(backend: Backend, shape: Shape, mods: Mods, data: Stored, form: Form): Promise<Result> {
  return form.kind === "dense" ? dense(backend, shape, mods, data, form) : paged(backend, shape, mods, data, form);
}

/** How a format is stored, and what tensor() is told of it. */
const stored: Readonly<Record<KvFormat, { readonly dtype: TensorDType | undefined; readonly of: (elements: number) => Float32Array | Uint16Array | Int8Array | Uint8Array; readonly worst: number }>> = {
  f32: { dtype: undefined, of: (n) => new Float32Array(n), worst: NaN }, bf16: { dtype: "bf16", of: (n) => new Uint16Array(n), worst: 0x7fff }, f16: { dtype: "f16", of: (n) => new Uint16Array(n), worst: 0x7fff },
  int8: { dtype: undefined, of: (n) => new Int8Array(n), worst: 127 }, fp8: { dtype: "fp8", of: (n) => new Uint8Array(n), worst: 0x7f },
};

/** Codes of each sequence, [heads, length, d], as one tensor [B, heads, length, d]; `transposed`: stored [B, length, heads, d]. */
function asTensor(parts: readonly ArrayLike<number>[], format: KvFormat, [heads, length, d]: readonly [number, number, number], transposed: boolean): Tensor {
  const size = heads * length * d, { dtype, of } = stored[format], data = of(parts.length * size);
  parts.forEach((part, b) => {
    for (let h = 0; h < heads; h++) for (let t = 0; t < length; t++) {
      const to = b * size + (transposed ? t * heads + h : h * length + t) * d, from = (h * length + t) * d;
      for (let i = 0; i < d; i++) data[to + i] = part[from + i]!;
    }
  });
  return tensor(data, [parts.length, heads, length, d], { ...(dtype && { dtype }), ...(transposed && { strides: [size, d, heads * d, 1] }) });
}

async function dense(backend: Backend, shape: Shape, mods: Mods, data: Stored, form: Extract<Form, { kind: "dense" }>): Promise<Result> {
  const { heads, kvHeads, dim, valueDim, sequences } = shape, transposed = form.transposed === true;
  const { rows, kvLength } = sequences[0]!, count = sequences.length, kvCount = form.kvBatch ?? count;
  const { queryFormat = "f32", keyFormat = "f32", valueFormat = "f32", ...options } = mods;
  const scale = (format: KvFormat): Tensor | undefined => (format === "int8" || format === "fp8"
    ? tensor(Float32Array.from({ length: kvCount * kvLength }, (_, i) => scaleOf(format, sequences[Math.floor(i / kvLength)]!.key(i % kvLength))), [kvCount, 1, kvLength]) : undefined);
  const given = await flexAttention(
    asTensor(data.queryCodes, queryFormat, [heads, rows, dim], transposed), asTensor(data.keyCodes.slice(0, kvCount), keyFormat, [kvHeads, kvLength, dim], transposed),
    asTensor(data.valueCodes.slice(0, kvCount), valueFormat, [kvHeads, kvLength, valueDim], transposed),
    { ...options, keyScale: scale(keyFormat), valueScale: scale(valueFormat), backend, aux: mods.weightMod ? [] : ["lse", "maxScore"] },
  ) as Tensor | Partial<WithAux> & { readonly out: Tensor };
  const all: Partial<WithAux> & { readonly out: Tensor } = "out" in given ? given : { out: given };
  const split = (t: Tensor): Float32Array[] => {
    const x = floats(t);
    return sequences.map((_, b) => x.subarray((b * x.length) / count, ((b + 1) * x.length) / count));
  };
  return { out: split(all.out), lse: all.lse && split(all.lse), maxScore: all.maxScore && split(all.maxScore) };
}

/** Kernels by plan, for as long as the backend lives: as an engine keeps them. */
const kernels = new WeakMap<Backend, Map<string, AttentionKernel>>();

async function paged(backend: Backend, shape: Shape, mods: Mods, data: Stored, form: Extract<Form, { kind: "paged" }>): Promise<Result> {
  const { heads, kvHeads, dim, valueDim, sequences } = shape, { pageSize } = form;
  const { sink, softmax, queryFormat: rowFormat, ...spec } = mods;
  // Where the backend computes in 32 bits, queries and outputs are f32 whatever the case says.
  const queryFormat = backend.caps.activationBits === 16 ? rowFormat : undefined;
  const { queryTile = backend.caps.tiles.queryTile, kvTile = backend.caps.tiles.kvTile } = form;
  const { plan, bindings } = planAttention({
    ...spec, queryFormat, denominator: sink ? "sink" : softmax, numQueryHeads: heads, numKvHeads: kvHeads, headDimQk: dim, headDimV: valueDim, queryTile, kvTile,
  });
  const known = kernels.get(backend) ?? new Map<string, AttentionKernel>();
  kernels.set(backend, known);
  const kernel = known.get(plan.key) ?? (await backend.compile(plan));
  known.set(plan.key, kernel);

  const buffers: Buffer[] = [];
  const upload = (x: ArrayBufferView): Buffer => {
    const buffer = backend.alloc(Math.max(4, x.byteLength));
    buffers.push(buffer);
    if (x.byteLength > 0) backend.write(buffer, 0, new Uint8Array(x.buffer, x.byteOffset, x.byteLength));
    return buffer;
  };
  const { table, maxPages, numPages } = pages(shape, pageSize);
  const side = (format: KvFormat, codes: readonly Float64Array[], d: number): { readonly layout: Layout; readonly scale: Layout | undefined } => {
    const tokens = numPages * pageSize * kvHeads;
    const slots = stored[format].of(tokens * d).fill(stored[format].worst), scales = new Float32Array(tokens).fill(NaN);
    sequences.forEach((s, b) => {
      for (let t = 0; t < s.kvLength; t++) {
        const slot = table[b * maxPages + Math.floor(t / pageSize)]! * pageSize + (t % pageSize);
        for (let g = 0; g < kvHeads; g++) {
          scales[slot * kvHeads + g] = scaleOf(format, s.key(t));
          for (let i = 0; i < d; i++) slots[(slot * kvHeads + g) * d + i] = codes[b]![(g * s.kvLength + t) * d + i]!;
        }
      }
    });
    const scaled = format === "int8" || format === "fp8";
    return {
      layout: { data: upload(slots), sequenceStride: pageSize * kvHeads * d, rowStride: kvHeads * d, headStride: d },
      scale: scaled ? { data: upload(scales), sequenceStride: pageSize * kvHeads, rowStride: kvHeads, headStride: 1 } : undefined,
    };
  };
  try {
    const firstRow: number[] = [];
    let numRows = 0;
    for (const s of sequences) {
      firstRow.push(numRows);
      numRows += s.rows;
    }
    const query = stored[queryFormat ?? "f32"].of(numRows * heads * dim), queryRows = queryFormat ? data.queryCodes : data.query;
    sequences.forEach((s, b) => {
      for (let h = 0; h < heads; h++) for (let r = 0; r < s.rows; r++) query.set(queryRows[b]!.subarray((h * s.rows + r) * dim, (h * s.rows + r + 1) * dim), ((firstRow[b]! + r) * heads + h) * dim);
    });
    const values = readCaptures(bindings);
    const captures = bindings.map(({ slot }): CaptureValue => {
      if (slot.kind === "uniform") return { kind: "uniform", value: values.uniforms[slot.name]! };
      const t = values.tables[slot.name]!;
      return { kind: "table", shape: t.shape, data: upload(slot.type === "f32" ? Float32Array.from(t.data) : Int32Array.from(t.data)) };
    });
    const work = planWork(plan.maskMod && analyse(plan.maskMod).bind(values), {
      numSequences: sequences.length, firstRow: Int32Array.from(firstRow), numRows: Int32Array.from(sequences, (s) => s.rows),
      firstPosition: Int32Array.from(sequences, (s) => s.firstPosition), kvLength: Int32Array.from(sequences, (s) => s.kvLength),
    }, plan);
    const poison = (elements: number): Buffer => upload(new Float32Array(elements).fill(NaN));
    const outType = stored[queryFormat ?? "f32"];
    const out = upload(outType.of(numRows * heads * valueDim).fill(outType.worst)), lse = poison(numRows * heads), maxScore = poison(numRows * heads);
    const key = side(mods.keyFormat ?? "f32", data.keyCodes, dim), value = side(mods.valueFormat ?? "f32", data.valueCodes, valueDim);
    backend.ops.attention({
      kernel, captures, pageSize, blockTable: upload(table), maxPagesPerSequence: maxPages, work: upload(work),
      query: { data: upload(query), sequenceStride: 0, rowStride: heads * dim, headStride: dim },
      out: { data: out, sequenceStride: 0, rowStride: heads * valueDim, headStride: valueDim },
      key: key.layout, value: value.layout, ...(key.scale && { keyScale: key.scale }), ...(value.scale && { valueScale: value.scale }),
      ...(mods.sink && { sink: upload(mods.sink) }),
      lse: { data: lse, sequenceStride: 0 }, maxScore: { data: maxScore, sequenceStride: 0 },
    });
    const read = async (from: Buffer, d: number, format: "f32" | "bf16" | "f16" = "f32"): Promise<Float32Array[]> => {
      const packed = toFloat32(await backend.read(from, 0, bytesPerKvElement[format] * numRows * heads * d), format);
      return sequences.map((s, b) => {
        const mine = new Float32Array(heads * s.rows * d);
        for (let h = 0; h < heads; h++) for (let r = 0; r < s.rows; r++) mine.set(packed.subarray(((firstRow[b]! + r) * heads + h) * d, ((firstRow[b]! + r) * heads + h + 1) * d), (h * s.rows + r) * d);
        return mine;
      });
    };
    const outRows = await read(out, valueDim, queryFormat);
    return mods.weightMod ? { out: outRows, lse: undefined, maxScore: undefined } : { out: outRows, lse: await read(lse, 1), maxScore: await read(maxScore, 1) };
  } finally {
    for (const buffer of buffers) backend.free(buffer);
  }
}

/** Pages of all sequences, scattered at random; a page that is full and equal in two sequences is one. Garbage beyond each length. */
function pages(shape: Shape, pageSize: number): { readonly table: Int32Array; readonly maxPages: number; readonly numPages: number } {
  const maxPages = Math.max(1, ...shape.sequences.map((s) => Math.ceil(s.kvLength / pageSize)));
  const logical = new Int32Array(shape.sequences.length * maxPages).fill(-1);
  const full = new Map<string, number>();
  let count = 0;
  shape.sequences.forEach((s, b) => {
    for (let p = 0; p * pageSize < s.kvLength; p++) {
      const content = (p + 1) * pageSize <= s.kvLength ? Array.from({ length: pageSize }, (_, i) => s.key(p * pageSize + i)).join() : undefined;
      const page = (content === undefined ? undefined : full.get(content)) ?? count++;
      if (content !== undefined) full.set(content, page);
      logical[b * maxPages + p] = page;
    }
  });
  const numPages = count + 3;
  const order = Array.from({ length: numPages }, (_, i) => i), random = stream(numPages);
  for (let i = numPages - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return { table: logical.map((page) => (page < 0 ? 0x7fffffff : order[page]!)), maxPages, numPages };
}
