/**
 * Gemma 3 (text): as Gemma 2, with norms on each query and key head in place of soft caps, windows on five of six layers, and slower
 * rotation on the others.
 */
import { activationNames, type Family, readLayers } from "./config.ts";
import { readCap } from "./gemma2.ts";

export const gemma3: Family = {
  read(fields, { numLayers, hiddenSize, localRope }) {
    const attentionBias = fields.flag("attention_bias", false);
    fields.only("mlp_bias", false);
    fields.only("use_bidirectional_attention", false);
    const window = fields.has("sliding_window") ? fields.count("sliding_window") : undefined;
    fields.take("sliding_window");
    const period = fields.has("sliding_window_pattern") ? fields.count("sliding_window_pattern") : fields.count("_sliding_window_pattern", 6);
    fields.only("_sliding_window_pattern", period);
    const layers = readLayers(fields, numLayers, window, (layer) => (layer + 1) % period !== 0);
    // Both differ from what others take when nothing is said.
    if (!fields.has("rope_parameters") && !fields.has("rope_theta")) fields.fail("rope_theta", "the base of the rotation is needed");
    if (!localRope && layers.some((layer) => layer.window !== undefined)) fields.fail("rope_local_base_freq", "the base of the rotation of layers with a window is needed");
    const activation = fields.choice("hidden_activation", activationNames, "gelu_pytorch_tanh");
    if (fields.has("hidden_act") && fields.choice("hidden_act", activationNames) !== activation) fields.fail("hidden_act", "hidden_activation says otherwise; keep one of them");
    return {
      layers,
      bias: { qkv: attentionBias, o: attentionBias, mlp: false },
      activation,
      normOffset: 1,
      postNorms: true,
      qkNorm: true,
      embeddingScale: hiddenSize ** 0.5,
      attentionScale: fields.positive("query_pre_attn_scalar") ** -0.5,
      attentionSoftCap: readCap(fields, "attn_logit_softcapping"),
      finalSoftCap: readCap(fields, "final_logit_softcapping"),
      tiedEmbeddings: fields.flag("tie_word_embeddings", true),
    };
  },
};
