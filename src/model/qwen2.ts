/** Qwen2 and 2.5: biases on q, k and v alone; a window, where it is switched on, from layer `max_window_layers` on. */
import { activationNames, type Family, readLayers } from "./config.ts";
import type { Fields } from "./fields.ts";

/** Qwen's three fields about windows, as layers. */
export function readQwenLayers(fields: Fields, numLayers: number): ReturnType<typeof readLayers> {
  const uses = fields.flag("use_sliding_window", false);
  const window = fields.has("sliding_window") ? fields.count("sliding_window") : undefined;
  fields.take("sliding_window");
  const from = fields.take("max_window_layers") ?? 28;
  if (typeof from !== "number" || !Number.isSafeInteger(from) || from < 0) fields.fail("max_window_layers", "a whole number is needed");
  if (uses && window === undefined) fields.fail("use_sliding_window", "sliding_window must say how wide");
  return readLayers(fields, numLayers, uses ? window : undefined, (layer) => layer >= from);
}

export const qwen2: Family = {
  read(fields, { numLayers, headDim }) {
    fields.only("attention_bias", true);
    fields.only("mlp_bias", false);
    fields.only("use_mrope", false);
    return {
      layers: readQwenLayers(fields, numLayers),
      bias: { qkv: true, o: false, mlp: false },
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
