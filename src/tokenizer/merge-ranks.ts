/**
 * Which two neighbouring tokens merge, and which pair goes first: the table of a byte-pair encoding, from a list of merges or from
 * SentencePiece's scores.
 *
 * A list of merges is read whole. From scores nothing is derived beforehand: a pair's rank is looked up by the text of both
 * together when the pair is first met, and remembered. So 256,000 tokens cost no more than 32,000 before the first word.
 */
import { UsageError } from "../core/errors.ts";

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
const maxPairs = 2 ** 20;

/** The merges in the order of the list. Throws UsageError where one names a token that the vocabulary lacks. */
export function mergeRanks(config: MergeConfig, vocab: ReadonlyMap<string, number>, forbidden: ReadonlySet<number>): Ranks {
  const { merges = [] } = config;
  const numIds = countIds(vocab);
  const result = new Int32Array(merges.length);
  const ranks = new Map<number, number>();
  const prefixLength = config.continuing_subword_prefix?.length ?? 0;
  for (let rank = 0; rank < merges.length; rank++) {
    const merge = merges[rank]!;
    const [left = "", right = ""] = typeof merge === "string" ? splitOnce(merge) : merge;
    const a = vocab.get(left), b = vocab.get(right), to = vocab.get(left + (prefixLength > 0 ? right.slice(prefixLength) : right));
    if (a === undefined || b === undefined || to === undefined) {
      const what = `merge ${rank} (${JSON.stringify(merge)}) names a token that the vocabulary lacks`;
      throw new UsageError(`the model's tokenizer: ${what}; the file is damaged, download it again`);
    }
    result[rank] = to;
    if (!forbidden.has(to)) ranks.set(a * numIds + b, rank);
  }
  return { rankOf: (left, right) => ranks.get(left * numIds + right) ?? -1, merged: (rank) => result[rank]! };
}

/**
 * The merges that transformers' converter lists for these scores: the token with the higher score first (then the lower id), and of
 * one token's splits the one whose left side has the lower id.
 */
export function scoreRanks(scores: ArrayLike<number>, vocab: ReadonlyMap<string, number>, forbidden: ReadonlySet<number>): Ranks {
  const numIds = countIds(vocab);
  const texts: string[] = [];
  for (const [text, id] of vocab) texts[id] = text;
  const order = byScore(scores, vocab);
  const place = new Int32Array(numIds);
  order.forEach((id, at) => void (place[id] = at));
  // A rank is (place by score, place among the token's splits); splits beyond the last of these share it.
  const numSplits = Math.floor(maxRank / numIds);

  const known = new Map<number, number>();
  const look = (left: number, right: number): number => {
    const whole = texts[left]! + texts[right]!;
    const to = vocab.get(whole);
    if (to === undefined || forbidden.has(to)) return -1;
    let split = 0;
    for (let i = 1; i < whole.length; i++) {
      const other = vocab.get(whole.slice(0, i));
      if (other !== undefined && other < left && vocab.has(whole.slice(i))) split++;
    }
    return place[to]! * numSplits + Math.min(split, numSplits - 1);
  };
  return {
    rankOf: (left, right) => {
      const key = left * numIds + right;
      let rank = known.get(key);
      if (rank === undefined) {
        if (known.size >= maxPairs) known.clear();
        known.set(key, (rank = look(left, right)));
      }
      return rank;
    },
    merged: (rank) => order[Math.floor(rank / numSplits)]!,
  };
}

function countIds(vocab: ReadonlyMap<string, number>): number {
  let numIds = 0;
  for (const id of vocab.values()) if (id >= numIds) numIds = id + 1;
  return numIds;
}

/** Ids by falling score, then rising id. Most vocabularies lie so already. */
function byScore(scores: ArrayLike<number>, vocab: ReadonlyMap<string, number>): Int32Array {
  const ids = Int32Array.from(vocab.values());
  for (let i = 1; i < ids.length; i++) {
    if (scores[ids[i]!]! > scores[ids[i - 1]!]! || ids[i]! < ids[i - 1]!) return ids.sort((a, b) => scores[b]! - scores[a]! || a - b);
  }
  return ids;
}

/** "a b" as ["a", "b"]: the old form of a merge. */
function splitOnce(merge: string): [string, string] {
  const space = merge.indexOf(" ", 1);
  return space < 0 ? [merge, ""] : [merge.slice(0, space), merge.slice(space + 1)];
}
