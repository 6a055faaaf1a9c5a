/**
 * The one decoder: straight code over `ops`, run once to record a Program.
 *
 *   hidden = embed(tokens)
 *   each layer:  hidden += [postNorm] o(attention(rope(qkv(norm(hidden)))))
 *                hidden += [postNorm] down(f(gate(norm(hidden))) * up(norm(hidden)))
 *   logits = head(norm(hidden[rows wanted])) [soft cap]
 *   tokens chosen from them, which may be the next step's
 *
 * Families differ by what their config says; it knows no family, no sizes of a step and no memory but what it is given.
 */
import type { Activation, AttentionKernel, BatchInputs, Buffer, Caps, CaptureValue, KvCache, Layout, Ops, RowCount, Weight } from "../backend/backend.ts";
import { activationRowBytes, isQuantized } from "../backend/quantized.ts";
import { bytesPerElement } from "../core/dtype.ts";
import { invariant } from "../core/errors.ts";
import type { ModelConfig } from "./config.ts";
import type { ModelTensors } from "./tensors.ts";

/** What one layer's attention is launched with. */
export interface LayerAttention {
  readonly kernel: AttentionKernel;
  readonly captures: readonly CaptureValue[];
  readonly work: Buffer;
}

/** The matrices between operations. */
export type Activations<T> = {
  readonly hidden: T;
  readonly normed: T;
  readonly qkv: T;
  readonly attended: T;
  /** `attended` as quantised matrices take it. */
  readonly rounded?: T;
  /** What a norm stands behind before it is added to `hidden`. */
  readonly projected?: T;
  readonly gateUp: T;
  readonly gated: T;
  readonly lastHidden: T;
  readonly lastNormed: T;
  readonly logits: T;
};
export type ActivationShape = Omit<Activation, "data">;

/** The type of activations on a device: undefined where it is f32, else that of the weights. */
export function activationType({ weightDType }: Pick<ModelConfig, "weightDType">, { activationBits }: Caps): "bf16" | "f16" | undefined {
  if (activationBits === 32) return undefined;
  invariant(weightDType === "bf16" || weightDType === "f16", `weights of ${weightDType} on a device of 16 bits`);
  return weightDType;
}

/**
 * Which there are for a model on a device, and their shapes. What is summed up through the layers, and the logits, are f32; what is multiplied with
 * quantised matrices is int8, and all else of `activationType`.
 */
export function activationShapes(config: ModelConfig, caps: Caps): Activations<ActivationShape> {
  const { hiddenSize, intermediateSize, headDim, numQueryHeads, numKvHeads, vocabSize } = config;
  const quantized = isQuantized(config.weightDType), dtype = activationType(config, caps);
  const f32 = (rows: RowCount, columns: number): ActivationShape => ({ rows, columns, stride: columns });
  const between = (rows: RowCount, columns: number): ActivationShape => ({ ...(dtype && { dtype }), ...f32(rows, columns) });
  const factor = (rows: RowCount, columns: number): ActivationShape => (quantized ? { dtype: "int8", rows, columns, stride: activationRowBytes(columns) } : between(rows, columns));
  const attended = numQueryHeads * headDim;
  return {
    hidden: f32("tokens", hiddenSize), normed: factor("tokens", hiddenSize),
    qkv: between("tokens", (numQueryHeads + 2 * numKvHeads) * headDim),
    attended: between("tokens", attended), ...(quantized && { rounded: factor("tokens", attended) }),
    ...(config.postNorms && { projected: f32("tokens", hiddenSize) }),
    gateUp: between("tokens", 2 * intermediateSize), gated: factor("tokens", intermediateSize),
    lastHidden: f32("logits", hiddenSize), lastNormed: factor("logits", hiddenSize), logits: f32("logits", vocabSize),
  };
}

/** Bytes of one unit of a matrix's stride. */
const strideBytes = ({ dtype = "f32" }: ActivationShape): number => (dtype === "int8" ? 1 : bytesPerElement[dtype]);

/** Bytes of a matrix of `rows` rows. */
export const activationBytes = (shape: ActivationShape, rows: number): number => rows * shape.stride * strideBytes(shape);

export interface DecoderMemory {
  readonly batch: BatchInputs;
  readonly activations: Activations<Activation>;
  /** One pair for each layer. */
  readonly kv: readonly { readonly key: KvCache; readonly value: KvCache }[];
  /** [maxPositions, rotaryDim/2, 2] */
  readonly rotary: Buffer;
  /** Of layers with a window, where they have their own. */
  readonly localRotary?: Buffer;
  readonly sampling: SamplingMemory;
}

/** What tokens are chosen by (backend.ts, SamplingOps): inputs of the step but for the last line of each group. */
export interface SamplingMemory {
  /** [maxNumLogits] records of choices. */
  readonly choices: Buffer;
  /** i32 [maxNumLogits]: the token of each row of the step before, and then of this one. */
  readonly sampled: Buffer;

  /** A header that counts the rows with rules, [maxNumLogits] records of rules, and edits: all of a step, or as many as there is room for. */
  readonly ruled: Buffer;
  readonly rules: Buffer;
  readonly edits: Buffer;
  readonly edited: Buffer;

  /** A header that counts the questions, and [maxNumLogits] of them. */
  readonly asked: Buffer;
  readonly questions: Buffer;
  readonly answers: Buffer;
}

export function decode(ops: Ops, config: ModelConfig, weights: ModelTensors<Weight>, attention: readonly LayerAttention[], memory: DecoderMemory): void {
  const { batch } = memory;
  const { hidden, normed, qkv, attended, rounded, projected, gateUp, gated, lastHidden, lastNormed, logits } = memory.activations;
  const { numQueryHeads, headDim, normEpsilon: epsilon } = config;
  const { choices, sampled } = memory.sampling;
  const query: Layout = { data: qkv.data, sequenceStride: 0, rowStride: qkv.stride, headStride: headDim };
  const out: Layout = { data: attended.data, sequenceStride: 0, rowStride: attended.stride, headStride: headDim };

  ops.feedTokens?.({ sampled, batch });
  ops.embed({ out: hidden, table: weights.embed, batch, scale: config.embeddingScale });
  weights.layers.forEach((layer, i) => {
    const { key, value } = memory.kv[i]!;
    const rotary = (config.layers[i]!.window !== undefined && memory.localRotary) || memory.rotary;
    ops.rmsNorm({ out: normed, x: hidden, weight: layer.attentionNorm.data, epsilon, batch });
    project(qkv, normed, layer.qkv, layer.qkvBias);
    ops.ropeAndCache({
      qkv, numQueryHeads, key, value, rotary, rotaryDim: config.rope.rotaryDim, epsilon, batch,
      ...(layer.qNorm && { qNorm: layer.qNorm.data }), ...(layer.kNorm && { kNorm: layer.kNorm.data }),
    });
    ops.attention({
      ...attention[i]!, query, out, key: pages(key), value: pages(value), pageSize: key.pageSize,
      blockTable: batch.blockTable, maxPagesPerSequence: batch.maxPagesPerSequence,
    });
    if (rounded) ops.quantize({ out: rounded, x: attended, batch });
    addProjection(rounded ?? attended, layer.o, layer.oBias, layer.postAttentionNorm);

    ops.rmsNorm({ out: normed, x: hidden, weight: layer.mlpNorm.data, epsilon, batch });
    project(gateUp, normed, layer.gateUp, layer.gateUpBias);
    ops.gatedActivation({ out: gated, gateUp, activation: config.activation, batch });
    addProjection(gated, layer.down, layer.downBias, layer.postMlpNorm);
  });
  ops.gatherRows({ out: lastHidden, x: hidden, batch });
  ops.rmsNorm({ out: lastNormed, x: lastHidden, weight: weights.finalNorm.data, epsilon, batch });
  ops.linear({ out: logits, x: lastNormed, weight: weights.head ?? weights.embed, batch });
  if (config.finalSoftCap !== undefined) ops.softCap({ x: logits, cap: config.finalSoftCap, batch });
  ops.sample({ logits, choices, out: sampled, batch });

  /** out = x weight + bias, the weight's rows being spread over several matrices. */
  function project(out: Activation, x: Activation, weights: readonly Weight[], bias: Weight | undefined): void {
    let column = 0;
    for (const weight of weights) {
      const from = column * strideBytes(out);
      const columns = { ...out, data: out.data.slice(from, out.data.bytes - from), columns: weight.rows };
      ops.linear({ out: columns, x, weight, ...(bias && { bias: bias.data.slice(column * bytesPerElement.f32, weight.rows * bytesPerElement.f32) }), batch });
      column += weight.rows;
    }
  }

  /** hidden += norm(x weight + bias), the norm where there is one. */
  function addProjection(x: Activation, weight: Weight, bias: Weight | undefined, norm: Weight | undefined): void {
    const withBias = bias && { bias: bias.data };
    if (!norm) {
      ops.linear({ out: hidden, x, weight, ...withBias, residual: hidden, batch });
    } else {
      invariant(projected, "norms behind projections have no memory");
      ops.linear({ out: projected, x, weight, ...withBias, batch });
      ops.rmsNorm({ out: hidden, x: projected, weight: norm.data, epsilon, residual: hidden, batch });
    }
  }
}

type LogitMemory = Pick<DecoderMemory, "activations" | "sampling">;

/** Behind the forward pass: the tokens of rows with rules. */
export function chooseRuled(ops: Ops, { activations: { logits }, sampling: { choices, sampled, ruled, rules, edits, edited } }: LogitMemory): void {
  ops.sampleRuled({ logits, choices, rules, edits, scratch: edited, out: sampled, batch: { header: ruled } });
}

/** Behind all tokens: how likely they are. */
export function answer(ops: Ops, { activations: { logits }, sampling: { sampled, asked, questions, answers } }: LogitMemory): void {
  ops.logprobs({ logits, questions, sampled, out: answers, batch: { header: asked } });
}

/** Where a page's rows lie. */
function pages({ data, pageSize, numHeads, headDim }: KvCache): Layout {
  return { data, sequenceStride: pageSize * numHeads * headDim, rowStride: headDim, headStride: pageSize * headDim };
}
