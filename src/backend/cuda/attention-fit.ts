/**
 * Which of a plan's kernels the compiler keeps in registers: the first holding that it can, and decode where it can. Its word is kept on disk with the
 * machine code, so only the first start tries. Knows no device.
 */
import { invariant, UsageError } from "../../core/errors.ts";
import type { AttentionPlan } from "../../ir/plan.ts";
import { type AttentionMachine, type AttentionSource, attentionSource, fitsShared, holdingsFor } from "./attention.ts";
import { CompileError, type Compiled, type Compiler } from "./compiler.ts";

export interface FittedAttention {
  /** Of the holding that fits; without `decode`, and with `decodeRows` 0, where that does not. */
  readonly source: AttentionSource;
  readonly general: Compiled;
  readonly decode: Compiled | undefined;
}

/** @throws UsageError for what these kernels do not do, CompileError where no holding fits */
export async function fitAttention(compiler: Pick<Compiler, "compile">, plan: AttentionPlan, machine: AttentionMachine): Promise<FittedAttention> {
  // Decode holds one tile of 16 rows whatever the general kernel does: its source is that of the first holding.
  const { decode: decodeSource } = attentionSource(plan, machine);
  const [{ source, general }, decode] = await Promise.all([fitGeneral(compiler, plan, machine), decodeSource && compileIfItFits(compiler, decodeSource)]);
  return { source: decode ? { ...source, decode: decodeSource } : { ...source, decodeRows: 0, decode: undefined }, general, decode };
}

async function fitGeneral(compiler: Pick<Compiler, "compile">, plan: AttentionPlan, machine: AttentionMachine): Promise<{ readonly source: AttentionSource; readonly general: Compiled }> {
  const tried = holdingsFor(plan).map((holding) => attentionSource(plan, machine, holding)).filter((source) => fitsShared(source, machine));
  if (tried.length === 0) {
    throw new UsageError(`head dims of ${plan.headDimQk} (queries, keys) and ${plan.headDimV} (values) need more shared memory than the ${machine.maxSharedBytes} bytes that a thread block of this GPU may have; use a smaller head dim, or another GPU`);
  }
  for (const source of tried) {
    const general = await compileIfItFits(compiler, source.general, source === tried.at(-1));
    if (general) return { source, general };
  }
  invariant(false, "the last holding fits or throws");
}

async function compileIfItFits(compiler: Pick<Compiler, "compile">, { name, text }: { readonly name: string; readonly text: string }, must = false): Promise<Compiled | undefined> {
  try {
    return await compiler.compile(`${name}.cu`, text);
  } catch (error) {
    if (!must && error instanceof CompileError && error.slow) return undefined;
    throw error;
  }
}
