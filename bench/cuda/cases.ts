/**
 * The attention problems of the GPU benchmark, under the names that bench/peers/attention.py has for them. Each mod stands here twice: as a user of Tessera
 * writes it, and as plain functions for the oracle, which share nothing with it.
 */
import { alibi, alibiSlopes, and, causal, document, maskMod, type Mods, softCap } from "../../src/attention/index.ts";

/** Where documents 2 to 8 of a sequence begin. */
const cuts = [700, 1500, 2900, 3300, 4700, 5200, 7000];
const windowSize = 1024, cap = 50;

export interface Problem {
  mods(heads: number, length: number): Mods;
  allows(q: number, kv: number): boolean;
  scored(score: number, h: number, q: number, kv: number, heads: number): number;
  /** Pairs of a query and a key that the mask allows, of one head: what rates are counted by, whatever a kernel visits. */
  pairs(length: number): number;
}

/** The group of a token that is one of four, as a hash of its position has it: every block of keys holds some of each. */
const groupOf = (position: number): number => Math.imul(position, 0x9e3779b1) >>> 30;
const triangle = (n: number): number => (n * (n + 1)) / 2;
const documentOf = (position: number): number => cuts.filter((cut) => cut <= position).length;
const isCausal = (q: number, kv: number): boolean => kv <= q;
const plain = { scored: (score: number): number => score };

export const problems = {
  full: { ...plain, mods: () => ({}), allows: () => true, pairs: (n) => n * n },
  causal: { ...plain, mods: () => ({ maskMod: causal }), allows: isCausal, pairs: triangle },
  alibi: {
    mods: (heads) => ({ maskMod: causal, scoreMod: alibi(alibiSlopes(heads)) }),
    allows: isCausal, scored: (score, h, q, kv, heads) => score + 2 ** ((-8 * (h + 1)) / heads) * (kv - q), pairs: triangle,
  },
  window1024: {
    ...plain, mods: () => ({ maskMod: and(causal, maskMod(({ size }) => (_b, _h, q, kv) => q - kv < size, { size: windowSize })) }),
    allows: (q, kv) => isCausal(q, kv) && q - kv < windowSize, pairs: (n) => triangle(n) - triangle(Math.max(0, n - windowSize)),
  },
  doc8: {
    ...plain, mods: (_heads, length) => ({ maskMod: and(causal, document(Int32Array.from({ length }, (_, i) => documentOf(i)))) }),
    allows: (q, kv) => isCausal(q, kv) && documentOf(q) === documentOf(kv),
    pairs: (n) => [0, ...cuts.filter((cut) => cut < n)].reduce((sum, from, i, starts) => sum + triangle((starts[i + 1] ?? n) - from), 0),
  },
  scattered: {
    ...plain, mods: (_heads, length) => ({ maskMod: and(causal, document(Int32Array.from({ length }, (_, i) => groupOf(i)))) }),
    allows: (q, kv) => isCausal(q, kv) && groupOf(q) === groupOf(kv),
    pairs: (n) => {
      const seen = [0, 0, 0, 0];
      let pairs = 0;
      for (let i = 0; i < n; i++) pairs += ++seen[groupOf(i)]!;
      return pairs;
    },
  },
  softcap50: { mods: () => ({ maskMod: causal, scoreMod: softCap(cap) }), allows: isCausal, scored: (score) => cap * Math.tanh(score / cap), pairs: triangle },
} as const satisfies Readonly<Record<string, Problem>>;
export type ProblemName = keyof typeof problems;

export interface Case {
  readonly kind: "prefill" | "decode";
  readonly batch: number;
  readonly heads: number;
  readonly kvHeads: number;
  /** Keys of a sequence, and in prefill its queries. */
  readonly length: number;
  readonly dim: number;
  readonly problem: ProblemName;
}

const prefill = (batch: number, heads: number, kvHeads: number, dim: number, problem: ProblemName): Case => ({ kind: "prefill", batch, heads, kvHeads, length: 8192, dim, problem });
const decode = (batch: number, length: number): Case => ({ kind: "decode", batch, heads: 32, kvHeads: 8, length, dim: 128, problem: "causal" });

export const cases: readonly Case[] = [
  ...(["causal", "full", "alibi", "window1024", "doc8", "scattered", "softcap50"] as const).map((problem) => prefill(2, 32, 32, 128, problem)),
  prefill(1, 32, 8, 128, "causal"),
  ...(["causal", "full"] as const).map((problem) => prefill(2, 32, 32, 64, problem)),
  ...(["causal", "full"] as const).map((problem) => prefill(2, 16, 16, 256, problem)),
  decode(64, 4096), decode(16, 8192), decode(1, 32768),
];

/** "prefill/b2-h32-s8192-d128/causal", "decode/b64-h32kv8-s4096-d128" */
export function nameOf({ kind, batch, heads, kvHeads, length, dim, problem }: Case): string {
  return `${kind}/b${batch}-h${heads}${heads === kvHeads ? "" : `kv${kvHeads}`}-s${length}-d${dim}${kind === "prefill" ? `/${problem}` : ""}`;
}

/** The peers' names of a case: FlexAttention has the soft cap with exact tanh and, as Tessera does, with the GPU's own; the faster stands beside ours. */
export const peerNamesOf = (one: Case): readonly string[] => (one.problem === "softcap50" ? [nameOf(one), `${nameOf(one)}-approx`] : [nameOf(one)]);

const titles: Readonly<Record<ProblemName, string>> = {
  full: "full", causal: "causal", alibi: "ALiBi", window1024: "window 1024", doc8: "8 documents", scattered: "4 scattered groups", softcap50: "soft cap 50",
};
/** A case for people: "causal, 2 x 32 heads of 128", "decode, 64 x 4096 tokens". All but full are causal. */
export function titleOf({ kind, batch, heads, kvHeads, length, dim, problem }: Case): string {
  if (kind === "decode") return `decode, ${batch} x ${length} tokens`;
  return `${titles[problem]}, ${batch} x ${heads === kvHeads ? heads : `${heads}/${kvHeads}`} heads of ${dim}`;
}

/** A rate by the time it took: TFLOP/s of a prefill (4 D for each allowed pair), GB/s of a decode (every key and value once). */
export const unitOf = ({ kind }: Case): string => (kind === "prefill" ? "TFLOP/s" : "GB/s");
export function rateOf({ kind, batch, heads, kvHeads, length, dim, problem }: Case, ms: number): number {
  return kind === "prefill" ? (4 * dim * batch * heads * problems[problem].pairs(length)) / ms / 1e9 : (2 * 2 * batch * kvHeads * length * dim) / ms / 1e6;
}

/** Who is measured beside Tessera: names of bench/peers/attention.py, and names for people. The first is who ratios are of. */
export const peers = { flex: "FlexAttention", cudnn: "cuDNN", fa2: "FlashAttention-2" } as const;
export type Peer = keyof typeof peers;
