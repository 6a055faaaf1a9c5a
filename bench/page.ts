/** The parts of docs/performance.md that benchmarks write: what stands between a mark and its end. */
import { readFileSync, writeFileSync } from "node:fs";

const page = new URL("../docs/performance.md", import.meta.url);

/** Puts `lines` in the place of the part called `name`. */
export function writePart(name: "peers" | "batch" | "quality" | "cuda-page", lines: readonly string[]): void {
  const marks = [`<!-- ${name}: written by npm run bench -- ${name} --write-docs -->`, `<!-- end of ${name} -->`] as const;
  const text = readFileSync(page, "utf8"), [from, to] = marks.map((mark) => text.indexOf(mark)) as [number, number];
  if (from < 0 || to < from) throw new Error(`docs/performance.md has lost its marks ${marks.join(" and ")}`);
  writeFileSync(page, `${text.slice(0, from)}${[marks[0], ...lines, ""].join("\n")}${text.slice(to)}`);
}
