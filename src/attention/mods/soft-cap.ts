/** Scores held between -cap and cap, smoothly (Gemma 2). */
import { type ScoreMod, scoreMod } from "../mod.ts";

/** cap tanh(score / cap) */
export function softCap(cap: number): ScoreMod {
  return scoreMod(({ cap }) => (score) => cap * Math.tanh(score / cap), { cap });
}
