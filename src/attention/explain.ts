/**
 * What the compiler makes of a mod, stage by stage, for people.
 */
import { openBackend, type Device } from "../backend/registry.ts";
import { children, type Expr } from "../ir/expr.ts";
import { print } from "../ir/print.ts";
import { analyse, type Box } from "../ir/range.ts";
import { type BlockMask, createBlockMask } from "./block-mask.ts";
import { compileAttention } from "./compile.ts";
import type { MaskMod, ScoreMod } from "./mod.ts";

export interface ExplainOptions {
  readonly queryLength?: number;
  readonly kvLength?: number;
  readonly blockSize?: number;
  readonly heads?: number;
  readonly headDim?: number;
  /** Shows the code generated there. */
  readonly device?: Device;
}

export interface Explanation {
  readonly kind: "mask" | "score";
  /** The function's text, as the runtime keeps it; undefined for a mask made of others. */
  readonly source: string | undefined;
  /** The simplified expression. */
  readonly ir: string;
  /** Captures in slot order, as `name: type`. */
  readonly captures: readonly string[];
  /** Of a mask: its blocks at the lengths asked for. */
  readonly blocks: BlockMask | undefined;
  /** Of one sequence and all heads, in the blocks that are not empty: 2 (D + Dv) for each pair of a query and a key, Dv = D. */
  readonly flops: number;
  /** Least bytes of q, k, v and out to move, in f32. */
  readonly bytes: number;
  /** Where 32-bit arithmetic may say something else than JavaScript's doubles, at these lengths and captured values. */
  readonly notes: readonly string[];
  /** The generated kernel, where a device was named. */
  readonly code: string | undefined;
  toString(): string;
}

/** Explains a mod at a size (1024 queries and keys, 1 head of 64, unless said). @throws ModError when it is not in the language. */
export async function explain(mod: MaskMod | ScoreMod, options: ExplainOptions = {}): Promise<Explanation> {
  const { queryLength = 1024, kvLength = queryLength, blockSize = 64, heads = 1, headDim = 64 } = options;
  const { expr, bindings } = mod.lower();
  const blocks = mod.kind === "mask" ? createBlockMask(mod, { batch: 1, heads, queryLength, kvLength, blockSize }) : undefined;
  const pairs = queryLength * kvLength * heads * (1 - (blocks?.sparsity() ?? 0));
  const code = options.device && (await generated(mod, options.device, heads, headDim));
  const captures = bindings.map(({ slot }) => `${slot.name}: ${slot.type}${slot.kind === "table" ? "[]".repeat(slot.rank) : ""}`);
  const explanation = {
    kind: mod.kind, source: mod.fn && String(mod.fn), ir: print(expr, "\n"), captures, blocks,
    notes: notesOn(mod, { b: [0, 0], h: [0, heads - 1], q: [0, Math.max(0, queryLength - 1)], kv: [0, Math.max(0, kvLength - 1)] }),
    flops: 4 * headDim * pairs, bytes: 4 * 2 * heads * headDim * (queryLength + kvLength), code,
  };
  const parts = [
    explanation.source && `source\n${explanation.source}`, `ir (${expr.type})\n${explanation.ir}`, `captures\n${captures.join("\n") || "none"}`, explanation.notes.length > 0 ? `notes\n${explanation.notes.join("\n")}` : undefined, blocks && `blocks\n${blocks}`,
    `cost\n${(explanation.flops / 1e9).toFixed(3)} GFLOP, ${(explanation.bytes / 1e6).toFixed(3)} MB`, code && `code\n${code}`,
  ].filter((part) => part !== undefined);
  return { ...explanation, toString: () => parts.join("\n\n") };
}

const wrapping: ReadonlySet<string> = new Set(["add", "sub", "mul", "shl", "neg"]);

/** Integers that may leave 32 bits, and integers that f32 cannot hold exactly. */
function notesOn(mod: MaskMod | ScoreMod, box: Box): string[] {
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

async function generated(mod: MaskMod | ScoreMod, device: Device, heads: number, headDim: number): Promise<string> {
  const backend = await openBackend(device, { threads: 1 });
  try {
    const { kernel } = await compileAttention(backend, {
      ...(mod.kind === "mask" ? { maskMod: mod } : { scoreMod: mod }), numQueryHeads: heads, numKvHeads: heads, headDimQk: headDim, headDimV: headDim,
    });
    return kernel.source;
  } finally {
    await backend.close();
  }
}
