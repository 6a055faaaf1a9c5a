/**
 * What both sides of a comparison do: the same file, the same tokens, the same number of threads; only the time differs.
 *
 * Tessera answers through its public API, so its figures include scheduling, sampling and the messages to the engine's thread.
 */
import { LLM } from "../../src/index.ts";

export interface Runs {
  /** Prompt tokens per second, of a prompt with nothing cached, until the first token is there. */
  prefill(prompt: Int32Array): Promise<number>;
  /** Tokens per second, of all together, while each of `prompts` goes on by `steps` greedy tokens. Prompts are not counted. */
  decode(prompts: readonly Int32Array[], steps: number): Promise<number>;
}

/** What a contender has to have room for. */
export interface Room {
  readonly threads: number;
  readonly sequences: number;
  /** Tokens of one sequence. */
  readonly length: number;
  /** Tokens of one step. */
  readonly batch: number;
}

/** Token ids in, token ids out: neither side tokenises or makes text here. */
export async function openTessera(file: string, { threads, sequences, length, batch }: Room): Promise<Runs & AsyncDisposable & { readonly description: string }> {
  const llm = await LLM.load(file, { threads, maxNumSeqs: sequences, maxModelLen: length, maxNumBatchedTokens: batch, kvCacheBytes: 2 ** 30, enablePrefixCaching: false, skipTokenizerInit: true });
  const greedy = { temperature: 0, ignoreEos: true } as const;
  return {
    description: `${llm.info.backend}, ${llm.info.dtype}`,
    async prefill(prompt) {
      const start = performance.now();
      await llm.generate(prompt, { ...greedy, maxTokens: 1 });
      return prompt.length / ((performance.now() - start) / 1000);
    },
    async decode(prompts, steps) {
      // Prompts that do not fit one step start one after another: what counts is the time when all are decoding. Those before have more tokens to come by then.
      const stepsOfPrompts = Math.ceil(prompts.reduce((sum, { length }) => sum + length, 0) / batch);
      const times = await Promise.all(prompts.map(async (prompt) => {
        const seen: number[] = [];
        for await (const { tokens } of llm.generate(prompt, { ...greedy, maxTokens: steps + stepsOfPrompts })) for (const _ of tokens) seen.push(performance.now());
        return seen;
      }));
      const from = Math.max(...times.map((seen) => seen[0]!)), to = Math.min(...times.map((seen) => seen.at(-1)!));
      return times.flat().filter((time) => time > from && time <= to).length / ((to - from) / 1000);
    },
    [Symbol.asyncDispose]: () => llm[Symbol.asyncDispose](),
  };
}
