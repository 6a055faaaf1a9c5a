/**
 * The error of a mod that cannot be compiled: where it stands, the construct, and what to write instead.
 *
 * A mod's text comes from `fn.toString()`, so a position is known in that text. Where the text stands in its file is known
 * from the stack of the call of maskMod or scoreMod, taking the function to start right after the opening parenthesis, as in
 * `maskMod((b, h, q, kv) => ...)`. For a function written elsewhere, or on a later line, the line and column count from the
 * call; the excerpt shows the place either way.
 */
import { UsageError } from "../core/errors.ts";

/** Where the text of a mod's function starts; lines and columns from 1. */
export interface CallSite {
  readonly file: string;
  readonly line: number;
  readonly column: number;
}

export class ModError extends UsageError {
  override readonly name = "ModError";
  /** Undefined where the runtime does not tell; line and column then count in the function's text. */
  readonly file: string | undefined;
  readonly line: number;
  readonly column: number;
  /** @param offset where in `source` the construct starts. */
  constructor(message: string, source: string, offset: number, site: CallSite | undefined) {
    const before = source.slice(0, offset).split("\n");
    const inText = before.at(-1)!.length;
    const line = (site?.line ?? 1) + before.length - 1;
    const column = (before.length === 1 ? (site?.column ?? 1) : 1) + inText;
    super(`${site ? `${site.file}:` : ""}${line}:${column} ${message}\n  ${source.split("\n")[before.length - 1]!}\n  ${" ".repeat(inText)}^`);
    this.file = site?.file;
    this.line = line;
    this.column = column;
  }
}

/** Where the first argument of the present call of `callee` starts; undefined where the runtime does not say. */
export function callSite(callee: { readonly name: string } & ((...args: never) => unknown)): CallSite | undefined {
  const holder: { stack?: string } = {};
  const capture = (Error as { captureStackTrace?: (target: object, above: unknown) => void }).captureStackTrace;
  if (capture) capture(holder, callee);
  // Without captureStackTrace the first frames are this function, the one that makes mods, and `callee`.
  const frames = (holder.stack ?? new Error().stack?.split("\n").slice(3).join("\n") ?? "").split("\n");
  for (const frame of frames) {
    const found = /((?:file|https?|blob|node|[A-Za-z]):[^()\s]*?|\/[^()\s]*?):(\d+):(\d+)\)?$/.exec(frame.trim());
    if (found) return { file: found[1]!.replace(/^file:\/\//, "").replace(/\?.*$/, ""), line: Number(found[2]), column: Number(found[3]) + callee.name.length + 1 };
  }
  return undefined;
}
