import assert from "node:assert/strict";
import { test } from "node:test";
import { type ModelConfig, readConfig } from "./config.ts";
import { families } from "./registry.ts";

const base = {
  vocab_size: 320, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 2048,
  rms_norm_eps: 1e-6, eos_token_id: 2, bos_token_id: 1, torch_dtype: "bfloat16", transformers_version: "4.44.0",
};
const gemma = { ...base, architectures: ["Gemma2ForCausalLM"], head_dim: 16, query_pre_attn_scalar: 16, sliding_window: 8, hidden_activation: "gelu_pytorch_tanh" };
const config = (architecture: string, more: object = {}, generation?: unknown): ModelConfig =>
  readConfig({ config: { ...base, architectures: [architecture], hidden_act: "silu", ...more }, generation, weightDType: "f32" }, families);
const windows = (c: ModelConfig): (number | undefined)[] => c.layers.map((layer) => layer.window);

test("a head without head_dim has hidden_size / num_attention_heads elements", () => {
  const c = config("LlamaForCausalLM");
  assert.equal(c.headDim, 16);
  assert.equal(c.attentionScale, 0.25);
});

test("rope of transformers 4 and of 5 read the same", () => {
  const llama3 = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192, rope_type: "llama3" };
  const four = config("LlamaForCausalLM", { rope_theta: 5e5, rope_scaling: llama3 });
  const five = config("LlamaForCausalLM", { rope_parameters: { rope_theta: 5e5, ...llama3 } });
  assert.deepEqual(four, five);
  assert.deepEqual(four.rope, { theta: 5e5, rotaryDim: 16, scaling: { kind: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 8192 } });
  assert.deepEqual(config("LlamaForCausalLM", { rope_theta: 5e5, rope_scaling: { type: "linear", factor: 2 } }).rope.scaling, { kind: "linear", factor: 2 });
  assert.deepEqual(config("LlamaForCausalLM", { rope_scaling: null }).rope, { theta: 10000, rotaryDim: 16, scaling: { kind: "none" } });
});

test("windows: all layers in mistral, from max_window_layers in qwen, every other in gemma2, and layer_types before all", () => {
  assert.deepEqual(windows(config("MistralForCausalLM", { sliding_window: 8 })), [8, 8, 8, 8]);
  assert.deepEqual(windows(config("MistralForCausalLM", { sliding_window: null })), [undefined, undefined, undefined, undefined]);
  assert.deepEqual(windows(config("Qwen2ForCausalLM", { sliding_window: 8, use_sliding_window: false, max_window_layers: 2 })), [undefined, undefined, undefined, undefined]);
  assert.deepEqual(windows(config("Qwen2ForCausalLM", { sliding_window: 8, use_sliding_window: true, max_window_layers: 2 })), [undefined, undefined, 8, 8]);
  assert.deepEqual(windows(config("Gemma2ForCausalLM", { ...gemma, hidden_act: undefined })), [8, undefined, 8, undefined]);
  const layer_types = ["full_attention", "sliding_attention", "full_attention", "full_attention"];
  assert.deepEqual(windows(config("Gemma2ForCausalLM", { ...gemma, hidden_act: undefined, layer_types })), [undefined, 8, undefined, undefined]);
});

test("gemma2 scales embeddings, adds one to its norms and ties its embeddings when nothing is said", () => {
  const c = readConfig({ config: { ...gemma, attn_logit_softcapping: 50, final_logit_softcapping: null }, weightDType: "bf16" }, families);
  assert.deepEqual([c.embeddingScale, c.normOffset, c.tiedEmbeddings, c.activation, c.attentionSoftCap, c.finalSoftCap, c.weightDType], [8, 1, true, "geluTanh", 50, undefined, "bf16"]);
});

test("gemma3 has windows on five of six layers, which alone rotate by the local base", () => {
  const own = { head_dim: 16, query_pre_attn_scalar: 64, sliding_window: 8, hidden_act: undefined, num_hidden_layers: 7 };
  const four = config("Gemma3ForCausalLM", { ...own, rope_theta: 1e6, rope_local_base_freq: 1e4, rope_scaling: { rope_type: "linear", factor: 8 }, sliding_window_pattern: 6 });
  const five = config("Gemma3ForCausalLM", {
    ...own, layer_types: [..."sssssfs"].map((c) => (c === "f" ? "full_attention" : "sliding_attention")),
    rope_parameters: { full_attention: { rope_theta: 1e6, rope_type: "linear", factor: 8 }, sliding_attention: { rope_theta: 1e4, rope_type: "default" } },
  });
  assert.deepEqual(four, five);
  assert.deepEqual(windows(four), [8, 8, 8, 8, 8, undefined, 8]);
  assert.deepEqual([four.rope, four.localRope], [{ theta: 1e6, rotaryDim: 16, scaling: { kind: "linear", factor: 8 } }, { theta: 1e4, rotaryDim: 16, scaling: { kind: "none" } }]);
  assert.deepEqual([four.normOffset, four.qkNorm, four.postNorms, four.attentionScale, four.finalSoftCap], [1, true, true, 0.125, undefined]);
  assert.throws(() => config("Gemma3ForCausalLM", { ...own, rope_theta: 1e6 }), { name: "UsageError", message: /rope_local_base_freq is undefined; the base/ });
  assert.throws(() => config("Gemma3ForCausalLM", { ...own, rope_local_base_freq: 1e4 }), { name: "UsageError", message: /rope_theta is undefined; the base/ });
});

test("generation_config.json's end tokens win over config.json's", () => {
  assert.deepEqual(config("LlamaForCausalLM", {}, { eos_token_id: [5, 6] }).eosTokenIds, [5, 6]);
  assert.deepEqual(config("LlamaForCausalLM", {}, { temperature: 1 }).eosTokenIds, [2]);
  assert.throws(() => config("LlamaForCausalLM", {}, { eos_token_id: 999 }), /eos_token_id 999 is not in the vocabulary of 320/);
});

const refused: Readonly<Record<string, readonly [string, object, RegExp]>> = {
  "an unknown architecture": ["BloomForCausalLM", {}, /architectures is \["BloomForCausalLM"\].*supported: LlamaForCausalLM, /],
  "an architecture named like a method of objects": ["toString", {}, /architectures is \["toString"\]/],
  "an unknown field": ["LlamaForCausalLM", { residual_multiplier: 0.2, other: 1 }, /residual_multiplier is 0\.2; .*not known here.*also: other/],
  "a quantised checkpoint": ["LlamaForCausalLM", { quantization_config: { quant_method: "awq" } }, /quantization_config is .*awq/],
  "yarn": ["LlamaForCausalLM", { rope_scaling: { rope_type: "yarn", factor: 4 } }, /rope_scaling: rope_type is "yarn"; supported: default, linear, llama3/],
  "an unknown field of rope": ["Qwen2ForCausalLM", { rope_scaling: { type: "default", mrope_section: [1, 2] } }, /rope_scaling: mrope_section is \[1,2\]/],
  "rope told twice and differently": ["LlamaForCausalLM", { rope_theta: 1, rope_parameters: { rope_theta: 2 } }, /rope_theta is 1; rope_parameters\.rope_theta is 2/],
  "partial rotation": ["LlamaForCausalLM", { partial_rotary_factor: 0.5 }, /partial_rotary_factor is 0\.5/],
  "partial rotation in transformers 5": ["LlamaForCausalLM", { rope_parameters: { partial_rotary_factor: 0.5 } }, /partial_rotary_factor is 0\.5/],
  "an odd head": ["LlamaForCausalLM", { head_dim: 15 }, /head_dim is 15; .*even/],
  "a bias that the family does not have": ["MistralForCausalLM", { attention_bias: true }, /attention_bias is true; not supported here \(supported: false\)/],
  "an unknown activation": ["LlamaForCausalLM", { hidden_act: "mish" }, /hidden_act is "mish"; supported: silu/],
  "a layer type of another family": ["Qwen3ForCausalLM", { layer_types: Array(4).fill("linear_attention") }, /layer_types .*supported: full_attention, sliding_attention/],
  "a sliding layer without a window": ["Qwen3ForCausalLM", { layer_types: Array(4).fill("sliding_attention") }, /needs a sliding_window in use/],
  "too few layer types": ["Qwen3ForCausalLM", { layer_types: ["full_attention"] }, /4 layers need 4 entries/],
  "heads that do not group": ["LlamaForCausalLM", { num_key_value_heads: 3 }, /num_key_value_heads is 3; it must divide num_attention_heads, 4/],
  "a size that is no number": ["LlamaForCausalLM", { hidden_size: "64" }, /hidden_size is "64"; a whole number/],
  "a missing size": ["LlamaForCausalLM", { vocab_size: undefined }, /vocab_size is undefined/],
  "an encoder": ["LlamaForCausalLM", { is_encoder_decoder: true }, /is_encoder_decoder is true/],
};
for (const [what, [architecture, more, message]] of Object.entries(refused)) {
  test(`${what} is refused by name`, () => assert.throws(() => config(architecture, more), { name: "UsageError", message }));
}
