/**
 * Reads named fields of data nobody has checked yet (a request's body, or the options of an untyped caller) into typed values.
 *
 * Every failure is a BadRequest that names the field in the caller's own spelling, shows the value and says what it must be.
 * null counts as absent, as clients send it for "not set". It knows no field by name.
 */
import { BadRequest } from "../core/errors.ts";

/** What a number must satisfy. `above` is exclusive, `min` and `max` inclusive. */
export interface NumberBounds {
  readonly min?: number;
  readonly above?: number;
  readonly max: number;
}

/** How many entries a list may have, and how long each text may be (in UTF-16 units). */
export interface ListBounds {
  readonly maxItems: number;
  readonly maxLength?: number;
  /** Of all texts together. */
  readonly maxCharacters?: number;
}

export type Raw = Readonly<Record<string, unknown>>;

/** Turns a field's name in code ("topP") into the caller's spelling of it ("top_p"). */
export type Spelling = (field: string) => string;
export const camelCase: Spelling = (field) => field;
export const snakeCase: Spelling = (field) => field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** `value` as an error message shows it: JSON where it can be, at most 60 characters. */
export function show(value: unknown): string {
  if (typeof value === "number" || value === undefined) return String(value);
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "object" && value !== null) return "an object";
  if (typeof value !== "string") return String(value);
  return JSON.stringify(value.length > 60 ? `${value.slice(0, 57)}...` : value).replaceAll("\\u0000", "\\0");
}

/** A BadRequest saying that `field` is `value` and must be something else. */
export function mustBe(field: string, value: unknown, expected: string, path = field): BadRequest {
  return new BadRequest(field, `${path} is ${show(value)}; it must be ${expected}`);
}

/** `mustBe` of what somebody wrote for the model to read: an error does not repeat it. */
export function contentMustBe(field: string, value: unknown, expected: string, path = field): BadRequest {
  return typeof value === "string" ? new BadRequest(field, `${path} is a text of ${value.length} characters; it must be ${expected}`) : mustBe(field, value, expected, path);
}

/** true for what JSON calls an object. */
export function isObject(value: unknown): value is Raw {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Own property only: a field called "constructor" or "__proto__" is never found on the prototype. */
export function own(raw: Raw, field: string): unknown {
  const value = Object.hasOwn(raw, field) ? raw[field] : undefined;
  return value === null ? undefined : value;
}

function describe(kind: string, { min, above, max }: NumberBounds): string {
  if (above !== undefined && max === Infinity) return `${kind} above ${above}`;
  return above !== undefined ? `${kind} above ${above} and at most ${max}` : `${kind} from ${min ?? 0} to ${max}`;
}

function within(value: number, { min, above, max }: NumberBounds): boolean {
  return Number.isFinite(value) && value <= max && (min === undefined || value >= min) && (above === undefined || value > above);
}

/** Typed access to the fields of `raw`. Each method takes the field's name in code and returns undefined when it is absent. */
export function fieldsOf(raw: Raw, spell: Spelling = camelCase) {
  const checked = <T>(field: string, expected: string, accept: (value: unknown) => value is T): T | undefined => {
    const name = spell(field);
    const value = own(raw, name);
    if (value === undefined) return undefined;
    if (!accept(value)) throw mustBe(name, value, expected);
    return value;
  };
  return {
    name: spell,
    number: (field: string, bounds: NumberBounds) =>
      checked(field, describe("a number", bounds), (value): value is number => typeof value === "number" && within(value, bounds)),
    integer: (field: string, bounds: NumberBounds) =>
      checked(field, describe("an integer", bounds), (value): value is number => Number.isSafeInteger(value) && within(value as number, bounds)),
    boolean: (field: string) =>
      checked(field, "true or false", (value): value is boolean => typeof value === "boolean"),
    text: (field: string, maxLength: number) =>
      checked(field, `a string of at most ${maxLength} characters`,
        (value): value is string => typeof value === "string" && value.length <= maxLength),
    object: (field: string) => checked(field, "an object", isObject),

    /** A string or a list of strings, none empty, none with half a surrogate pair. */
    texts(field: string, { maxItems, maxLength = Infinity }: ListBounds): readonly string[] | undefined {
      const name = spell(field);
      const value = own(raw, name);
      if (value === undefined) return undefined;
      const list: readonly unknown[] = Array.isArray(value) ? value : [value];
      if (list.length > maxItems) throw mustBe(name, value, `a string or a list of at most ${maxItems}`);
      return list.map((item, i) => {
        const path = Array.isArray(value) ? `${name}[${i}]` : name;
        const ok = typeof item === "string" && item.length > 0 && item.length <= maxLength && item.isWellFormed();
        if (!ok) throw mustBe(name, item, `a string of 1 to ${maxLength} characters of valid Unicode`, path);
        return item;
      });
    },

    /** A list of functions; what they take and give nobody can check. */
    functions<T extends (...given: never) => unknown>(field: string, { maxItems }: ListBounds): readonly T[] | undefined {
      return checked(field, `a list of at most ${maxItems} functions`,
        (value): value is readonly T[] => Array.isArray(value) && value.length <= maxItems && value.every((item) => typeof item === "function"));
    },

    /** A list of token ids below `vocabSize`. */
    tokenIds(field: string, vocabSize: number, { maxItems }: ListBounds): readonly number[] | undefined {
      const name = spell(field);
      const value = own(raw, name);
      return value === undefined ? undefined : tokenIds(name, value, vocabSize, maxItems);
    },

    /** An object with token ids below `vocabSize` for names and a number for each, as JSON has a map. */
    tokenNumbers(field: string, vocabSize: number, { maxItems, ...bounds }: ListBounds & NumberBounds): ReadonlyMap<number, number> | undefined {
      const name = spell(field);
      const value = own(raw, name);
      if (value === undefined) return undefined;
      if (!isObject(value)) throw mustBe(name, value, 'an object of numbers by token id, such as {"5": -1}');
      const entries = Object.entries(value);
      if (entries.length > maxItems) throw mustBe(name, `${entries.length} token ids`, `an object of at most ${maxItems}`);
      return new Map(entries.map(([key, number]) => {
        const id = /^\d+$/.test(key) ? Number(key) : NaN;
        if (!(id < vocabSize)) throw mustBe(name, key, idBelow(vocabSize), `${name}'s token id`);
        if (typeof number !== "number" || !within(number, bounds)) throw mustBe(name, number, describe("a number", bounds), `${name}[${id}]`);
        return [id, number];
      }));
    },
  };
}

const idBelow = (vocabSize: number): string =>
  (vocabSize === Infinity ? "an integer from 0" : `an integer from 0 to ${vocabSize - 1}, as the model's vocabulary has ${vocabSize} tokens`);

/** `value` as token ids in [0, vocabSize). A list or an Int32Array. */
export function tokenIds(name: string, value: unknown, vocabSize: number, maxItems: number, path = name): readonly number[] {
  if (!(Array.isArray(value) || value instanceof Int32Array)) throw contentMustBe(name, value, "a list of token ids", path);
  if (value.length > maxItems) throw mustBe(name, value, `a list of at most ${maxItems} token ids`, path);
  const ids: readonly unknown[] = Array.from(value);
  return ids.map((id, i) => {
    const ok = Number.isInteger(id) && (id as number) >= 0 && (id as number) < vocabSize;
    if (!ok) throw contentMustBe(name, id, idBelow(vocabSize), `${path}[${i}]`);
    return id as number;
  });
}
