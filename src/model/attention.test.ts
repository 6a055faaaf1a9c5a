import assert from "node:assert/strict";
import { test } from "node:test";
import { capsOf } from "../backend/registry.ts";
import { planLayers } from "./attention.ts";
import { type ModelConfig, readConfig } from "./config.ts";
import { families } from "./registry.ts";

const limits = { maxModelLen: 64, maxNumSeqs: 2, maxNumBatchedTokens: 64, pageSize: 16, numPages: 8 };
const gemma = (more: object): ModelConfig =>
  readConfig({
    config: {
      architectures: ["Gemma2ForCausalLM"], vocab_size: 10, hidden_size: 8, intermediate_size: 8, num_hidden_layers: 5, num_attention_heads: 2, num_key_value_heads: 1,
      max_position_embeddings: 64, head_dim: 4, query_pre_attn_scalar: 4, sliding_window: 8, ...more,
    },
    weightDType: "f32",
  }, families);

test("layers with the same mask are one group, in the order they first appear", () => {
  const { groups, groupOfLayer } = planLayers(gemma({}), limits, capsOf("cpu"));
  assert.deepEqual(groupOfLayer, [0, 1, 0, 1, 0]);
  assert.equal(groups.length, 2);
});

test("a group's mask tells apart keys within the window, before it and after the query", () => {
  const [sliding, full] = planLayers(gemma({}), limits, capsOf("cpu")).groups;
  const at = (group: typeof sliding, q: number, kv: number): number => group!.mask.classify(0, 0, 0, 1, q, q, kv, kv);
  assert.deepEqual([at(sliding, 20, 21), at(sliding, 20, 20), at(sliding, 20, 13), at(sliding, 20, 12)], [0, 1, 1, 0]);
  assert.deepEqual([at(full, 20, 21), at(full, 20, 20), at(full, 20, 0)], [0, 1, 1]);
});

test("windows and caps are captured numbers: other values need no other kernel", () => {
  const one = planLayers(gemma({ attn_logit_softcapping: 50 }), limits, capsOf("cpu")).groups[0]!;
  const other = planLayers(gemma({ attn_logit_softcapping: 30, sliding_window: 16 }), limits, capsOf("cpu")).groups[0]!;
  assert.equal(one.plan.key, other.plan.key);
  assert.deepEqual([one.captures, other.captures].map((captures) => captures.map((c) => (c.kind === "uniform" ? c.value : c))), [[50, 8], [30, 16]]);
});
