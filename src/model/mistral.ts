/** Mistral: no biases; every layer has the sliding window, where there is one. */
import { activationNames, type Family, readLayers } from "./config.ts";

export const mistral: Family = {
  read(fields, { numLayers, headDim }) {
    fields.only("attention_bias", false);
    fields.only("mlp_bias", false);
    const window = fields.has("sliding_window") ? fields.count("sliding_window") : (fields.take("sliding_window"), undefined);
    return {
      layers: readLayers(fields, numLayers, window, () => true),
      bias: { qkv: false, o: false, mlp: false },
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
