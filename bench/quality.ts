/**
 * What each format of weights, and of keys and values, costs in quality, on the demo model: a table.
 *
 * GGUF's types are made from the model's weights by tests/block-writer.ts, whose rounding is simple. A row of 192 columns is no whole block of a
 * K type; it is written as one of 256, zeros behind, and computed from without them.
 *
 *   npm run bench -- quality [--tokens N] [--only TEXT] [--write-docs]
 */
import { parseArgs } from "node:util";
import { packedRowBytes, quantizeRows } from "../src/backend/quantized.ts";
import type { KvCacheFormat, WeightDType } from "../src/backend/backend.ts";
import { capsOf } from "../src/backend/registry.ts";
import { toFloat32 } from "../src/core/dtype.ts";
import type { Checkpoint } from "../src/model/load.ts";
import { chooseWeightFormats, type Quantization } from "../src/model/weight-formats.ts";
import { blockFormats, type BlockType } from "../src/weights/block-formats.ts";
import { packedAs, packer } from "../src/weights/packed-blocks.ts";
import type { StoredTensor, WeightSource } from "../src/weights/source.ts";
import { type QuantizedBlockType, writeBlocks } from "../tests/block-writer.ts";
import { type Change, compare, heldOutText, nearTie, predict } from "./quality/measure.ts";
import { writePart } from "./page.ts";
import { report, setting, short } from "./row.ts";

const usage = "npm run bench -- quality [--tokens N] [--only TEXT] [--write-docs]";
const { values: flags } = parseArgs({ options: { tokens: { type: "string", default: "all" }, only: { type: "string", default: "" }, "write-docs": { type: "boolean" }, help: { type: "boolean" } } });
const whole = flags.tokens === "all" && flags.only === "";
if (flags.help || (flags["write-docs"] && !whole)) {
  console.log(`${usage}\n--tokens: of the held-out text, whole chats (all of it); --write-docs wants all of it and every row`);
  process.exit(flags.help ? 0 : 2);
}

const isTable = (name: string): boolean => name === "model.embed_tokens.weight";
const isMatrix = (source: WeightSource, name: string): boolean => source.info(name)!.shape.length === 2;

/** Every matrix as the dtype that is given for its name. */
const inMemory = (dtypeOf: (name: string) => WeightDType) => ({ source }: Checkpoint): Change => {
  const matrixDTypes = new Map([...source.names()].filter((name) => isMatrix(source, name)).map((name) => [name, dtypeOf(name)]));
  return { config: { weightDType: matrixDTypes.get("model.layers.0.mlp.down_proj.weight")!, matrixDTypes } };
};
const onLoad = (quantization: Quantization) => ({ source }: Checkpoint): Change => ({ config: chooseWeightFormats(source, "auto", quantization, capsOf("cpu")) });
const kept = (kvFormat: KvCacheFormat) => (): Change => ({ config: { kvFormat } });

/** The source with its matrices in other bytes. */
function rewritten(source: WeightSource, rewrite: (name: string, values: Float32Array, columns: number) => { readonly dtype: BlockType; readonly bytes: Uint8Array }): WeightSource {
  const tensors = new Map<string, { readonly info: StoredTensor; readonly bytes: Uint8Array }>();
  for (const name of source.names()) {
    if (!isMatrix(source, name)) continue;
    const { shape, bytes: length } = source.info(name)!, stored = new Uint8Array(length);
    source.read(name, stored);
    const { dtype, bytes } = rewrite(name, toFloat32(stored, "bf16"), shape[1]!);
    tensors.set(name, { info: { dtype, shape, bytes: bytes.length }, bytes });
  }
  return {
    names: () => source.names(),
    info: (name) => tensors.get(name)?.info ?? source.info(name),
    read(name, into, offset = 0) {
      const tensor = tensors.get(name);
      if (tensor) into.set(tensor.bytes.subarray(offset, offset + into.length));
      else source.read(name, into, offset);
    },
    close: () => source.close(),
  };
}

/** uint8 blocks whose codes have 5 bits, as the type of file that has such. */
function asQ5_1(packed: Uint8Array): Uint8Array {
  const out = new Uint8Array((packed.length / 36) * 24), view = new DataView(out.buffer);
  for (let from = 0, to = 0; from < packed.length; from += 36, to += 24) {
    out.set(packed.subarray(from, from + 4), to);
    const codes = packed.subarray(from + 4, from + 36);
    view.setUint32(to + 4, codes.reduce((bits, q, i) => bits | ((q >> 4) << i), 0), true);
    for (let i = 0; i < 16; i++) out[to + 8 + i] = (codes[i]! & 15) | ((codes[i + 16]! & 15) << 4);
  }
  return out;
}
/** Types of blocks of 32 that become the same blocks in memory. */
const like = { Q4_K: "Q4_1", Q5_K: "Q5_1", Q6_K: "Q8_0" } as const satisfies Readonly<Partial<Record<BlockType, BlockType>>>;
const isLong = (type: QuantizedBlockType): type is keyof typeof like => Object.hasOwn(like, type);

/** A row of a K type as what is computed from. */
function longBlocks(type: keyof typeof like, row: Float32Array): Uint8Array {
  const padded = new Float32Array(Math.ceil(row.length / 256) * 256);
  padded.set(row);
  const dtype = packedAs[type]!, blocks = writeBlocks(type, padded);
  const packed = (packer(type, dtype)?.(blocks) ?? quantizeRows(blockFormats[type].toFloat32(blocks), dtype, padded.length)).subarray(0, packedRowBytes(dtype, row.length));
  return type === "Q5_K" ? asQ5_1(packed) : packed;
}

/** Every matrix as a GGUF file has it in the type that is given for its name. */
const inFile = (typeOf: (name: string) => QuantizedBlockType) => ({ source }: Checkpoint): Change => {
  const file = rewritten(source, (name, values, columns) => {
    const type = typeOf(name);
    if (!isLong(type)) return { dtype: type, bytes: writeBlocks(type, values) };
    const rows = Array.from({ length: values.length / columns }, (_, r) => longBlocks(type, values.subarray(r * columns, (r + 1) * columns)));
    return { dtype: like[type], bytes: Uint8Array.from(rows.flatMap((row) => [...row])) };
  });
  return { source: file, config: chooseWeightFormats(file, "auto", "auto", capsOf("cpu")) };
};
/** The numbers that a type leaves, computed with in f32. */
const inNumbers = (type: QuantizedBlockType) => ({ source }: Checkpoint): Change =>
  ({ source: rewritten(source, (_, values) => ({ dtype: "F32", bytes: new Uint8Array(blockFormats[type].toFloat32(writeBlocks(type, values)).buffer) })) });

/** By name: how, and how many bits a weight has in its file (where that is not what memory has). */
const rows: Readonly<Record<string, readonly [change: (checkpoint: Checkpoint) => Change, fileBits?: number]>> = {
  "bf16": [inMemory(() => "bf16")],
  "KV cache in bf16": [kept("bf16")],
  "KV cache in f16": [kept("f16")],
  "int8, Q8_0, `--quantization int8`": [onLoad("int8")],
  "int8, activations in f32": [inNumbers("Q8_0")],
  "int4, Q4_0": [inMemory(() => "int4")],
  "uint4, Q4_1": [inMemory(() => "uint4")],
  "int4, embedding int8": [inMemory((name) => (isTable(name) ? "int8" : "int4"))],
  "uint4, embedding int8: `--quantization int4`": [onLoad("int4")],
  "Q5_0": [inFile(() => "Q5_0"), 5.5],
  "Q5_1": [inFile(() => "Q5_1"), 6],
  "Q4_K": [inFile(() => "Q4_K"), 4.5],
  "Q4_K, embedding Q6_K": [inFile((name) => (isTable(name) ? "Q6_K" : "Q4_K")), 4.86],
  "Q5_K": [inFile(() => "Q5_K"), 5.5],
  "Q6_K": [inFile(() => "Q6_K"), 6.5625],
};

const chats = await heldOutText(flags.tokens === "all" ? Infinity : Number(flags.tokens));
const numTokens = chats.reduce((sum, { ids }) => sum + ids.length, 0), numSaid = chats.reduce((sum, { said }) => sum + said.filter(Boolean).length, 0);
const f32 = await predict(chats);
const percent = (share: number): string => `${(100 * share).toFixed(2)}%`;
const own = compare(chats, f32.logits, f32.logits);
const table = [
  "| | bits a weight, in its file | KL, nats a token | same greedy token | outside near-ties | KL of what the model says | same | outside near-ties | its perplexity |", "|---|---|---|---|---|---|---|---|---|",
  `| f32 | 32 | 0 | | | 0 | | | ${own.said.perplexity.toFixed(4)} |`,
];
for (const [name, [change, fileBits]] of Object.entries(rows)) {
  if (!name.includes(flags.only)) continue;
  const { logits, bitsPerWeight } = await predict(chats, change);
  const { all, said } = compare(chats, f32.logits, logits);
  table.push(`| ${[
    name, `${short(bitsPerWeight)}${fileBits ? `, ${short(fileBits)}` : ""}`, short(all.divergence), percent(all.agreement), percent(all.clearAgreement), short(said.divergence), percent(said.agreement), percent(said.clearAgreement), said.perplexity.toFixed(4),
  ].join(" | ")} |`);
  console.log(table.at(-1));
  if (!whole) continue;
  report(`quality of ${name}: KL from f32`, [all.divergence], "nats", 1);
  report(`quality of ${name}: same greedy token outside near-ties`, [100 * all.clearAgreement], "%", 1);
}
const description = `${chats.length} chats of ${numTokens} tokens, of which the model says ${numSaid}; ${own.all.numNearTies} of all positions and ${own.said.numNearTies} of those are near-ties (the two best within ${nearTie} nats in f32). ${setting(1)}.`;
console.log(`\n${[...table, "", description].join("\n")}`);
if (flags["write-docs"]) writePart("quality", [...table, "", description]);
