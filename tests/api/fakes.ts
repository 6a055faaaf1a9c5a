/**
 * Stand-ins for the two things a server needs, so that its tests take milliseconds: an engine whose next token is a function of
 * all tokens before it, and a tokenizer whose tokens are bytes. Both keep the contracts of the real ones.
 */
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import type { EngineClient } from "../../src/engine/client.ts";
import type { Delta, EngineInfo, SchedulingPolicy, Standing } from "../../src/engine/messages.ts";
import { LLM } from "../../src/llm.ts";
import type { SamplingParams } from "../../src/sampling/params.ts";
import type { StreamDecoder, TextService } from "../../src/tokenizer/text.ts";

export const bos = 256;
export const eos = 257;
const vocabSize = 258;
const pageSize = 16;
const numPages = 64;

export interface FakeEngineOptions {
  /** Bytes answered to every prompt before the end token; by default letters that depend on the prompt, without end. */
  readonly reply?: string;
  readonly tokensPerStep?: number;
  readonly stepMs?: number;
  /** What it says of its waiting, with the first token. */
  readonly queueSeconds?: number;
  readonly maxModelLen?: number;
  /** So many tokens of every prompt are in the cache. */
  readonly cachedTokens?: number;
  /** Dies in this step of any request. */
  readonly dieAtToken?: number;
  /** Fails the request in this step, and lives on: what a mod that leaves its table does. */
  readonly failAtToken?: number;
  readonly schedulingPolicy?: SchedulingPolicy;
}

export class FakeEngine implements EngineClient {
  readonly info: EngineInfo;
  readonly seen: { readonly prompt: readonly number[]; readonly params: SamplingParams; readonly salt: string; readonly standing: Standing }[] = [];
  readonly inProcess = false;
  alive = true;
  restarting = false;
  restarts = 0;
  #running = 0;
  #promptTokens = 0;
  #generationTokens = 0;
  #cachedTokens = 0;
  readonly #options: FakeEngineOptions;

  constructor(options: FakeEngineOptions = {}) {
    this.#options = options;
    this.info = {
      architecture: "FakeForCausalLM", backend: "fake, no threads", dtype: "float32", kvCacheDtype: "float32", numParameters: 0, maxModelLen: options.maxModelLen ?? 512, vocabSize,
      pageSize, numPages, maxNumSeqs: 64, maxNumBatchedTokens: 64, eosTokenIds: [eos], weightBytes: 0, kvBytes: 0, enablePrefixCaching: true, schedulingPolicy: options.schedulingPolicy ?? "fcfs", loadSeconds: 0,
    };
  }

  get stats() {
    return {
      numRunning: this.#running, numWaiting: 0, numFreePages: numPages - this.#running, numPages, numSteps: this.#generationTokens,
      promptTokens: this.#promptTokens, generationTokens: this.#generationTokens, numPreemptions: 0, numExpiredPages: 0, prefixCacheQueries: this.#promptTokens, prefixCacheHits: this.#cachedTokens, stepTokens: this.#running, stepSeconds: 0.001,
      numStepsAhead: 0, hostSeconds: 0, hiddenSeconds: 0, waitSeconds: 0, draftSeconds: 0, numDrafts: 0, numDraftTokens: 0, acceptedPerPosition: [], computedTokens: 11, stepsOfSize: [2, 0, 1, ...new Array<number>(11).fill(0)],
    };
  }

  async *generate(prompt: Int32Array, params: SamplingParams, signal?: AbortSignal, standing: Standing = {}): AsyncGenerator<Delta, void, void> {
    const { reply, tokensPerStep = 1, cachedTokens = 0, stepMs, queueSeconds, dieAtToken = Infinity, failAtToken = Infinity } = this.#options;
    const script = reply === undefined ? undefined : [...new TextEncoder().encode(reply), eos];
    this.seen.push({ prompt: Array.from(prompt), params, salt: standing.salt ?? "", standing });
    this.#running++;
    this.#promptTokens += prompt.length;
    this.#cachedTokens += cachedTokens;
    let hash = prompt.reduce((sum, token) => (Math.imul(sum, 31) + token) | 0, params.seed ?? 0);
    try {
      // Two tokens of the prompt in each step.
      for (let from = 1; params.promptLogprobs !== undefined && from < prompt.length; from += 2) {
        yield {
          id: "fake", tokens: [], promptLogprobs: {
            from, logprobs: Array.from(prompt.slice(from, from + 2), (token, i) => ({
              token, logprob: -from - i, rank: 2, top: Array.from({ length: params.promptLogprobs! }, (_, at) => ({ token: 65 + at, logprob: at < 1 ? -0.25 : -Infinity })),
            })),
          },
        };
      }
      for (let made = 0; ; ) {
        if (signal?.aborted) return yield { id: "fake", tokens: [], finish: "abort" };
        await (stepMs === undefined ? nextTurn() : sleep(stepMs));
        if (made >= failAtToken) return yield { id: "fake", tokens: [], finish: "error", message: "index 3 is outside the table 't'" };
        const tokens: number[] = [];
        let finish: "stop" | "length" | undefined;
        while (tokens.length < tokensPerStep && !finish) {
          if (made >= dieAtToken) {
            this.alive = false;
            throw new Error("the fake engine died of /a/secret/path");
          }
          hash = (Math.imul(hash, 31) + 7) | 0;
          const token = script ? script[made % script.length]! : 97 + (hash >>> 8) % 26;
          tokens.push(token);
          made++;
          if ((token === eos && !params.ignoreEos) || params.stopTokenIds.includes(token)) finish = "stop";
          else if (made >= params.maxTokens) finish = "length";
        }
        this.#generationTokens += tokens.length;
        const last = tokens.at(-1)!;
        yield {
          id: "fake", tokens, ...(queueSeconds !== undefined && made === tokens.length && { queueSeconds }), ...(cachedTokens > 0 && made === tokens.length && { cachedTokens }), ...(finish && { finish }), ...(finish === "stop" && last !== eos && { stopTokenId: last }),
          ...(params.logprobs !== undefined && {
            logprobs: tokens.map((token) => ({
              token, logprob: -0.5, rank: 1, top: Array.from({ length: params.logprobs! }, (_, i) => ({ token: i === 0 ? token : 65 + i, logprob: i < 2 ? -0.5 - i : -Infinity })),
            })),
          }),
        };
        if (finish) return;
      }
    } finally {
      this.#running--;
    }
  }

  async close(): Promise<void> {
    this.alive = false;
  }
}

/** Bytes as tokens; a chat is "role: content\n" lines. */
export function fakeText(): TextService {
  const text = (ids: ArrayLike<number>, decoder = new TextDecoder(), stream = false) =>
    decoder.decode(Uint8Array.from(Array.from(ids).filter((id) => id < 256)), { stream });
  const encode = (content: unknown, addBos: boolean) => Int32Array.from([...(addBos ? [bos] : []), ...new TextEncoder().encode(String(content))]);
  return {
    vocabSize, eosIds: [eos], hasChatTemplate: true,
    encode: async (content, { addSpecialTokens = true } = {}) => encode(content, addSpecialTokens),
    async encodeChat(messages, { addGenerationPrompt = true } = {}) {
      const rendered = messages.map(({ role, content }) => `${role}: ${String(content)}\n`).join("") + (addGenerationPrompt ? "assistant: " : "");
      return { ids: encode(rendered, true), text: rendered };
    },
    decode: (ids) => text(ids),
    detokenize: async (ids) => Array.from(ids, (id) => (id === bos ? "<bos>" : id === eos ? "<eos>" : text([id]))).join(""),
    tokenString: (id) => (id === bos ? "<bos>" : id === eos ? "<eos>" : text([id])),
    decoder() {
      const utf8 = new TextDecoder();
      return { push: (ids: ArrayLike<number>) => text(ids, utf8, true), flush: () => utf8.decode() } as StreamDecoder;
    },
    close() {},
  };
}

/** An LLM over the fakes, with its engine at hand. */
export function fakeLLM(options: FakeEngineOptions & { readonly skipTokenizerInit?: boolean } = {}): { readonly llm: LLM; readonly engine: FakeEngine } {
  const engine = new FakeEngine(options);
  return { engine, llm: new LLM({ name: "fake", engine, text: options.skipTokenizerInit ? undefined : fakeText() }) };
}
