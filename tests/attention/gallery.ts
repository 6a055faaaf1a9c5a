/** The masks of src/attention/mods/ as docs/attention.md shows them: small, in blocks of 8, each key of each query to be seen. */
import * as attention from "../../src/attention/index.ts";
import { createBlockMask, type MaskMod, tensor } from "../../src/attention/index.ts";

export interface Picture {
  /** The mod's file in src/attention/mods/, and the picture's in docs/masks/. */
  readonly file: string;
  readonly title: string;
  readonly mask: MaskMod;
  /** 64 and 64 when left out. */
  readonly lengths?: readonly [queries: number, keys: number];
  readonly heads?: number;
  readonly h?: number;
}

const n = 64;
const { documents, starts } = attention.packing([11, 24, 6, 23]);
const images = Int32Array.from({ length: n }, (_, i) => (i >= 10 && i < 22 ? 0 : i >= 36 && i < 52 ? 1 : -1));
const globals = Uint8Array.from({ length: n }, (_, i) => Number(i < 3 || i === 37));
const picks = tensor(Uint8Array.from({ length: 64 }, (_, i) => Number((i * 37) % 64 < 9)), [8, 8]);
const continued = attention.packing([16, 20, 10, 18]);
const parents = [[-1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 6, 7, 9, 10]];

export const gallery: readonly Picture[] = [
  { file: "causal", title: "causal", mask: attention.causal },
  { file: "sliding-window", title: "slidingWindow(16)", mask: attention.slidingWindow(16) },
  { file: "sink-window", title: "sinkWindow(4, 16)", mask: attention.sinkWindow(4, 16) },
  { file: "prefix-lm", title: "prefixLm([20])", mask: attention.prefixLm(Int32Array.of(20)) },
  { file: "document", title: "document(ids)", mask: attention.document(documents) },
  { file: "packed-documents", title: "packedDocuments(starts)", mask: attention.packedDocuments(starts) },
  { file: "shared-prefix", title: "sharedPrefix(...)", mask: attention.sharedPrefix(continued.documents, Int32Array.of(0, 0, 0, 3), Int32Array.of(0, 16, 36, 46, 64)) },
  { file: "chunked", title: "chunked(16)", mask: attention.chunked(16) },
  { file: "block-causal", title: "blockCausal(16)", mask: attention.blockCausal(16) },
  { file: "multi-scale", title: "multiScale(levels)", mask: attention.multiScale(attention.scaleLevels([1, 2, 3, 4, 5, 3])) },
  { file: "dilated", title: "dilatedWindow(24, 4)", mask: attention.dilatedWindow(24, 4) },
  { file: "strided", title: "strided(8, 2)", mask: attention.strided(8, 2) },
  { file: "longformer", title: "longformer(6, globals)", mask: attention.longformer(6, globals) },
  { file: "big-bird", title: "bigBird(8, 1, 1, picks)", mask: attention.bigBird(8, 1, 1, picks) },
  { file: "varying-window", title: "windowPerHead(sizes), head 2", mask: attention.windowPerHead(Int32Array.of(4, 8, 24, 64)), heads: 4, h: 2 },
  { file: "transfusion", title: "transfusion(ends)", mask: attention.transfusion(attention.imageEnds(images)) },
  { file: "block-diffusion", title: "blockDiffusion(32, 8)", mask: attention.blockDiffusion(32, 8) },
  { file: "tree", title: "tree([48], ancestors)", mask: attention.tree(Int32Array.of(48), attention.ancestorBits(parents)) },
  { file: "neighborhood", title: "neighborhood2d, 5 x 3 of 8 x 8", mask: attention.neighborhood2d({ length: 8, size: 5 }, { length: 8, size: 3 }) },
  { file: "shifted-window", title: "shiftedWindow(8, 8, 4, 2)", mask: attention.shiftedWindow(8, 8, 4, 2) },
  { file: "sliding-tile", title: "slidingTile2d, 3 x 3 tiles of 4, text", mask: attention.slidingTile2d(4, { tiles: 4, window: 3 }, { tiles: 4, window: 3 }, 8), lengths: [72, 72] },
];

export function draw({ title, mask, lengths: [queryLength, kvLength] = [n, n], heads = 1, h = 0 }: Picture): string {
  return `${createBlockMask(mask, { batch: 1, heads, queryLength, kvLength, blockSize: 8 }).toSVG({ title, h, size: 256 })}\n`;
}
