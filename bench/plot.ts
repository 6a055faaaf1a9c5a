/**
 * A chart of two contenders as SVG: for each case two bars, as long as their values against the larger of the two, so that cases of
 * different units stand in one picture. What is better is always the longer bar.
 */
import { short } from "./row.ts";

export interface Pair {
  readonly label: string;
  readonly unit: string;
  /** Medians, in the order of `names`. */
  readonly values: readonly [number, number];
  /** Time: the smaller value is the better. */
  readonly smallerIsBetter?: boolean;
}

const width = 780, left = 255, right = 150, top = 74, barHeight = 15, pairHeight = 2 * barHeight + 16;
const colours = ["#2f5d62", "#d9a441"] as const;
const escape = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

export function drawPairs(title: string, subtitle: string, names: readonly [string, string], pairs: readonly Pair[]): string {
  const height = top + pairs.length * pairHeight + 12;
  const text = (x: number, y: number, content: string, more = ""): string => `<text x="${x}" y="${y}"${more}>${escape(content)}</text>`;
  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="system-ui, sans-serif" font-size="12" fill="#33312c">`,
    `<rect width="${width}" height="${height}" fill="#fdfcf9"/>`,
    text(16, 24, title, ' font-size="16" font-weight="600"'),
    text(16, 42, subtitle, ' fill="#77736a"'),
    ...names.flatMap((name, i) => [`<rect x="${left + 130 * i}" y="52" width="11" height="11" fill="${colours[i]}"/>`, text(left + 16 + 130 * i, 62, name)]),
  ];
  for (const [i, { label, unit, values, smallerIsBetter }] of pairs.entries()) {
    const y = top + i * pairHeight + 6;
    const goodness = values.map((value) => (smallerIsBetter ? 1 / value : value)) as [number, number];
    const most = Math.max(...goodness);
    out.push(text(left - 10, y + barHeight + 1, label, ' text-anchor="end"'));
    for (const [side, value] of values.entries()) {
      const length = ((width - left - right) * goodness[side]!) / most, barTop = y + side * (barHeight + 2);
      const times = side === 0 ? `  (${(goodness[0] / goodness[1]).toFixed(2)}x)` : "";
      out.push(`<rect x="${left}" y="${barTop}" width="${length.toFixed(1)}" height="${barHeight}" fill="${colours[side]}"/>`);
      out.push(text(left + length + 6, barTop + 12, `${short(value)} ${unit}${times}`, side === 0 ? ' font-weight="600"' : ""));
    }
  }
  return `${[...out, "</svg>"].join("\n")}\n`;
}
