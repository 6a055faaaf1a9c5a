/**
 * How a case reaches a backend: "dense" through flexAttention as a user calls it, "paged" through one ragged AttentionCall whose block table is
 * a random permutation, with NaN (or the worst code there is) in every slot that no token fills and in every output element.
 */
import { flexAttention, type FlexAttentionOptions } from "../../src/attention/attention.ts";
import { readCaptures } from "../../src/attention/captures.ts";
import { planAttention } from "../../src/attention/compile.ts";
import { tensor, type Tensor } from "../../src/attention/tensor.ts";
import { planWork } from "../../src/attention/work-list.ts";
import type { AttentionKernel, Backend, Buffer, CaptureValue, Layout } from "../../src/backend/backend.ts";
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
  return form.kind === "dense" ? dense(backend, shape, mods, data, form.kvBatch) : paged(backend, shape, mods, data, form);
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Keys or values as the tensor that flexAttention takes for this format. */
function kvTensor(values: readonly Float32Array[], codes: readonly Float64Array[], format: KvFormat, dims: readonly number[]): Tensor {
  const shape = [values.length, ...dims];
  if (format === "f32") return tensor(joined(values), shape);
  if (format === "bf16" || format === "f16") return tensor(Uint16Array.from(codes.flatMap((c) => [...c])), shape, format);
  throw new Error(`flexAttention takes no ${format} yet`);
}

async function dense(backend: Backend, shape: Shape, mods: Mods, data: Stored, kvBatch: 1 | undefined): Promise<Result> {
  const { heads, kvHeads, dim, valueDim, sequences } = shape;
  const { rows, kvLength } = sequences[0]!, count = sequences.length;
  const kv = (side: readonly Float32Array[], codes: readonly Float64Array[], format: KvFormat | undefined, d: number): Tensor =>
    kvTensor(kvBatch === 1 ? side.slice(0, 1) : side, kvBatch === 1 ? codes.slice(0, 1) : codes, format ?? "f32", [kvHeads, kvLength, d]);
  const { keyFormat, valueFormat, ...rest } = mods;
  const aux = mods.weightMod ? [] : mods.sink || mods.softmax ? ["lse", "maxScore"] : ["lse"];
  const options = { ...rest, backend, ...(aux.length > 0 && { aux }) } as unknown as FlexAttentionOptions & { readonly aux: readonly ["lse"] };
  const given = (await flexAttention(
    tensor(joined(data.query), [count, heads, rows, dim]), kv(data.key, data.keyCodes, keyFormat, dim), kv(data.value, data.valueCodes, valueFormat, valueDim), options,
  )) as Tensor | { readonly out: Tensor; readonly lse?: Tensor; readonly maxScore?: Tensor };
  const all = "out" in given ? given : { out: given };
  const split = (t: Tensor | undefined): Float32Array[] | undefined => t && sequences.map((_, b) => (t.data as Float32Array).subarray((b * t.data.length) / count, ((b + 1) * t.data.length) / count));
  return { out: split(all.out)!, lse: split(all.lse), maxScore: split(all.maxScore) };
}

/** Kernels by plan, for as long as the backend lives: as an engine keeps them. */
const kernels = new WeakMap<Backend, Map<string, AttentionKernel>>();

function pagedPlan(shape: Shape, mods: Mods, form: Extract<Form, { kind: "paged" }>): ReturnType<typeof planAttention> {
  const { scoreMod, maskMod } = mods;
  const { plan, bindings } = planAttention({
    scoreMod, maskMod, numQueryHeads: shape.heads, numKvHeads: shape.kvHeads, headDimQk: shape.dim, headDimV: shape.valueDim, queryTile: form.queryTile, kvTile: form.kvTile,
  });
  const hooks = {
    denominator: mods.sink ? ("sink" as const) : mods.softmax, weightMod: mods.weightMod?.expr(), outputMod: mods.outputMod?.expr(), keyFormat: mods.keyFormat, valueFormat: mods.valueFormat,
  };
  return { plan: { ...plan, ...hooks, key: `${plan.key}\n${JSON.stringify(hooks)}` }, bindings };
}

async function paged(backend: Backend, shape: Shape, mods: Mods, data: Stored, form: Extract<Form, { kind: "paged" }>): Promise<Result> {
  const { heads, kvHeads, dim, valueDim, sequences } = shape, { pageSize } = form;
  const { plan, bindings } = pagedPlan(shape, mods, form);
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
    const stored = storage(format, tokens * d), scales = new Float32Array(tokens).fill(NaN);
    sequences.forEach((s, b) => {
      for (let t = 0; t < s.kvLength; t++) {
        const slot = table[b * maxPages + Math.floor(t / pageSize)]! * pageSize + (t % pageSize);
        for (let g = 0; g < kvHeads; g++) {
          scales[slot * kvHeads + g] = scaleOf(format, s.key(t));
          for (let i = 0; i < d; i++) stored[(slot * kvHeads + g) * d + i] = codes[b]![(g * s.kvLength + t) * d + i]!;
        }
      }
    });
    const scaled = format === "int8" || format === "fp8";
    return {
      layout: { data: upload(stored), sequenceStride: pageSize * kvHeads * d, rowStride: kvHeads * d, headStride: d },
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
    const query = new Float32Array(numRows * heads * dim);
    sequences.forEach((s, b) => {
      for (let h = 0; h < heads; h++) for (let r = 0; r < s.rows; r++) query.set(data.query[b]!.subarray((h * s.rows + r) * dim, (h * s.rows + r + 1) * dim), ((firstRow[b]! + r) * heads + h) * dim);
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
    const out = poison(numRows * heads * valueDim), lse = poison(numRows * heads), maxScore = poison(numRows * heads);
    const key = side(mods.keyFormat ?? "f32", data.keyCodes, dim), value = side(mods.valueFormat ?? "f32", data.valueCodes, valueDim);
    backend.ops.attention({
      kernel, captures, pageSize, blockTable: upload(table), maxPagesPerSequence: maxPages, work: upload(work),
      query: { data: upload(query), sequenceStride: 0, rowStride: heads * dim, headStride: dim },
      out: { data: out, sequenceStride: 0, rowStride: heads * valueDim, headStride: valueDim },
      key: key.layout, value: value.layout, ...(key.scale && { keyScale: key.scale }), ...(value.scale && { valueScale: value.scale }),
      ...(mods.sink && { sink: upload(mods.sink) }),
      lse: { data: lse, sequenceStride: 0 }, maxScore: { data: maxScore, sequenceStride: 0 },
    });
    const read = async (from: Buffer, d: number): Promise<Float32Array[]> => {
      const packed = new Float32Array((await backend.read(from, 0, 4 * numRows * heads * d)).slice().buffer);
      return sequences.map((s, b) => {
        const mine = new Float32Array(heads * s.rows * d);
        for (let h = 0; h < heads; h++) for (let r = 0; r < s.rows; r++) mine.set(packed.subarray(((firstRow[b]! + r) * heads + h) * d, ((firstRow[b]! + r) * heads + h + 1) * d), (h * s.rows + r) * d);
        return mine;
      });
    };
    const outRows = await read(out, valueDim);
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
      const page = (content !== undefined && full.get(content)) || count++;
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

/** Memory for a format, every element the worst it can be. */
function storage(format: KvFormat, elements: number): Float32Array | Uint16Array | Int8Array | Uint8Array {
  switch (format) {
    case "f32": return new Float32Array(elements).fill(NaN);
    case "bf16": case "f16": return new Uint16Array(elements).fill(0x7fff);
    case "int8": return new Int8Array(elements).fill(127);
    case "fp8": return new Uint8Array(elements).fill(0x7f);
    default: return format satisfies never;
  }
}

/** Bytes that a launch's keys and values take, for choosing shapes. */
export function kvBytes(shape: Shape, format: KvFormat): number {
  return shape.sequences.reduce((n, s) => n + s.kvLength, 0) * shape.kvHeads * (shape.dim + shape.valueDim) * bytesPerKvElement[format];
}
