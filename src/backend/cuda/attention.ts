/**
 * An attention plan as CUDA C++: the texts of kernels/ with the plan's constants before them and its mods written in between; and how a call of it
 * is launched. Two kernels share a plan's work list: `decode` takes the items of few rows, `attention` the others, by one rule (`rule`).
 *
 * Knows sources, sizes and parameters; compiling, memory and streams belong to others.
 */
import { kernelText } from "#cuda-sources";
import { invariant, UsageError } from "../../core/errors.ts";
import { type Expr, score } from "../../ir/expr.ts";
import { type AttentionPlan, bytesPerKvElement, type KvFormat, workHeaderWords, workItem } from "../../ir/plan.ts";
import { postOrder } from "../../ir/range.ts";
import type { AttentionCall, Layout } from "../backend.ts";
import { captureField, captureFields, emitFunction, emitPlainInRange, extentField } from "./expr.ts";
import { own } from "./memory.ts";
import { type Field, Struct } from "./struct.ts";

/** Rows of a tile of the decode kernel: query rows times the query heads that share a kv head. */
const decodeTileRows = 16;
/** Where bits may not depend on the batch, a row's keys are cut into segments of this many units of at most 64 keys, doubled until there are at most `maxSegments`. */
const segmentUnits = 4;
const maxSegments = 32;
/** Else each thread block has an equal part of the step's units, but no fewer than this. */
const leastUnits = 4;
const pieceWords = 16;
/** Thread blocks that pack the mask of one work item. */
export const packBlocks = 8;
/** Most memory for packed masks of a call. Blocks beyond it ask the mask, as blocks do whose mask is not packed: slower, the same bits. */
const mostMaskBytes = 32 * 2 ** 20;
/** What each block takes of a multiprocessor's shared memory besides its own; so a multiprocessor has this much more than one block may have. */
export const reservedBytes = 1024;
/** More than the general kernel takes besides what its launch asks for. */
const staticBytes = 128;

/** What a plan's kernels are made for, besides the plan. */
export interface AttentionMachine {
  /** The most that one block may have. */
  readonly maxSharedBytes: number;
  /** Whether a row's bits depend on the row alone, in decode too. */
  readonly deterministic: boolean;
}


/** How a kernel is launched: everything but the grid. */
export interface KernelShape {
  readonly name: "attention" | "packMask" | "decode" | "planDecode";
  readonly threads: number;
  readonly sharedBytes: number;
}

export interface AttentionSource {
  readonly plan: AttentionPlan;
  /** Most query rows of an item that the decode kernel takes; 0: none. */
  readonly decodeRows: number;
  /** Thread blocks of an item and head. */
  readonly subTiles: number;
  /** What partial blocks' masks are packed in, where they are: the general kernel's module has `packMask`, to be launched before it. */
  readonly mask: { readonly blocksOfTile: number; readonly bytesOfBlock: number } | undefined;
  readonly holding: Holding;
  /** Whether a row's bits depend on the row alone, in decode too. */
  readonly deterministic: boolean;
  readonly general: KernelShape & { readonly text: string };
  readonly decode: (KernelShape & { readonly text: string }) | undefined;
  readonly params: Struct;
}

/**
 * How much of a plan a warp holds in registers: query rows, and keys of a block. The first one that the compiler can keep there is taken; NVRTC's word on
 * spills is the rule, as no count of a mod's operations foretells it.
 */
export interface Holding {
  readonly rowsOfWarp: 32 | 16;
  readonly keysOfBlock: 64 | 32;
  /** Whether partial blocks' masks are read as bits: another way through the softmax, which takes registers too. */
  readonly packed: boolean;
}
const shapes: readonly Omit<Holding, "packed">[] = [{ rowsOfWarp: 32, keysOfBlock: 64 }, { rowsOfWarp: 16, keysOfBlock: 64 }, { rowsOfWarp: 16, keysOfBlock: 32 }];

/** What is worth trying for a plan, in order: more rows are worth more than packed bits. 32 rows of more than 128 output elements never fit, nor does what mods with many loads hold for them. */
export function holdingsFor(plan: AttentionPlan): readonly Holding[] {
  const loads = countLoads([plan.scoreMod, plan.maskMod, plan.weightMod]);
  const fitting = plan.headDimV > 128 || loads > mostLoadsOfTwoTiles ? shapes.slice(1) : shapes, ways = packsMask(plan) ? [true, false] : [false];
  return fitting.flatMap((shape) => ways.map((packed) => ({ ...shape, packed })));
}
const mostLoadsOfTwoTiles = 8;
const countLoads = (mods: readonly (Expr | undefined)[]): number => new Set(mods.flatMap((e) => (e ? postOrder(e).filter((node) => node.kind === "load") : []))).size;

/** Whether what a mask says of partial blocks is worth packing into bits, once for all heads and layers: it is the same for all heads, and it reads tables. A comparison is cheaper than a bit. */
function packsMask({ maskMod }: AttentionPlan): boolean {
  if (!maskMod) return false;
  const nodes = postOrder(maskMod);
  return !nodes.some((e) => e.kind === "index" && e.name === "h") && nodes.some((e) => e.kind === "load");
}

const kvFormatNames: Readonly<Record<KvFormat, string | undefined>> = { f32: undefined, bf16: "SAME", f16: "SAME", int8: "INT8", fp8: "FP8" };
const round16 = (n: number): number => Math.ceil(n / 16) * 16;
/** Rows in shared memory are 16 bytes longer than what they hold, so that eight of them begin in different banks. */
const strideOf = (padded: number): number => 2 * padded + 16;

/** Which kernel takes what, for people. `decodes`: whether the decode kernel is among them. */
export function rule({ plan: { numQueryHeads, numKvHeads }, decodeRows, holding }: AttentionSource): string {
  const group = numQueryHeads / numKvHeads;
  const general = `${holding.rowsOfWarp} rows a warp and ${holding.keysOfBlock} keys a block at most, the most that the compiler keeps in registers under these mods${holding.packed ? "; partial blocks' masks as packed bits" : ""}`;
  if (decodeRows > 0) return `decode: items of at most ${decodeRows} query rows (${decodeTileRows} rows of a tile / ${group} heads that share a kv head); attention: all others, ${general}`;
  return `attention: every item, ${general}; no decode: ${group > decodeTileRows ? `${group} query heads share a kv head, more than the ${decodeTileRows} rows of its tile` : "under these mods it does not fit registers, or its stages do not fit shared memory"}`;
}

/** Whether a block may have as much shared memory as the general kernel wants. */
export const fitsShared = ({ general }: AttentionSource, { maxSharedBytes }: AttentionMachine): boolean => general.sharedBytes + staticBytes <= maxSharedBytes;

/** @throws UsageError for what these kernels do not do: f32 queries, keys of another 16-bit type, head dims over 256, blocks that are no multiples of 16 keys */
export function attentionSource(plan: AttentionPlan, { maxSharedBytes, deterministic }: AttentionMachine, holding: Holding = holdingsFor(plan)[0]!): AttentionSource {
  const { headDimQk, headDimV, numQueryHeads, numKvHeads, kvTile, queryTile, queryFormat, keyFormat = "f32", valueFormat = "f32" } = plan;
  if (!queryFormat) throw new UsageError("device cuda computes attention in bf16 or f16, and these queries are f32; give queries, keys and values as bf16 or f16 tensors");
  for (const [what, format] of [["keys", keyFormat], ["values", valueFormat]] as const) {
    if (!kvFormatNames[format] || (kvFormatNames[format] === "SAME" && format !== queryFormat)) throw new UsageError(`device cuda takes ${what} of the queries' type (${queryFormat}), int8 or fp8, and these are ${format}`);
  }
  for (const [what, dim] of [["queries and keys", headDimQk], ["values", headDimV]] as const) {
    if (dim > 256) throw new UsageError(`the head dim of ${what} is ${dim}; device cuda has kernels for 1 to 256`);
  }
  if (kvTile % 16 !== 0 || kvTile % Math.min(kvTile, 64) !== 0) throw new UsageError(`kvTile is ${kvTile}; device cuda needs a multiple of 16 up to 64, or of 64`);
  // A block is a whole part of a tile: of 48 keys, where 32 are the most, 16.
  const blockKeys = [holding.keysOfBlock, kvTile, 16].find((keys) => keys <= holding.keysOfBlock && kvTile % keys === 0)!;
  const group = numQueryHeads / numKvHeads, decodeRows = Math.floor(decodeTileRows / group);
  const paddedQk = round16(headDimQk), paddedV = round16(headDimV), strideQk = strideOf(paddedQk), strideV = strideOf(paddedV);
  // 32 rows a warp share each fragment of keys and values.
  const rowTiles = holding.rowsOfWarp / 16, warps = 8 / rowTiles, rows = 16 * warps * rowTiles;
  const { packed } = holding, maskWords = Math.ceil(blockKeys / 32), maskRows = 4 * Math.ceil(queryTile / 4);
  const generalBytes = rows * strideQk + blockKeys * (strideQk + strideV) + (packed ? 2 * rows * 4 * maskWords : 0);
  const stageBytes = blockKeys * (strideQk + strideV), queriesInShared = paddedQk > 128;
  const decodeExtra = 4 * decodeTileRows * (paddedV + 2 * (blockKeys / 16)) + 16 + (queriesInShared ? decodeTileRows * strideQk : 0);
  const sharedBytesOfSm = maxSharedBytes + reservedBytes;
  const stagesFor = (blocks: number): number => Math.min(4, Math.floor((sharedBytesOfSm / blocks - reservedBytes - decodeExtra) / stageBytes));
  const stages = stagesFor(2) >= 3 ? stagesFor(2) : stagesFor(1);

  const fold = plan.scoreMod === score && !plan.denominator && !plan.weightMod && plan.scale > 0;
  const constants: readonly (readonly [name: string, value: number | string])[] = [
    ["ELEMENT_BF16", Number(queryFormat === "bf16")],
    ["HEAD_DIM_QK", headDimQk], ["HEAD_DIM_V", headDimV], ["PADDED_QK", paddedQk], ["PADDED_V", paddedV], ["STRIDE_QK", strideQk], ["STRIDE_V", strideV],
    ["NUM_QUERY_HEADS", numQueryHeads], ["NUM_KV_HEADS", numKvHeads], ["GROUP", group],
    ["QUERY_TILE", queryTile], ["KV_TILE", kvTile], ["BN", blockKeys], ["MASK_PACKED", Number(packed)], ["MASK_WORDS", maskWords], ["MASK_ROWS", maskRows], ["PACK_BLOCKS", packBlocks],
    ["ROW_TILES", rowTiles], ["NUM_WARPS", warps], ["MIN_BLOCKS", 2 * (generalBytes + reservedBytes) <= sharedBytesOfSm && rowTiles === 2 ? 2 : 1],
    ["DECODE_STAGES", stages], ["QUERIES_IN_SHARED", Number(queriesInShared)], ["DETERMINISTIC", Number(deterministic)], ["LEAST_UNITS", leastUnits], ["SEGMENT_UNITS", segmentUnits], ["MAX_SEGMENTS", maxSegments],
    ["KEY_FORMAT", kvFormatNames[keyFormat]!], ["VALUE_FORMAT", kvFormatNames[valueFormat]!], ["KEY_BYTES", bytesPerKvElement[keyFormat]], ["VALUE_BYTES", bytesPerKvElement[valueFormat]],
    ["HAS_MASK", Number(plan.maskMod !== undefined)], ["HAS_WEIGHT", Number(plan.weightMod !== undefined)], ["HAS_OUTPUT", Number(plan.outputMod !== undefined)],
    ["DENOMINATOR", plan.denominator === "one" ? 1 : plan.denominator === "sink" ? 2 : 0],
    ["FOLD_SCALE", Number(fold)], ["SCALE", `${floatText(plan.scale)}`], ["EXPONENT_SCALE", floatText(Math.fround((fold ? plan.scale : 1) * Math.LOG2E))],
  ];
  const params = new Struct([...callFields, ...captureFields(plan.captures)]);
  const mods = ([["scoreMod", fold ? undefined : plan.scoreMod], ["maskMod", plan.maskMod], ["weightMod", plan.weightMod], ["outputMod", plan.outputMod]] as const)
    .flatMap(([name, e]) => (e ? [emitFunction(name, e, plan.captures, modTitles[name])] : []));
  const plain = emitPlainInRange([plan.scoreMod, plan.maskMod, plan.weightMod].filter((e) => e !== undefined), plan.captures);
  const head = [
    ...plan.key.split("\n").map((line) => `// ${line}`),
    ...constants.map(([name, value]) => `#define ${name} ${value}`),
    `#define PLAIN_LOADS ${Number(plain !== undefined)}`,
    "#define PROGRAMMATIC_LAUNCH (__CUDA_ARCH__ >= 900)", "",
    kernelText("arithmetic"), kernelText("tensor"), params.text, "", ...mods, ...(plain === undefined ? [] : [plain]), "", kernelText("paged"),
  ].join("\n");
  const threads = 32 * warps, decodeThreads = 2 * blockKeys;
  const decodes = group <= decodeTileRows && stages >= 2;
  return {
    plan, decodeRows: decodes ? decodeRows : 0, subTiles: Math.ceil(queryTile / rows), mask: packed ? { blocksOfTile: kvTile / blockKeys, bytesOfBlock: 4 * maskWords * maskRows } : undefined, holding, deterministic, params,
    general: { name: "attention", threads, sharedBytes: generalBytes, text: `${head}\n${kernelText("attention")}` },
    decode: decodes ? { name: "decode", threads: decodeThreads, sharedBytes: stages * stageBytes + decodeExtra, text: `${head}\n${kernelText("decode")}` } : undefined,
  };
}

const modTitles = {
  scoreMod: "The score mod: of scale * q . k.", maskMod: "The mask mod: whether row q may see key kv. Asked in partial blocks, or packed there.",
  weightMod: "The weight mod: of the modded score, in place of the exponential.", outputMod: "The output mod: of an output element, kv being its place in the head.",
} as const;

const floatText = (x: number): string => `${/[.e]/.test(String(x)) ? x : `${x}.`}f`;

const strides = (of: string): readonly Field[] => ["SequenceStride", "RowStride", "HeadStride"].map((name) => ({ name: `${of}${name}`, type: "i64" }));
const pointer = (name: string, to: string): Field => ({ name, type: "pointer", to });
/** What every call gives, besides its captures. */
const callFields: readonly Field[] = [
  pointer("query", "const u16"), pointer("out", "u16"), pointer("key", "const u8"), pointer("value", "const u8"), pointer("keyScale", "const float"), pointer("valueScale", "const float"),
  pointer("sink", "const float"), pointer("lse", "float"), pointer("maxScore", "float"), pointer("blockTable", "const int"), pointer("work", "const int"), pointer("mask", "u32"), pointer("plan", "int"),
  pointer("partial", "float"), pointer("counters", "int"), pointer("failure", "int"),
  ...["query", "out", "key", "value", "keyScale", "valueScale"].flatMap(strides),
  { name: "lseSequenceStride", type: "i64" }, { name: "maxScoreSequenceStride", type: "i64" },
  ...["maxPagesPerSequence", "pageSize", "pageMultiplier", "pageShift", "aligned", "decodeRows", "early", "decodeBlocks", "numSms", "pieces", "maskBlocks"].map((name): Field => ({ name, type: "i32" })),
];

/** n / divisor = (umulhi(n, multiplier) + n) >> shift for every n below 2^31. */
export function magicDivision(divisor: number): { readonly multiplier: number; readonly shift: number } {
  const shift = Math.ceil(Math.log2(divisor));
  return { multiplier: Number(((1n << 32n) * ((1n << BigInt(shift)) - BigInt(divisor))) / BigInt(divisor) + 1n) | 0, shift };
}

/** Memory that a call's kernels work in. */
export interface Workspace {
  /** Of `maskBlocks` blocks. */
  readonly mask: number;
  readonly plan: number;
  readonly partial: number;
  readonly counters: number;
}

/** Blocks that a call's packed mask has room for: all that its sequences can have, or as many as `mostMaskBytes` hold. */
export function maskBlocksOf({ plan, mask }: AttentionSource, call: AttentionCall): number {
  if (!mask) return 0;
  const tiles = maxItems(call) * Math.ceil((call.maxPagesPerSequence * call.pageSize) / plan.kvTile);
  return Math.min(tiles * mask.blocksOfTile, Math.floor(mostMaskBytes / mask.bytesOfBlock));
}

/** Bytes of the workspace of a call's decode, zeroed where it says so. */
export interface WorkspaceBytes {
  readonly plan: number;
  readonly partial: number;
  /** Zeros before the first launch; every launch leaves zeros. */
  readonly counters: number;
}

/** Items that a work list of this size can have at most. */
export const maxItems = (call: AttentionCall): number => Math.floor((call.work.bytes / 4 - workHeaderWords) / workItem.words);

/** Where pieces begin in a plan, in words: behind an entry for each item and one more, at a multiple of 16 bytes. */
const piecesAt = (items: number): number => workHeaderWords + 4 * (items + 1);

/** `decodeBlocks`: thread blocks of the decode kernel. */
export function workspaceBytes({ plan, decodeRows, deterministic }: AttentionSource, call: AttentionCall, decodeBlocks: number): WorkspaceBytes {
  const items = maxItems(call), rowBytes = 4 * (round16(plan.headDimV) + 2);
  const planBytes = (pieces: number): number => 4 * (piecesAt(items) + pieceWords * pieces);
  if (!deterministic) return { plan: planBytes(decodeBlocks + items * plan.numKvHeads), partial: 2 * decodeBlocks * decodeTileRows * rowBytes, counters: 4 * decodeBlocks };
  // Of a sequence's items only the last has few rows, where tiles have more.
  const entries = plan.queryTile > decodeRows ? Math.min(items, call.blockTable.bytes / 4 / call.maxPagesPerSequence) : items;
  const rows = entries * Math.min(decodeRows, plan.queryTile) * plan.numQueryHeads;
  return { plan: planBytes(items * plan.numKvHeads * maxSegments), partial: rows * maxSegments * rowBytes, counters: 4 * items * plan.numKvHeads };
}

export interface DecodeLaunch {
  /** The work's plan, and all keys and values in front of an item's first row, are there before the kernel in front has ended. */
  readonly early: boolean;
  /** Thread blocks, as many as multiprocessors or a multiple. */
  readonly decodeBlocks: number;
  readonly numSms: number;
}

/** The parameter block of a call. */
export function attentionParams(source: AttentionSource, call: AttentionCall, workspace: Workspace, failure: number, { early, decodeBlocks, numSms }: DecodeLaunch): Uint8Array {
  const { plan, params } = source;
  const address = (data: Layout["data"] | undefined): number => (data ? own(data).address : 0);
  const strideValues = (of: string, layout: Layout | undefined): Record<string, number> =>
    ({ [`${of}SequenceStride`]: layout?.sequenceStride ?? 0, [`${of}RowStride`]: layout?.rowStride ?? 0, [`${of}HeadStride`]: layout?.headStride ?? 0 });
  /** Whether every row of `dim` elements starts at a multiple of `bytes` and may be read in such pieces. */
  const aligned = (layout: Layout, elementBytes: number, dim: number, bytes: number): boolean =>
    [address(layout.data), layout.sequenceStride * elementBytes, layout.rowStride * elementBytes, layout.headStride * elementBytes, dim * elementBytes].every((n) => n % bytes === 0);
  const keyBytes = bytesPerKvElement[plan.keyFormat!], valueBytes = bytesPerKvElement[plan.valueFormat!];
  const flags = [aligned(call.query, 2, plan.headDimQk, 16), aligned(call.key, keyBytes, plan.headDimQk, 16), aligned(call.value, valueBytes, plan.headDimV, 16), aligned(call.out, 2, plan.headDimV, 4)];
  // Other rows are read through L1, where a line that was read early would stand without the keys that the kernel in front adds to it.
  const pastL1 = keyBytes === 2 && valueBytes === 2 && flags[1]! && flags[2]!;
  const division = magicDivision(call.pageSize);
  const values: Record<string, number> = {
    query: address(call.query.data), out: address(call.out.data), key: address(call.key.data), value: address(call.value.data),
    keyScale: address(call.keyScale?.data), valueScale: address(call.valueScale?.data), sink: address(call.sink), lse: address(call.lse?.data), maxScore: address(call.maxScore?.data),
    blockTable: address(call.blockTable), work: address(call.work), ...workspace, failure,
    ...strideValues("query", call.query), ...strideValues("out", call.out), ...strideValues("key", call.key), ...strideValues("value", call.value),
    ...strideValues("keyScale", call.keyScale), ...strideValues("valueScale", call.valueScale),
    lseSequenceStride: call.lse?.sequenceStride ?? 0, maxScoreSequenceStride: call.maxScore?.sequenceStride ?? 0,
    maxPagesPerSequence: call.maxPagesPerSequence, pageSize: call.pageSize, pageMultiplier: division.multiplier, pageShift: division.shift,
    aligned: flags.reduce((bits, flag, i) => bits | (flag ? 1 << i : 0), 0), decodeRows: source.decodeRows, early: Number(early && pastL1),
    decodeBlocks, numSms, pieces: piecesAt(maxItems(call)), maskBlocks: maskBlocksOf(source, call),
  };
  plan.captures.forEach((slot, i) => {
    const given = call.captures[i];
    invariant(given?.kind === slot.kind, `capture ${slot.name} is a ${slot.kind}, but the call gives ${given?.kind}`);
    if (given.kind === "uniform") values[captureField(i)] = given.value;
    else {
      values[captureField(i)] = address(given.data);
      given.shape.forEach((extent, dim) => (values[extentField(i, dim)] = extent));
    }
  });
  return params.pack(values);
}
