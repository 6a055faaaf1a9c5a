/**
 * What the compiler makes of mods, stage by stage, for people: what was read, which blocks it means, what it costs, the kernel.
 */
import type { Backend, Caps } from "../backend/backend.ts";
import { capsOf, openBackend, type Device } from "../backend/registry.ts";
import { UsageError } from "../core/errors.ts";
import { children, type Expr } from "../ir/expr.ts";
import { bytesPerKvElement } from "../ir/plan.ts";
import { print } from "../ir/print.ts";
import { analyse, type Box, indicesOf, verdict } from "../ir/range.ts";
import { type BlockMask, createBlockMask } from "./block-mask.ts";
import { type AttentionSpec, compileAttention } from "./compile.ts";
import { prepare } from "./measure.ts";
import type { MaskMod, Mod } from "./mod.ts";

/** The mods of one attention. */
export type Mods = Pick<AttentionSpec, "maskMod" | "scoreMod" | "weightMod" | "outputMod">;

export interface ExplainOptions {
  /** 1024 when left out. */
  readonly queryLength?: number | undefined;
  /** As many as queries when left out. */
  readonly kvLength?: number | undefined;
  /** Of the blocks counted and drawn; when left out 64, or more where that would be over 256 blocks a side. The kernel's own tiles are smaller. */
  readonly blockSize?: number | undefined;
  readonly heads?: number | undefined;
  readonly headDim?: number | undefined;
  /** Compiles there: gives the code, and with `clock` the time. */
  readonly device?: Device | undefined;
  /** Whether toString prints the kernel; it does when left out. */
  readonly showCode?: boolean | undefined;
  /** Milliseconds, such as performance.now. Where given, with a device, the kernel is timed. */
  readonly clock?: (() => number) | undefined;
  /** Threads of the cpu device; 1 when left out. */
  readonly threads?: number | undefined;
}

/** One mod as the compiler read it. */
export interface ModExplanation {
  readonly kind: Mod["kind"];
  /** The function's text, as the runtime keeps it; undefined for a mask made of others. */
  readonly source: string | undefined;
  /** The simplified expression. */
  readonly ir: string;
  /** Captures in slot order, as `name: type = value`. */
  readonly captures: readonly string[];
  /** Where 32-bit arithmetic may say something else than JavaScript's doubles, at these lengths and captured values. */
  readonly notes: readonly string[];
}

export interface Explanation {
  readonly mods: readonly ModExplanation[];
  /** The blocks of the mask, where there is one, at the lengths asked for. */
  readonly blocks: BlockMask | undefined;
  /** Of one sequence and all heads, in the tiles that the kernel visits: 2 (D + Dv) for each pair of a query and a key, Dv = D. */
  readonly flops: number;
  /** The same if no tile were skipped. */
  readonly denseFlops: number;
  /** Least bytes of q, k, v and out to move: in f32, or bf16 where the device computes in 16 bits. */
  readonly bytes: number;
  /** All notes of all mods. */
  readonly notes: readonly string[];
  /** The generated kernel, where a device was named. */
  readonly code: string | undefined;
  /** What was measured, where a clock was given. */
  readonly time: Timing | undefined;
  toString(): string;
}

export interface Timing {
  readonly milliseconds: number;
  /** Of the same attention without mods, every key allowed. */
  readonly denseMilliseconds: number;
  readonly backend: string;
}

const specFormats = { f32: {}, bf16: { queryFormat: "bf16", keyFormat: "bf16", valueFormat: "bf16" } } as const;

/**
 * Explains a mod, or several that work together, at a size: 1024 queries and keys, 1 head of 64, unless said.
 * @throws ModError when a mod is not in the language, UsageError when a load leaves its table while timed
 */
export async function explain(given: Mod | Mods, options: ExplainOptions = {}): Promise<Explanation> {
  const mods: Mods = typeof given === "function" ? { [`${given.kind}Mod`]: given } : given;
  const { queryLength = 1024, kvLength = queryLength, heads = 1, headDim = 64 } = options;
  const blockSize = options.blockSize ?? 2 ** Math.max(6, Math.ceil(Math.log2(Math.max(1, queryLength, kvLength) / 256)));
  const list = [mods.maskMod, mods.scoreMod, mods.weightMod, mods.outputMod].filter((mod) => mod !== undefined);
  if (list.length === 0) throw new UsageError("there is no mod to explain; give one, or { maskMod, scoreMod }");
  const caps = capsOf(options.device ?? "cpu"), format = caps.activationBits === 16 ? "bf16" : "f32";
  const spec = { ...mods, ...specFormats[format], numQueryHeads: heads, numKvHeads: heads, headDimQk: headDim, headDimV: headDim };
  const box: Box = { b: [0, 0], h: [0, heads - 1], q: [0, Math.max(0, queryLength - 1)], kv: [0, Math.max(0, kvLength - 1)] };
  const parts = list.map((mod) => explainMod(mod, box));
  const blocks = mods.maskMod && createBlockMask(mods.maskMod, { batch: 1, heads, queryLength, kvLength, blockSize });
  const pairs = mods.maskMod ? visitedPairs(mods.maskMod, caps.tiles, heads, queryLength, kvLength) : heads * queryLength * kvLength;
  const generated = options.device && (await onDevice(spec, queryLength, kvLength, options));
  const explanation = {
    mods: parts, blocks, flops: 4 * headDim * pairs, denseFlops: 4 * headDim * heads * queryLength * kvLength, bytes: bytesPerKvElement[format] * 2 * heads * headDim * (queryLength + kvLength),
    notes: parts.flatMap((part) => part.notes), code: generated?.code, time: generated?.time,
  };
  return { ...explanation, toString: () => describe(explanation, { queryLength, kvLength, heads, headDim, format }, options.showCode ?? true) };
}

function explainMod(mod: Mod, box: Box): ModExplanation {
  const { expr, bindings } = mod.lower();
  const { uniforms, tables } = mod.values();
  const captures = bindings.map(({ slot: { kind, name, type } }) => (kind === "uniform" ? `${name}: ${type} = ${uniforms[name]}` : `${name}: ${type}[${tables[name]!.shape.join(", ")}] = ${preview(tables[name]!.data)}`));
  return { kind: mod.kind, source: mod.fn && dedent(String(mod.fn)), ir: print(expr, "\n"), captures, notes: notesOn(mod, box) };
}

/** The first elements of a table. */
function preview(data: ArrayLike<number>): string {
  const shown = Array.from({ length: Math.min(6, data.length) }, (_, i) => String(Number(data[i]!.toPrecision(5))));
  return shown.join(" ") + (data.length > shown.length ? " ..." : "");
}

/** A function's text without the indentation of the place where it was written. */
function dedent(text: string): string {
  const [first, ...rest] = text.split("\n");
  const indents = rest.filter((line) => line.trim() !== "").map((line) => /^ */.exec(line)![0].length);
  const least = Math.min(...indents, Infinity);
  return [first, ...rest.map((line) => line.slice(least))].join("\n");
}

const wrapping: ReadonlySet<string> = new Set(["add", "sub", "mul", "shl", "neg"]);

/** Integers that may leave 32 bits, and integers that f32 cannot hold exactly. */
function notesOn(mod: Mod, box: Box): string[] {
  const expr = mod.expr();
  const ranges = analyse(expr).bind(mod.values()).ranges(box);
  const isFull = (e: Expr): boolean => ranges.get(e)!.lo === -(2 ** 31) && ranges.get(e)!.hi === 2 ** 31 - 1;
  return [...ranges.keys()].flatMap((e): string[] => {
    if ((e.kind === "binary" || e.kind === "unary") && e.type === "i32" && wrapping.has(e.op) && isFull(e) && !children(e).some(isFull)) {
      return [`${print(e)} may leave 32 bits and wrap, where JavaScript's numbers would not`];
    }
    if (e.kind === "unary" && e.op === "toF32" && Math.max(-ranges.get(e.x)!.lo, ranges.get(e.x)!.hi) > 2 ** 24 && !isFull(e.x)) {
      return [`${print(e.x)} may exceed 2^24, beyond which f32 does not hold every whole number`];
    }
    return [];
  });
}

/** Most boxes that are asked about to find the tiles a kernel visits: some tenths of a second. */
const mostBoxes = 200_000;

/**
 * Pairs in the kernel's tiles that are not empty, over all heads. Boxes are cut in four, all of one size before any smaller one; a mask of
 * which little can be proved runs out of questions before tiles are reached, and what is open then counts whole, as its tiles mostly would.
 */
function visitedPairs(mask: MaskMod, { queryTile, kvTile }: Caps["tiles"], heads: number, queryLength: number, kvLength: number): number {
  const analysis = analyse(mask.expr()).bind(mask.values());
  const rows = Math.ceil(queryLength / queryTile), columns = Math.ceil(kvLength / kvTile);
  const pairs = (r0: number, r1: number, c0: number, c1: number): number => (Math.min(r1 * queryTile, queryLength) - r0 * queryTile) * (Math.min(c1 * kvTile, kvLength) - c0 * kvTile);
  let visited = 0, asked = 0, open: (readonly [h: number, r0: number, r1: number, c0: number, c1: number])[] = [];
  // Heads whose mask is the same are asked about once.
  const distinct = indicesOf(mask.expr()).has("h") ? heads : 1;
  if (rows > 0 && columns > 0) open = Array.from({ length: distinct }, (_, h) => [h, 0, rows, 0, columns] as const);
  while (open.length > 0) {
    const next: typeof open = [], isLast = asked + open.length > mostBoxes;
    for (const [h, r0, r1, c0, c1] of open) {
      const is = isLast ? verdict.sometimes : analysis.classify(0, 0, h, h, r0 * queryTile, Math.min(r1 * queryTile, queryLength) - 1, c0 * kvTile, Math.min(c1 * kvTile, kvLength) - 1);
      if (is === verdict.never) continue;
      if (is === verdict.always || isLast || (r1 - r0 === 1 && c1 - c0 === 1)) {
        visited += pairs(r0, r1, c0, c1);
        continue;
      }
      const r = r1 - r0 > 1 ? (r0 + r1) >>> 1 : r1, c = c1 - c0 > 1 ? (c0 + c1) >>> 1 : c1;
      for (const [p0, p1] of [[r0, r], [r, r1]] as const) for (const [k0, k1] of [[c0, c], [c, c1]] as const) if (p0 < p1 && k0 < k1) next.push([h, p0, p1, k0, k1]);
    }
    asked += open.length;
    open = next;
  }
  return (visited * heads) / distinct;
}

/** Time for measuring, and the most launches that go into it. */
const measureMilliseconds = 400, mostLaunches = 25;

async function onDevice(spec: AttentionSpec, queryLength: number, kvLength: number, { device, clock, threads = 1 }: ExplainOptions): Promise<{ readonly code: string; readonly time: Timing | undefined }> {
  const backend = await openBackend(device!, { threads });
  try {
    const { kernel } = await compileAttention(backend, spec);
    if (!clock) return { code: kernel.source, time: undefined };
    const dense = { queryFormat: spec.queryFormat, keyFormat: spec.keyFormat, valueFormat: spec.valueFormat, numQueryHeads: spec.numQueryHeads, numKvHeads: spec.numKvHeads, headDimQk: spec.headDimQk, headDimV: spec.headDimV };
    const milliseconds = await timed(backend, spec, queryLength, kvLength, clock), denseMilliseconds = await timed(backend, dense, queryLength, kvLength, clock);
    return { code: kernel.source, time: { milliseconds, denseMilliseconds, backend: backend.description } };
  } finally {
    await backend.close();
  }
}

/** The median launch, after two that warm up. */
async function timed(backend: Backend, spec: AttentionSpec, queryLength: number, kvLength: number, clock: () => number): Promise<number> {
  const prepared = await prepare(backend, spec, queryLength, kvLength);
  await prepared.run();
  await prepared.run();
  const times: number[] = [];
  for (const start = clock(); times.length === 0 || (times.length < mostLaunches && clock() - start < measureMilliseconds);) {
    const before = clock();
    await prepared.run();
    times.push(clock() - before);
  }
  prepared.free();
  return times.sort((a, b) => a - b)[times.length >> 1]!;
}

const meanings: Readonly<Record<Mod["kind"], string>> = {
  mask: "which keys a query may attend to",
  score: "what replaces each score, which is scale * q.k",
  weight: "what a key's value is multiplied by, in place of softmax",
  output: "what replaces each element of the result",
};

interface Size {
  readonly queryLength: number;
  readonly kvLength: number;
  readonly heads: number;
  readonly headDim: number;
  readonly format: "f32" | "bf16";
}

function describe(e: Omit<Explanation, "toString">, { queryLength, kvLength, heads, headDim, format }: Size, showCode: boolean): string {
  const lines: string[] = [];
  const section = (title: string, note: string, body: readonly string[]): void => void lines.push("", `${title.padEnd(12)}${note}`.trimEnd(), ...body.map((line) => `  ${line}`.trimEnd()));
  for (const mod of e.mods) {
    lines.push(...(lines.length > 0 ? [""] : []), `${mod.kind.toUpperCase()} MOD: ${meanings[mod.kind]}`);
    if (mod.source !== undefined) section("source", "", mod.source.split("\n"));
    section("captures", mod.captures.length > 0 ? "read at each call: another value needs no other kernel" : "none", mod.captures);
    section("expression", "what the compiler understood, typed and simplified; q and kv are positions, h the query head", mod.ir.split("\n"));
    if (mod.notes.length > 0) section("notes", "", mod.notes);
  }
  if (e.blocks) section("blocks", `of ${e.blocks.blockSize.join(" queries x ")} keys, at ${queryLength} queries and ${kvLength} keys${heads > 1 ? `, in ${heads} heads` : ""}`, blockLines(e.blocks));
  const share = e.denseFlops === 0 ? 0 : e.flops / e.denseFlops;
  section("cost", `of one sequence, ${heads} head${heads === 1 ? "" : "s"} of ${headDim}, ${format}`, [
    `${scaled(e.flops)}FLOP in the tiles that are visited, ${percent(share)} of the ${scaled(e.denseFlops)}FLOP without skipping`,
    `${scaled(e.bytes)}B of queries, keys, values and results, each moved once`,
  ]);
  if (e.time) {
    const { milliseconds, denseMilliseconds, backend } = e.time;
    section("time", `measured here, on ${backend}`, [
      `${number(milliseconds)} ms, ${scaled((e.flops / milliseconds) * 1e3)}FLOP/s; ${number(denseMilliseconds)} ms without mods, where every query sees every key`,
    ]);
  }
  if (e.code !== undefined && showCode) section("code", `the whole kernel, ${e.code.split("\n").length} lines`, e.code.split("\n"));
  return lines.join("\n");
}

/** Counts with what each kind means, then the drawing without its title. */
function blockLines(blocks: BlockMask): string[] {
  const { empty, partial, full } = blocks.counts(), total = Math.max(1, empty + partial + full);
  const row = (sign: string, name: string, count: number, means: string): string => `${sign} ${name.padEnd(8)}${String(count).padStart(9)} ${percent(count / total).padStart(6)}   ${means}`;
  return [
    row("█", "full", full, "every key is allowed: computed without asking the mask"),
    row("░", "partial", partial, "some may be: the mask is asked for each key"),
    row("·", "empty", empty, "no key is allowed: never touched"),
    "", ...blocks.toString().split("\n").slice(1),
  ];
}

const percent = (share: number): string => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)}%`;
/** 1234567 as "1.23 M". */
function scaled(x: number): string {
  const [size, prefix] = ([[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]] as const).find(([least]) => x >= least) ?? [1, ""];
  return `${number(x / size)} ${prefix}`;
}

/** Three digits that count. */
const number = (x: number): string => (x === 0 ? "0" : x >= 100 ? x.toFixed(0) : x.toPrecision(3));
