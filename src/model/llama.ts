/** Llama 1 to 3: optional biases, no windows. */
import { activationNames, type Family, readLayers } from "./config.ts";

export const llama: Family = {
  read(fields, { numLayers, headDim }) {
    const attentionBias = fields.flag("attention_bias", false);
    return {
      layers: readLayers(fields, numLayers, undefined, () => false),
      bias: { qkv: attentionBias, o: attentionBias, mlp: fields.flag("mlp_bias", false) },
      activation: fields.choice("hidden_act", activationNames, "silu"),
      normOffset: 0,
      postNorms: false,
      qkNorm: false,
      embeddingScale: 1,
      attentionScale: headDim ** -0.5,
      attentionSoftCap: undefined,
      finalSoftCap: undefined,
      tiedEmbeddings: fields.flag("tie_word_embeddings", false),
    };
  },
};
