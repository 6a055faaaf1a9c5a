/**
 * Token ids to text as they come: each push gives the text that can no longer change, and the pieces put together are what
 * decoding all ids at once gives, because decoding all at once is one push and a flush.
 *
 * What may still change is an unfinished UTF-8 character (at most 3 bytes) and the characters that a decoder cuts from the
 * end of the text. A push costs O(ids pushed).
 */
import type { Ends } from "./decode-rules.ts";

/** What a decoder needs to know of its tokenizer. */
export interface TokenBytes {
  /** UTF-8 bytes of a token; undefined for an id that does not exist. `first`: nothing precedes it in the text. */
  bytes(id: number, first: boolean): Uint8Array | undefined;
  isSpecial(id: number): boolean;
  readonly ends: Ends;
}

export interface DecoderOptions {
  /** Leave special tokens out. Default true. */
  readonly skipSpecialTokens?: boolean;
  /** The text goes on after other text (a completion after its prompt): the space that starts its first token stays. Default false. */
  readonly continues?: boolean;
}

export class StreamDecoder {
  readonly #tokens: TokenBytes;
  readonly #skip: boolean;
  readonly #utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  #first: boolean;
  #stripStart: number;
  #held = "";

  constructor(tokens: TokenBytes, options: DecoderOptions = {}) {
    this.#tokens = tokens;
    this.#skip = options.skipSpecialTokens ?? true;
    this.#first = !options.continues;
    this.#stripStart = options.continues ? 0 : tokens.ends.start;
  }

  /** The text that `ids` complete. Ids that the vocabulary does not have add nothing. */
  push(ids: ArrayLike<number>): string {
    const pieces: Uint8Array[] = [];
    let length = 0;
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i]!;
      if (this.#skip && this.#tokens.isSpecial(id)) continue;
      const bytes = this.#tokens.bytes(id, this.#first);
      if (bytes === undefined) continue;
      this.#first = false;
      pieces.push(bytes);
      length += bytes.length;
    }
    if (length === 0) return "";
    return this.#release(this.#utf8.decode(pieces.length === 1 ? pieces[0] : join(pieces, length), { stream: true }));
  }

  /** The rest: what was held back, with U+FFFD for a character that was never finished. The decoder is then at its end. */
  flush(): string {
    const rest = this.#release(this.#utf8.decode());
    this.#held = "";
    return rest;
  }

  /** Cuts the ends: drops leading characters, and holds back trailing ones that would be cut if nothing followed. */
  #release(text: string): string {
    const { char, stop } = this.#tokens.ends;
    let start = 0;
    while (this.#stripStart > 0 && start < text.length) {
      const cut = text[start] === char;
      this.#stripStart = cut ? this.#stripStart - 1 : 0;
      if (cut) start++;
    }
    if (stop === 0) return start === 0 ? text : text.slice(start);
    const all = this.#held + text.slice(start);
    let end = all.length;
    while (end > 0 && all.length - end < stop && all[end - 1] === char) end--;
    this.#held = all.slice(end);
    return all.slice(0, end);
  }
}

function join(pieces: readonly Uint8Array[], length: number): Uint8Array {
  const all = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}
