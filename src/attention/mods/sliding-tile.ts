/**
 * Sliding tile attention (Zhang et al., 2025): a neighbourhood of whole tiles, for positions stored tile by tile, and text after them
 * that sees and is seen by all. Every tile is a block, so that no block is partial when the tile is as large as one.
 */
import { floorDiv } from "../language.ts";
import { type MaskMod, maskMod } from "../mod.ts";

export interface TileAxis {
  /** Tiles along the axis. */
  readonly tiles: number;
  /** Tiles that each sees, at most `tiles`. */
  readonly window: number;
}

/** c - floor(w / 2) <= kv <= c + ceil(w / 2) - 1, c = clamp(q, floor(w / 2), tiles - ceil(w / 2)), in tiles along one axis. */
function near({ tiles, window }: TileAxis): MaskMod {
  return maskMod(({ before, after, tiles }) => (_b, _h, q, kv) => {
    const centre = Math.min(Math.max(q, before), tiles - 1 - after);
    return kv >= centre - before && kv <= centre + after;
  }, { before: Math.floor(window / 2), after: Math.ceil(window / 2) - 1, tiles });
}

/** near(tile of q, tile of kv), or kv is text, or q is text: with the vision's tiles first, `tile` positions each, then `text` positions. */
function withText(tile: number, tiles: number, text: number, inTiles: MaskMod): MaskMod {
  return maskMod(({ tile, vision, end, inTiles }) => (b, h, q, kv) =>
    (q < vision && kv < vision && inTiles(b, h, floorDiv(q, tile), floorDiv(kv, tile))) || (q < vision && kv >= vision && kv < end) || (q >= vision && kv < end),
  { tile, vision: tile * tiles, end: tile * tiles + text, inTiles });
}

/** Near in rows and columns of tiles; tile index = row * columns.tiles + column. `tile`: positions of one tile; `text`: how many follow, 0 when left out. */
export function slidingTile2d(tile: number, rows: TileAxis, columns: TileAxis, text = 0): MaskMod {
  const inPlane = maskMod(({ width, inRows, inColumns }) => (b, h, q, kv) =>
    inRows(b, h, floorDiv(q, width), floorDiv(kv, width)) && inColumns(b, h, q % width, kv % width),
  { width: columns.tiles, inRows: near(rows), inColumns: near(columns) });
  return withText(tile, rows.tiles * columns.tiles, text, inPlane);
}

/** Near in frames, rows and columns of tiles; tile index = (frame * rows.tiles + row) * columns.tiles + column. */
export function slidingTile3d(tile: number, frames: TileAxis, rows: TileAxis, columns: TileAxis, text = 0): MaskMod {
  const inSpace = maskMod(({ width, area, inFrames, inRows, inColumns }) => (b, h, q, kv) =>
    inFrames(b, h, floorDiv(q, area), floorDiv(kv, area)) && inRows(b, h, floorDiv(q % area, width), floorDiv(kv % area, width)) && inColumns(b, h, q % width, kv % width),
  { width: columns.tiles, area: rows.tiles * columns.tiles, inFrames: near(frames), inRows: near(rows), inColumns: near(columns) });
  return withText(tile, frames.tiles * rows.tiles * columns.tiles, text, inSpace);
}
