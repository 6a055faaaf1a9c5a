/** How fast an answer came, in one line. */
import type { GenerationResult } from "../llm/generation.ts";

/** Times in seconds. The first token's time is the prompt's; the others' is what makes tokens per second. */
export function speedLine(
  { usage, finishReason }: Pick<GenerationResult, "usage" | "finishReason">, startedAt: number, firstAt: number, endedAt: number,
): string {
  const count = `${usage.completionTokens} ${usage.completionTokens === 1 ? "token" : "tokens"}`;
  const rest = usage.completionTokens - 1;
  const rate = rest > 0 && endedAt > firstAt ? `, ${Math.round(rest / (endedAt - firstAt))} tokens/s` : "";
  const why = finishReason === "length" ? ", cut at the token limit" : finishReason === "abort" ? ", stopped" : "";
  return `[${count}${rate}, first after ${Math.round((firstAt - startedAt) * 1000)} ms${why}]`;
}
