/**
 * Reads the fields of a config.json one by one, and knows which were never asked for.
 *
 * A field that changes the computation and that nobody here reads must be an error, not a silent difference: `finish`
 * refuses every field that was neither read nor is known to be harmless.
 */
import { clipped, quoted, UsageError } from "../core/errors.ts";

export class Fields {
  readonly #where: string;
  readonly #raw: Readonly<Record<string, unknown>>;
  readonly #read = new Set<string>();

  /** @throws UsageError when `raw` is not an object. `where` names it in errors: "config.json". */
  constructor(raw: unknown, where: string) {
    if (typeof raw !== "object" || raw === null || Array.isArray(raw)) throw new UsageError(`${where} is ${quoted(raw)}, not an object`);
    this.#raw = raw as Record<string, unknown>;
    this.#where = where;
  }

  /** @throws UsageError: the field, its value, and why not. */
  fail(name: string, why: string): never {
    throw new UsageError(`${this.#where}: ${clipped(name)} is ${quoted(this.#raw[name])}; ${why}`);
  }

  /** Present, and not null. */
  has(name: string): boolean {
    return this.#raw[name] !== undefined && this.#raw[name] !== null;
  }

  /** The field as it stands; null reads as undefined. */
  take(name: string): unknown {
    this.#read.add(name);
    return this.#raw[name] ?? undefined;
  }

  /** An integer from 1. Without a fallback the field must be there. */
  count(name: string, fallback?: number): number {
    const value = this.take(name) ?? fallback;
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 1) this.fail(name, "a whole number from 1 is needed");
    return value;
  }

  /** A finite number over 0. */
  positive(name: string, fallback?: number): number {
    const value = this.take(name) ?? fallback;
    if (typeof value !== "number" || !Number.isFinite(value) || value <= 0) this.fail(name, "a number over 0 is needed");
    return value;
  }

  flag(name: string, fallback: boolean): boolean {
    const value = this.take(name) ?? fallback;
    if (typeof value !== "boolean") this.fail(name, "true or false is needed");
    return value;
  }

  /** One of the keys of `table`, as its value. */
  choice<T>(name: string, table: Readonly<Record<string, T>>, fallback?: string): T {
    const value = this.take(name) ?? fallback;
    if (typeof value !== "string" || !Object.hasOwn(table, value)) this.fail(name, `supported: ${Object.keys(table).join(", ")}`);
    return table[value]!;
  }

  /** A list of strings, or undefined. */
  strings(name: string): readonly string[] | undefined {
    const value = this.take(name);
    if (value === undefined) return undefined;
    if (!Array.isArray(value) || !value.every((x) => typeof x === "string")) this.fail(name, "a list of strings is needed");
    return value as string[];
  }

  /** One id, a list of ids or nothing. */
  ids(name: string): readonly number[] {
    const value = this.take(name);
    const list: unknown[] = value === undefined ? [] : Array.isArray(value) ? value : [value];
    if (!list.every((x) => typeof x === "number" && Number.isSafeInteger(x) && x >= 0)) this.fail(name, "token ids are needed");
    return list as number[];
  }

  /** The field may be absent, null, or one of `allowed`: other values would change the computation. */
  only(name: string, ...allowed: readonly unknown[]): void {
    const value = this.take(name);
    if (value !== undefined && !allowed.includes(value)) this.fail(name, `not supported here (supported: ${allowed.map((x) => quoted(x)).join(", ") || "leave it out"})`);
  }

  /** The fields of the object in `name`. */
  nested(name: string): Fields {
    return new Fields(this.take(name), `${this.#where}: ${name}`);
  }

  /** @throws UsageError when a field is left that was not read and that `harmless` does not hold. */
  finish(harmless: ReadonlySet<string> = new Set()): void {
    const left = Object.keys(this.#raw).filter((name) => !this.#read.has(name) && !harmless.has(name) && this.has(name));
    if (left.length > 0) this.fail(left[0]!, `this field is not known here, and it may change what the model computes${left.length > 1 ? ` (also: ${clipped(left.slice(1).join(", "), 400)})` : ""}`);
  }
}
