/**
 * The error of a mod that cannot be compiled: where it stands, the construct, and what to write instead.
 *
 * A mod's text comes from `fn.toString()`, so a position is known in that text, line 1 being the function's own first line.
 * The file and line of the call of maskMod or scoreMod are known from the stack where the runtime gives one. On the
 * function's first line the column in the file is not known (the text does not say where it began); the excerpt shows the place.
 */
import { UsageError } from "../core/errors.ts";

/** Where maskMod() or scoreMod() was called; lines from 1. */
export interface CallSite {
  readonly file: string;
  readonly line: number;
}

export class ModError extends UsageError {
  override readonly name = "ModError";
  readonly file: string | undefined;
  /** In the file where that is known, else in the function's text. From 1. */
  readonly line: number;
  /** In the line of the function's text, from 1. */
  readonly column: number;
  /** @param offset where in `source` the construct starts. */
  constructor(message: string, source: string, offset: number, site: CallSite | undefined) {
    const before = source.slice(0, offset).split("\n");
    const line = before.length, column = before.at(-1)!.length + 1;
    const shown = (site?.line ?? 1) + line - 1;
    const text = source.split("\n")[line - 1]!;
    const place = site ? `${site.file}:${shown}:${column}` : `${line}:${column}`;
    super(`${place} ${message}\n  ${text}\n  ${" ".repeat(column - 1)}^`);
    this.file = site?.file;
    this.line = shown;
    this.column = column;
  }
}

/**
 * The place that called `callee`, from the stack; undefined where the runtime does not say.
 * Columns are left out: they count from the file's line, a mod's from its own text.
 */
export function callSite(callee: (...args: never) => unknown): CallSite | undefined {
  const holder: { stack?: string } = {};
  const capture = (Error as { captureStackTrace?: (target: object, above: unknown) => void }).captureStackTrace;
  if (capture) capture(holder, callee);
  // Without captureStackTrace the first two frames are this function and `callee`.
  const frames = (holder.stack ?? new Error().stack?.split("\n").slice(2).join("\n") ?? "").split("\n");
  for (const frame of frames) {
    const found = /(?:\(|@|at )?((?:file|https?|node|[A-Za-z]:|\/)[^()\s]*?):(\d+):(\d+)\)?$/.exec(frame.trim());
    if (found) return { file: found[1]!.replace(/^file:\/\//, "").replace(/\?.*$/, ""), line: Number(found[2]) };
  }
  return undefined;
}
