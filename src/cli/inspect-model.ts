/**
 * `tessera inspect model.gguf`: what a GGUF file holds, without loading it. What here cannot be run is still described: a line then
 * says why it cannot.
 */
import { UsageError } from "../core/errors.ts";
import { countParameters, formatBytes, openCheckpoint } from "../model/load.ts";
import { ggufTextFiles } from "../tokenizer/gguf.ts";
import { loadTokenizer } from "../tokenizer/tokenizer.ts";
import { openGguf, type GgufFile } from "../weights/gguf-file.ts";
import { countText } from "./describe.ts";

/** Lines of a label and what there is to say. @throws UsageError when it is no GGUF file */
export function describeGguf(path: string): readonly string[] {
  const file = openGguf(path);
  file.close();
  const rows: readonly (readonly [label: string, say: () => string])[] = [
    ["file", () => describeFile(file)], ["model", () => describeModel(path)], ["attention", () => describeAttention(path)],
    ["tokenizer", () => describeTokenizer(file)], ["chat", () => describeChat(file)],
  ];
  return rows.map(([label, say]) => {
    try {
      return `${label.padEnd(11)} ${say()}`;
    } catch (error) {
      if (error instanceof UsageError) return `${label.padEnd(11)} cannot be used here: ${error.message}`;
      throw error;
    }
  });
}

function describeFile({ metadata, tensors }: GgufFile): string {
  const types = new Map<string, { count: number; bytes: number }>();
  for (const { dtype, bytes } of tensors.values()) {
    const type = types.get(dtype) ?? { count: 0, bytes: 0 };
    types.set(dtype, { count: type.count + 1, bytes: type.bytes + bytes });
  }
  const total = [...types.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  const each = [...types].sort(([, a], [, b]) => b.bytes - a.bytes).map(([type, { count, bytes }]) => `${count} of ${type} (${formatBytes(bytes)})`);
  const name = metadata.get("general.name");
  return `${typeof name === "string" ? `${JSON.stringify(name)}, ` : ""}${formatBytes(total)} in ${tensors.size} tensors: ${each.join(", ")}`;
}

function describeModel(path: string): string {
  const { config, source } = openCheckpoint(path);
  source.close();
  const { architecture, layers, hiddenSize, numQueryHeads, numKvHeads, headDim, maxPositions, vocabSize } = config;
  return `${architecture}, ${countText(countParameters(config))} parameters, ${layers.length} layers of ${hiddenSize}, ` +
    `${numQueryHeads} query heads of ${headDim} over ${numKvHeads} of keys and values, vocabulary ${vocabSize}, context ${maxPositions} tokens`;
}

function describeAttention(path: string): string {
  const { config, source } = openCheckpoint(path);
  source.close();
  const layersOf = new Map<number | undefined, number[]>();
  config.layers.forEach(({ window }, layer) => layersOf.set(window, [...(layersOf.get(window) ?? []), layer]));
  const masks = [...layersOf].map(([window, layers]) => {
    return `${window === undefined ? "causal" : `a sliding window of ${window}`} in ${layers.length === config.layers.length ? "all layers" : `${layers.length} layers (${shortened(layers)})`}`;
  });
  return `${masks.join(", ")}${config.attentionSoftCap === undefined ? "" : `; scores capped at ${config.attentionSoftCap}`}`;
}

const shortened = (layers: readonly number[]): string => (layers.length > 6 ? `${layers.slice(0, 5).join(", ")}, ...` : layers.join(", "));

function describeTokenizer({ path, metadata }: GgufFile): string {
  const { vocabSize, specialTokens, bosId, eosIds, idToToken, encode } = loadTokenizer(ggufTextFiles(metadata, path));
  const kind = metadata.get("tokenizer.ggml.model") === "llama" ? "SentencePiece" : `byte-level, words cut as ${String(metadata.get("tokenizer.ggml.pre"))}`;
  const begin = bosId === undefined ? "" : encode("").includes(bosId) ? `, a text begins with ${idToToken(bosId)}` : `, a text begins without ${idToToken(bosId)}`;
  return `${kind}, ${vocabSize} tokens, ${specialTokens.length} of them special${begin}, an answer ends at ${eosIds.map((id) => idToToken(id)).join(", ") || "no token"}`;
}

function describeChat({ metadata }: GgufFile): string {
  const template = metadata.get("tokenizer.chat_template");
  return typeof template === "string" ? `a template of ${template.length} characters` : "no template: prompts only";
}
