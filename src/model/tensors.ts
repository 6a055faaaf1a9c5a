/**
 * Which weights a decoder has: for each, its size in memory and the tensors of the checkpoint it is made of.
 *
 * q, k and v lie in memory as one matrix, and so do gate and up: a step reads each once. Where a checkpoint keeps them in several formats
 * they are as many matrices, one below the other. Knows no files.
 */
import type { WeightDType } from "../backend/backend.ts";
import { isQuantized, quantizedBytes } from "../backend/quantized.ts";
import { bytesPerElement } from "../core/dtype.ts";
import type { ModelConfig } from "./config.ts";

/** One weight in memory: the rows of its parts, one after another. A vector is a matrix of one column. */
export interface TensorSpec {
  readonly name: string;
  readonly dtype: WeightDType;
  readonly rows: number;
  readonly columns: number;
  readonly parts: readonly { readonly source: string; readonly rows: number; readonly shape: readonly number[] }[];
  /** Added to every element when loading. */
  readonly offset: 0 | 1;
}

export interface LayerTensors<T> {
  readonly attentionNorm: T;
  /** [q heads | k heads | v heads, hidden], from the first row on */
  readonly qkv: readonly T[];
  readonly qkvBias?: T;
  readonly qNorm?: T;
  readonly kNorm?: T;
  readonly o: T;
  readonly oBias?: T;
  readonly postAttentionNorm?: T;
  readonly mlpNorm: T;
  /** [gate | up, hidden], from the first row on */
  readonly gateUp: readonly T[];
  readonly gateUpBias?: T;
  readonly down: T;
  readonly downBias?: T;
  readonly postMlpNorm?: T;
}

export interface ModelTensors<T> {
  readonly embed: T;
  readonly layers: readonly LayerTensors<T>[];
  readonly finalNorm: T;
  /** Absent when the embedding table serves. */
  readonly head?: T;
}

/** bytes in memory */
export const tensorBytes = ({ dtype, rows, columns }: TensorSpec): number =>
  isQuantized(dtype) ? quantizedBytes(dtype, rows, columns) : rows * columns * bytesPerElement[dtype];

/** The same structure with each tensor replaced, in order. */
export function mapTensors<A, B>(tensors: ModelTensors<A>, f: (tensor: A) => B): ModelTensors<B> {
  const embed = f(tensors.embed);
  const each = (tensor: A | readonly A[]): B | B[] => (Array.isArray(tensor) ? tensor.map(f) : f(tensor as A));
  const layers = tensors.layers.map((layer) => Object.fromEntries(Object.entries(layer).map(([name, tensor]) => [name, each(tensor as A | readonly A[])])) as unknown as LayerTensors<B>);
  return { embed, layers, finalNorm: f(tensors.finalNorm), ...(tensors.head !== undefined && { head: f(tensors.head) }) };
}

/** Every tensor of the model, in the order they are loaded. */
export function listTensors(config: ModelConfig): TensorSpec[] {
  const list: TensorSpec[] = [];
  mapTensors(modelTensors(config), (spec) => list.push(spec));
  return list;
}

/** The weights of a model with this config. */
export function modelTensors(config: ModelConfig): ModelTensors<TensorSpec> {
  const { hiddenSize, intermediateSize, vocabSize, headDim, bias, weightDType } = config;
  const qRows = config.numQueryHeads * headDim, kvRows = config.numKvHeads * headDim;

  /** Matrices of the parts, those that follow each other in one dtype being one. */
  const matrices = (name: string, columns: number, ...parts: readonly (readonly [source: string, rows: number])[]): TensorSpec[] => {
    const runs: (TensorSpec & { rows: number; readonly parts: TensorSpec["parts"][number][] })[] = [];
    for (const [from, rows] of parts) {
      const source = `${from}.weight`, dtype = config.matrixDTypes?.get(source) ?? weightDType;
      const part = { source, rows, shape: [rows, columns] };
      const last = runs.at(-1);
      if (!last || last.dtype !== dtype) runs.push({ name: runs.length === 0 ? name : `${name}.${runs.length}`, dtype, columns, offset: 0, rows, parts: [part] });
      else {
        last.rows += rows;
        last.parts.push(part);
      }
    }
    return runs;
  };
  const matrix = (name: string, columns: number, ...part: readonly [source: string, rows: number]): TensorSpec => matrices(name, columns, part)[0]!;
  const vector = (name: string, suffix: "weight" | "bias", offset: 0 | 1, ...parts: readonly (readonly [source: string, rows: number])[]): TensorSpec => ({
    name, dtype: "f32", columns: 1, offset,
    rows: parts.reduce((sum, [, rows]) => sum + rows, 0),
    parts: parts.map(([source, rows]) => ({ source: `${source}.${suffix}`, rows, shape: [rows] })),
  });
  const norm = (name: string, source: string, rows = hiddenSize): TensorSpec => vector(name, "weight", config.normOffset, [source, rows]);

  const layer = (i: number): LayerTensors<TensorSpec> => {
    const from = `model.layers.${i}`, to = `layers.${i}`;
    const qkv = [[`${from}.self_attn.q_proj`, qRows], [`${from}.self_attn.k_proj`, kvRows], [`${from}.self_attn.v_proj`, kvRows]] as const;
    const o = [`${from}.self_attn.o_proj`, hiddenSize] as const;
    const gateUp = [[`${from}.mlp.gate_proj`, intermediateSize], [`${from}.mlp.up_proj`, intermediateSize]] as const;
    const down = [`${from}.mlp.down_proj`, hiddenSize] as const;
    return {
      attentionNorm: norm(`${to}.attention_norm`, `${from}.input_layernorm`),
      qkv: matrices(`${to}.qkv`, hiddenSize, ...qkv),
      ...(bias.qkv && { qkvBias: vector(`${to}.qkv_bias`, "bias", 0, ...qkv) }),
      ...(config.qkNorm && {
        qNorm: norm(`${to}.q_norm`, `${from}.self_attn.q_norm`, headDim),
        kNorm: norm(`${to}.k_norm`, `${from}.self_attn.k_norm`, headDim),
      }),
      o: matrix(`${to}.o`, qRows, ...o),
      ...(bias.o && { oBias: vector(`${to}.o_bias`, "bias", 0, o) }),
      // With norms on both sides, the one that others call post_attention stands before the residual sum.
      ...(config.postNorms && { postAttentionNorm: norm(`${to}.post_attention_norm`, `${from}.post_attention_layernorm`) }),
      mlpNorm: norm(`${to}.mlp_norm`, config.postNorms ? `${from}.pre_feedforward_layernorm` : `${from}.post_attention_layernorm`),
      gateUp: matrices(`${to}.gate_up`, hiddenSize, ...gateUp),
      ...(bias.mlp && { gateUpBias: vector(`${to}.gate_up_bias`, "bias", 0, ...gateUp) }),
      down: matrix(`${to}.down`, intermediateSize, ...down),
      ...(bias.mlp && { downBias: vector(`${to}.down_bias`, "bias", 0, down) }),
      ...(config.postNorms && { postMlpNorm: norm(`${to}.post_mlp_norm`, `${from}.post_feedforward_layernorm`) }),
    };
  };
  return {
    embed: matrix("embed", hiddenSize, "model.embed_tokens", vocabSize),
    layers: config.layers.map((_, i) => layer(i)),
    finalNorm: norm("final_norm", "model.norm"),
    ...(!config.tiedEmbeddings && { head: matrix("head", hiddenSize, "lm_head", vocabSize) }),
  };
}

/** Whether a checkpoint may carry this tensor though nothing here reads it: older files store the rotary table, or the head that is tied. */
export function isSpare(source: string, config: ModelConfig): boolean {
  return source.endsWith(".rotary_emb.inv_freq") || (config.tiedEmbeddings && source === "lm_head.weight");
}
