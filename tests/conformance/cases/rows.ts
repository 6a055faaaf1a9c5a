/** R1 to R8: statistics of rows, sums without softmax, outputs, and keys and values in fewer bits. */
import { mergeStates } from "../../../src/attention/merge.ts";
import { maskMod, outputMod, scoreMod, weightMod } from "../../../src/attention/mod.ts";
import { causal } from "../../../src/attention/mods/causal.ts";
import { packedDocuments } from "../../../src/attention/mods/packed-documents.ts";
import { softCap } from "../../../src/attention/mods/soft-cap.ts";
import { slidingWindow } from "../../../src/attention/mods/sliding-window.ts";
import { flexAttention } from "../../../src/attention/attention.ts";
import { tensor, type Tensor } from "../../../src/attention/tensor.ts";
import type { KvFormat } from "../../../src/ir/plan.ts";
import type { Case, Composite, Refused } from "../case.ts";
import { documentsOf, floats } from "./tables.ts";

/** A sink for each head: none, a small one, and one that takes most of the row. */
const sinks = (heads: number): Float32Array => floats(heads, (h) => [-Infinity, 0.5, 6, -3][h % 4]!);

export const rows: readonly Case[] = [
  { id: "R1", title: "learned sinks", mods: (g) => ({ sink: sinks(g.heads), maskMod: causal }) },
  { id: "R1", title: "learned sinks, with rows that see nothing else", mods: (g) => ({ sink: sinks(g.heads), scoreMod: softCap(3), maskMod: maskMod((_b, _h, q, kv) => kv < q - 20) }) },
  { id: "R2", title: "softmax plus one", mods: () => ({ softmax: "one", maskMod: slidingWindow(30) }) },
  { id: "R2", title: "softmax plus one, scores far below and above", mods: () => ({ softmax: "one", scoreMod: scoreMod((score, _b, _h, q, kv) => score * 4 + (q % 7) * 8 - 30 + (kv % 2)) }) },
  { id: "R3", title: "sigmoid instead of softmax", mods: () => ({ weightMod: weightMod((score) => 1 / (1 + Math.exp(-score))), maskMod: causal }) },
  { id: "R3", title: "a weight from captured tables", mods: (g) => ({ weightMod: weightMod(({ gain, near }) => (score, _b, h, q, kv) => Math.exp(-gain[h]! * score * score) + (q === kv ? near : 0), { gain: floats(g.heads, (h) => 0.5 + h), near: 0.25 }), maskMod: causal }) },
  { id: "R3", title: "the square of relu instead of softmax", mods: () => ({ weightMod: weightMod((score) => Math.max(score, 0) * Math.max(score, 0)), scoreMod: scoreMod((score, _b, _h, q, kv) => score - 0.01 * Math.abs(q - kv)) }) },
  { id: "R5", title: "an output gate", mods: () => ({ outputMod: outputMod((x, _b, h, q, d) => x * (1 / (1 + Math.exp(-0.1 * (d - h) - 0.01 * q)))), maskMod: causal }) },
  { id: "R5", title: "an output gate from a captured table", mods: (g) => ({ outputMod: outputMod(({ gate }) => (x, b, h, _q, d) => x * gate[h]! + 0.01 * d * b, { gate: floats(g.heads, (h) => h - 1.5) }), maskMod: causal }) },
  { id: "R5", title: "an output activation where rows see nothing", mods: () => ({ outputMod: outputMod((x) => Math.tanh(x) + 0.5), maskMod: maskMod((_b, _h, q) => q % 2 === 0) }) },
  { id: "R6", title: "row sums and largest scores", mods: () => ({ scoreMod: scoreMod((score, _b, _h, q, kv) => score + 0.1 * ((q * kv) % 13)), maskMod: causal }) },
  ...(["bf16", "f16", "int8", "fp8"] as const).flatMap((format: KvFormat): Case[] => [
    { id: "R8", title: `keys and values in ${format}`, mods: () => ({ keyFormat: format, valueFormat: format, maskMod: causal }) },
    { id: "R8", title: `keys in ${format}, values in f32, capped`, mods: () => ({ keyFormat: format, scoreMod: softCap(4) }) },
  ]),
  { id: "6", title: "bf16 tensors in and out", denseOnly: true, mods: () => ({ queryFormat: "bf16", keyFormat: "bf16", valueFormat: "bf16", maskMod: causal }) },
  { id: "6", title: "f16 tensors in and out, capped", denseOnly: true, mods: () => ({ queryFormat: "f16", keyFormat: "f16", valueFormat: "f16", scoreMod: softCap(4) }) },
];

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

export const rowComposites: readonly Composite[] = [
  { id: "R7", title: "differential attention: one map less half of another", parts: () => [{ maskMod: causal }, { maskMod: causal, scoreMod: scoreMod((score, _b, h, q, kv) => 0.5 * score + 0.02 * ((q + kv + h) % 5)) }],
    combine: ([a, b]) => a!.out.map((x, d) => x - 0.5 * b!.out[d]!) },
  { id: "R5", title: "sinks after the fact, by the row sum", parts: () => [{ maskMod: causal }], combine: ([part]) => part!.out.map((x) => x * sigmoid(part!.lse - 0.5)) },
  { id: "M19", title: "a shared prefix in two launches, merged by row sums", parts: (g) => {
    const { starts } = documentsOf(g.positions);
    return [{ maskMod: packedDocuments(starts) }, { maskMod: maskMod(({ starts, p }) => (_b, _h, q, kv) => kv < p && kv < starts[q]!, { starts, p: 30 }) }];
  }, combine: (parts) => {
    const most = Math.max(...parts.map((p) => p.lse)), weights = parts.map((p) => (p.lse === -Infinity ? 0 : Math.exp(p.lse - most)));
    const sum = weights.reduce((a, b) => a + b, 0);
    return parts[0]!.out.map((_, d) => parts.reduce((x, p, i) => x + (weights[i]! / sum) * p.out[d]!, 0));
  }, library: (parts) => [...mergeStates(parts.map(({ out, lse }) => ({ out: tensor(Float32Array.from(out), [1, 1, 1, out.length]), lse: tensor(Float32Array.of(lse), [1, 1, 1]) }))).out.data] },
];

const one = tensor(Float32Array.of(1), [1, 1, 1, 1]);
const wide = (dim: number): Tensor => tensor(new Float32Array(2 * dim), [1, 1, 2, dim]);

export const refused: readonly Refused[] = [
  { id: "R4", title: "dropout", ask: (backend) => flexAttention(one, one, one, { backend, dropout: 0.1 } as object), says: /dropout is for training and is not offered/ },
  { id: "R6", title: "column sums of P", ask: (backend) => flexAttention(one, one, one, { backend, aux: ["columnSums"] as never }), says: /column sums of P are not offered/ },
  { id: "R6", title: "the largest k of P", ask: (backend) => flexAttention(one, one, one, { backend, aux: ["topK"] as never }), says: /top-k of P are not offered/ },
  { id: "S11", title: "head dims over 256 (MLA's 576 and 512)", ask: (backend) => flexAttention(wide(576), wide(576), wide(512), { backend }), says: /head dim of query and key is 576, over 256/ },
  { id: "6", title: "a pool beyond the address space", ask: async (backend) => backend.alloc(2 ** 44), says: /17592186044416 bytes/ },
];
