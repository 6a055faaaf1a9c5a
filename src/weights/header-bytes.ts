/**
 * The bytes of a binary file's header, read forward and only as far as it reaches.
 *
 * Nothing is believed before it is checked against the file's size, so that no header makes this allocate more than about twice the file.
 * It knows little-endian integers and length-prefixed UTF-8, and no format.
 */
import { invariant, UsageError } from "../core/errors.ts";
import type { OpenFile } from "./files.ts";

/** More than any header is: vocabularies with all their merges take some 30 MB. */
const maxHeaderBytes = 2 ** 28;
const firstRead = 2 ** 16;

// Without ignoreBOM a text that begins with U+FEFF would lose it.
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export class HeaderBytes {
  readonly #file: OpenFile;
  readonly #format: string;
  #bytes = new Uint8Array(0);
  /** Of what was read so far. */
  view = new DataView(this.#bytes.buffer);
  /** The next byte. */
  at = 0;

  /** `format` is the format's name, for messages. */
  constructor(file: OpenFile, format: string) {
    this.#file = file;
    this.#format = format;
  }

  /** @throws UsageError: the file, the byte and what is wrong there. */
  fail(at: number, what: string): never {
    throw new UsageError(`${this.#file.path} is not a usable ${this.#format} file: at byte ${at}, ${what}`);
  }

  /** Steps over the next `bytes` bytes and returns where they begin. They are in `view`. */
  take(bytes: number, what: string): number {
    const begin = this.at, end = begin + bytes;
    if (end > this.#bytes.length) this.#readTo(end, what);
    this.at = end;
    return begin;
  }

  #readTo(end: number, what: string): void {
    const left = this.#file.bytes - this.at;
    if (end > this.#file.bytes) this.fail(this.at, `${what} takes ${end - this.at} bytes, but ${left === 0 ? "the file ends there" : `only ${left} are left`}; was it cut short?`);
    if (end > maxHeaderBytes) this.fail(this.at, `${what} ends at byte ${end}, but a header of at most ${maxHeaderBytes} bytes is expected`);
    const had = this.#bytes.length;
    const grown = new Uint8Array(Math.min(this.#file.bytes, maxHeaderBytes, Math.max(end, 2 * had, firstRead)));
    grown.set(this.#bytes);
    this.#file.read(grown.subarray(had), had);
    this.#bytes = grown;
    this.view = new DataView(grown.buffer);
  }

  /** A copy of bytes that were taken. */
  copy(begin: number, bytes: number): ArrayBuffer {
    return this.#bytes.buffer.slice(begin, begin + bytes);
  }

  u32(what: string): number {
    const at = this.take(4, what);
    return this.view.getUint32(at, true);
  }

  /** Exact up to 2^53; beyond, near. @see exact */
  u64(what: string): number {
    const at = this.take(8, what);
    return this.view.getUint32(at, true) + 2 ** 32 * this.view.getUint32(at + 4, true);
  }

  /** The u64 at byte `at`, to its last digit. */
  exact(at: number): bigint {
    return this.view.getBigUint64(at, true);
  }

  /** A number of things that take at least `bytesEach` bytes each: no more than the file has room for. */
  count(what: string, bytesEach: number): number {
    const count = this.u64(what);
    const left = Math.min(this.#file.bytes, maxHeaderBytes) - this.at;
    if (count * bytesEach > left) this.fail(this.at - 8, `${what} is ${this.exact(this.at - 8)}, but the ${left} bytes that follow have room for ${Math.floor(left / bytesEach)}`);
    return count;
  }

  /** A text with its length before it. */
  text(what: string, maxBytes = maxHeaderBytes): string {
    const bytes = this.count(`the length of ${what}`, 1);
    if (bytes > maxBytes) this.fail(this.at - 8, `the length of ${what} is ${bytes}, but at most ${maxBytes} bytes are expected`);
    const begin = this.take(bytes, what);
    try {
      return utf8.decode(this.#bytes.subarray(begin, begin + bytes));
    } catch {
      return this.fail(begin, `${what} is not UTF-8`);
    }
  }

  /**
   * `count` texts. A vocabulary has hundreds of thousands, so they are decoded as one and cut apart: where no text begins with a byte that
   * continues a character, all of them are UTF-8 exactly when they are so together.
   */
  texts(count: number, what: string): string[] {
    const first = this.at;
    const lengths = new Uint32Array(count);
    let total = 0;
    for (let i = 0; i < count; i++) {
      const bytes = this.#length(i, what);
      lengths[i] = bytes;
      total += bytes;
      this.take(bytes, what);
    }
    const source = this.#bytes, together = new Uint8Array(total), units = new Uint32Array(count);
    for (let i = 0, from = first, to = 0; i < count; i++) {
      from += 8;
      const end = from + lengths[i]!;
      if (from < end && (source[from]! & 0xc0) === 0x80) this.fail(from, `${what}[${i}] is not UTF-8`);
      let length = 0;
      while (from < end) {
        const byte = source[from++]!;
        together[to++] = byte;
        // Of UTF-16, which strings are measured in: one unit for each character, a second beyond U+FFFF.
        if ((byte & 0xc0) !== 0x80) length += byte >= 0xf0 ? 2 : 1;
      }
      units[i] = length;
    }
    let text;
    try {
      text = utf8.decode(together);
    } catch {
      this.#failText(first, lengths, what);
    }
    const texts = new Array<string>(count);
    for (let i = 0, at = 0; i < count; i++) texts[i] = text.slice(at, (at += units[i]!));
    return texts;
  }

  /** Steps over `count` texts. Their lengths are checked, what they say is not. */
  skipTexts(count: number, what: string): void {
    for (let i = 0; i < count; i++) this.take(this.#length(i, what), what);
  }

  /** The length of the next text of a list. */
  #length(i: number, what: string): number {
    const at = this.take(8, what);
    const bytes = this.view.getUint32(at, true) + 2 ** 32 * this.view.getUint32(at + 4, true);
    if (bytes > this.#file.bytes - this.at) this.fail(at, `the length of ${what}[${i}] is ${this.exact(at)}, but ${this.#file.bytes - this.at} bytes are left`);
    return bytes;
  }

  #failText(first: number, lengths: Uint32Array, what: string): never {
    let at = first;
    for (const [i, length] of lengths.entries()) {
      at += 8;
      try {
        utf8.decode(this.#bytes.subarray(at, at + length));
      } catch {
        this.fail(at, `${what}[${i}] is not UTF-8`);
      }
      at += length;
    }
    invariant(false, `${what} is not UTF-8, but each of its texts is`);
  }
}
