/**
 * Turns a checkpoint in Hugging Face layout into what llama.cpp's converter (convert_hf_to_gguf.py) makes of it: names, keys, the order of
 * q's and k's rows in llama's architecture, gemma's norms with their 1 added, llama 3's scaling as a tensor of factors.
 *
 * Written by the converter's rules and not by the reader's, and checked once against llama.cpp itself: its greedy tokens after these
 * files' prompts are the goldens' (tests/fixtures/check-gguf.ts). Two things no key of GGUF can say are folded into the weights: gemma2's
 * query_pre_attn_scalar, into q; and mistral's window is a key that llama.cpp's converter no longer writes, and llama.cpp does not read.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fromFloat32, toFloat32, type DType } from "../src/core/dtype.ts";
import type { Entry, GgufContents, TensorEntry } from "./gguf-writer.ts";
import { type FileTensor, readTensors } from "./models/checkpoints.ts";

/** Element types a converted file can have for its matrices; vectors are always f32. */
export type MatrixType = "F32" | "F16" | "BF16";
const typeIds: Readonly<Record<MatrixType, number>> = { F32: 0, F16: 1, BF16: 30 };

interface Config {
  readonly architectures: readonly [string];
  readonly [key: string]: unknown;
}

const architectures: Readonly<Record<string, string>> = {
  LlamaForCausalLM: "llama", MistralForCausalLM: "llama", Qwen2ForCausalLM: "qwen2", Qwen3ForCausalLM: "qwen3", Gemma2ForCausalLM: "gemma2", Gemma3ForCausalLM: "gemma3",
};

/** The file of the checkpoint in `folder`, with the metadata `more`. */
export function convertToGguf(folder: string, type: MatrixType = "F32", more: GgufContents["metadata"] = {}): GgufContents {
  const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8")) as Config;
  const arch = architectures[config.architectures[0]]!;
  const number = (name: string): number => config[name] as number;
  const heads = number("num_attention_heads"), kvHeads = number("num_key_value_heads"), headDim = (config.head_dim as number | undefined) ?? number("hidden_size") / heads;
  const rope = (config.rope_parameters ?? { rope_theta: config.rope_theta }) as Record<string, unknown> & { readonly full_attention?: Record<string, number>; readonly sliding_attention?: Record<string, number> };
  const globalRope = (rope.full_attention ?? rope) as Readonly<Record<string, number>>;
  const metadata: Record<string, Entry> = {
    "general.architecture": ["string", arch], "general.type": ["string", "model"], "general.name": ["string", "tiny"], "general.quantization_version": ["u32", 2],
    ...Object.fromEntries(Object.entries<Entry | false>({
      block_count: ["u32", number("num_hidden_layers")], context_length: ["u32", number("max_position_embeddings")], embedding_length: ["u32", number("hidden_size")],
      feed_forward_length: ["u32", number("intermediate_size")], "attention.head_count": ["u32", heads], "attention.head_count_kv": ["u32", kvHeads],
      "attention.layer_norm_rms_epsilon": ["f32", number("rms_norm_eps")], "rope.freq_base": ["f32", globalRope.rope_theta],
      "attention.key_length": config.head_dim !== undefined && ["u32", headDim], "attention.value_length": config.head_dim !== undefined && ["u32", headDim],
      "rope.dimension_count": arch === "llama" && ["u32", headDim], vocab_size: arch === "llama" && ["u32", number("vocab_size")],
      "rope.scaling.type": globalRope.factor !== undefined && (globalRope.rope_type as unknown) === "linear" && ["string", "linear"],
      "rope.scaling.factor": globalRope.factor !== undefined && (globalRope.rope_type as unknown) === "linear" && ["f32", globalRope.factor],
      "rope.freq_base_swa": rope.sliding_attention !== undefined && ["f32", rope.sliding_attention.rope_theta],
      "attention.sliding_window": typeof config.sliding_window === "number" && config.use_sliding_window !== false && ["u32", config.sliding_window],
      attn_logit_softcapping: typeof config.attn_logit_softcapping === "number" && ["f32", config.attn_logit_softcapping],
      final_logit_softcapping: typeof config.final_logit_softcapping === "number" && ["f32", config.final_logit_softcapping],
    }).flatMap(([key, entry]): [string, Entry][] => (entry ? [[`${arch}.${key}`, entry]] : []))),
    "tokenizer.ggml.bos_token_id": ["u32", number("bos_token_id")], "tokenizer.ggml.eos_token_id": ["u32", number("eos_token_id")],
    ...more,
  };

  const tensors: TensorEntry[] = [];
  const add = (name: string, shape: readonly number[], values: ArrayLike<number>): void => {
    const stored = shape.length > 1 ? type : "F32";
    tensors.push({ name, dims: shape.toReversed(), type: typeIds[stored], data: fromFloat32(values, stored.toLowerCase() as DType) });
  };
  if ((globalRope.rope_type as unknown) === "llama3") add("rope_freqs.weight", [headDim / 2], llama3Factors(globalRope, headDim));
  for (const [name, tensor] of readTensors(join(folder, "model.safetensors"))) {
    if (name === "lm_head.weight" && config.tie_word_embeddings === true) continue;
    add(nameInGguf(name, arch), tensor.shape, values(name, tensor));
  }
  return { metadata, tensors };

  function values(name: string, { dtype, shape, data }: FileTensor): Float32Array {
    const x = toFloat32(data, dtype.toLowerCase() as DType);
    if (arch.startsWith("gemma") && name.endsWith("norm.weight")) return x.map((w) => w + 1);
    const scalar = config.query_pre_attn_scalar;
    if (typeof scalar === "number" && name.includes(".q_proj.")) return x.map((w) => w * (headDim / scalar) ** 0.5);
    const permuted = arch !== "llama" ? 0 : name.includes(".q_proj.") ? heads : name.includes(".k_proj.") ? kvHeads : 0;
    return permuted === 0 ? x : permute(x, shape[0]!, permuted);
  }
}

/** reshape(heads, 2, half, columns).swapaxes(1, 2): the order of rows that llama.cpp's rotation of neighbours wants. */
function permute(x: Float32Array, rows: number, heads: number): Float32Array {
  const columns = x.length / rows, half = rows / heads / 2;
  const out = new Float32Array(x.length);
  for (let head = 0, to = 0; head < heads; head++) {
    for (let i = 0; i < half; i++) {
      for (let side = 0; side < 2; side++, to += columns) {
        const from = (head * 2 * half + side * half + i) * columns;
        out.set(x.subarray(from, from + columns), to);
      }
    }
  }
  return out;
}

/** What each frequency is divided by, as the converter's generate_extra_tensors has it. */
function llama3Factors(rope: Readonly<Record<string, number>>, headDim: number): number[] {
  const { rope_theta: theta, factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: original } = rope as Record<"rope_theta" | "factor" | "low_freq_factor" | "high_freq_factor" | "original_max_position_embeddings", number>;
  return Array.from({ length: headDim / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * theta ** ((2 * i) / headDim);
    if (wavelength < original / high) return 1;
    if (wavelength > original / low) return factor;
    const smooth = (original / wavelength - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  });
}

const names: Readonly<Record<string, string>> = {
  "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
  "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", input_layernorm: "attn_norm", pre_feedforward_layernorm: "ffn_norm", post_feedforward_layernorm: "post_ffw_norm",
};

function nameInGguf(name: string, arch: string): string {
  const whole: Readonly<Record<string, string>> = { "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight" };
  if (whole[name] !== undefined) return whole[name];
  const [, layer, part, suffix] = /^model\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(name)!;
  const base = part === "post_attention_layernorm" ? (arch.startsWith("gemma") ? "post_attention_norm" : "ffn_norm") : names[part!];
  return `blk.${layer}.${base}.${suffix}`;
}
