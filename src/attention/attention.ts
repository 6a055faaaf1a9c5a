/**
 * flexAttention: attention over whole tensors, with mods, on any backend.
 *
 *   out[b, h, i, :] = sum_j softmax_j(scoreMod(scale q[b, h, i] . k[b, g, j], b, h, i, j)) v[b, g, j, :]    over j allowed by the mask
 *
 * with g = floor(h / (query heads / key heads)). A call is one launch: each sequence is one page as long as its keys. A row that
 * may attend to nothing is 0, its log-sum-exp -Infinity. It knows tensors and mods; kernels and memory belong to the backend.
 */
import type { AttentionCall, Backend, Buffer, CaptureValue } from "../backend/backend.ts";
import { type Device, openBackend } from "../backend/registry.ts";
import { fromFloat32 } from "../core/dtype.ts";
import { UsageError } from "../core/errors.ts";
import { indicesOf } from "../ir/range.ts";
import { BlockMask } from "./block-mask.ts";
import { type Binding, readCaptures } from "./captures.ts";
import { compileAttention } from "./compile.ts";
import type { MaskMod, ScoreMod } from "./mod.ts";
import { floats, isTensor, type Tensor, tensor } from "./tensor.ts";
import { planWork } from "./work-list.ts";

export interface FlexAttentionOptions {
  readonly scoreMod?: ScoreMod;
  readonly maskMod?: MaskMod;
  /** A mask with its blocks known already, instead of `maskMod`. */
  readonly blockMask?: BlockMask;
  /** Factor of q . k; 1 / sqrt(head dim) when left out. */
  readonly scale?: number;
  /** "cpu" (default) or "reference". */
  readonly device?: Device;
  /** A backend opened by the caller, instead of `device`. */
  readonly backend?: Backend;
  /** Further results: "lse", the natural logarithm of each row's sum of exponentials, f32 [B, H, L]. */
  readonly aux?: readonly "lse"[];
}

export interface WithAux {
  readonly out: Tensor;
  readonly lse: Tensor;
}

/**
 * query [B, Hq, L, D], key [B or 1, Hkv, S, D], value [B or 1, Hkv, S, Dv]; f32, f16 or bf16. Hq is a multiple of Hkv.
 * The result is [B, Hq, L, Dv] in the query's dtype; computed in f32.
 * @throws UsageError for shapes that do not fit, ModError for a mod the compiler cannot read.
 */
export function flexAttention(query: Tensor, key: Tensor, value: Tensor, options: FlexAttentionOptions & { readonly aux: readonly ["lse"] }): Promise<WithAux>;
export function flexAttention(query: Tensor, key: Tensor, value: Tensor, options?: Omit<FlexAttentionOptions, "aux">): Promise<Tensor>;
export async function flexAttention(query: Tensor, key: Tensor, value: Tensor, options: FlexAttentionOptions = {}): Promise<Tensor | WithAux> {
  const shape = checkShapes(query, key, value);
  const { maskMod, blockMask } = checkMask(options, shape);
  const backend = options.backend ?? (await sharedBackend(options.device ?? "cpu"));
  const { kernel, bindings, mask } = await compileAttention(backend, {
    scoreMod: options.scoreMod, maskMod, scale: options.scale,
    numQueryHeads: shape.queryHeads, numKvHeads: shape.kvHeads, headDimQk: shape.dim, headDimV: shape.valueDim,
  });
  return inTurn(backend, async () => {
    const classifier = mask && (blockMask ?? mask.bind(readCaptures(bindings)));
    const { batch, queryLength, kvLength, queryHeads, dim, valueDim } = shape;
    const full = (n: number): Int32Array => new Int32Array(batch).fill(n);
    const work = planWork(classifier, { numSequences: batch, firstRow: full(0), numRows: full(queryLength), firstPosition: full(0), kvLength: full(kvLength) }, { ...kernel.plan, numQueryHeads: queryHeads });

    const buffers: Buffer[] = [];
    const alloc = (bytes: number): Buffer => {
      const buffer = backend.alloc(Math.max(4, bytes));
      buffers.push(buffer);
      return buffer;
    };
    const upload = (data: Float32Array | Int32Array): Buffer => {
      const buffer = alloc(data.byteLength);
      if (data.byteLength > 0) backend.write(buffer, 0, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      return buffer;
    };
    try {
      const outBytes = 4 * batch * queryHeads * queryLength * valueDim, lseBytes = 4 * batch * queryHeads * queryLength;
      const out = alloc(outBytes);
      const lse = options.aux?.includes("lse") ? alloc(lseBytes) : undefined;
      const dense = (data: Buffer, heads: number, length: number, d: number): AttentionCall["query"] => ({ data, sequenceStride: heads * length * d, headStride: length * d, rowStride: d });
      const pages = full(0).map((_, b) => (shape.kvBatch === 1 ? 0 : b));
      backend.ops.attention({
        kernel, captures: captureValues(bindings, upload),
        query: dense(upload(floats(query)), queryHeads, queryLength, dim), out: dense(out, queryHeads, queryLength, valueDim),
        key: dense(upload(floats(key)), shape.kvHeads, kvLength, dim), value: dense(upload(floats(value)), shape.kvHeads, kvLength, valueDim),
        pageSize: Math.max(1, kvLength), blockTable: upload(pages), maxPagesPerSequence: 1, work: upload(work),
        ...(lse && { lse: { data: lse, sequenceStride: queryLength * queryHeads } }),
      });
      const result = asTensor(copy(await backend.read(out, 0, outBytes)), [batch, queryHeads, queryLength, valueDim], query.dtype);
      if (!lse) return result;
      const rows = copy(await backend.read(lse, 0, lseBytes));
      return { out: result, lse: tensor(headsFirst(rows, batch, queryLength, queryHeads), [batch, queryHeads, queryLength]) };
    } finally {
      for (const buffer of buffers) backend.free(buffer);
    }
  });
}

interface Shape {
  readonly batch: number;
  readonly kvBatch: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly queryLength: number;
  readonly kvLength: number;
  readonly dim: number;
  readonly valueDim: number;
}

const floatTypes: ReadonlySet<string> = new Set(["f32", "f16", "bf16"]);

function checkShapes(query: Tensor, key: Tensor, value: Tensor): Shape {
  for (const [name, t] of Object.entries({ query, key, value })) {
    if (!isTensor(t)) throw new UsageError(`${name} must be a tensor: tensor(new Float32Array(...), [batch, heads, length, dim])`);
    if (t.shape.length !== 4) throw new UsageError(`${name} has shape [${t.shape.join(", ")}]; it must be [batch, heads, length, dim]`);
    if (!floatTypes.has(t.dtype)) throw new UsageError(`${name} is ${t.dtype}; use f32, f16 or bf16`);
  }
  const [batch, queryHeads, queryLength, dim] = query.shape as [number, number, number, number];
  const [kvBatch, kvHeads, kvLength, keyDim] = key.shape as [number, number, number, number];
  const valueDim = value.shape[3]!;
  const fail = (message: string): never => {
    throw new UsageError(`${message} (query [${query.shape.join(", ")}], key [${key.shape.join(", ")}], value [${value.shape.join(", ")}])`);
  };
  if (keyDim !== dim) fail(`query and key must have the same head dim, not ${dim} and ${keyDim}`);
  if (value.shape[0] !== kvBatch || value.shape[1] !== kvHeads || value.shape[2] !== kvLength) fail("key and value must have the same batch, heads and length");
  if (kvBatch !== batch && kvBatch !== 1) fail(`key has batch ${kvBatch}; it must be the query's ${batch}, or 1 for all`);
  if (batch < 1 || queryHeads < 1 || kvHeads < 1 || dim < 1 || valueDim < 1) fail("batch, heads and head dim must be at least 1");
  if (queryHeads % kvHeads !== 0) fail(`${queryHeads} query heads do not divide among ${kvHeads} key heads`);
  return { batch, kvBatch, queryHeads, kvHeads, queryLength, kvLength, dim, valueDim };
}

function checkMask(options: FlexAttentionOptions, shape: Shape): { readonly maskMod: MaskMod | undefined; readonly blockMask: BlockMask | undefined } {
  if (!options.blockMask) return { maskMod: options.maskMod, blockMask: undefined };
  if (options.maskMod) throw new UsageError("give maskMod or blockMask, not both; a block mask carries its mask");
  const blockMask = options.blockMask.current();
  const { batch, heads, queryLength, kvLength } = blockMask.options;
  if (queryLength !== shape.queryLength || kvLength !== shape.kvLength) {
    throw new UsageError(`the block mask is for ${queryLength} queries and ${kvLength} keys, the tensors have ${shape.queryLength} and ${shape.kvLength}; create one for these lengths, or pass the mask as maskMod`);
  }
  const reads = indicesOf(blockMask.mask.expr());
  if (reads.has("b") && batch !== shape.batch) throw new UsageError(`the block mask is for batch ${batch} and its mask reads b; the query has batch ${shape.batch}`);
  if (reads.has("h") && heads !== shape.queryHeads) throw new UsageError(`the block mask is for ${heads} heads and its mask reads h; the query has ${shape.queryHeads}`);
  return { maskMod: blockMask.mask, blockMask };
}

/** The captured values as the kernel takes them: numbers as they are, tables as i32 or f32 in the backend's memory. */
function captureValues(bindings: readonly Binding[], upload: (data: Float32Array | Int32Array) => Buffer): CaptureValue[] {
  const { uniforms, tables } = readCaptures(bindings);
  return bindings.map(({ slot }): CaptureValue => {
    if (slot.kind === "uniform") return { kind: "uniform", value: uniforms[slot.name]! };
    const { data, shape } = tables[slot.name]!;
    const elements = slot.type === "f32" ? (data instanceof Float32Array ? data : Float32Array.from(data)) : data instanceof Int32Array ? data : Int32Array.from(data);
    return { kind: "table", data: upload(elements), shape };
  });
}

function copy(bytes: Uint8Array): Float32Array {
  return new Float32Array(bytes.slice().buffer);
}

function asTensor(data: Float32Array, shape: readonly number[], dtype: Tensor["dtype"]): Tensor {
  if (dtype !== "f16" && dtype !== "bf16") return tensor(data, shape);
  return tensor(new Uint16Array(fromFloat32(data, dtype).buffer), shape, dtype);
}

/** [batch, rows, heads] as [batch, heads, rows]. */
function headsFirst(x: Float32Array, batch: number, rows: number, heads: number): Float32Array {
  const out = new Float32Array(x.length);
  for (let b = 0; b < batch; b++) for (let r = 0; r < rows; r++) for (let h = 0; h < heads; h++) out[(b * heads + h) * rows + r] = x[(b * rows + r) * heads + h]!;
  return out;
}

/** Backends opened for calls that name a device: one each for the life of the process, holding nothing alive. */
const opened = new Map<Device, Promise<Backend>>();

function sharedBackend(device: Device): Promise<Backend> {
  const known = opened.get(device) ?? openBackend(device);
  opened.set(device, known);
  known.catch(() => opened.delete(device));
  return known;
}

/** Calls on one backend run one after another: what `read` gives is valid only until the next command. */
const turns = new WeakMap<Backend, Promise<unknown>>();

async function inTurn<T>(backend: Backend, body: () => Promise<T>): Promise<T> {
  const before = turns.get(backend) ?? Promise.resolve();
  const mine = before.then(body, body);
  turns.set(backend, mine.catch(() => {}));
  return mine;
}
