/** Qwen3: an RMS norm on each query and key head before the rotation; no biases unless asked for. */
import { activationNames, type Family } from "./config.ts";
import { readQwenLayers } from "./qwen2.ts";

export const qwen3: Family = {
  read(fields, { numLayers, headDim }) {
    fields.only("mlp_bias", false);
    const attentionBias = fields.flag("attention_bias", false);
    return {
      layers: readQwenLayers(fields, numLayers),
      bias: { qkv: attentionBias, o: attentionBias, mlp: false },
      activation: fields.choice("hidden_act", activationNames, "silu"),
      normOffset: 0,
      postNorms: false,
      qkNorm: true,
      embeddingScale: 1,
      attentionScale: headDim ** -0.5,
      attentionSoftCap: undefined,
      finalSoftCap: undefined,
      tiedEmbeddings: fields.flag("tie_word_embeddings", false),
    };
  },
};
