/**
 * The one decoder: straight code over `ops`, run once to record a Program.
 *
 *   hidden = embed(tokens)
 *   each layer:  hidden += [postNorm] o(attention(rope(qkv(norm(hidden)))))
 *                hidden += [postNorm] down(f(gate(norm(hidden))) * up(norm(hidden)))
 *   logits = head(norm(hidden[rows wanted])) [soft cap]
 *
 * Families differ by what their config says; it knows no family, no sizes of a step and no memory but what it is given.
 */
import type { Activation, AttentionKernel, BatchInputs, Buffer, CaptureValue, KvCache, Layout, Ops, RowCount, Weight } from "../backend/backend.ts";
import { bytesPerElement } from "../core/dtype.ts";
import type { ModelConfig } from "./config.ts";
import type { ModelTensors } from "./tensors.ts";

/** What one layer's attention is launched with. */
export interface LayerAttention {
  readonly kernel: AttentionKernel;
  readonly captures: readonly CaptureValue[];
  readonly work: Buffer;
}

/** The matrices between operations, by the count of their rows. */
export const activationRows = {
  hidden: "tokens", normed: "tokens", qkv: "tokens", attended: "tokens", gateUp: "tokens", gated: "tokens",
  lastHidden: "logits", lastNormed: "logits", logits: "logits",
} as const satisfies Readonly<Record<string, RowCount>>;
export type ActivationName = keyof typeof activationRows;

/** Columns of each. */
export function activationColumns(config: ModelConfig): Readonly<Record<ActivationName, number>> {
  const { hiddenSize, intermediateSize, headDim, numQueryHeads, numKvHeads, vocabSize } = config;
  return {
    hidden: hiddenSize, normed: hiddenSize, qkv: (numQueryHeads + 2 * numKvHeads) * headDim, attended: numQueryHeads * headDim,
    gateUp: 2 * intermediateSize, gated: intermediateSize, lastHidden: hiddenSize, lastNormed: hiddenSize, logits: vocabSize,
  };
}

export interface DecoderMemory {
  readonly batch: BatchInputs;
  readonly activations: Readonly<Record<ActivationName, Activation>>;
  /** One pair for each layer. */
  readonly kv: readonly { readonly key: KvCache; readonly value: KvCache }[];
  /** [maxPositions, rotaryDim/2, 2] */
  readonly rotary: Buffer;
}

export function decode(ops: Ops, config: ModelConfig, weights: ModelTensors<Weight>, attention: readonly LayerAttention[], memory: DecoderMemory): void {
  const { batch, rotary } = memory;
  const { hidden, normed, qkv, attended, gateUp, gated, lastHidden, lastNormed, logits } = memory.activations;
  const { numQueryHeads, headDim, normEpsilon: epsilon } = config;
  const query: Layout = { data: qkv.data, sequenceStride: 0, rowStride: qkv.stride, headStride: headDim };
  const out: Layout = { data: attended.data, sequenceStride: 0, rowStride: attended.stride, headStride: headDim };

  ops.embed({ out: hidden, table: weights.embed, batch, scale: config.embeddingScale });
  weights.layers.forEach((layer, i) => {
    const { key, value } = memory.kv[i]!;
    ops.rmsNorm({ out: normed, x: hidden, weight: layer.attentionNorm.data, epsilon, batch });
    ops.linear({ out: qkv, x: normed, weight: layer.qkv, ...(layer.qkvBias && { bias: layer.qkvBias.data }), batch });
    ops.ropeAndCache({
      qkv, numQueryHeads, key, value, rotary, rotaryDim: config.rope.rotaryDim, epsilon, batch,
      ...(layer.qNorm && { qNorm: layer.qNorm.data }), ...(layer.kNorm && { kNorm: layer.kNorm.data }),
    });
    ops.attention({
      ...attention[i]!, query, out, key: pages(key), value: pages(value), pageSize: key.pageSize,
      blockTable: batch.blockTable, maxPagesPerSequence: batch.maxPagesPerSequence,
    });
    addProjection(attended, layer.o, layer.oBias, layer.postAttentionNorm);

    ops.rmsNorm({ out: normed, x: hidden, weight: layer.mlpNorm.data, epsilon, batch });
    ops.linear({ out: gateUp, x: normed, weight: layer.gateUp, ...(layer.gateUpBias && { bias: layer.gateUpBias.data }), batch });
    ops.gatedActivation({ out: gated, gateUp, activation: config.activation, batch });
    addProjection(gated, layer.down, layer.downBias, layer.postMlpNorm);
  });
  ops.gatherRows({ out: lastHidden, x: hidden, batch });
  ops.rmsNorm({ out: lastNormed, x: lastHidden, weight: weights.finalNorm.data, epsilon, batch });
  ops.linear({ out: logits, x: lastNormed, weight: weights.head ?? weights.embed, batch });
  if (config.finalSoftCap !== undefined) ops.softCap({ x: logits, cap: config.finalSoftCap, batch });

  /** hidden += norm(x weight + bias), the norm where there is one. */
  function addProjection(x: Activation, weight: Weight, bias: Weight | undefined, norm: Weight | undefined): void {
    const withBias = bias && { bias: bias.data };
    if (!norm) {
      ops.linear({ out: hidden, x, weight, ...withBias, residual: hidden, batch });
    } else {
      ops.linear({ out: normed, x, weight, ...withBias, batch });
      ops.rmsNorm({ out: hidden, x: normed, weight: norm.data, epsilon, residual: hidden, batch });
    }
  }
}

/** Where a page's rows lie. */
function pages({ data, pageSize, numHeads, headDim }: KvCache): Layout {
  return { data, sequenceStride: pageSize * numHeads * headDim, rowStride: headDim, headStride: pageSize * headDim };
}

/** Bytes of `rows` rows of a matrix of f32. */
export const matrixBytes = (rows: number, columns: number): number => rows * columns * bytesPerElement.f32;
