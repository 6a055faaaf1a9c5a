/**
 * What a GGUF file's metadata says of its model, said as transformers' config.json says it: so that the families read both.
 *
 * As there, every key of the architecture is used, known to be harmless, or refused by name. Where a file leaves something out, it
 * means what llama.cpp takes for it. Knows no bytes.
 */
import type { GgufTensor, GgufValue } from "../weights/gguf.ts";
import { Fields } from "./fields.ts";

/** What is read of a file. */
export interface GgufDescription {
  readonly path: string;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, Pick<GgufTensor, "shape">>;
}

/** Reads the keys of one architecture. */
export interface Keys {
  readonly fields: Fields;
  /** The full key, for `fields`. */
  readonly key: (name: string) => string;
  readonly hasTensor: (name: string) => boolean;
  readonly sizes: { readonly hidden: number; readonly heads: number; readonly headDim: number; readonly layers: number };
}

interface Architecture {
  /** llama.cpp rotates neighbouring elements of llama's heads, and its converter permutes q and k for it. */
  readonly permuted: boolean;
  /** Norms around attention and MLP: `ffn_norm` is the one before the MLP, which others call post_attention. */
  readonly postNorms: boolean;
  /** The fields of config.json that are its own. */
  readonly read: (keys: Keys) => Readonly<Record<string, unknown>>;
}

/** Mistral's files are llama's too; those with a window say so. */
function readLlama({ fields, key, hasTensor }: Keys): Readonly<Record<string, unknown>> {
  const window = fields.take(key("attention.sliding_window"));
  if (window !== undefined) return { architectures: ["MistralForCausalLM"], sliding_window: window };
  return { architectures: ["LlamaForCausalLM"], attention_bias: hasTensor("blk.0.attn_q.bias"), mlp_bias: hasTensor("blk.0.ffn_down.bias") };
}

/** Gemma's scores are scaled by the head's size, except in its largest models, which no key tells. */
const gemmaScalar = ({ sizes: { hidden, heads, headDim, layers } }: Keys, layersOfLargest: number): number => (layers === layersOfLargest ? hidden / heads : headDim);

/** Windows on all layers but each `period`-th, or as a list says. */
function layerTypes({ fields, key, sizes: { layers } }: Keys, defaultPeriod: number): string[] {
  const name = key("attention.sliding_window_pattern");
  const pattern = fields.take(name) ?? defaultPeriod;
  const ok = Array.isArray(pattern) ? pattern.length === layers : typeof pattern === "number" && Number.isSafeInteger(pattern) && pattern >= 0;
  if (!ok) fields.fail(name, `a period, or true or false for each of ${layers} layers, is needed`);
  const slides = (layer: number): boolean => (Array.isArray(pattern) ? Boolean(pattern[layer]) : pattern === 0 || layer % (pattern as number) < (pattern as number) - 1);
  return Array.from({ length: layers }, (_, layer) => (slides(layer) ? "sliding_attention" : "full_attention"));
}

function readGemma2(keys: Keys): Readonly<Record<string, unknown>> {
  const { fields, key } = keys;
  return {
    architectures: ["Gemma2ForCausalLM"], hidden_activation: "gelu_pytorch_tanh",
    sliding_window: fields.count(key("attention.sliding_window"), 4096), layer_types: layerTypes(keys, 2),
    query_pre_attn_scalar: gemmaScalar(keys, 46),
    attn_logit_softcapping: fields.positive(key("attn_logit_softcapping"), 50), final_logit_softcapping: fields.positive(key("final_logit_softcapping"), 30),
  };
}

function readGemma3(keys: Keys): Readonly<Record<string, unknown>> {
  const { fields, key } = keys;
  const windows = fields.has(key("attention.sliding_window"));
  return {
    architectures: ["Gemma3ForCausalLM"], hidden_activation: "gelu_pytorch_tanh",
    ...(windows && { sliding_window: fields.count(key("attention.sliding_window")) }), layer_types: layerTypes(keys, windows ? 6 : 1),
    query_pre_attn_scalar: gemmaScalar(keys, 62), rope_local_base_freq: fields.positive(key("rope.freq_base_swa"), 10000),
    final_logit_softcapping: fields.has(key("final_logit_softcapping")) ? fields.positive(key("final_logit_softcapping")) : null,
  };
}

/** By general.architecture. */
export const ggufArchitectures: Readonly<Record<string, Architecture>> = {
  llama: { permuted: true, postNorms: false, read: readLlama },
  mistral3: { permuted: true, postNorms: false, read: readLlama },
  qwen2: { permuted: false, postNorms: false, read: () => ({ architectures: ["Qwen2ForCausalLM"] }) },
  qwen3: { permuted: false, postNorms: false, read: () => ({ architectures: ["Qwen3ForCausalLM"] }) },
  gemma2: { permuted: false, postNorms: true, read: readGemma2 },
  gemma3: { permuted: false, postNorms: true, read: readGemma3 },
};

/** Keys that say nothing about a forward pass: sizes that tensors have, and what a file was made from. */
const harmless = ["vocab_size", "tensor_data_layout", "rope.scaling.original_context_length", "rope.scaling.finetuned"];

/** Keys that end a turn; the first is the one that files name. */
const endKeys = ["eos_token_id", "eot_token_id", "eom_token_id"] as const;

/** A value as JSON has it: a long list is not read here and says how long it is. */
function plain(value: GgufValue): unknown {
  if (typeof value === "bigint") return Number(value);
  if (typeof value !== "object") return value;
  return value.length > 4096 ? `a list of ${value.length}` : Array.from<unknown>(value);
}

export interface GgufConfig {
  readonly architecture: Architecture;
  /** In the shape of config.json. */
  readonly json: Readonly<Record<string, unknown>>;
  readonly numLayers: number;
  readonly numQueryHeads: number;
  readonly numKvHeads: number;
}

/** @throws UsageError naming file, key and value where the model cannot be run here. */
export function readGgufConfig({ path, metadata, tensors }: GgufDescription): GgufConfig {
  const general = new Fields(Object.fromEntries([...metadata].filter(([name]) => /^(general|tokenizer\.ggml)\.\w+$/.test(name)).map(([name, value]) => [name, plain(value)])), path);
  general.only("general.type", "model");
  general.only("general.quantization_version", 2);
  const architecture = general.choice("general.architecture", ggufArchitectures);
  const prefix = `${metadata.get("general.architecture") as string}.`;
  const fields = new Fields(Object.fromEntries([...metadata].filter(([name]) => name.startsWith(prefix)).map(([name, value]) => [name, plain(value)])), path);
  const key = (name: string): string => prefix + name;
  /** A size, or the same size for each layer. */
  const size = (name: string, fallback?: number): number => {
    const value = fields.take(key(name));
    if (!Array.isArray(value)) return fields.count(key(name), fallback);
    const [first] = value as unknown[];
    if (!Number.isSafeInteger(first) || (first as number) < 1 || !value.every((x) => x === first)) fields.fail(key(name), "layers of different sizes are not supported");
    return first as number;
  };

  const hidden = size("embedding_length"), heads = size("attention.head_count"), kvHeads = size("attention.head_count_kv", heads), layers = size("block_count");
  // Before anything is made for each layer.
  if (layers > tensors.size) fields.fail(key("block_count"), `the file has only ${tensors.size} tensors`);
  if (!fields.has(key("attention.key_length")) && hidden % heads !== 0) fields.fail(key("embedding_length"), `without attention.key_length it must be a multiple of attention.head_count, ${heads}`);
  const headDim = size("attention.key_length", hidden / heads);
  for (const name of ["attention.value_length", "rope.dimension_count"]) fields.only(key(name), headDim);
  for (const name of ["expert_count", "expert_used_count", "pooling_type", "attention.max_alibi_bias", "attention.clamp_kqv"]) fields.only(key(name), 0);
  fields.only(key("attention.causal"), true);
  fields.only(key("use_parallel_residual"), false);

  const vocabSize = tensors.get("token_embd.weight")?.shape[0];
  const id = (name: string): number | undefined => {
    const [value] = general.ids(`tokenizer.ggml.${name}`);
    if (value !== undefined && vocabSize !== undefined && value >= vocabSize) general.fail(`tokenizer.ggml.${name}`, `the vocabulary has ${vocabSize} tokens`);
    return value;
  };
  const own = architecture.read({ fields, key, hasTensor: (name) => tensors.has(name), sizes: { hidden, heads, headDim, layers } });
  const json = {
    hidden_size: hidden, num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: headDim, num_hidden_layers: layers, vocab_size: vocabSize,
    intermediate_size: size("feed_forward_length"), max_position_embeddings: fields.count(key("context_length")),
    rms_norm_eps: fields.positive(key("attention.layer_norm_rms_epsilon")),
    rope_theta: fields.positive(key("rope.freq_base"), 10000), rope_scaling: readScaling(fields, key),
    tie_word_embeddings: !tensors.has("output.weight"),
    bos_token_id: id("bos_token_id"), eos_token_id: [...new Set(endKeys.map(id).filter((x) => x !== undefined))],
    ...own,
  };
  fields.finish(new Set(harmless.map(key)));
  return { architecture, json, numLayers: layers, numQueryHeads: heads, numKvHeads: kvHeads };
}

function readScaling(fields: Fields, key: (name: string) => string): object | null {
  const old = key("rope.scale_linear"), now = key("rope.scaling.factor");
  const factor = fields.has(now) ? fields.positive(now) : fields.has(old) ? fields.positive(old) : 1;
  fields.take(old);
  const kind = fields.choice(key("rope.scaling.type"), { none: "none", linear: "linear" }, "linear");
  return kind === "none" || factor === 1 ? null : { rope_type: "linear", factor };
}
