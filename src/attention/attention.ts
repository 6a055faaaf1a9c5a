/**
 * flexAttention: attention over whole tensors, with mods, on any backend.
 *
 *   out[b, h, i, :] = sum_j softmax_j(scoreMod(scale q[b, h, i] . k[b, g, j], b, h, i, j)) v[b, g, j, :]    over j allowed by the mask
 *
 * with g = floor(h / (query heads / key heads)). A sink or softmax "one" joins the denominator, a weightMod stands for softmax, an outputMod
 * comes last. A call is one launch: each sequence is one page as long as its keys. A row that may attend to nothing is 0, its log-sum-exp
 * -Infinity. It knows tensors and mods; kernels and memory belong to the backend.
 */
import type { AttentionCall, Backend, Buffer, CaptureValue } from "../backend/backend.ts";
import { type Device, openBackend } from "../backend/registry.ts";
import { bytesPerElement } from "../core/dtype.ts";
import type { CaptureEnv } from "../ir/interpret.ts";
import type { CaptureSlot } from "../ir/plan.ts";
import { type Aux, capsFor, checkMask, checkOptions, checkScale, checkShapes, type FlexAttentionOptions, queryFormatOf, type ScaleOperand } from "./arguments.ts";
import { copyCaptures } from "./captures.ts";
import { compilePlanned, planAttention } from "./compile.ts";
import { inDType } from "./merge.ts";
import { kvFormats, type Operand, operandOf } from "./operand.ts";
import { floats, type Tensor, tensor } from "./tensor.ts";
import { planWork } from "./work-list.ts";

export type { FlexAttentionOptions } from "./arguments.ts";

/** What a call with `aux` gives: the result, and each further result asked for, f32 [B, H, L]. */
export type WithAux<A extends readonly Aux[] = readonly Aux[]> = { readonly out: Tensor } & (number extends A["length"] ? { readonly [name in Aux]?: Tensor } : { readonly [name in A[number]]: Tensor });

/**
 * query [B, Hq, L, D], key [B or 1, Hkv, S, D], value [B or 1, Hkv, S, Dv]; f32, f16 or bf16, keys and values also i8 or fp8 with scales. Hq is a
 * multiple of Hkv; head dims are 1 to 256. Keys and values are read in their own format, and views where they lie.
 * The result is [B, Hq, L, Dv] in the query's dtype; computed in f32. On a device of 16 bits (cuda) the query is f16 or bf16, and keys and values are of
 * its dtype, i8 or fp8.
 * @throws UsageError for shapes and options that do not fit, ModError for a mod the compiler cannot read.
 */
export function flexAttention<const A extends readonly Aux[]>(query: Tensor, key: Tensor, value: Tensor, options: FlexAttentionOptions & { readonly aux: A }): Promise<WithAux<A>>;
export function flexAttention(query: Tensor, key: Tensor, value: Tensor, options?: Omit<FlexAttentionOptions, "aux"> & { readonly aux?: undefined }): Promise<Tensor>;
export async function flexAttention(query: Tensor, key: Tensor, value: Tensor, options: FlexAttentionOptions = {}): Promise<Tensor | WithAux> {
  const shape = checkShapes(query, key, value);
  checkOptions(options, shape);
  const { maskMod, blockMask } = checkMask(options, shape);
  const keyFormat = kvFormats[key.dtype]!, valueFormat = kvFormats[value.dtype]!;
  const caps = capsFor(options), queryFormat = queryFormatOf(caps, query, { key: keyFormat, value: valueFormat });
  const keyScale = checkScale("key", keyFormat, options.keyScale, shape), valueScale = checkScale("value", valueFormat, options.valueScale, shape);
  const planned = planAttention({
    scoreMod: options.scoreMod, maskMod, weightMod: options.weightMod, outputMod: options.outputMod, denominator: options.sink ? "sink" : options.softmax,
    scale: options.scale, scaleMayChange: options.scale !== undefined, queryFormat, keyFormat, valueFormat, ...caps.tiles,
    numQueryHeads: shape.queryHeads, numKvHeads: shape.kvHeads, headDimQk: shape.dim, headDimV: shape.valueDim,
  });
  // The values of now: another call may be under way, and captures change, before this one has its turn.
  const values = copyCaptures(planned.bindings), blocksVersion = blockMask?.version;
  const backend = options.backend ?? (await sharedBackend(options.device ?? "cpu"));
  const { kernel, mask } = await compilePlanned(backend, planned);
  return inTurn(backend, async () => {
    const classifier = mask && (blockMask && blockMask.version === blocksVersion ? blockMask : mask.bind(values));
    const { batch, queryLength, kvLength, queryHeads, valueDim } = shape;
    const full = (n: number): Int32Array => new Int32Array(batch).fill(n);
    const work = planWork(classifier, { numSequences: batch, firstRow: full(0), numRows: full(queryLength), firstPosition: full(0), kvLength: full(kvLength) }, { ...kernel.plan, numQueryHeads: queryHeads });

    const buffers: Buffer[] = [];
    const alloc = (bytes: number): Buffer => {
      const buffer = backend.alloc(Math.max(4, bytes));
      buffers.push(buffer);
      return buffer;
    };
    const upload = (data: Uint8Array | Float32Array | Int32Array): Buffer => {
      const buffer = alloc(data.byteLength);
      if (data.byteLength > 0) backend.write(buffer, 0, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      return buffer;
    };
    const placed = ({ bytes, ...strides }: Operand): AttentionCall["query"] => ({ data: upload(bytes), ...strides });
    const scale = ({ data, ...strides }: ScaleOperand): AttentionCall["query"] => ({ data: upload(data), ...strides });
    try {
      const outBytes = bytesPerElement[queryFormat ?? "f32"] * batch * queryHeads * queryLength * valueDim, statisticBytes = 4 * batch * queryHeads * queryLength;
      const out = alloc(outBytes);
      const statistics = [...new Set(options.aux)].map((name) => ({ name, data: alloc(statisticBytes) }));
      const { sink } = options;
      backend.ops.attention({
        kernel, captures: captureValues(kernel.plan.captures, values, upload),
        query: placed(operandOf(query.dtype === (queryFormat ?? "f32") ? query : tensor(floats(query), query.shape))), key: placed(operandOf(key)), value: placed(operandOf(value)),
        out: { data: out, sequenceStride: queryHeads * queryLength * valueDim, headStride: queryLength * valueDim, rowStride: valueDim },
        pageSize: Math.max(1, kvLength), blockTable: upload(full(0).map((_, b) => (shape.kvBatch === 1 ? 0 : b))), maxPagesPerSequence: 1, work: upload(work),
        ...Object.fromEntries(statistics.map(({ name, data }) => [name, { data, sequenceStride: queryLength * queryHeads }])),
        ...(sink && { sink: upload(sink instanceof Float32Array ? sink : floats(sink)) }),
        ...(keyScale && { keyScale: scale(keyScale) }), ...(valueScale && { valueScale: scale(valueScale) }),
      });
      const outBits = (await backend.read(out, 0, outBytes)).slice().buffer, outShape = [batch, queryHeads, queryLength, valueDim];
      const result = queryFormat ? tensor(new Uint16Array(outBits), outShape, queryFormat) : inDType(new Float32Array(outBits), outShape, query.dtype);
      if (!options.aux) return result;
      const all: { out: Tensor } & { [name in Aux]?: Tensor } = { out: result };
      for (const { name, data } of statistics) all[name] = tensor(headsFirst(copy(await backend.read(data, 0, statisticBytes)), batch, queryLength, queryHeads), [batch, queryHeads, queryLength]);
      return all;
    } finally {
      for (const buffer of buffers) backend.free(buffer);
    }
  });
}

/** The captured values as the kernel takes them: numbers as they are, tables as i32 or f32 in the backend's memory. */
export function captureValues(slots: readonly CaptureSlot[], { uniforms, tables }: CaptureEnv, upload: (data: Float32Array | Int32Array) => Buffer): CaptureValue[] {
  return slots.map((slot): CaptureValue => {
    if (slot.kind === "uniform") return { kind: "uniform", value: uniforms[slot.name]! };
    const { data, shape } = tables[slot.name]!;
    const elements = slot.type === "f32" ? (data instanceof Float32Array ? data : Float32Array.from(data)) : data instanceof Int32Array ? data : Int32Array.from(data);
    return { kind: "table", data: upload(elements), shape };
  });
}

function copy(bytes: Uint8Array): Float32Array {
  return new Float32Array(bytes.slice().buffer);
}

/** [batch, rows, heads] as [batch, heads, rows]. */
function headsFirst(x: Float32Array, batch: number, rows: number, heads: number): Float32Array {
  const out = new Float32Array(x.length);
  for (let b = 0; b < batch; b++) for (let r = 0; r < rows; r++) for (let h = 0; h < heads; h++) out[(b * heads + h) * rows + r] = x[(b * rows + r) * heads + h]!;
  return out;
}

/** Backends opened for calls that name a device: one each for the life of the process, holding nothing alive. */
const opened = new Map<Device, Promise<Backend>>();

export function sharedBackend(device: Device): Promise<Backend> {
  const known = opened.get(device) ?? openBackend(device);
  opened.set(device, known);
  known.catch(() => opened.delete(device));
  return known;
}

/** Calls on one backend run one after another: what `read` gives is valid only until the next command. */
const turns = new WeakMap<Backend, Promise<unknown>>();

export async function inTurn<T>(backend: Backend, body: () => Promise<T>): Promise<T> {
  const before = turns.get(backend) ?? Promise.resolve();
  const mine = before.then(body, body);
  turns.set(backend, mine.catch(() => {}));
  return mine;
}
