/**
 * Telling, in what a chat template has rendered, which characters came from the user: so that no text of a user's becomes a
 * special token, whatever the template does with it.
 *
 * Before rendering, the punctuation that special tokens are written with (such as < | > [ ]) is replaced in every string of
 * the request by stand-ins: single characters of the private use area that occur nowhere in the request or the template.
 * Templates trim, join, slice, change case, test and serialise; none of that makes a stand-in or loses its place. After
 * rendering each stand-in becomes its character again, marked as untrusted; a special token needs its punctuation unmarked.
 * So contents cannot form one, neither whole nor put together from several strings, and all other text is as it was: it
 * merges with its neighbours as Hugging Face merges it.
 *
 * Templates look for texts of their own in contents (`'</think>' in content`). Literals of the template that cannot be a
 * part of a special token are left as they are in contents, so these tests come out as they should.
 *
 * What is not guarded: letters. A template that builds a token's name around a field ('<|' + role + '|>' in Phi-3) means to;
 * roles come from a closed list (chat-template.ts).
 */
import { BadRequest } from "../core/errors.ts";
import { guards } from "./tokenizer.ts";

/** Deepest nesting of objects and lists in a request's messages, tools and template variables. */
const maxDepth = 64;

const privateUse = { from: 0xe000, to: 0xf8ff } as const;
const privateChars = /[\uE000-\uF8FF]/g;

export interface Marked<T> {
  readonly value: T;
  /** A further character that occurs nowhere in the request or template. */
  readonly spare: string;
  /** The rendered text with its own characters again, and 1 for each UTF-16 unit that a user wrote and that could matter. */
  restore(rendered: string): { text: string; untrusted: Uint8Array };
}

export class Guard {
  readonly #chars: readonly string[];
  readonly #pattern: RegExp | undefined;
  readonly #taken: ReadonlySet<string>;

  /** `source`: the template; `literals`: the strings in it. */
  constructor(specialTokens: readonly string[], source: string, literals: readonly string[]) {
    this.#chars = [...new Set(specialTokens.flatMap(guards))];
    this.#taken = new Set(source.match(privateChars));
    const kept = [...new Set(literals)]
      .filter((literal) => literal.length > 1 && this.#chars.some((char) => literal.includes(char)))
      .filter((literal) => !specialTokens.some((token) => overlap(literal, token)))
      .sort((a, b) => b.length - a.length);
    const alternatives = [...kept, ...this.#chars].map((part) => part.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
    this.#pattern = alternatives.length > 0 ? new RegExp(alternatives.join("|"), "g") : undefined;
  }

  /** `value` with stand-ins in its strings and keys. Throws BadRequest when it is nested too deeply. */
  mark<T>(value: T): Marked<T> {
    const taken = new Set(this.#taken);
    const note = (piece: string): void => {
      for (const char of piece.match(privateChars) ?? []) taken.add(char);
      // A template may write non-ASCII characters as \uXXXX: what a user wrote so must not be taken for a stand-in.
      for (const [, hex] of piece.matchAll(/\\u([ef][0-9a-f]{3})/gi)) taken.add(String.fromCharCode(Number.parseInt(hex!, 16)));
    };
    mapStrings(value, (piece) => (note(piece), piece));
    const free: string[] = [];
    for (let code: number = privateUse.from; code <= privateUse.to && free.length <= this.#chars.length; code++) {
      if (!taken.has(String.fromCharCode(code))) free.push(String.fromCharCode(code));
    }
    const spare = free.pop();
    if (spare === undefined || free.length < this.#chars.length) {
      throw new BadRequest("messages", "messages use every character of Unicode's private use area; leave some out");
    }
    const standIn = new Map(this.#chars.map((char, i) => [char, free[i]!]));
    const original = new Map(this.#chars.map((char, i) => [free[i]!, char]));
    const pattern = this.#pattern;
    return {
      spare,
      value: pattern === undefined ? value : mapStrings(value, (piece) => piece.replace(pattern, (found) => standIn.get(found) ?? found)),
      restore: (rendered) => {
        const whole = rendered.replace(/\\u([ef][0-9a-f]{3})/gi, (escaped, hex: string) => {
          const char = String.fromCharCode(Number.parseInt(hex, 16));
          return original.has(char) ? char : escaped;
        });
        const untrusted = new Uint8Array(whole.length);
        const text = whole.replace(privateChars, (char, at: number) => {
          const own = original.get(char);
          if (own === undefined) return char;
          untrusted[at] = 1;
          return own;
        });
        return { text, untrusted };
      },
    };
  }
}

/** Whether the two can share characters in some text: one within the other, or the end of one the start of the other. */
function overlap(a: string, b: string): boolean {
  for (let shift = 1 - b.length; shift < a.length; shift++) {
    const from = Math.max(0, shift), to = Math.min(a.length, shift + b.length);
    if (a.slice(from, to) === b.slice(from - shift, to - shift)) return true;
  }
  return false;
}

/** A copy of `value` with every string and key in it changed. Only what JSON can say is copied. */
function mapStrings<T>(value: T, change: (piece: string) => string, depth = 0): T {
  if (depth > maxDepth) {
    throw new BadRequest("messages", `messages, tools and template variables may be nested ${maxDepth} deep, and these go deeper; send them flatter`);
  }
  if (typeof value === "string") return change(value.toWellFormed()) as T;
  if (Array.isArray(value)) return value.map((item: unknown) => mapStrings(item, change, depth + 1)) as T;
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value as Record<string, unknown>);
    return Object.fromEntries(entries.map(([key, item]) => [change(key.toWellFormed()), mapStrings(item, change, depth + 1)])) as T;
  }
  return value;
}
