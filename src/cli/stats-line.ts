/** What the engine did between two of its reports, in vLLM's one line. Prints nothing. */
import type { Stats } from "../engine/messages.ts";

/** The line of `elapsed` seconds; undefined where nothing ran and nothing waited. */
export function statsLine(before: Stats, now: Stats, elapsed: number): string | undefined {
  if (now.numSteps === before.numSteps && now.numRunning === 0 && now.numWaiting === 0) return undefined;
  const rate = (count: number) => (count / elapsed).toFixed(1);
  const used = 100 * (1 - now.numFreePages / now.numPages);
  const hits = (100 * now.prefixCacheHits) / Math.max(1, now.prefixCacheQueries);
  return `Avg prompt throughput: ${rate(now.promptTokens - before.promptTokens)} tokens/s, ` +
    `Avg generation throughput: ${rate(now.generationTokens - before.generationTokens)} tokens/s, ` +
    `Running: ${now.numRunning} reqs, Waiting: ${now.numWaiting} reqs, KV cache usage: ${used.toFixed(1)}%, Prefix cache hit rate: ${hits.toFixed(1)}%`;
}
