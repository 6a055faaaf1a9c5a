/**
 * Block masks as pictures: characters for a terminal, SVG for a page. Of a small mask the SVG shows every query and key.
 *
 * Rows go down, keys to the right. It only reads: no block is classified here.
 */
import { UsageError } from "../core/errors.ts";
import { evaluator } from "../ir/interpret.ts";
import { type Classifier, verdict } from "../ir/range.ts";
import type { MaskMod } from "./mod.ts";

/** What a drawing looks at. */
export interface Drawable extends Classifier {
  readonly mask: MaskMod;
  readonly options: { readonly batch: number; readonly heads: number; readonly queryLength: number; readonly kvLength: number };
  readonly blockSize: readonly [query: number, kv: number];
  readonly numRows: number;
  readonly numColumns: number;
  counts(): { readonly empty: number; readonly partial: number; readonly full: number };
  sparsity(): number;
}

export interface SvgOptions {
  /** Written above the picture. */
  readonly title?: string;
  /** Which sequence and head; 0 when left out. */
  readonly b?: number;
  readonly h?: number;
  /** Pixels of the longer side of the grid; 320 when left out. */
  readonly size?: number;
}

const characters = { [verdict.always]: "█", [verdict.never]: "·", [verdict.sometimes]: "░" } as const;

/** Most cells across or down: characters, and squares of an SVG. */
const mostCharacters = 64, mostSquares = 256;
/** Most queries or keys that an SVG shows one by one. */
const mostElements = 96;

/** Cells of `step` x `step` blocks, row by row; a cell of several blocks is full or empty if all of them are. */
function* cells(m: Drawable, step: number, b: number, h: number): Generator<readonly (keyof typeof characters)[]> {
  const [queries, keys] = m.blockSize, { queryLength, kvLength } = m.options;
  for (let r = 0; r < m.numRows; r += step) {
    const row: (keyof typeof characters)[] = [];
    for (let c = 0; c < m.numColumns; c += step) {
      row.push(m.classify(b, b, h, h, r * queries, Math.min((r + step) * queries, queryLength) - 1, c * keys, Math.min((c + step) * keys, kvLength) - 1));
    }
    yield row;
  }
}

export function drawText(m: Drawable): string {
  const { empty, partial, full } = m.counts(), { batch, heads, queryLength, kvLength } = m.options;
  const step = Math.max(1, Math.ceil(Math.max(m.numRows, m.numColumns) / mostCharacters));
  const title = `BlockMask [${batch}, ${heads}, ${queryLength}, ${kvLength}], blocks of ${m.blockSize.join(" x ")}: ${full} full, ${partial} partial, ${empty} empty (${(100 * m.sparsity()).toFixed(1)}% skipped)`;
  return [title, ...Array.from(cells(m, step, 0, 0), (row) => row.map((is) => characters[is]).join(""))].join("\n");
}

/** What a square is; `masked` is a key that a partial block does not allow. */
type Paint = "full" | "partial" | "masked" | "empty";
const colours: Readonly<Record<Paint, string>> = { full: "#2f5d62", partial: "#d9a441", masked: "#f6e4bd", empty: "#f1eee6" };
const paints: Readonly<Record<keyof typeof characters, Paint>> = { [verdict.always]: "full", [verdict.sometimes]: "partial", [verdict.never]: "empty" };

/** Squares of one colour as the subpaths of a path: equal stretches of rows that follow each other are one rectangle. */
class Layer {
  readonly #open = new Map<string, { readonly c: number; readonly count: number; readonly r0: number; r1: number }>();
  readonly #path: string[] = [];

  add(r: number, c: number, count: number): void {
    const key = `${c},${count}`, open = this.#open.get(key);
    if (open?.r1 === r) {
      open.r1 = r + 1;
      return;
    }
    if (open) this.#close(open);
    this.#open.set(key, { c, count, r0: r, r1: r + 1 });
  }

  #close({ c, count, r0, r1 }: { readonly c: number; readonly count: number; readonly r0: number; readonly r1: number }): void {
    this.#path.push(`M${c} ${r0}h${count}v${r1 - r0}h-${count}z`);
  }

  path(): string {
    for (const open of this.#open.values()) this.#close(open);
    this.#open.clear();
    return this.#path.join("");
  }
}

/** @throws UsageError for a sequence or head that the mask has not. */
export function drawSvg(m: Drawable, { title, b = 0, h = 0, size = 320 }: SvgOptions): string {
  const { batch, heads, queryLength, kvLength } = m.options, [queries, keys] = m.blockSize;
  if (!(b >= 0 && b < batch && h >= 0 && h < heads)) throw new UsageError(`toSVG(): b is ${b} and h is ${h}; the block mask has batch ${batch} and ${heads} heads`);
  const fine = Math.max(queryLength, kvLength) <= mostElements;
  const step = Math.max(1, Math.ceil(Math.max(m.numRows, m.numColumns) / mostSquares));
  const layers: Record<Paint, Layer> = { full: new Layer(), partial: new Layer(), masked: new Layer(), empty: new Layer() };
  /** One row of squares, equal neighbours together. */
  const paintRow = (r: number, row: readonly Paint[]): void => {
    for (let c = 0, end = 1; c < row.length; c = end) {
      for (end = c + 1; end < row.length && row[end] === row[c]; end++);
      if (row[c] !== "empty") layers[row[c]!].add(r, c, end - c);
    }
  };
  let rows: number, columns: number;
  if (fine) {
    [rows, columns] = [queryLength, kvLength];
    const evaluate = evaluator(m.mask.expr()), env = { b, h, q: 0, kv: 0, score: 0, ...m.mask.values() };
    for (env.q = 0; env.q < rows; env.q++) {
      paintRow(env.q, Array.from({ length: columns }, (_, kv): Paint => {
        const q = env.q, is = paints[m.classify(b, b, h, h, q, q, kv, kv)];
        env.kv = kv;
        return is === "partial" && evaluate(env) === 0 ? "masked" : is;
      }));
    }
  } else {
    [rows, columns] = [Math.ceil(m.numRows / step), Math.ceil(m.numColumns / step)];
    let r = 0;
    for (const row of cells(m, step, b, h)) paintRow(r++, row.map((is) => paints[is]));
  }

  // One square is `unit` pixels. Left and above there is room for numbers, below for the legend.
  const unit = size / Math.max(1, rows, columns), width = round(columns * unit), height = round(rows * unit);
  const left = 56, top = title === undefined ? 40 : 64, legend = 66;
  const across = fine ? keys : 1, down = fine ? queries : 1;
  const lines = (n: number, by: number, draw: (i: number) => string): string => (by * unit < 3 ? "" : Array.from({ length: Math.max(0, Math.ceil(n / by) - 1) }, (_, i) => draw((i + 1) * by)).join(""));
  const grid = lines(columns, across, (x) => `M${x} 0v${rows}`) + lines(rows, down, (y) => `M0 ${y}h${columns}`);
  const path = (paint: Paint): string => {
    const d = layers[paint].path();
    return d === "" ? "" : `<path fill="${colours[paint]}" d="${d}"/>`;
  };
  const { empty, partial, full } = m.counts(), total = Math.max(1, empty + partial + full);
  const entries = (["full", "partial", "empty"] as const).map((name, i) =>
    `<rect x="${left + i * 92}" y="${top + height + 18}" width="10" height="10" rx="2" fill="${colours[name]}" stroke="#b9b2a0" stroke-width=".5"/><text x="${left + 15 + i * 92}" y="${top + height + 27}">${name} ${percent({ full, partial, empty }[name] / total)}</text>`);
  const outer = Math.max(left + width + 24, left + 282);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${outer} ${top + height + legend}" width="${outer}" height="${top + height + legend}" font-family="system-ui,sans-serif" font-size="11" fill="#4a4639">`,
    `<rect width="100%" height="100%" rx="8" fill="#fffdf8"/>`,
    title === undefined ? "" : `<text x="${left}" y="26" font-size="14" font-weight="600" fill="#2a2720">${escape(title)}</text>`,
    `<text x="${left}" y="${top - 8}">0</text><text x="${left + width}" y="${top - 8}" text-anchor="end">${kvLength}</text><text x="${left + width / 2}" y="${top - 8}" text-anchor="middle">key →</text>`,
    `<text x="${left - 8}" y="${top + 9}" text-anchor="end">0</text><text x="${left - 8}" y="${top + height}" text-anchor="end">${queryLength}</text><text x="${left - 8}" y="${top + height / 2 + 4}" text-anchor="end">query ↓</text>`,
    `<g transform="translate(${left} ${top}) scale(${round(unit)})"><rect width="${columns}" height="${rows}" fill="${colours.empty}"/>`,
    path("full"), path("masked"), path("partial"),
    grid === "" ? "" : `<path d="${grid}" stroke="#fffdf8" stroke-width="${round(Math.min(1, unit * across / 6) / unit)}" fill="none"/>`,
    `</g>`,
    ...entries,
    `<text x="${left}" y="${top + height + 48}" fill="#8a836f">blocks of ${queries} x ${keys}${fine ? "; pale: masked in a partial block" : step > 1 ? `; each square ${step} x ${step} blocks` : ""}</text>`,
    `</svg>`,
  ].filter((part) => part !== "").join("\n");
}

function percent(part: number): string {
  return `${(100 * part).toFixed(part > 0 && part < 0.1 ? 1 : 0)}%`;
}

function round(x: number): number {
  return Math.round(x * 1000) / 1000;
}

function escape(text: string): string {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}
