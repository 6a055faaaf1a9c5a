/**
 * Writes GGUF files of Llama-shaped models with random weights: for speed, not for sense.
 *
 * The weights are one pool of random blocks over and over, with scales that keep them as small as a trained model's. Files are
 * made once and kept in node_modules/.cache/bench. It knows the layout of GGUF, and of a block only where its scales stand.
 *
 *   node bench/make-gguf.ts OUT [DIM LAYERS FFN HEADS KV_HEADS VOCAB] [q8_0|q4_0|q4_k|q6_k|f16|bf16]
 */
import { closeSync, existsSync, mkdirSync, openSync, renameSync, writeSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { blockFormats } from "../src/weights/block-formats.ts";

export interface Shape {
  readonly dim: number;
  readonly layers: number;
  readonly ffn: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly vocab: number;
}

/** 0.4B parameters. */
export const benchmarkShape: Shape = { dim: 1024, layers: 28, ffn: 3072, heads: 16, kvHeads: 8, vocab: 32_000 };

/** Of each type that can be made, the f16 numbers of a block: byte and bits. In 16-bit types every element has the exponent of 2^-6. */
const scales = {
  q8_0: [[0, 0x0c00]], // 2^-12 times -128..127
  q4_0: [[0, 0x1c00]], // 2^-8 times -8..7
  q4_k: [[0, 0x0200], [2, 0x0b80]], // 2^-15 times 0..63 times 0..15, less 7.5 times 2^-15 times 0..63
  q6_k: [[208, 0x0080]], // 2^-17 times -128..127 times -32..31
  f16: [],
  bf16: [],
} as const satisfies Readonly<Record<string, readonly (readonly [number, number])[]>>;

export type GgufType = keyof typeof scales;
export const ggufTypes = Object.keys(scales) as readonly GgufType[];
const formatOf = (type: GgufType) => blockFormats[type.toUpperCase() as Uppercase<GgufType>];

const valueType = { u32: 4, i32: 5, f32: 6, string: 8, array: 9 } as const;
const headerAlignment = 32;
const align = (bytes: number): number => Math.ceil(bytes / headerAlignment) * headerAlignment;

function bytesOf(size: number, write: (b: Buffer) => unknown): Buffer {
  const b = Buffer.alloc(size);
  write(b);
  return b;
}
const u32 = (x: number): Buffer => bytesOf(4, (b) => b.writeUInt32LE(x));
const i32 = (x: number): Buffer => bytesOf(4, (b) => b.writeInt32LE(x));
const u64 = (x: number): Buffer => bytesOf(8, (b) => b.writeBigUInt64LE(BigInt(x)));
const f32 = (x: number): Buffer => bytesOf(4, (b) => b.writeFloatLE(x));
const text = (s: string): Buffer => Buffer.concat([u64(Buffer.byteLength(s)), Buffer.from(s)]);

function metadata({ dim, layers, ffn, heads, kvHeads, vocab }: Shape): readonly Buffer[] {
  const entries: Buffer[] = [];
  const put = (key: string, type: number, value: Buffer): void => void entries.push(Buffer.concat([text(key), u32(type), value]));
  const array = (key: string, type: number, items: readonly Buffer[]): void => put(key, valueType.array, Buffer.concat([u32(type), u64(items.length), ...items]));
  put("general.architecture", valueType.string, text("llama"));
  put("general.name", valueType.string, text("random"));
  for (const [key, value] of Object.entries({
    context_length: 32_768, embedding_length: dim, block_count: layers, feed_forward_length: ffn, vocab_size: vocab,
    "attention.head_count": heads, "attention.head_count_kv": kvHeads, "rope.dimension_count": dim / heads,
  })) put(`llama.${key}`, valueType.u32, u32(value));
  put("llama.attention.layer_norm_rms_epsilon", valueType.f32, f32(1e-5));
  put("llama.rope.freq_base", valueType.f32, f32(10_000));

  // A SentencePiece-like vocabulary: <unk> <s> </s>, 256 bytes, then made-up words.
  const special = ["<unk>", "<s>", "</s>"], firstWord = special.length + 256;
  const token = (i: number): string => special[i] ?? (i < firstWord ? `<0x${(i - special.length).toString(16).toUpperCase().padStart(2, "0")}>` : `t${i}`);
  const kind = { normal: 1, unknown: 2, control: 3, byte: 6 } as const;
  const kindOf = (i: number): number => (i === 0 ? kind.unknown : i < special.length ? kind.control : i < firstWord ? kind.byte : kind.normal);
  const ids = Array.from({ length: vocab }, (_, i) => i);
  put("tokenizer.ggml.model", valueType.string, text("llama"));
  array("tokenizer.ggml.tokens", valueType.string, ids.map((i) => text(token(i))));
  array("tokenizer.ggml.scores", valueType.f32, ids.map((i) => f32(-i)));
  array("tokenizer.ggml.token_type", valueType.i32, ids.map((i) => i32(kindOf(i))));
  put("tokenizer.ggml.bos_token_id", valueType.u32, u32(1));
  put("tokenizer.ggml.eos_token_id", valueType.u32, u32(2));
  return entries;
}

interface TensorPlan { readonly name: string; readonly dims: readonly number[]; readonly id: number; readonly bytes: number }

function tensors({ dim, layers, ffn, heads, kvHeads, vocab }: Shape, type: GgufType): readonly TensorPlan[] {
  const { id, blockElements, blockBytes } = formatOf(type);
  const matrix = (name: string, columns: number, rows: number): TensorPlan => {
    if (columns % blockElements) throw new Error(`${name} has ${columns} columns, which are not whole blocks of ${type} (${blockElements})`);
    return { name, dims: [columns, rows], id, bytes: (columns * rows / blockElements) * blockBytes };
  };
  const vector = (name: string, size: number): TensorPlan => ({ name, dims: [size], id: blockFormats.F32.id, bytes: 4 * size });
  const kvDim = (dim / heads) * kvHeads;
  return [
    matrix("token_embd.weight", dim, vocab), vector("output_norm.weight", dim), matrix("output.weight", dim, vocab),
    ...Array.from({ length: layers }, (_, layer) => {
      const p = `blk.${layer}.`;
      return [
        vector(`${p}attn_norm.weight`, dim), vector(`${p}ffn_norm.weight`, dim),
        matrix(`${p}attn_q.weight`, dim, dim), matrix(`${p}attn_k.weight`, dim, kvDim), matrix(`${p}attn_v.weight`, dim, kvDim), matrix(`${p}attn_output.weight`, dim, dim),
        matrix(`${p}ffn_gate.weight`, dim, ffn), matrix(`${p}ffn_up.weight`, dim, ffn), matrix(`${p}ffn_down.weight`, ffn, dim),
      ];
    }).flat(),
  ];
}

/** Bytes of weights in the file that a decode step reads: all but the table of embeddings, of which it reads a row. */
export function bytesPerStep(shape: Shape, type: GgufType): number {
  return tensors(shape, type).reduce((sum, { name, bytes }) => sum + (name === "token_embd.weight" ? 0 : bytes), 0);
}

/** Random blocks of `type`, a few MB of them. The same every time. */
function randomBlocks(type: GgufType): Buffer {
  const { blockBytes } = formatOf(type);
  const pool = Buffer.alloc(blockBytes * 65_536);
  let state = 1;
  for (let i = 0; i < pool.length; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    pool[i] = state >>> 24;
  }
  for (const [at, bits] of scales[type]) for (let block = 0; block < pool.length; block += blockBytes) pool.writeUInt16LE(bits, block + at);
  const sixteen = { f16: [0x83ff, 0x2400], bf16: [0x807f, 0x3c80] } as const;
  if (type === "f16" || type === "bf16") {
    const [keep, exponent] = sixteen[type];
    for (let i = 0; i < pool.length; i += 2) pool.writeUInt16LE((pool.readUInt16LE(i) & keep) | exponent, i);
  }
  return pool;
}

/** Writes the file, under a name of its own until it is whole. */
export function makeGguf(path: string, shape: Shape, type: GgufType): void {
  const entries = metadata(shape), plan = tensors(shape, type), pool = randomBlocks(type);
  let offset = 0;
  const infos = plan.map(({ name, dims, id, bytes }) => {
    const info = Buffer.concat([text(name), u32(dims.length), ...dims.map(u64), u32(id), u64(offset)]);
    offset += align(bytes);
    return info;
  });
  const header = Buffer.concat([Buffer.from("GGUF"), u32(3), u64(plan.length), u64(entries.length), ...entries, ...infos]);
  const file = openSync(`${path}.part`, "w");
  writeSync(file, header);
  writeSync(file, Buffer.alloc(align(header.length) - header.length));
  for (const { id, bytes } of plan) {
    const data = Buffer.alloc(align(bytes));
    if (id === blockFormats.F32.id) for (let i = 0; i < bytes; i += 4) data.writeFloatLE(1, i);
    else for (let at = 0; at < bytes; at += pool.length) pool.copy(data, at, 0, Math.min(pool.length, bytes - at));
    writeSync(file, data);
  }
  closeSync(file);
  renameSync(`${path}.part`, path);
}

/** The path of such a file, made if it is not there yet. */
export function cachedGguf(shape: Shape, type: GgufType): string {
  const folder = fileURLToPath(new URL("../node_modules/.cache/bench/", import.meta.url));
  const path = `${folder}random-${Object.values(shape).join("-")}-${type}.gguf`;
  if (!existsSync(path)) {
    mkdirSync(folder, { recursive: true });
    makeGguf(path, shape, type);
  }
  return path;
}

if (import.meta.main) {
  const [out, ...rest] = process.argv.slice(2);
  const type = (/^\d+$/.test(rest.at(-1) ?? "0") ? "q8_0" : rest.pop()) as GgufType;
  const sizes = rest.map(Number);
  if (!out || !ggufTypes.includes(type) || (sizes.length !== 0 && sizes.length !== 6)) {
    console.error(`usage: node bench/make-gguf.ts OUT [DIM LAYERS FFN HEADS KV_HEADS VOCAB] [${ggufTypes.join("|")}]`);
    process.exit(2);
  }
  const [dim, layers, ffn, heads, kvHeads, vocab] = sizes as [number, number, number, number, number, number];
  makeGguf(out, sizes.length ? { dim, layers, ffn, heads, kvHeads, vocab } : benchmarkShape, type);
}
