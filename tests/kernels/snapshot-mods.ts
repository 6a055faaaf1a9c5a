/** The mods whose emitted kernels are checked in, whole or in part: one of each kind of code. */
import { alibi, alibiSlopes, and, causal, document, type MaskMod, maskMod, prefixLm, type ScoreMod, scoreMod, slidingWindow, softCap } from "../../src/attention/index.ts";

const documents = Int32Array.from({ length: 64 }, (_, i) => Math.floor(i / 10));

/** For 4 query heads. */
export const snapshotMods: Readonly<Record<string, { readonly scoreMod?: ScoreMod; readonly maskMod?: MaskMod }>> = {
  none: {},
  causal: { maskMod: causal },
  "sliding-window": { maskMod: and(causal, slidingWindow(64)) },
  "soft-cap": { maskMod: causal, scoreMod: softCap(50) },
  alibi: { maskMod: causal, scoreMod: alibi(alibiSlopes(4)) },
  "prefix-lm": { maskMod: prefixLm(Int32Array.of(16)) },
  document: { maskMod: and(causal, document(documents)) },
  "chunked-local": { maskMod: maskMod(({ chunk }) => (_b, _h, q, kv) => q >= kv && Math.floor(q / chunk) === Math.floor(kv / chunk), { chunk: 32 }) },
  "relative-table": { scoreMod: scoreMod(({ bias }) => (score, _b, _h, q, kv) => score + bias[Math.min(Math.max(q - kv, -8), 8) + 8]!, { bias: new Float32Array(17) }) },
  "branches": { scoreMod: scoreMod((score, _b, h, q, kv) => { if (h === 0) return score; const d = Math.abs(q - kv); return d <= 8 ? 2 * score : score - Math.log1p(d); }) },
  "bits": { maskMod: maskMod((_b, _h, q, kv) => ((q ^ kv) & 3) !== 1) },
  "per-head-window": { maskMod: maskMod(({ widths }) => (_b, h, q, kv) => q >= kv && q - kv < widths[h]!, { widths: new Int32Array([4, 8, 16, 32]) }) },
};
