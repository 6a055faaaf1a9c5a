/**
 * A small random model of llama's architecture as a GGUF file, its matrices in any of the block types: random codes under scales that
 * give the elements the size of weights. What the blocks stand for is block-formats.ts's to say.
 */
import { fromFloat32 } from "../src/core/dtype.ts";
import { stream } from "../src/core/random.ts";
import { blockFormats, type BlockType } from "../src/weights/block-formats.ts";
import type { Entry, GgufContents, TensorEntry } from "./gguf-writer.ts";

export const randomSizes = { hidden: 256, heads: 4, kvHeads: 2, ffn: 512, layers: 2, vocab: 320 } as const;

type Random = () => number;

/** Of each type: where its f16 stand in a block, as [byte, factor]: the factor times the size of an element is what is written there, give or take a half. */
const scalesOf: Readonly<Partial<Record<BlockType, readonly (readonly [at: number, factor: number])[]>>> = {
  Q8_0: [[0, 1 / 74]], Q4_0: [[0, 1 / 4.6]], Q4_1: [[0, 1 / 4.6], [2, -7.5 / 4.6]], Q5_0: [[0, 1 / 9.2]], Q5_1: [[0, 1 / 9.2], [2, -15.5 / 9.2]],
  Q4_K: [[0, 1 / 150], [2, 7.5 / 150]], Q5_K: [[0, 1 / 300], [2, 15.5 / 300]], Q6_K: [[208, 1 / 1300]],
};

/** Rows of blocks whose elements have about the standard deviation `size`. */
function randomBlocks(type: BlockType, elements: number, size: number, random: Random): Uint8Array {
  const { blockElements, blockBytes } = blockFormats[type];
  const scales = scalesOf[type];
  if (!scales) return fromFloat32(Float32Array.from({ length: elements }, () => size * 12 ** 0.5 * (random() - 0.5)), type.toLowerCase() as "f32" | "f16" | "bf16");
  const bytes = Uint8Array.from({ length: (elements / blockElements) * blockBytes }, () => Math.floor(256 * random()));
  for (let at = 0; at < bytes.length; at += blockBytes) {
    const scale = size * (0.5 + random());
    for (const [to, factor] of scales) bytes.set(fromFloat32([scale * factor], "f16"), at + to);
  }
  return bytes;
}

/** The model, its matrices in the type that `typeOf` gives for their names. */
export function randomGguf(typeOf: (name: string) => BlockType, seed: number, more: Readonly<Record<string, Entry>> = {}): GgufContents {
  const { hidden, heads, kvHeads, ffn, layers, vocab } = randomSizes, kvSize = (hidden / heads) * kvHeads;
  const random = stream(seed);
  const tensors: TensorEntry[] = [];
  const matrix = (name: string, columns: number, rows: number, size = columns ** -0.5): void => {
    const type = typeOf(name);
    tensors.push({ name, dims: [columns, rows], type: blockFormats[type].id, data: randomBlocks(type, columns * rows, size, random) });
  };
  const norm = (name: string): void => void tensors.push({ name, dims: [hidden], type: 0, data: fromFloat32(Float32Array.from({ length: hidden }, () => 0.8 + 0.4 * random()), "f32") });
  matrix("token_embd.weight", hidden, vocab, 0.5);
  norm("output_norm.weight");
  matrix("output.weight", hidden, vocab);
  for (let i = 0; i < layers; i++) {
    norm(`blk.${i}.attn_norm.weight`);
    norm(`blk.${i}.ffn_norm.weight`);
    for (const [name, columns, rows] of [
      ["attn_q", hidden, hidden], ["attn_k", hidden, kvSize], ["attn_v", hidden, kvSize], ["attn_output", hidden, hidden], ["ffn_gate", hidden, ffn], ["ffn_up", hidden, ffn], ["ffn_down", ffn, hidden],
    ] as const) matrix(`blk.${i}.${name}.weight`, columns, rows);
  }
  return {
    metadata: {
      "general.architecture": ["string", "llama"], "llama.block_count": ["u32", layers], "llama.context_length": ["u32", 512], "llama.embedding_length": ["u32", hidden],
      "llama.feed_forward_length": ["u32", ffn], "llama.attention.head_count": ["u32", heads], "llama.attention.head_count_kv": ["u32", kvHeads],
      "llama.attention.layer_norm_rms_epsilon": ["f32", 1e-5], "llama.rope.freq_base": ["f32", 10000], ...more,
    },
    tensors,
  };
}

/** The same model with every element written out in f32. */
export function inFloat32(contents: GgufContents): GgufContents {
  const formatOf = new Map(Object.values(blockFormats).map((format) => [format.id, format]));
  return { ...contents, tensors: contents.tensors.map((tensor) => ({ ...tensor, type: 0, data: fromFloat32(formatOf.get(tensor.type)!.toFloat32(tensor.data), "f32") })) };
}
