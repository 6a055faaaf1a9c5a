/**
 * Neighbourhood attention (NATTEN, Hassani et al., 2023): each position of a line, an image or a video sees the `size` nearest along
 * every axis. At an edge the window moves inwards, so that all see equally many. Causal and dilated axes may be mixed with others.
 */
import { floorDiv } from "../language.ts";
import { type MaskMod, maskMod } from "../mod.ts";

export interface Axis {
  /** Positions along the axis. */
  readonly length: number;
  /** Positions that each sees, at most `length / dilation`. */
  readonly size: number;
  /** Sees every n-th position: those with the same remainder. 1 when left out. */
  readonly dilation?: number;
  /** Sees itself and those before, fewer at the start, instead of both sides. */
  readonly causal?: boolean;
}

/**
 * With i = floor(q / d), j = floor(kv / d), n the positions of q's remainder: q mod d = kv mod d, and
 * s <= j < s + size where s = clamp(i - floor(size / 2), 0, n - size); causal: 0 <= i - j < size.
 */
export function neighborhood1d({ length, size, dilation = 1, causal = false }: Axis): MaskMod {
  if (dilation === 1) {
    if (causal) return maskMod(({ size }) => (_b, _h, q, kv) => q >= kv && q - kv < size, { size });
    return maskMod(({ length, size }) => (_b, _h, q, kv) => {
      const first = Math.max(Math.min(q - floorDiv(size, 2), length - size), 0);
      return kv >= first && kv < first + size;
    }, { length, size });
  }
  if (causal) return maskMod(({ size, dilation }) => (_b, _h, q, kv) => q >= kv && q - kv < size * dilation && (q - kv) % dilation === 0, { size, dilation });
  return maskMod(({ length, size, dilation }) => (_b, _h, q, kv) => {
    const count = floorDiv(length - 1 - (q % dilation), dilation) + 1;
    const first = Math.max(Math.min(floorDiv(q, dilation) - floorDiv(size, 2), count - size), 0);
    const key = floorDiv(kv, dilation);
    return q % dilation === kv % dilation && key >= first && key < first + size;
  }, { length, size, dilation });
}

/** Near along both axes; position = row * columns.length + column. */
export function neighborhood2d(rows: Axis, columns: Axis): MaskMod {
  return maskMod(({ width, inRows, inColumns }) => (b, h, q, kv) =>
    inRows(b, h, floorDiv(q, width), floorDiv(kv, width)) && inColumns(b, h, q % width, kv % width),
  { width: columns.length, inRows: neighborhood1d(rows), inColumns: neighborhood1d(columns) });
}

/** Near along all three; position = (frame * rows.length + row) * columns.length + column. */
export function neighborhood3d(frames: Axis, rows: Axis, columns: Axis): MaskMod {
  return maskMod(({ area, inFrames, inFrame }) => (b, h, q, kv) =>
    inFrames(b, h, floorDiv(q, area), floorDiv(kv, area)) && inFrame(b, h, q % area, kv % area),
  { area: rows.length * columns.length, inFrames: neighborhood1d(frames), inFrame: neighborhood2d(rows, columns) });
}
