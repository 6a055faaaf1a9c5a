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
