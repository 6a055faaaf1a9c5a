/**
 * The fixed ops: which kernel each is, and its argument words. The kernels are in matmul.ts, elementwise.ts, rope.ts, sample.ts and logprobs.ts.
 */
import { invariant } from "../../core/errors.ts";
import { type Activation, type BatchInputs, type Buffer, headerWord, type Ops, type WeightDType } from "../backend.ts";
import { blocksOf, isQuantized, type QuantizedDType } from "../quantized.ts";
import { Module } from "./assembler.ts";
import {
  embed, embedArgs, gatedActivation, gatedActivationArgs, gatedActivations, gatherRows, gatherRowsArgs, rmsNorm, rmsNormArgs, softCap, softCapArgs,
} from "./elementwise.ts";
import { scratchBytes } from "./borders.ts";
import { logprobs, logprobsArgs } from "./logprobs.ts";
import { LogitRows } from "./logit-rows.ts";
import { linear, linearArgs, linearPieceColumns } from "./matmul.ts";
import { MathLibrary } from "./math.ts";
import { WasmBuffer } from "./memory.ts";
import { piecePanels, quantizedEmbedArgs, quantizedLinearArgs } from "./quantized.ts";
import { quantize, quantizeArgs } from "./quantize.ts";
import { sampleArgs, sampleRuledArgs, sampling } from "./sample.ts";
import type { Banks } from "./variants.ts";
import { kvFormatNumber, ropeAndCache, ropeArgs } from "./rope.ts";

/** One module with every fixed op but those on quantised weights (quantized.ts); exports are named as `recordOps` emits them. */
export function opsModule(): Module {
  const m = new Module();
  const math = new MathLibrary(m), rows = new LogitRows(m);
  for (const dtype of ["f32", "bf16"] as const) {
    embed(m, dtype);
    linear(m, dtype);
  }
  quantize(m);
  for (const type of ["f32", "int8"] as const) {
    rmsNorm(m, type);
    for (const activation of gatedActivations) gatedActivation(m, math, activation, type);
  }
  ropeAndCache(m);
  gatherRows(m);
  softCap(m);
  sampling(m, rows);
  logprobs(m, math, rows);
  return m;
}

/**
 * Writes down one launch: a kernel by name, its argument words, the banks of its memories that may not be the first, and of which quantised
 * dtype its module is.
 */
export type Emit = (kernel: string, words: readonly number[], banks?: Banks, dtype?: QuantizedDType) => void;

/** A float where an argument word wants its bits. */
class Float {
  readonly value: number;
  constructor(value: number) {
    this.value = value;
  }
}
/** A buffer that may lie in any bank: the launch names it. */
class Apart {
  readonly buffer: Buffer;
  constructor(buffer: Buffer) {
    this.buffer = buffer;
  }
}
type Word = number | Float | Buffer | Apart | undefined;
const float = new DataView(new ArrayBuffer(4));

/** The i32 bits of an f32 argument. */
export function floatBits(x: number): number {
  float.setFloat32(0, x);
  return float.getInt32(0);
}

export function own(buffer: Buffer): WasmBuffer {
  invariant(buffer instanceof WasmBuffer, "the buffer belongs to another backend");
  return buffer;
}

/** The address of a buffer of bank 0, where nearly everything lies. */
export function addressOf(buffer: Buffer): number {
  const { address, bank } = own(buffer);
  invariant(bank === 0, "a buffer taken for weights or the KV cache is used as something else");
  return address;
}

/** The bank of keys and values that are read or written together. */
export function sameBank(key: Buffer, value: Buffer): number {
  const { bank } = own(key);
  invariant(bank === own(value).bank, "keys and values lie in different memories: they must be slices of one buffer");
  return bank;
}

/** Argument words in the order of a kernel's table; a buffer becomes its address, undefined 0. */
function wordsOf<Table extends Readonly<Record<string, number>>>(table: Table, values: { readonly [Name in keyof Table]: Word }): number[] {
  const words: number[] = [];
  for (const [name, at] of Object.entries(table)) {
    const value: Word = values[name];
    words[at] = value === undefined ? 0 : typeof value === "number" ? value : value instanceof Float ? floatBits(value.value) : value instanceof Apart ? own(value.buffer).address : addressOf(value);
  }
  return words;
}

/** The header, and which of its words counts the rows of `out`. */
const rows = (batch: BatchInputs, out: Activation): { header: Buffer; rowsWord: number } =>
  ({ header: batch.header, rowsWord: out.rows === "tokens" ? headerWord.numTokens : headerWord.numLogits });

const quantizedOnly = (dtype: WeightDType): QuantizedDType | undefined => (isQuantized(dtype) ? dtype : undefined);
/** The suffix of kernels that write `out`. */
const suffix = (out: Activation): string => (out.dtype === "int8" ? "_int8" : "");

/** Masses of so many logits add up to less than 2^63. */
const mostLogits = 2 ** 22 - 1;

/** All ops but attention, as launches given to `emit`. `needScratch`: a launch to come takes so many bytes of every thread's scratch memory. */
export function recordOps(emit: Emit, needScratch: (bytes: number) => void): Omit<Ops, "attention"> {
  const chosen = ({ logits, choices, out, header }: { logits: Activation; choices: Buffer; out: Buffer; header: Buffer }): { readonly [Name in keyof typeof sampleArgs]: Word } => {
    invariant(logits.columns <= mostLogits, `rows of ${logits.columns} logits; ${mostLogits} at most`);
    needScratch(scratchBytes(logits.columns));
    return { header, rowsWord: headerWord.numLogits, out, logits: logits.data, stride: logits.stride, columns: logits.columns, choices };
  };
  return {
    embed: ({ out, table, batch, scale }) => emit(`embed_${table.dtype}`, wordsOf(isQuantized(table.dtype) ? quantizedEmbedArgs : embedArgs, {
      ...rows(batch, out), out: out.data, outStride: isQuantized(table.dtype) ? 4 * out.stride : out.stride, table: new Apart(table.data), tokens: batch.tokens, columns: out.columns, scale: new Float(scale),
    }), { weights: own(table.data).bank }, quantizedOnly(table.dtype)),
    rmsNorm: ({ out, x, weight, epsilon, residual, batch }) => emit(`rmsNorm${suffix(out)}`, wordsOf(rmsNormArgs, {
      ...rows(batch, out), out: out.data, outStride: out.stride, x: x.data, xStride: x.stride, columns: out.columns, weight,
      epsilon: new Float(epsilon), residual: residual?.data, residualStride: residual?.stride,
    })),
    quantize: ({ out, x, batch }) => emit("quantize", wordsOf(quantizeArgs, {
      ...rows(batch, out), out: out.data, outStride: out.stride, x: x.data, xStride: x.stride, columns: x.columns,
    })),
    linear: ({ out, x, weight, bias, residual, batch }) => {
      const { data, dtype, rows: n, columns: k } = weight;
      invariant(x.columns === k && out.columns === n, `linear of ${x.columns} by ${n} x ${k} to ${out.columns}`);
      invariant((x.dtype === "int8") === isQuantized(dtype), `activations of ${x.dtype ?? "f32"} meet weights of ${dtype}`);
      const shared = { ...rows(batch, out), out: out.data, x: x.data, xStride: x.stride, weight: new Apart(data), n, bias, residual: residual?.data };
      invariant(dtype !== "f16", "weights of f16 on the wasm backend");
      const words = isQuantized(dtype)
        ? wordsOf(quantizedLinearArgs, { ...shared, outStride: 4 * out.stride, residualStride: 4 * (residual?.stride ?? 0), blocks: blocksOf(k), piecePanels: piecePanels(dtype, blocksOf(k)) })
        : wordsOf(linearArgs, { ...shared, outStride: out.stride, residualStride: residual?.stride, k, pieceColumns: linearPieceColumns(k, dtype) });
      emit(`linear_${dtype}`, words, { weights: own(data).bank }, quantizedOnly(dtype));
    },
    ropeAndCache: ({ qkv, numQueryHeads, key, value, rotary, rotaryDim, qNorm, kNorm, epsilon, batch }) => emit("ropeAndCache", wordsOf(ropeArgs, {
      ...rows(batch, qkv), qkv: qkv.data, qkvStride: qkv.stride, numQueryHeads, numKvHeads: key.numHeads, headDim: key.headDim, valueHeadDim: value.headDim,
      key: new Apart(key.data), value: new Apart(value.data), positions: batch.positions, slots: batch.slots, rotary, rotaryDim, qNorm, kNorm, epsilon: new Float(epsilon),
      pageSize: key.pageSize, format: kvFormatNumber[key.format],
    }), { cache: sameBank(key.data, value.data) }),
    gatedActivation: ({ out, gateUp, activation, batch }) => emit(`gated_${activation}${suffix(out)}`, wordsOf(gatedActivationArgs, {
      ...rows(batch, out), out: out.data, outStride: out.stride, gateUp: gateUp.data, gateUpStride: gateUp.stride, columns: out.columns,
    })),
    gatherRows: ({ out, x, batch }) => emit("gatherRows", wordsOf(gatherRowsArgs, {
      ...rows(batch, out), out: out.data, outStride: out.stride, x: x.data, xStride: x.stride, columns: out.columns, logitRows: batch.logitRows,
    })),
    softCap: ({ x, cap, batch }) => emit("softCap", wordsOf(softCapArgs, { ...rows(batch, x), x: x.data, xStride: x.stride, columns: x.columns, cap: new Float(cap) })),
    sample: ({ logits, choices, out, batch }) => emit("sample", wordsOf(sampleArgs, chosen({ logits, choices, out, header: batch.header }))),
    sampleRuled: ({ logits, choices, rules, edits, scratch, out, batch }) =>
      emit("sampleRuled", wordsOf(sampleRuledArgs, { ...chosen({ logits, choices, out, header: batch.header }), rules, edits, scratch })),
    logprobs: ({ logits, questions, sampled, out, batch }) => emit("logprobs", wordsOf(logprobsArgs, {
      header: batch.header, rowsWord: headerWord.numLogits, out, logits: logits.data, stride: logits.stride, columns: logits.columns, questions, sampled,
    })),
  };
}
