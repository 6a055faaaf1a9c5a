/**
 * What a decoder needs to know of a model, read from config.json as transformers 4 or 5 writes it.
 *
 * Every field is used, known to be harmless, or refused by name. The families (llama.ts, ...) say what differs; this
 * file holds what they share. It knows no weights and no backend.
 */
import type { AttentionOverrideData } from "../attention/override.ts";
import type { ActivationFunction, KvCacheFormat, WeightDType } from "../backend/backend.ts";
import { UsageError } from "../core/errors.ts";
import { Fields } from "./fields.ts";

/** How positions turn into angles. Pairs (i, i + rotaryDim/2) of the first rotaryDim elements of a head rotate. */
export interface RopeConfig {
  readonly theta: number;
  readonly rotaryDim: number;
  readonly scaling:
    | { readonly kind: "none" }
    | { readonly kind: "linear"; readonly factor: number }
    | { readonly kind: "llama3"; readonly factor: number; readonly lowFreqFactor: number; readonly highFreqFactor: number; readonly originalMaxPositions: number }
    /** Each pair's frequency divided by its own factor. */
    | { readonly kind: "factors"; readonly factors: Float32Array };
}

export interface LayerConfig {
  /** Keys that a query sees, itself included: q - kv < window. Undefined: all before it. */
  readonly window: number | undefined;
}

export interface ModelConfig {
  /** As in config.json's `architectures`. */
  readonly architecture: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numQueryHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  /** max_position_embeddings */
  readonly maxPositions: number;
  readonly layers: readonly LayerConfig[];
  readonly rope: RopeConfig;
  /** Of layers with a window, where they rotate otherwise than the others. */
  readonly localRope?: RopeConfig;
  readonly normEpsilon: number;
  /** The norms multiply by weight + normOffset (1 in Gemma); added when loading. */
  readonly normOffset: 0 | 1;
  /** Norms after attention and MLP as well as before them. */
  readonly postNorms: boolean;
  /** RMS norms of each query and key head. */
  readonly qkNorm: boolean;
  readonly bias: { readonly qkv: boolean; readonly o: boolean; readonly mlp: boolean };
  readonly activation: ActivationFunction;
  readonly embeddingScale: number;
  /** Factor of q.k. */
  readonly attentionScale: number;
  readonly attentionSoftCap: number | undefined;
  readonly finalSoftCap: number | undefined;
  /** The logits use the embedding table. */
  readonly tiedEmbeddings: boolean;
  readonly bosTokenId: number | undefined;
  readonly eosTokenIds: readonly number[];
  /** How matrices are kept in memory. Norms and biases are always f32. */
  readonly weightDType: WeightDType;
  /** Matrices that are kept otherwise than `weightDType`, by their name in the checkpoint. Either all matrices are quantised or none. */
  readonly matrixDTypes?: ReadonlyMap<string, WeightDType>;
  /** How keys and values are kept in the cache. */
  readonly kvFormat: KvCacheFormat;
  /** The operator's own attention, in place of what config.json asks for. */
  readonly override?: AttentionOverrideData;
}

/** What a family says: the parts that are not read the same way everywhere. */
export type FamilyConfig = Pick<ModelConfig, "layers" | "normOffset" | "postNorms" | "qkNorm" | "bias" | "activation" | "embeddingScale" | "attentionScale" | "attentionSoftCap" | "finalSoftCap" | "tiedEmbeddings">;

/** What all families share, read before the family is asked. */
export type SharedConfig = Omit<ModelConfig, keyof FamilyConfig | "eosTokenIds" | "weightDType" | "matrixDTypes" | "kvFormat" | "override"> & { readonly numLayers: number };

export interface Family {
  /** Reads its own fields; what it does not read is refused unless harmless everywhere. */
  readonly read: (fields: Fields, shared: SharedConfig) => FamilyConfig;
}

/** Fields that say nothing about a forward pass in inference. */
const harmless: ReadonlySet<string> = new Set([
  "_name_or_path", "_attn_implementation_autoset", "_from_model_config", "model_type", "transformers_version", "torch_dtype", "dtype", "use_cache",
  "attention_dropout", "hidden_dropout", "initializer_range", "pad_token_id", "sep_token_id", "unk_token_id", "decoder_start_token_id", "pretraining_tp",
  "output_attentions", "output_hidden_states", "return_dict", "torchscript", "use_bfloat16", "tf_legacy_loss", "chunk_size_feed_forward",
  "id2label", "label2id", "problem_type", "finetuning_task", "task_specific_params", "tokenizer_class", "prefix", "cache_implementation",
  "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p",
  "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences",
  "output_scores", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty",
  "suppress_tokens", "begin_suppress_tokens", "unsloth_version", "unsloth_fixed", "auto_map", "transformers.js_config", "is_llama_config", "max_sequence_length", "_flash_attn_2_enabled", "_attn_implementation",
  "attn_implementation",
]);

const ropeKinds = { default: "default", linear: "linear", llama3: "llama3" } as const;

/**
 * `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (4). Where both stand they must agree. Layers with a window may
 * have their own: among `rope_parameters` by kind of layer (5), or as `rope_local_base_freq` (4).
 */
function readRopes(fields: Fields, headDim: number): Pick<ModelConfig, "rope" | "localRope"> {
  if (headDim % 2 !== 0) fields.fail("head_dim", `heads of ${headDim} elements cannot be rotated in pairs; an even number is needed`);
  if (fields.has("rope_parameters")) {
    const byKind = fields.nested("rope_parameters");
    if (byKind.has("full_attention")) {
      for (const name of ["rope_theta", "rope_scaling", "rope_local_base_freq"]) if (fields.has(name)) fields.fail(name, "rope_parameters says it too; keep one of them");
      const rope = readRope(byKind.nested("full_attention"), headDim), localRope = readRope(byKind.nested("sliding_attention"), headDim);
      byKind.finish();
      return { rope, localRope };
    }
  }
  const theta4 = fields.has("rope_theta") ? fields.positive("rope_theta") : undefined;
  const fromOld = fields.has("rope_scaling") ? fields.nested("rope_scaling") : undefined;
  const fromNew = fields.has("rope_parameters") ? fields.nested("rope_parameters") : undefined;
  if (fromOld && fromNew) fields.fail("rope_scaling", "rope_parameters is there too; keep one of them");
  const rope = readRope(fromNew ?? fromOld ?? new Fields({}, "rope"), headDim, theta4);
  if (theta4 !== undefined && theta4 !== rope.theta) fields.fail("rope_theta", `rope_parameters.rope_theta is ${rope.theta}; keep one of them`);
  const local = fields.has("rope_local_base_freq") ? fields.positive("rope_local_base_freq") : undefined;
  return { rope, ...(local !== undefined && { localRope: { theta: local, rotaryDim: headDim, scaling: { kind: "none" } } }) };
}

function readRope(from: Fields, headDim: number, defaultTheta = 10000): RopeConfig {
  const theta = from.positive("rope_theta", defaultTheta);
  if (from.has("type") && from.has("rope_type") && from.take("type") !== from.take("rope_type")) from.fail("type", "rope_type says otherwise; keep one of them");
  const kind = from.choice(from.has("type") && !from.has("rope_type") ? "type" : "rope_type", ropeKinds, "default");
  from.only("partial_rotary_factor", 1);
  const scaling: RopeConfig["scaling"] =
    kind === "default" ? { kind: "none" }
    : kind === "linear" ? { kind, factor: from.positive("factor") }
    : {
        kind, factor: from.positive("factor"), lowFreqFactor: from.positive("low_freq_factor"), highFreqFactor: from.positive("high_freq_factor"),
        originalMaxPositions: from.count("original_max_position_embeddings"),
      };
  from.finish();
  return { theta, rotaryDim: headDim, scaling };
}

/**
 * Each layer's window. `layer_types` decides where it stands; else layer i has the window when `slides(i)`.
 * @param window the window of layers that have one; undefined when the model uses none
 */
export function readLayers(fields: Fields, numLayers: number, window: number | undefined, slides: (layer: number) => boolean): LayerConfig[] {
  const types = fields.strings("layer_types");
  if (types && types.length !== numLayers) fields.fail("layer_types", `${numLayers} layers need ${numLayers} entries`);
  const windows = { full_attention: undefined, sliding_attention: window };
  return Array.from({ length: numLayers }, (_, layer) => {
    const type = types?.[layer] ?? (window !== undefined && slides(layer) ? "sliding_attention" : "full_attention");
    if (!Object.hasOwn(windows, type)) fields.fail("layer_types", `supported: ${Object.keys(windows).join(", ")}`);
    if (type === "sliding_attention" && window === undefined) fields.fail("layer_types", "sliding_attention needs a sliding_window in use");
    return { window: windows[type as keyof typeof windows] };
  });
}

/** transformers' names of activation functions. */
export const activationNames: Readonly<Record<string, ActivationFunction>> = {
  silu: "silu", swish: "silu", gelu: "gelu", gelu_pytorch_tanh: "geluTanh", gelu_new: "geluTanh", relu: "relu",
};

export interface ConfigInputs {
  /** config.json, parsed. */
  readonly config: unknown;
  /** What messages call it; default "config.json". */
  readonly where?: string;
  /** generation_config.json, parsed, where there is one: its end tokens win, as in generate(). */
  readonly generation?: unknown;
  readonly weightDType: WeightDType;
  readonly matrixDTypes?: ReadonlyMap<string, WeightDType>;
  /** Default f32. */
  readonly kvFormat?: KvCacheFormat;
}

/** Many times what the largest models have. */
const maxLayers = 4096;

/**
 * Reads a config with the families in `families`, by architecture.
 * @throws UsageError naming the field, its value and what is supported.
 */
export function readConfig(inputs: ConfigInputs, families: Readonly<Record<string, Family>>): ModelConfig {
  const fields = new Fields(inputs.config, inputs.where ?? "config.json");
  const architectures = fields.strings("architectures") ?? [];
  const [architecture = ""] = architectures;
  if (architectures.length !== 1 || !Object.hasOwn(families, architecture)) {
    fields.fail("architectures", `this model cannot be run here; supported: ${Object.keys(families).join(", ")}`);
  }
  if (fields.has("quantization_config")) fields.fail("quantization_config", "quantised checkpoints are not supported; use one in bfloat16, float16 or float32");
  for (const name of ["is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder", "rope_interleaved"]) fields.only(name, false);
  fields.only("is_decoder", true, false);
  fields.only("partial_rotary_factor", 1);
  if (Object.keys(Object(fields.take("pruned_heads"))).length > 0) fields.fail("pruned_heads", "pruned heads are not supported");

  const hiddenSize = fields.count("hidden_size");
  const numQueryHeads = fields.count("num_attention_heads");
  const numKvHeads = fields.count("num_key_value_heads", numQueryHeads);
  if (numQueryHeads % numKvHeads !== 0) fields.fail("num_key_value_heads", `it must divide num_attention_heads, ${numQueryHeads}`);
  if (!fields.has("head_dim") && hiddenSize % numQueryHeads !== 0) fields.fail("hidden_size", `without head_dim it must be a multiple of num_attention_heads, ${numQueryHeads}`);
  const headDim = fields.count("head_dim", hiddenSize / numQueryHeads);
  const numLayers = fields.count("num_hidden_layers");
  // Before anything is made for each layer.
  if (numLayers > maxLayers) fields.fail("num_hidden_layers", `at most ${maxLayers} are supported`);
  const shared: SharedConfig = {
    architecture, hiddenSize, numQueryHeads, numKvHeads, headDim, numLayers,
    vocabSize: fields.count("vocab_size"),
    intermediateSize: fields.count("intermediate_size"),
    maxPositions: fields.count("max_position_embeddings"),
    ...readRopes(fields, headDim),
    normEpsilon: fields.positive("rms_norm_eps", 1e-6),
    bosTokenId: fields.ids("bos_token_id")[0],
  };
  const family = families[architecture]!.read(fields, shared);
  const eos = fields.ids("eos_token_id");
  fields.finish(harmless);

  const generationEos = inputs.generation === undefined ? [] : new Fields(inputs.generation, "generation_config.json").ids("eos_token_id");
  const eosTokenIds = generationEos.length > 0 ? generationEos : eos;
  const outside = eosTokenIds.find((id) => id >= shared.vocabSize);
  if (outside !== undefined) throw new UsageError(`eos_token_id ${outside} is not in the vocabulary of ${shared.vocabSize} tokens; correct config.json or generation_config.json`);
  const { numLayers: _, ...rest } = shared;
  return { ...rest, ...family, eosTokenIds, weightDType: inputs.weightDType, ...(inputs.matrixDTypes && { matrixDTypes: inputs.matrixDTypes }), kvFormat: inputs.kvFormat ?? "f32" };
}
