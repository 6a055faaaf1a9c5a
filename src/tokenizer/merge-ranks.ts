/**
 * Which two neighbouring tokens merge, and which pair goes first: the table of a byte-pair encoding, from a list of merges or from
 * SentencePiece's scores.
 *
 * A pair is looked up by its texts when it is first met, and remembered by its ids. So little is done before the first word: the
 * merges become keys (280,000 of them with Llama 3), and from scores, where any two tokens whose texts together are a token merge,
 * nothing is derived at all.
 */
import { quoted, UsageError } from "../core/errors.ts";
import { PairTable } from "./pair-table.ts";

/** What a BPE model says of its merges: a list, or by id the scores of SentencePiece. */
export interface MergeConfig {
  /** "a b" or ["a", "b"], the first to go first. */
  readonly merges?: readonly (string | readonly string[])[];
  /** Instead of `merges`: two tokens merge where their texts together are a token, the one with the highest score first. */
  readonly scores?: ArrayLike<number>;
  readonly continuing_subword_prefix?: string | null;
}

export interface Ranks {
  /** The rank of the merge of two ids, lower first and below 2^25; negative where they do not merge. */
  readonly rankOf: (left: number, right: number) => number;
  /** The id that the merge of this rank makes. */
  readonly merged: (rank: number) => number;
}

/** Ranks must stay below this for the keys of bpe.ts. */
const maxRank = 2 ** 25;
/** Pairs that are remembered, those that do not merge too. */
const maxPairs = 2 ** 17;

/** The merges in the order of the list. `rankOf` throws UsageError where one makes a token that the vocabulary lacks. */
export function mergeRanks(config: MergeConfig, vocab: ReadonlyMap<string, number>, forbidden: ReadonlySet<number>): Ranks {
  const { merges = [] } = config;
  const prefixLength = config.continuing_subword_prefix?.length ?? 0;
  const texts = textsOf(vocab);
  // Only in pairs may a token have a space in it.
  const separator = merges.every((merge) => typeof merge === "string") ? " " : "\0";
  const ranks = new Map<string, number>();
  for (let rank = 0; rank < merges.length; rank++) {
    const merge = merges[rank]!;
    ranks.set(typeof merge === "string" ? (separator === " " ? merge : merge.replace(" ", separator)) : `${merge[0]}${separator}${merge[1]}`, rank);
  }
  const result = new Int32Array(merges.length);
  return {
    rankOf: remember((left, right) => {
      const a = texts[left]!, b = texts[right]!;
      const rank = ranks.get(a + separator + b);
      if (rank === undefined) return -1;
      const to = vocab.get(prefixLength > 0 ? a + b.slice(prefixLength) : a + b);
      if (to === undefined) {
        const what = `merge ${rank} (${quoted(merges[rank])}) makes a token that the vocabulary lacks`;
        throw new UsageError(`the model's tokenizer: ${what}; the file is damaged, download it again`);
      }
      result[rank] = to;
      return forbidden.has(to) ? -1 : rank;
    }),
    merged: (rank) => result[rank]!,
  };
}

/**
 * The merges that transformers' converter lists for these scores: the token with the higher score first (then the lower id), and of
 * one token's splits the one whose left side has the lower id.
 */
export function scoreRanks(scores: ArrayLike<number>, vocab: ReadonlyMap<string, number>, forbidden: ReadonlySet<number>): Ranks {
  const texts = textsOf(vocab), numIds = texts.length;
  const order = byScore(scores, vocab);
  const place = new Int32Array(numIds);
  for (let at = 0; at < order.length; at++) place[order[at]!] = at;
  // A rank is (place by score, place among the token's splits); splits beyond the last of these share it.
  const numSplits = Math.floor(maxRank / numIds);

  const rankOf = remember((left, right) => {
    const whole = texts[left]! + texts[right]!;
    const to = vocab.get(whole);
    if (to === undefined || forbidden.has(to)) return -1;
    let split = 0;
    for (let i = 1; i < whole.length; i++) {
      const other = vocab.get(whole.slice(0, i));
      if (other !== undefined && other < left && vocab.has(whole.slice(i))) split++;
    }
    return place[to]! * numSplits + Math.min(split, numSplits - 1);
  });
  return { rankOf, merged: (rank) => order[Math.floor(rank / numSplits)]! };
}

/** `look`, asked once for each pair while there is room. */
function remember(look: Ranks["rankOf"]): Ranks["rankOf"] {
  const known = new PairTable(maxPairs);
  return (left, right) => {
    let rank = known.get(left, right);
    if (rank === undefined) {
      if (known.size >= maxPairs) known.clear();
      known.set(left, right, (rank = look(left, right)));
    }
    return rank;
  };
}

/** By id. */
function textsOf(vocab: ReadonlyMap<string, number>): string[] {
  const texts: string[] = [];
  for (const [text, id] of vocab) texts[id] = text;
  return texts;
}

/** Ids by falling score, then rising id. Most vocabularies lie so already. */
function byScore(scores: ArrayLike<number>, vocab: ReadonlyMap<string, number>): Int32Array {
  const ids = Int32Array.from(vocab.values());
  for (let i = 1; i < ids.length; i++) {
    if (scores[ids[i]!]! > scores[ids[i - 1]!]! || ids[i]! < ids[i - 1]!) return ids.sort((a, b) => scores[b]! - scores[a]! || a - b);
  }
  return ids;
}
