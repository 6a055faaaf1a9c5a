/**
 * Byte-pair encoding of one word: the pair of neighbours with the lowest rank is merged, leftmost first, until none is left.
 *
 * Symbols are ids in typed arrays and the candidates wait in a heap, so a word of n characters costs O(n log n): tokenizers
 * without a pre-tokeniser (Mistral, Gemma) give the whole text as one word. The library's own BPE keeps a linked list of
 * string nodes keyed by JSON and is several times slower; it also joins unknown characters across words, which the original
 * does not. Knows nothing of added tokens, pre-tokenisers or decoding.
 */
import type { MergeConfig, Ranks } from "./merge-ranks.ts";
import { mergeRanks, scoreRanks } from "./merge-ranks.ts";

/** The "model" object of a tokenizer.json of type BPE. */
export interface BpeConfig extends MergeConfig {
  readonly unk_token?: string | null;
  readonly end_of_word_suffix?: string | null;
  readonly fuse_unk?: boolean;
  readonly byte_fallback?: boolean;
  readonly ignore_merges?: boolean;
}

/** Words shorter than this (UTF-16 units) are remembered, at most `maxCachedWords` of them. */
const longestCachedWord = 64;
const maxCachedWords = 20_000;

/** Position in the heap's keys: rank * 2^28 + position, exact in a double for ranks below 2^25 and words below 2^28 symbols. */
const positions = 2 ** 28;

export class Bpe {
  readonly #vocab: ReadonlyMap<string, number>;
  readonly #ranks: Ranks;
  readonly #config: BpeConfig;
  readonly #unknown: number | undefined;
  readonly #bytes: Int32Array | undefined;
  readonly #forbidden: ReadonlySet<number>;
  readonly #cache = new Map<string, readonly number[]>();

  /** `forbidden`: ids that a word must never become (special tokens that also stand in the vocabulary). */
  constructor(config: BpeConfig, vocab: ReadonlyMap<string, number>, forbidden: ReadonlySet<number>) {
    this.#config = config;
    this.#vocab = vocab;
    this.#forbidden = forbidden;
    this.#unknown = typeof config.unk_token === "string" ? vocab.get(config.unk_token) : undefined;
    this.#bytes = config.byte_fallback ? byteTokens(vocab) : undefined;
    this.#ranks = config.scores === undefined ? mergeRanks(config, vocab, forbidden) : scoreRanks(config.scores, vocab, forbidden);
  }

  /** Appends the ids of `word` to `out`. */
  encode(word: string, out: number[]): void {
    if (word.length === 0) return;
    const cached = this.#cache.get(word);
    if (cached !== undefined) {
      for (const id of cached) out.push(id);
      return;
    }
    const from = out.length;
    const whole = this.#config.ignore_merges ? this.#vocab.get(word) : undefined;
    if (whole !== undefined && !this.#forbidden.has(whole)) out.push(whole);
    else this.#merge(this.#symbols(word), out);
    if (word.length < longestCachedWord) {
      if (this.#cache.size >= maxCachedWords) this.#cache.clear();
      this.#cache.set(word, out.slice(from));
    }
  }

  /** One id for each character of `word`; several for one that falls back to bytes, none for one that cannot be said. */
  #symbols(word: string): number[] {
    const { continuing_subword_prefix: prefix, end_of_word_suffix: suffix, fuse_unk: fuse } = this.#config;
    const symbols: number[] = [];
    let lastUnknown = false;
    let at = 0;
    for (const char of word) {
      let symbol = char;
      if (prefix && at > 0) symbol = prefix + symbol;
      at += char.length;
      if (suffix && at === word.length) symbol += suffix;
      const id = this.#vocab.get(symbol);
      if (id !== undefined && !this.#forbidden.has(id)) {
        symbols.push(id);
        lastUnknown = false;
      } else if (this.#bytes !== undefined) {
        for (const byte of utf8.encode(symbol)) symbols.push(this.#bytes[byte]!);
        lastUnknown = false;
      } else if (this.#unknown !== undefined) {
        if (!(fuse && lastUnknown)) symbols.push(this.#unknown);
        lastUnknown = true;
      }
    }
    return symbols;
  }

  #merge(symbols: readonly number[], out: number[]): void {
    const n = symbols.length;
    const id = Int32Array.from(symbols);
    const next = new Int32Array(n), previous = new Int32Array(n);
    const heap = new Heap();
    const { rankOf, merged } = this.#ranks;
    const offer = (left: number, right: number): void => {
      const rank = rankOf(id[left]!, id[right]!);
      if (rank >= 0) heap.push(rank * positions + left);
    };
    for (let i = 0; i < n; i++) {
      previous[i] = i - 1;
      next[i] = i + 1 < n ? i + 1 : -1;
      if (i + 1 < n) offer(i, i + 1);
    }
    for (let key = heap.pop(); key !== undefined; key = heap.pop()) {
      const left = key % positions, rank = Math.floor(key / positions);
      const right = next[left]!;
      // A candidate is stale when either side has been merged into something else since.
      if (id[left]! < 0 || right < 0 || rankOf(id[left]!, id[right]!) !== rank) continue;
      id[left] = merged(rank);
      id[right] = -1;
      const after = next[right]!;
      next[left] = after;
      if (after >= 0) {
        previous[after] = left;
        offer(left, after);
      }
      if (previous[left]! >= 0) offer(previous[left]!, left);
    }
    for (let i = n > 0 ? 0 : -1; i >= 0; i = next[i]!) out.push(id[i]!);
  }
}

const utf8 = new TextEncoder();

/** Ids of `<0x00>` to `<0xFF>`, or undefined where the vocabulary lacks one: then there is no fallback. */
export function byteTokens(vocab: ReadonlyMap<string, number>): Int32Array | undefined {
  const ids = new Int32Array(256);
  for (let byte = 0; byte < 256; byte++) {
    const id = vocab.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
    if (id === undefined) return undefined;
    ids[byte] = id;
  }
  return ids;
}

/** Smallest number first. */
class Heap {
  readonly #items: number[] = [];

  push(item: number): void {
    const items = this.#items;
    let i = items.length;
    items.push(item);
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (items[parent]! <= item) break;
      items[i] = items[parent]!;
      i = parent;
    }
    items[i] = item;
  }

  pop(): number | undefined {
    const items = this.#items;
    const top = items[0];
    const last = items.pop();
    if (items.length === 0 || last === undefined) return top;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= items.length) break;
      if (child + 1 < items.length && items[child + 1]! < items[child]!) child++;
      if (items[child]! >= last) break;
      items[i] = items[child]!;
      i = child;
    }
    items[i] = last;
    return top;
  }
}
