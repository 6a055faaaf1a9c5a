/**
 * The Unigram model: the cut of a word into pieces whose scores (log-probabilities) sum to the most, found from left to right
 * (Viterbi). The library's lattice copies its nodes, which breaks ties otherwise than the original, and has no byte fallback.
 */
import { BadRequest, quoted } from "../core/errors.ts";
import { byteTokens } from "./bpe.ts";
import { emptyTrie, insert, type TrieNode } from "./trie.ts";

/** The "model" object of a tokenizer.json of type Unigram. */
export interface UnigramConfig {
  readonly vocab: readonly (readonly [string, number])[];
  readonly unk_id?: number | null;
  readonly byte_fallback?: boolean;
}

const unknownPenalty = 10;
const utf8 = new TextEncoder();

export class Unigram {
  /** Ids by the texts of their tokens. */
  readonly #root = emptyTrie<number>();
  readonly #scores: Float64Array;
  readonly #unknown: number | undefined;
  readonly #unknownScore: number;
  readonly #bytes: Int32Array | undefined;

  /** `forbidden`: ids that a word must never become; their texts stand in the vocabulary, with the best of scores. */
  constructor(config: UnigramConfig, forbidden: ReadonlySet<number>) {
    this.#scores = Float64Array.from(config.vocab, ([, score]) => score);
    this.#unknown = config.unk_id ?? undefined;
    this.#unknownScore = this.#scores.reduce((least, score) => Math.min(least, score), Infinity) - unknownPenalty;
    this.#bytes = config.byte_fallback ? byteTokens(new Map(config.vocab.map(([token], id) => [token, id]))) : undefined;
    config.vocab.forEach(([token], id) => {
      if (!forbidden.has(id) && id !== this.#unknown && token.length > 0) insert(this.#root, token, id);
    });
  }

  /** Appends the ids of `word` to `out`; a run of unknown characters is one unknown token, or its bytes. */
  encode(word: string, out: number[]): void {
    const n = word.length;
    // The best way to reach each position: its score, where its last piece starts (-1: none yet), and that piece (-1: unknown).
    const score = new Float64Array(n + 1), start = new Int32Array(n + 1).fill(-1), piece = new Int32Array(n + 1).fill(-1);
    const offer = (from: number, to: number, id: number, gain: number): void => {
      const candidate = gain + score[from]!;
      if (start[to] !== -1 && candidate <= score[to]!) return;
      score[to] = candidate;
      start[to] = from;
      piece[to] = id;
    };
    for (let from = 0, width = 1; from < n; from += width) {
      width = word.codePointAt(from)! > 0xffff ? 2 : 1;
      let single = false;
      let at: TrieNode<number> | undefined = this.#root;
      for (let to = from; to < n && (at = at.next.get(word.charCodeAt(to))) !== undefined; to++) {
        const id: number | undefined = at.value;
        if (id === undefined) continue;
        offer(from, to + 1, id, this.#scores[id]!);
        single ||= to + 1 === from + width;
      }
      if (!single) offer(from, from + width, -1, this.#unknownScore);
    }
    const ends: number[] = [];
    for (let end = n; end > 0; end = start[end]!) ends.push(end);
    for (let i = ends.length - 1; i >= 0; i--) {
      if (piece[ends[i]!]! >= 0) {
        out.push(piece[ends[i]!]!);
        continue;
      }
      const from = start[ends[i]!]!;
      while (i > 0 && piece[ends[i - 1]!]! < 0) i--;
      this.#sayUnknown(word.slice(from, ends[i]!), out);
    }
  }

  #sayUnknown(text: string, out: number[]): void {
    if (this.#bytes !== undefined) for (const byte of utf8.encode(text)) out.push(this.#bytes[byte]!);
    else if (this.#unknown !== undefined) out.push(this.#unknown);
    else {
      throw new BadRequest("text", `${quoted(text)} is in no token of this model's vocabulary, and it has no unknown token; leave these characters out, or send token ids`);
    }
  }
}
