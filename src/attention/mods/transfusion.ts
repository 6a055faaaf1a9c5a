/** Text read causally, each image as a whole (Transfusion, Zhou et al., 2024). */
import { type MaskMod, maskMod } from "../mod.ts";

/**
 * kv < ends[q]. `ends` holds, for each position, the end of its image, or for text the position after it; made by `imageEnds`.
 * The same as q >= kv or image[q] = image[kv] >= 0, but an interval of keys, whose blocks are known without asking.
 */
export function transfusion(ends: Int32Array): MaskMod {
  return maskMod(({ ends }) => (_b, _h, q, kv) => kv < ends[q]!, { ends });
}

/** The ends from the image of each position, -1 for text. The positions of an image stand together. */
export function imageEnds(images: Int32Array): Int32Array {
  const ends = new Int32Array(images.length);
  for (let i = images.length - 1; i >= 0; i--) ends[i] = images[i]! >= 0 && images[i] === images[i + 1] ? ends[i + 1]! : i + 1;
  return ends;
}
