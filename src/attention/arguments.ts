/**
 * What flexAttention is called with, checked before anything is compiled: shapes, dtypes, options, and which of them go together.
 *
 * What it refuses it refuses by name, with what to do instead. It knows no kernel.
 */
import type { Backend, Caps } from "../backend/backend.ts";
import { capsOf, type Device } from "../backend/registry.ts";
import { UsageError } from "../core/errors.ts";
import type { KvFormat } from "../ir/plan.ts";
import { indicesOf } from "../ir/range.ts";
import { BlockMask } from "./block-mask.ts";
import type { MaskMod, OutputMod, ScoreMod, WeightMod } from "./mod.ts";
import { kvFormats } from "./operand.ts";
import { floats, isTensor, type Tensor } from "./tensor.ts";

/** A result beside `out`, f32 [B, H, L]: the natural logarithm of a row's sum of exponentials, or its largest score after mods. */
export type Aux = "lse" | "maxScore";

export interface FlexAttentionOptions {
  readonly scoreMod?: ScoreMod | undefined;
  readonly maskMod?: MaskMod | undefined;
  /** A mask with its blocks known already, instead of `maskMod`. */
  readonly blockMask?: BlockMask | undefined;
  /** Stands for softmax: out = sum of weightMod(score) v over the keys that the mask allows. Goes without `aux`, `sink` and `softmax`. */
  readonly weightMod?: WeightMod | undefined;
  /** Of each finished output element. */
  readonly outputMod?: OutputMod | undefined;
  /** Factor of q . k; 1 / sqrt(head dim) when left out. Another one is no new kernel. */
  readonly scale?: number | undefined;
  /** [Hq]: a logit of each query head that joins the sum of exponentials and has no value. */
  readonly sink?: Float32Array | Tensor | undefined;
  /** "one": 1 joins the sum of exponentials, as a sink of 0 would. */
  readonly softmax?: "one" | undefined;
  /** What int8 and fp8 keys (values) are multiplied by: a number, or f32 [B, Hkv, S], where any dimension may be 1, or [1]. */
  readonly keyScale?: Tensor | number | undefined;
  readonly valueScale?: Tensor | number | undefined;
  /** "cpu" (default), "cuda" or "reference". */
  readonly device?: Device | undefined;
  /** A backend opened by the caller, instead of `device`. */
  readonly backend?: Backend | undefined;
  /** Further results, f32 [B, H, L] each: the call then gives { out, lse, maxScore } with those asked for. */
  readonly aux?: readonly Aux[] | undefined;
}

const optionNames: Readonly<Record<keyof FlexAttentionOptions, true>> = {
  scoreMod: true, maskMod: true, blockMask: true, weightMod: true, outputMod: true, scale: true, sink: true, softmax: true, keyScale: true, valueScale: true,
  device: true, backend: true, aux: true,
};
const auxNames: Readonly<Record<Aux, true>> = { lse: true, maxScore: true };

const noDropout = "dropout is for training and is not offered; for random weights, multiply by a captured table in a weightMod";
const noProbabilities = "no row of P is ever in memory; attend with columns of the identity as value (up to 256 keys a call), whose result is those columns of P, and sum or sort them";
const asAux = "further results are asked for by name: aux: [\"lse\", \"maxScore\"]";

/** Options and results of other systems, and what to do here. */
const remedies: Readonly<Record<string, string>> = {
  dropout: noDropout, dropoutP: noDropout, dropout_p: noDropout,
  columnSums: `column sums of P are not offered: ${noProbabilities}`, colSums: `column sums of P are not offered: ${noProbabilities}`,
  topK: `the top-k of P are not offered: ${noProbabilities}`, topk: `the top-k of P are not offered: ${noProbabilities}`,
  score_mod: "it is scoreMod here", mask_mod: "it is maskMod here", block_mask: "it is blockMask here", weight_mod: "it is weightMod here", output_mod: "it is outputMod here",
  return_lse: asAux, returnLse: asAux, return_aux: asAux, max_scores: "it is \"maxScore\" here", maxScores: "it is \"maxScore\" here",
  enable_gqa: "leave it out: query heads in any multiple of the key heads are grouped", enableGqa: "leave it out: query heads in any multiple of the key heads are grouped",
  kernel_options: "leave it out: a kernel's tiles are the backend's own", kernelOptions: "leave it out: a kernel's tiles are the backend's own",
  is_causal: "pass maskMod: causal", isCausal: "pass maskMod: causal", attn_mask: "write it as maskMod", attnMask: "write it as maskMod",
};

/** @throws UsageError for an option that is none, a value it cannot have, or two that exclude each other. */
export function checkOptions(options: FlexAttentionOptions, shape: Shape): void {
  for (const name of Object.keys(options)) {
    if (!Object.hasOwn(optionNames, name)) throw new UsageError(`flexAttention has no option '${name}'; ${remedies[name] ?? `its options are ${Object.keys(optionNames).join(", ")}`}`);
  }
  const { aux = [], weightMod, sink, softmax, scale, blockMask } = options;
  if (!Array.isArray(aux)) throw new UsageError(`aux is ${JSON.stringify(aux)}; it is a list: aux: ["lse"]`);
  for (const name of aux as readonly string[]) {
    if (!Object.hasOwn(auxNames, name)) throw new UsageError(`aux has no '${name}'; ${remedies[name] ?? `it may have ${Object.keys(auxNames).join(" and ")}`}`);
    if (weightMod) throw new UsageError(`${name} is a statistic of softmax, which weightMod replaces; leave one of them out`);
  }
  if (softmax !== undefined && softmax !== "one") throw new UsageError(`softmax is ${JSON.stringify(softmax)}; leave it out, or "one" for a denominator plus one`);
  for (const [name, given] of Object.entries({ sink, "softmax: \"one\"": softmax })) {
    if (given !== undefined && weightMod) throw new UsageError(`${name} joins the denominator of softmax, and weightMod replaces softmax; leave one of them out`);
  }
  if (sink !== undefined && softmax) throw new UsageError("give sink or softmax: \"one\", not both; for both, make each sink x Math.log1p(Math.exp(x))");
  if (sink !== undefined && !(sink instanceof Float32Array) && !isTensor(sink)) throw new UsageError("sink must be a Float32Array or a tensor, one logit for each query head");
  const sinks = sink && (sink instanceof Float32Array ? [sink.length] : sink.shape);
  if (sinks && (sinks.length !== 1 || sinks[0] !== shape.queryHeads)) throw new UsageError(`sink has shape [${sinks.join(", ")}]; it must be [${shape.queryHeads}], a logit for each query head`);
  if (scale !== undefined && !Number.isFinite(scale)) throw new UsageError(`scale is ${scale}; it must be a finite number`);
  if (blockMask !== undefined && !(blockMask instanceof BlockMask)) throw new UsageError("blockMask must be made with createBlockMask() or blockMaskOf()");
}

export interface Shape {
  readonly batch: number;
  readonly kvBatch: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly queryLength: number;
  readonly kvLength: number;
  readonly dim: number;
  readonly valueDim: number;
}

/** Most elements of a head. */
const maxHeadDim = 256;
const queryTypes: ReadonlySet<string> = new Set(["f32", "f16", "bf16"]);

/** @throws UsageError when the three do not fit together, with all their shapes. */
export function checkShapes(query: Tensor, key: Tensor, value: Tensor): Shape {
  for (const [name, t] of Object.entries({ query, key, value })) {
    if (!isTensor(t)) throw new UsageError(`${name} must be a tensor: tensor(new Float32Array(...), [batch, heads, length, dim])`);
    if (t.shape.length !== 4) throw new UsageError(`${name} has shape [${t.shape.join(", ")}]; it must be [batch, heads, length, dim]`);
    if (name === "query" ? queryTypes.has(t.dtype) : kvFormats[t.dtype]) continue;
    throw new UsageError(`${name} is ${t.dtype}; use f32, f16 or bf16${name === "query" ? "" : ", or with scales i8 or fp8"}`);
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
  if (dim > maxHeadDim) fail(`the head dim of query and key is ${dim}, over ${maxHeadDim}; keep the first ${maxHeadDim} and add the product of the rest in a scoreMod, from captured tensors`);
  if (valueDim > maxHeadDim) fail(`the head dim of value is ${valueDim}, over ${maxHeadDim}; attend to slices of at most ${maxHeadDim} of it, one call each, and join the results`);
  return { batch, kvBatch, queryHeads, kvHeads, queryLength, kvLength, dim, valueDim };
}

/** What the place where a call computes can do, known before it is open. @throws UsageError when there is no such device */
export function capsFor({ device = "cpu", backend }: Pick<FlexAttentionOptions, "device" | "backend">): Caps {
  return backend ? backend.caps : capsOf(device);
}

/**
 * The type that kernels there read queries, and write outputs, in: the query's own where activations are of 16 bits; undefined where they are f32,
 * to which any query is widened.
 * @throws UsageError where the query is not of 16 bits and must be, or keys or values are floats of another type
 */
export function queryFormatOf({ device, activationBits }: Caps, query: Tensor, others: Readonly<Record<"key" | "value", KvFormat>>): "bf16" | "f16" | undefined {
  if (activationBits === 32) return undefined;
  const { dtype } = query;
  if (dtype !== "bf16" && dtype !== "f16") throw new UsageError(`query is ${dtype}, and device ${device} computes in bfloat16 or float16; give tensor(bits, shape, "bf16"), the bits in a Uint16Array`);
  for (const [what, format] of Object.entries(others)) {
    if (format === dtype || format === "int8" || format === "fp8") continue;
    throw new UsageError(`${what} is ${format} and query ${dtype}; on device ${device} keys and values are of the query's type, or i8 or fp8 with scales`);
  }
  return dtype;
}

/** The mask of the call, and its blocks where they are known. @throws UsageError when a block mask is of other lengths, batch or heads. */
export function checkMask(options: FlexAttentionOptions, shape: Shape): { readonly maskMod: MaskMod | undefined; readonly blockMask: BlockMask | undefined } {
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

/** Factors of quantised keys or values: f32, element (page, head, token) at page * sequenceStride + head * headStride + token * rowStride. */
export interface ScaleOperand {
  readonly data: Float32Array;
  readonly sequenceStride: number;
  readonly headStride: number;
  readonly rowStride: number;
}

/** @throws UsageError when a quantised tensor has no scale, another has one, or a scale does not fit. */
export function checkScale(name: "key" | "value", format: KvFormat, scale: Tensor | number | undefined, { kvBatch, kvHeads, kvLength }: Shape): ScaleOperand | undefined {
  const quantised = format === "int8" || format === "fp8";
  if (scale === undefined && quantised) throw new UsageError(`${name} is ${format} and needs its factors: ${name}Scale, a number or a tensor [${kvBatch}, ${kvHeads}, ${kvLength}]`);
  if (scale === undefined) return undefined;
  if (!quantised) throw new UsageError(`${name}Scale goes with int8 and fp8, and ${name} is ${format}; multiply it in a scoreMod or an outputMod`);
  if (typeof scale === "number") return { data: Float32Array.of(scale), sequenceStride: 0, headStride: 0, rowStride: 0 };
  const full = [kvBatch, kvHeads, kvLength], given = isTensor(scale) ? scale.shape : [];
  const sizes = given.length === 1 && given[0] === 1 ? [1, 1, 1] : given;
  if (sizes.length !== 3 || !sizes.every((n, i) => n === full[i] || n === 1)) {
    throw new UsageError(`${name}Scale ${isTensor(scale) ? `has shape [${given.join(", ")}]` : "is no tensor"}; it must be [${full.join(", ")}], where any dimension may be 1, or [1]`);
  }
  const [batches, heads, rows] = sizes as [number, number, number];
  return { data: floats(scale as Tensor), sequenceStride: batches === 1 ? 0 : heads * rows, headStride: heads === 1 ? 0 : rows, rowStride: rows === 1 ? 0 : 1 };
}
