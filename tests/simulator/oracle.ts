/**
 * What a request must be told, from what a request is and nothing else: the same request alone, without pages, batches, steps or a scheduler. Token by
 * token, as they are asked for. Rules and log-probabilities are their definitions over the whole vocabulary, in doubles.
 */
import { choose } from "../../src/backend/reference/sample.ts";
import { uniform } from "../../src/core/random.ts";
import type { Delta, TokenLogprobs } from "../../src/engine/messages.ts";
import { chain, emptyPrefix, refusal, writeLogits } from "./machine.ts";
import type { Request } from "./requests.ts";
import type { Swarm } from "./swarm.ts";

/** One token and what comes with it, or the error that comes in place of one. */
export type Answer = Pick<Delta, "tokens" | "logprobs" | "finish" | "stopTokenId" | "param"> & { readonly message?: RegExp };

export class Oracle {
  readonly request: Request;
  readonly #swarm: Swarm;
  /** Prompt and output, and the hash of what ends with each. */
  readonly tokens: number[] = [];
  readonly #hashes: number[] = [];
  readonly #answers: Answer[] = [];

  get id(): string {
    return this.request.id;
  }

  /** The hash of no tokens. */
  get empty(): number {
    return emptyPrefix(this.request.space);
  }

  constructor(request: Request, swarm: Swarm) {
    this.request = request;
    this.#swarm = swarm;
    for (const token of request.prompt) this.#push(token);
  }

  get #output(): readonly number[] {
    return this.tokens.slice(this.request.prompt.length);
  }

  #push(token: number): void {
    this.#hashes.push(chain(this.#hashes.at(-1) ?? this.empty, token));
    this.tokens.push(token);
  }

  /** Whether there is a token at `position`; it is computed where it can be. */
  reaches(position: number): boolean {
    while (this.tokens.length <= position && this.#answers.at(-1)?.finish === undefined) this.#next();
    return position < this.tokens.length;
  }

  /** The hash of the tokens up to and with `position`. The caller has asked `reaches`. */
  hash(position: number): number {
    return this.#hashes[position]!;
  }

  /** Answer `i`; undefined behind the last. */
  answer(i: number): Answer | undefined {
    while (this.#answers.length <= i && this.#answers.at(-1)?.finish === undefined) this.#next();
    return this.#answers[i];
  }

  #next(): void {
    const { params, wrong, prompt } = this.request, { refused, eosTokenIds, limits } = this.#swarm;
    const end = (answer: Partial<Answer>) => void this.#answers.push({ tokens: [], finish: "error", ...answer });
    if (wrong !== undefined) return end({ param: wrong, message: /./ });
    const isFirst = this.#answers.length === 0, isUnreadable = isFirst && this.promptLogprobs().some(({ logprob }) => Number.isNaN(logprob));
    // Where both are so it depends on how the prompt was cut which comes first.
    if (isFirst ? prompt.includes(refused ?? -1) : this.tokens.at(-1) === refused) return end({ message: new RegExp(`^${refusal(refused!)}$${isUnreadable ? "|are not numbers" : ""}`) });
    if (isUnreadable) return end({ message: /are not numbers/ });
    const raw = new Float32Array(this.#swarm.vocabSize);
    writeLogits(raw, 0, this.#hashes.at(-1)!, this.#swarm);
    if (raw.some((x) => Number.isNaN(x) || x === Infinity)) return end({ message: /are not numbers/ });
    const ruled = this.#ruled(raw);
    if (ruled === undefined) return end({ message: /^logitsProcessors\[\d\] (threw Error: enough|returned something)/, param: "logitsProcessors" });
    const token = this.#choose(ruled);
    if (token < 0 && params.logitsProcessors) return end({ message: /logitsProcessors left no token/, param: "logitsProcessors" });
    if (token < 0) return end({ message: /no token is left/, param: params.allowedTokenIds ? "allowedTokenIds" : params.badWords.length > 0 ? "badWords" : "minTokens" });
    this.#push(token);
    const isEos = !params.ignoreEos && eosTokenIds.includes(token), isStop = params.stopTokenIds.includes(token);
    const isFull = this.#output.length === params.maxTokens || this.tokens.length === limits.maxModelLen;
    this.#answers.push({
      tokens: [token],
      ...(params.logprobs !== undefined && { logprobs: [logprobs(raw, token, params.logprobs)] }),
      ...(isEos ? { finish: "stop" } : isStop ? { finish: "stop", stopTokenId: token } : isFull ? { finish: "length" } : {}),
    });
  }

  #choose(logits: Float32Array): number {
    const { params: { temperature, topP, minP, topK }, seed } = this.request, greedy = temperature < 1e-5;
    return choose(logits, { temperature: greedy ? 0 : Math.max(temperature, 0.01), topP, minP, topK: Math.max(0, topK), uniform: uniform(seed, this.tokens.length) });
  }

  /** Of the prompt's tokens from the second on, where they are wanted. */
  promptLogprobs(): readonly TokenLogprobs[] {
    const { prompt, params: { promptLogprobs: numTop } } = this.request, raw = new Float32Array(this.#swarm.vocabSize);
    if (numTop === undefined) return [];
    return Array.from(prompt.subarray(1), (token, i) => {
      writeLogits(raw, 0, this.#hashes[i]!, this.#swarm);
      return raw.some((x) => Number.isNaN(x) || x === Infinity) ? { token, logprob: NaN, rank: 0, top: [] } : logprobs(raw, token, numTop);
    });
  }

  /** The logits under the request's rules; undefined where one of its own functions fails. */
  #ruled(raw: Float32Array): Float32Array | undefined {
    const { params, prompt } = this.request, output = this.#output;
    let x = [...raw];
    if (params.allowedTokenIds) for (const id of x.keys()) if (!params.allowedTokenIds.includes(id)) x[id] = -Infinity;
    for (const word of params.badWords) {
      const before = word.slice(0, -1), from = output.length - before.length;
      if (from >= 0 && before.every((token, i) => output[from + i] === token)) x[word.at(-1)!] = -Infinity;
    }
    if (output.length < params.minTokens) for (const id of [...this.#swarm.eosTokenIds, ...params.stopTokenIds]) x[id] = -Infinity;
    for (const [id, bias] of params.logitBias ?? []) x[id]! += bias;
    if (params.logitsProcessors) {
      const row = Float32Array.from(x);
      try {
        for (const processor of params.logitsProcessors) if (processor(row, { promptTokenIds: prompt, outputTokenIds: output }) !== undefined) return undefined;
      } catch {
        return undefined;
      }
      x = [...row];
    }
    for (const id of new Set(output)) {
      const count = output.filter((token) => token === id).length;
      x[id] = repeated(x[id]!, params.repetitionPenalty) - params.frequencyPenalty * count - params.presencePenalty;
    }
    for (const id of new Set(prompt)) if (!output.includes(id)) x[id] = repeated(x[id]!, params.repetitionPenalty);
    return Float32Array.from(x);
  }
}

const repeated = (x: number, penalty: number): number => (x > 0 ? x / penalty : x * penalty);

function logprobs(raw: Float32Array, token: number, numTop: number): TokenLogprobs {
  const largest = Math.max(...raw), logSum = largest + Math.log(raw.reduce((sum, x) => sum + Math.exp(x - largest), 0));
  const order = [...raw.keys()].sort((a, b) => (raw[a] === raw[b] ? a - b : raw[b]! - raw[a]!));
  return { token, logprob: raw[token]! - logSum, rank: 1 + raw.filter((x) => x > raw[token]!).length, top: order.slice(0, numTop).map((id) => ({ token: id, logprob: raw[id]! - logSum })) };
}
