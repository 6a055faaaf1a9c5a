/** Text read causally, each image as a whole (Transfusion, Zhou et al., 2024). */
import { type MaskMod, maskMod } from "../mod.ts";

/** q >= kv, or images[q] >= 0 and images[q] = images[kv]. `images` holds the image of each position, -1 for text. */
export function transfusion(images: Int32Array): MaskMod {
  return maskMod(({ images }) => (_b, _h, q, kv) => q >= kv || (images[q]! >= 0 && images[q] === images[kv]), { images });
}
