import assert from "node:assert/strict";
import { test } from "node:test";
import type { WeightDType } from "../backend/backend.ts";
import { capsOf } from "../backend/registry.ts";
import { type ModelConfig, readConfig } from "./config.ts";
import { activationBytes, activationShapes } from "./decoder.ts";
import { families } from "./registry.ts";

const config = (weightDType: WeightDType): ModelConfig => readConfig({
  config: {
    architectures: ["Gemma2ForCausalLM"], vocab_size: 96, hidden_size: 64, intermediate_size: 96, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2,
    max_position_embeddings: 64, head_dim: 16, query_pre_attn_scalar: 16, sliding_window: 8,
  },
  weightDType,
}, families);

/** The names of the matrices of each type. */
function types(weightDType: WeightDType, device: "cpu" | "cuda"): Record<string, string[]> {
  const of: Record<string, string[]> = {};
  for (const [name, { dtype = "f32" }] of Object.entries(activationShapes(config(weightDType), capsOf(device)))) (of[dtype] ??= []).push(name);
  return of;
}

const summed = ["hidden", "projected", "lastHidden", "logits"];

test("on a device of 32 bits all is f32 but what meets a quantised weight", () => {
  const all = ["hidden", "normed", "qkv", "attended", "projected", "gateUp", "gated", "lastHidden", "lastNormed", "logits"];
  assert.deepEqual(types("f32", "cpu"), { f32: all });
  assert.deepEqual(types("bf16", "cpu"), { f32: all });
  assert.deepEqual(types("uint4", "cpu"), { f32: ["hidden", "qkv", "attended", "projected", "gateUp", "lastHidden", "logits"], int8: ["normed", "rounded", "gated", "lastNormed"] });
});

test("on a device of 16 bits what is summed through the layers and the logits are f32, all else is of the weights' type", () => {
  for (const type of ["bf16", "f16"] as const) assert.deepEqual(types(type, "cuda"), { f32: summed, [type]: ["normed", "qkv", "attended", "gateUp", "gated", "lastNormed"] });
  assert.throws(() => types("f32", "cuda"), /weights of f32 on a device of 16 bits/);
  assert.throws(() => types("int8", "cuda"), /weights of int8 on a device of 16 bits/);
});

test("a matrix takes its rows' bytes", () => {
  const { qkv, hidden } = activationShapes(config("bf16"), capsOf("cuda")), { normed } = activationShapes(config("int8"), capsOf("cpu"));
  assert.deepEqual([activationBytes(qkv, 3), activationBytes(hidden, 3), activationBytes(normed, 3)], [3 * 128 * 2, 3 * 64 * 4, 3 * 2 * 48]);
});
