/**
 * A GGUF file as a checkpoint: its tensors under transformers' names, its metadata as a config.
 *
 * Three things are not as in a folder: q and k of some architectures are stored in another order of rows, Gemma's norms have
 * their 1 added, and Llama 3's scaling of the rotation is a tensor of factors. Knows no bytes and no backend.
 */
import { UsageError } from "../core/errors.ts";
import { type GgufFile, openGguf, type Placement } from "../weights/gguf-file.ts";
import type { WeightSource } from "../weights/source.ts";
import { type ModelConfig, readConfig } from "./config.ts";
import { type GgufConfig, readGgufConfig } from "./gguf-config.ts";
import { families } from "./registry.ts";

/** What of a config does not stand in the file. */
export type ChosenFormats = Pick<ModelConfig, "weightDType" | "kvFormat"> & Pick<Partial<ModelConfig>, "matrixDTypes">;

/**
 * Opens the model in the GGUF file at `path`. Close the source when it is loaded.
 * @throws UsageError when the file is broken, or its model cannot be run here.
 */
export function openGgufCheckpoint(path: string, choose: (source: WeightSource) => ChosenFormats): { readonly config: ModelConfig; readonly source: WeightSource } {
  // The vocabulary is the tokenizer's, in another thread.
  const file = openGguf(path, (key) => key.startsWith("tokenizer."));
  try {
    const description = readGgufConfig(file);
    const source = file.source(placeTensors(file, description));
    const config = readConfig({ config: description.json, where: `${path}, as config.json`, ...choose(source) }, families);
    return { source, config: { ...config, normOffset: 0, rope: scaledRope(file, config.rope) } };
  } catch (error) {
    file.close();
    throw error;
  }
}

const ropeFactors = "rope_freqs.weight";

function scaledRope(file: GgufFile, rope: ModelConfig["rope"]): ModelConfig["rope"] {
  const tensor = file.tensors.get(ropeFactors);
  if (!tensor) return rope;
  if (String(tensor.shape) !== String([rope.rotaryDim / 2])) throw new UsageError(`${file.path}: ${ropeFactors} has shape [${tensor.shape}], but a factor for each of ${rope.rotaryDim / 2} pairs is needed`);
  if (rope.scaling.kind !== "none") throw new UsageError(`${file.path}: it has ${ropeFactors} and rope.scaling.factor; only one of them is supported`);
  const factors = file.floats(ropeFactors);
  const wrong = factors.findIndex((x) => !(x > 0 && x < Infinity));
  if (wrong >= 0) throw new UsageError(`${file.path}: ${ropeFactors}[${wrong}] is ${factors[wrong]}; a number over 0 is needed`);
  return { ...rope, scaling: { kind: "factors", factors } };
}

const modelNames: Readonly<Record<string, string>> = { token_embd: "model.embed_tokens", output_norm: "model.norm", output: "lm_head" };

/** Names within a layer. */
const layerNames: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm", attn_q: "self_attn.q_proj", attn_k: "self_attn.k_proj", attn_v: "self_attn.v_proj", attn_output: "self_attn.o_proj",
  attn_q_norm: "self_attn.q_norm", attn_k_norm: "self_attn.k_norm", ffn_norm: "post_attention_layernorm",
  ffn_gate: "mlp.gate_proj", ffn_up: "mlp.up_proj", ffn_down: "mlp.down_proj",
};
const postNormNames: Readonly<Record<string, string>> = { ffn_norm: "pre_feedforward_layernorm", post_attention_norm: "post_attention_layernorm", post_ffw_norm: "post_feedforward_layernorm" };

/** Where each tensor of the checkpoint lies. One whose name says nothing here keeps it, and the loader refuses it by that name. */
function placeTensors({ path, tensors }: GgufFile, { architecture, numQueryHeads, numKvHeads }: GgufConfig): ReadonlyMap<string, Placement> {
  const heads: Readonly<Record<string, number>> = architecture.permuted ? { attn_q: numQueryHeads, attn_k: numKvHeads } : {};
  const names = architecture.postNorms ? { ...layerNames, ...postNormNames } : layerNames;
  const placements = new Map<string, Placement>();
  for (const [from, { shape }] of tensors) {
    if (from === ropeFactors) continue;
    const [, layer, base = "", suffix] = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(from) ?? [];
    const known = layer === undefined ? modelNames : names;
    const name = Object.hasOwn(known, base) ? `${layer === undefined ? "" : `model.layers.${layer}.`}${known[base]}.${suffix}` : from;
    const numHeads = layer === undefined || !Object.hasOwn(heads, base) ? 0 : heads[base]!;
    const other = placements.get(name);
    if (other) throw new UsageError(`${path}: ${other.from} and ${from} are the same tensor, ${name}; one of them is needed`);
    placements.set(name, { from, ...(numHeads > 0 && shape[0]! % numHeads === 0 && { fileRow: interleaved(shape[0]! / numHeads) }) });
  }
  return placements;
}

/** Of heads of `size` rows: the halves of a head, which rotate together, lie row by row beside each other. */
export function interleaved(size: number): (row: number) => number {
  const half = size / 2;
  return (row) => {
    const within = row % size;
    return row - within + (within < half ? 2 * within : 2 * (within - half) + 1);
  };
}
