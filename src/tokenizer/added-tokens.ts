/**
 * Finding added tokens in a text, leftmost and longest first, as Hugging Face does: the one place where text may become a
 * special token, and so the one place that refuses it. A character marked as untrusted is never part of a special token.
 */
import { emptyTrie, insert, type TrieNode } from "./trie.ts";

/** A row of "added_tokens" in tokenizer.json. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
  /** Looked for in the normalised text instead of the raw one. */
  readonly normalized: boolean;
  /** Takes the white space on its left, or right, with it. */
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  /** Only between characters that are no part of a word. */
  readonly singleWord: boolean;
}

/** Text between tokens, or a token; `start` and `end` are UTF-16 positions in the text searched. */
export type Section =
  | { readonly kind: "text"; readonly start: number; readonly end: number }
  | { readonly kind: "token"; readonly id: number };

/** Whether the characters start .. end - 1 of the text may be this token. */
export type Allowed = (token: AddedToken, start: number, end: number) => boolean;

const wordChar = /[\p{L}\p{N}\p{M}\p{Pc}]/u;
const space = /\s/u;

export class Matcher {
  readonly #root = emptyTrie<AddedToken>();
  readonly #empty: boolean;

  /** `contentOf`: what to look for, where it is not the token's own content (its normalised form). */
  constructor(tokens: readonly AddedToken[], contentOf: (token: AddedToken) => string = (token) => token.content) {
    for (const token of tokens) {
      const content = contentOf(token);
      if (content.length > 0) insert(this.#root, content, token);
    }
    this.#empty = this.#root.next.size === 0;
  }

  /** Cuts `text` into sections, in order and without gaps. `allowed` may refuse a match; a shorter or later one is then tried. */
  split(text: string, allowed: Allowed): Section[] {
    const sections: Section[] = [];
    let done = 0;
    for (let i = 0; !this.#empty && i < text.length; i++) {
      const found = this.#at(text, i, allowed);
      if (found === undefined) continue;
      let start = i, end = i + found.length;
      if (found.token.lstrip) while (start > done && space.test(text[start - 1]!)) start--;
      if (found.token.rstrip) while (end < text.length && space.test(text[end]!)) end++;
      if (start > done) sections.push({ kind: "text", start: done, end: start });
      sections.push({ kind: "token", id: found.token.id });
      done = end;
      i = end - 1;
    }
    if (done < text.length) sections.push({ kind: "text", start: done, end: text.length });
    return sections;
  }

  /** The longest allowed token that begins at `start`. */
  #at(text: string, start: number, allowed: Allowed): { readonly token: AddedToken; readonly length: number } | undefined {
    let best: { readonly token: AddedToken; readonly length: number } | undefined;
    let at: TrieNode<AddedToken> | undefined = this.#root;
    for (let i = start; i < text.length && (at = at.next.get(text.charCodeAt(i))) !== undefined; i++) {
      const token: AddedToken | undefined = at.value;
      if (token === undefined || !allowed(token, start, i + 1)) continue;
      if (token.singleWord && (isWord(text, start - 1) || isWord(text, i + 1))) continue;
      best = { token, length: i + 1 - start };
    }
    return best;
  }
}

const isWord = (text: string, i: number): boolean => i >= 0 && i < text.length && wordChar.test(text[i]!);
