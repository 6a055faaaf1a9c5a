/**
 * What prefix caching gains: 64 requests sent at once, their prompts 512 tokens that all share and 32 of their own, into a cache that holds none of it.
 *
 * A figure is the time from sending them to the last one's first token. Both engines are in this process and take turns; every round has a prefix of its own, so
 * that nothing of it is in the cache. The outputs of both are compared: a hit changes no token.
 *
 *   npm run bench -- prefix [--model DIR] [--rounds N] [--threads N] [--requests N] [--shared N] [--own N]
 */
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { stream } from "../src/core/random.ts";
import { LLM } from "../src/index.ts";
import { median, report } from "./row.ts";

const { values: flags } = parseArgs({
  options: {
    model: { type: "string" }, rounds: { type: "string", default: "3" }, threads: { type: "string", default: String(availableParallelism()) },
    requests: { type: "string", default: "64" }, shared: { type: "string", default: "512" }, own: { type: "string", default: "32" }, help: { type: "boolean" },
  },
});
if (flags.help) {
  console.log("npm run bench -- prefix [--model DIR] [--rounds N] [--threads N] [--requests N] [--shared N] [--own N]");
  process.exit(0);
}
const [rounds, threads, numRequests, numShared, numOwn] = [flags.rounds, flags.threads, flags.requests, flags.shared, flags.own].map(Number) as [number, number, number, number, number];
const load = (enablePrefixCaching: boolean): Promise<LLM> => LLM.load(flags.model, { enablePrefixCaching, threads, skipTokenizerInit: true, generationConfig: "vllm", seed: 0 });
await using cached = await load(true);
await using plain = await load(false);

const random = stream(1);
const tokens = (count: number): number[] => Array.from({ length: count }, () => Math.floor(random() * cached.info.vocabSize));

/** Seconds until the last first token, the tokens, and the prompts' tokens that were in the cache. */
async function burst(llm: LLM, prompts: readonly (readonly number[])[]) {
  const start = performance.now();
  const results = await Promise.all(prompts.map((prompt) => llm.generate(prompt, { maxTokens: 1, temperature: 0, ignoreEos: true })));
  return { seconds: (performance.now() - start) / 1000, tokens: results.flatMap(({ tokenIds }) => tokenIds), cachedTokens: results.reduce((sum, { usage }) => sum + usage.cachedTokens, 0) };
}

const seconds = { cached: [] as number[], plain: [] as number[] }, hits: number[] = [];
for (let round = -1; round < rounds; round++) {
  // The first, smaller, warms up.
  const shared = tokens(numShared), prompts = Array.from({ length: round < 0 ? 8 : numRequests }, () => [...shared, ...tokens(numOwn)]);
  const withCache = await burst(cached, prompts), without = await burst(plain, prompts);
  if (withCache.tokens.join() !== without.tokens.join()) throw new Error("a hit changed a token");
  if (round < 0) continue;
  seconds.cached.push(withCache.seconds);
  seconds.plain.push(without.seconds);
  hits.push(withCache.cachedTokens / (numRequests * (numShared + numOwn)));
}
const name = `${numRequests} requests at once, ${numShared} tokens shared and ${numOwn} of their own, to the last first token`;
report(`${name}: no prefix caching`, seconds.plain, "s", threads);
report(`${name}: prefix caching`, seconds.cached, "s", threads);
report(`${name}: times faster`, seconds.cached.map((s, round) => seconds.plain[round]! / s), "times", threads);
console.log(`of the prompts' tokens ${(100 * median(hits)).toFixed(1)}% were in the cache`);
