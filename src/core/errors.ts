/**
 * The two kinds of error: theirs and ours.
 *
 * Theirs is reported to whoever can mend it, with the field or file, the value and what to do (`BadRequest` for a field of
 * a request, `UsageError` for a flag, a file, a mod or an argument). Ours is a broken invariant: never caught, never shown as a 400.
 */

/** A field of a request is wrong. Becomes HTTP 400 with `param` naming the field. */
export class BadRequest extends Error {
  override readonly name = "BadRequest";
  readonly param: string;
  constructor(param: string, message: string) {
    super(message);
    this.param = param;
  }
}

/** A flag, a file, an argument or a mod is wrong. The message says where, what was found and what to do. */
export class UsageError extends Error {
  override readonly name: string = "UsageError";
}

/** A broken invariant of ours. */
export function invariant(ok: unknown, message: string): asserts ok {
  if (!ok) throw new Error(`invariant: ${message}`);
}

/** `text`, its end left out where it is longer than `most`. */
export const clipped = (text: string, most = 100): string => (text.length > most ? `${text.slice(0, most - 3)}...` : text);

/** `value` as a message shows it: JSON, of which what is long or deep is left out. What a stranger wrote may be both without end. */
export function quoted(value: unknown, depth = 4): string {
  if (typeof value === "string") return JSON.stringify(clipped(value));
  if (typeof value !== "object" || value === null) return String(value);
  const isList = Array.isArray(value);
  const [open, close] = isList ? "[]" : "{}";
  if (depth === 0) return `${open}...${close}`;
  const shown: readonly [string, unknown][] = isList ? value.slice(0, 9).map((item) => ["", item]) : Object.entries(value).slice(0, 9).map(([key, item]) => [`${quoted(key)}:`, item]);
  const parts = shown.map(([key, item], i) => (i === 8 ? "..." : key + quoted(item, depth - 1)));
  return clipped(`${open}${parts.join(",")}${close}`, 400);
}
