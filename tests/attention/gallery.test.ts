/** The pictures in docs/masks/ are what the code draws; `npm run gallery` draws them again. */
import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { createBlockMask } from "../../src/attention/index.ts";
import { draw, gallery } from "./gallery.ts";

const root = new URL("../../", import.meta.url);
const folder = new URL("docs/masks/", root);

test("docs/masks/ holds the pictures that the code draws, and no others", () => {
  if (process.env["TESSERA_WRITE_GALLERY"]) {
    mkdirSync(folder, { recursive: true });
    for (const picture of gallery) writeFileSync(new URL(`${picture.file}.svg`, folder), draw(picture));
  }
  for (const picture of gallery) assert.equal(readFileSync(new URL(`${picture.file}.svg`, folder), "utf8"), draw(picture), `docs/masks/${picture.file}.svg is another picture; look at it and run npm run gallery`);
  assert.deepEqual(readdirSync(folder).sort(), gallery.map(({ file }) => `${file}.svg`).sort());
});

test("every mask of src/attention/mods/ is in the gallery, and the page shows all of it", () => {
  const mods = new URL("src/attention/mods/", root);
  const masks = readdirSync(mods).filter((name) => !name.endsWith(".test.ts") && /: MaskMod \{|= maskMod\(/.test(readFileSync(new URL(name, mods), "utf8"))).map((name) => name.replace(".ts", ""));
  assert.deepEqual(gallery.map(({ file }) => file).sort(), masks.sort());
  const page = readFileSync(new URL("docs/attention.md", root), "utf8");
  for (const { file } of gallery) assert.ok(page.includes(`(masks/${file}.svg)`), `docs/attention.md does not show masks/${file}.svg`);
});

/** Squares of a colour, by the paths of the picture. */
function squares(svg: string, colour: string): Set<string> {
  const found = new Set<string>();
  for (const [, d] of svg.matchAll(new RegExp(`<path fill="${colour}" d="([^"]*)"`, "g"))) {
    for (const [, x, y, w, h] of d!.matchAll(/M(\d+) (\d+)h(\d+)v(\d+)h-\d+z/g)) for (let i = 0; i < Number(w); i++) for (let j = 0; j < Number(h); j++) found.add(`${Number(y) + j},${Number(x) + i}`);
  }
  return found;
}

test("a picture's squares are the mask's keys: allowed in full and partial blocks, and not", () => {
  for (const picture of gallery) {
    const [queryLength, kvLength] = picture.lengths ?? [64, 64], h = picture.h ?? 0;
    const blocks = createBlockMask(picture.mask, { batch: 1, heads: picture.heads ?? 1, queryLength, kvLength, blockSize: 8 }), svg = draw(picture);
    const full = squares(svg, "#2f5d62"), partial = squares(svg, "#d9a441"), masked = squares(svg, "#f6e4bd");
    for (let q = 0; q < queryLength; q++) for (let kv = 0; kv < kvLength; kv++) {
      const at = `${q},${kv}`, state = blocks.get(0, h, q >> 3, kv >> 3), allowed = Boolean(picture.mask(0, h, q, kv));
      assert.deepEqual([full.has(at), partial.has(at), masked.has(at)], [state === 2, state === 1 && allowed, state === 1 && !allowed], `${picture.file}, query ${q}, key ${kv}`);
    }
  }
});

test("a large mask is drawn block by block, or several to a square, and stays small", () => {
  const mask = gallery[1]!.mask, large = createBlockMask(mask, { batch: 1, heads: 1, queryLength: 100_000, kvLength: 100_000, blockSize: 100 });
  const svg = large.toSVG({ title: "a < b & c" });
  assert.ok(svg.includes("a &lt; b &amp; c") && svg.includes("each square 4 x 4 blocks") && svg.length < 20_000, `${svg.length} bytes`);
  assert.equal(squares(svg, "#d9a441").size, 250 + 249);
  const blocks = createBlockMask(mask, { batch: 1, heads: 1, queryLength: 128, kvLength: 128, blockSize: 8 });
  assert.deepEqual([squares(blocks.toSVG(), "#2f5d62").size, squares(blocks.toSVG(), "#d9a441").size], [blocks.counts().full, blocks.counts().partial]);
  assert.throws(() => blocks.toSVG({ h: 1 }), /h is 1; the block mask has batch 1 and 1 heads/);
});
