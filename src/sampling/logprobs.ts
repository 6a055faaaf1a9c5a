/**
 * Log-probabilities of one position under the model's raw logits (before temperature and filters), as vLLM reports them.
 *
 * logprob(t) = logit(t) - log(sum exp(logit)), natural, in doubles. rank(t) = 1 + how many tokens have a strictly greater logit. The backend answers; of
 * logits that are on the host (sampler.ts) it is computed here.
 */
import { answerWord } from "../backend/backend.ts";

/** Natural-log probabilities of a generated token and of the likeliest ones. */
export interface TokenLogprobs {
  readonly token: number;
  readonly logprob: number;
  /** 1 for the likeliest token. */
  readonly rank: number;
  readonly top: readonly { readonly token: number; readonly logprob: number }[];
}

/** A backend's answers (backend.ts, answerWord) to the questions of a step. */
export class Answers {
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Answer `i`, which is about `token` and the `numTop` likeliest; undefined where the logits are no distribution. */
  of(i: number, token: number, numTop: number): TokenLogprobs | undefined {
    const at = (word: number): number => 4 * (i * answerWord.words + word), view = this.#view;
    const rank = view.getInt32(at(answerWord.rank), true);
    if (rank === 0) return undefined;
    const logSum = view.getFloat64(at(answerWord.logSum), true), logprob = (word: number): number => view.getFloat32(at(word), true) - logSum;
    const top = Array.from({ length: numTop }, (_, place) => ({ token: view.getInt32(at(answerWord.top + 2 * place), true), logprob: logprob(answerWord.top + 2 * place + 1) }));
    return { token, logprob: logprob(answerWord.logit), rank, top };
  }
}

/**
 * Of `token` and of the `numTop` likeliest tokens (likeliest first, equal logits by lowest id). `logits`: f32 [vocabSize], with a
 * distribution (sampler.ts).
 */
export function logprobsOf(logits: Float32Array, token: number, numTop: number): TokenLogprobs {
  const chosen = logits[token]!;
  const top: number[] = [];
  const length = Math.min(numTop, logits.length);
  let max = -Infinity, rank = 1;
  for (let id = 0; id < logits.length; id++) {
    const x = logits[id]!;
    if (x > max) max = x;
    if (x > chosen) rank++;
    if (length === 0 || (top.length === length && !(x > logits[top[length - 1]!]!))) continue;
    if (top.length === length) top.pop();
    let at = top.length;
    while (at > 0 && x > logits[top[at - 1]!]!) at--;
    top.splice(at, 0, id);
  }
  let sum = 0;
  for (let id = 0; id < logits.length; id++) sum += Math.exp(logits[id]! - max);
  const logSum = max + Math.log(sum);
  return { token, logprob: chosen - logSum, rank, top: top.map((id) => ({ token: id, logprob: logits[id]! - logSum })) };
}
