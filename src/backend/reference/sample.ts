/**
 * The definition of a choice: sort every token, cut the list by each filter, draw. In doubles, in the order the contract says.
 *
 * The host's Sampler and every device that samples are compared with this. Nothing here is fast on purpose.
 */
import { invariant } from "../../core/errors.ts";
import { choiceWord, headerWord, type SamplingOps } from "../backend.ts";
import { bytesOf, f32Of, i32Of } from "./memory.ts";

/** How a token is chosen: one record of choices. */
interface Choice {
  readonly temperature: number;
  readonly topP: number;
  readonly minP: number;
  readonly uniform: number;
  readonly topK: number;
}

/** The token of one row of logits; -1 where they are no distribution. */
export function choose(logits: Float32Array, { temperature, topP, minP, uniform, topK }: Choice): number {
  if (logits.some((x) => Number.isNaN(x) || x === Infinity) || logits.every((x) => x === -Infinity)) return -1;
  const ids = Array.from(logits.keys()).sort((a, b) => (logits[a] === logits[b] ? a - b : logits[b]! - logits[a]!));
  if (temperature === 0) return ids[0]!;
  const largest = logits[ids[0]!]!, rate = 1 / temperature;
  const mass = Float64Array.from(logits, (x) => Math.exp((x - largest) * rate));
  const sum = (some: readonly number[]): number => some.reduce((total, id) => total + mass[id]!, 0);

  let kept = ids.slice(0, topK > 0 ? topK : undefined).filter((id) => mass[id]! > 0 && mass[id]! >= minP);
  if (topP < 1) {
    const enough = topP * sum(kept);
    let before = 0;
    kept = kept.filter((id, i) => {
      const stays = i === 0 || before < enough;
      before += mass[id]!;
      return stays;
    });
  }
  kept.sort((a, b) => a - b);
  const target = uniform * sum(kept);
  let running = 0;
  // uniform * sum may round up to the sum itself.
  return kept.find((id) => (running += mass[id]!) > target) ?? kept.at(-1)!;
}

export const sample: SamplingOps["sample"] = ({ logits, choices, out, batch }) => {
  const count = i32Of(batch.header)[headerWord.numLogits]!;
  const values = f32Of(logits.data), to = i32Of(out), records = bytesOf(choices);
  invariant(count <= to.length && count * choiceWord.words * 4 <= records.byteLength, `${count} rows, room for ${to.length} tokens and ${records.byteLength} bytes of choices`);
  const view = new DataView(records.buffer, records.byteOffset, records.byteLength);
  for (let i = 0; i < count; i++) {
    const double = (word: number): number => view.getFloat64((i * choiceWord.words + word) * 4, true);
    to[i] = choose(values.subarray(i * logits.stride, i * logits.stride + logits.columns), {
      temperature: double(choiceWord.temperature), topP: double(choiceWord.topP), minP: double(choiceWord.minP), uniform: double(choiceWord.uniform),
      topK: view.getInt32((i * choiceWord.words + choiceWord.topK) * 4, true),
    });
  }
};

export const feedTokens: SamplingOps["feedTokens"] = ({ sampled, batch }) => {
  const count = i32Of(batch.header)[headerWord.numTokens]!;
  const tokens = i32Of(batch.tokens), from = i32Of(sampled);
  for (let r = 0; r < count; r++) {
    if (tokens[r]! >= 0) continue;
    const row = -1 - tokens[r]!;
    invariant(row < from.length, `row ${row} of the step before, which has ${from.length} at most`);
    tokens[r] = Math.max(0, from[row]!);
  }
};
