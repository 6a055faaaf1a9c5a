/**
 * A chart of contenders as SVG: for each case a bar of each, as long as their values against the largest of them, so that cases of
 * different units stand in one picture. What is better is always the longer bar.
 */
import { short } from "./row.ts";

export interface Bars {
  readonly label: string;
  readonly unit: string;
  /** Medians, in the order of `names`; undefined where somebody does not take part. */
  readonly values: readonly (number | undefined)[];
  /** Time: the smaller value is the better. */
  readonly smallerIsBetter?: boolean;
}

const width = 780, left = 255, right = 150, top = 74, barHeight = 15, between = 2, betweenCases = 14;
const colours = ["#2f5d62", "#d9a441", "#a2593f", "#9aa08f"] as const;
const escape = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

/** Beside the first contender's value stands how many times the second's it is. At most four contenders. */
export function drawBars(title: string, subtitle: string, names: readonly string[], cases: readonly Bars[]): string {
  const heightOf = ({ values }: Bars): number => values.filter((value) => value !== undefined).length * (barHeight + between) - between + betweenCases;
  const height = top + cases.reduce((sum, one) => sum + heightOf(one), 0) + 12;
  const text = (x: number, y: number, content: string, more = ""): string => `<text x="${x}" y="${y}"${more}>${escape(content)}</text>`;
  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="system-ui, sans-serif" font-size="12" fill="#33312c">`,
    `<rect width="${width}" height="${height}" fill="#fdfcf9"/>`,
    text(16, 24, title, ' font-size="16" font-weight="600"'),
    text(16, 42, subtitle, ' fill="#77736a"'),
    ...names.flatMap((name, i) => [`<rect x="${left + 130 * i}" y="52" width="11" height="11" fill="${colours[i]}"/>`, text(left + 16 + 130 * i, 62, name)]),
  ];
  let y = top + 6;
  for (const one of cases) {
    const { label, unit, values, smallerIsBetter } = one;
    const goodness = values.map((value) => value && (smallerIsBetter ? 1 / value : value)), [ours, theirs] = goodness;
    const most = Math.max(...goodness.filter((x) => x !== undefined));
    out.push(text(left - 10, y + (heightOf(one) - betweenCases) / 2, label, ' text-anchor="end"'));
    let barTop = y;
    for (const [side, value] of values.entries()) {
      if (value === undefined) continue;
      const length = ((width - left - right) * goodness[side]!) / most;
      const times = side === 0 && ours !== undefined && theirs !== undefined ? `  (${(ours / theirs).toFixed(2)}x)` : "";
      out.push(`<rect x="${left}" y="${barTop}" width="${length.toFixed(1)}" height="${barHeight}" fill="${colours[side]}"/>`);
      out.push(text(left + length + 6, barTop + 12, `${short(value)} ${unit}${times}`, side === 0 ? ' font-weight="600"' : ""));
      barTop += barHeight + between;
    }
    y += heightOf(one);
  }
  return `${[...out, "</svg>"].join("\n")}\n`;
}
