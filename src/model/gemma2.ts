/**
 * Gemma 2: norms by 1 + weight, before and after attention and MLP; scaled embeddings; soft caps on scores and logits;
 * a sliding window on every other layer, from the first.
 */
import { activationNames, type Family, readLayers } from "./config.ts";
import type { Fields } from "./fields.ts";

/** Null or absent: no cap. */
export function readCap(fields: Fields, name: string): number | undefined {
  if (fields.has(name)) return fields.positive(name);
  fields.take(name);
  return undefined;
}

export const gemma2: Family = {
  read(fields, { numLayers, hiddenSize }) {
    const attentionBias = fields.flag("attention_bias", false);
    fields.only("mlp_bias", false);
    fields.only("use_bidirectional_attention", false);
    const window = fields.count("sliding_window");
    fields.only("sliding_window_size", window);
    const activation = fields.choice("hidden_activation", activationNames, "gelu_pytorch_tanh");
    // The class reads hidden_activation alone; many checkpoints carry a hidden_act beside it that says the same.
    if (fields.has("hidden_act") && fields.choice("hidden_act", activationNames) !== activation) fields.fail("hidden_act", "hidden_activation says otherwise; keep one of them");
    return {
      layers: readLayers(fields, numLayers, window, (layer) => layer % 2 === 0),
      bias: { qkv: attentionBias, o: attentionBias, mlp: false },
      activation,
      normOffset: 1,
      postNorms: true,
      qkNorm: false,
      embeddingScale: hiddenSize ** 0.5,
      attentionScale: fields.positive("query_pre_attn_scalar") ** -0.5,
      attentionSoftCap: readCap(fields, "attn_logit_softcapping"),
      finalSoftCap: readCap(fields, "final_logit_softcapping"),
      tiedEmbeddings: fields.flag("tie_word_embeddings", true),
    };
  },
};
