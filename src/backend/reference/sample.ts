/**
 * The definition of what becomes of logits: sort every token, cut the list by each filter, draw. In doubles, in the order the contract says.
 *
 * The host's Sampler and every device are compared with this. Nothing here is fast on purpose.
 */
import { greatestFloat32 } from "../../core/dtype.ts";
import { invariant } from "../../core/errors.ts";
import { type Activation, answerWord, type Buffer, choiceWord, editWord, headerWord, mostTop, questionWord, ruleWord, type SamplingOps } from "../backend.ts";
import { bytesOf, f32Of, i32Of } from "./memory.ts";

/** How a token is chosen: one record of choices. */
interface Choice {
  readonly temperature: number;
  readonly topP: number;
  readonly minP: number;
  readonly uniform: number;
  readonly topK: number;
}

/** Whether a token can be chosen from it. */
const isDistribution = (logits: Float32Array): boolean => !logits.some((x) => Number.isNaN(x) || x === Infinity) && logits.some((x) => x > -Infinity);
/** Tokens by logit, largest first, equal ones by lowest id. */
const ordered = (logits: Float32Array): number[] => Array.from(logits.keys()).sort((a, b) => (logits[a] === logits[b] ? a - b : logits[b]! - logits[a]!));

/** The token of one row of logits; -1 where they are no distribution. */
export function choose(logits: Float32Array, { temperature, topP, minP, uniform, topK }: Choice): number {
  if (!isDistribution(logits)) return -1;
  const ids = ordered(logits);
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

/** A row's penalties. */
interface Penalties {
  readonly repetition: number;
  readonly frequency: number;
  readonly presence: number;
}

/** A token's new logit, not rounded yet; count and bias as in `editWord`. */
export function editedLogit(logit: number, count: number, bias: number, { repetition, frequency, presence }: Penalties): number {
  if (bias === -Infinity) return -Infinity;
  let x = logit + bias;
  if (count >= 0) x = x > 0 ? x / repetition : x * repetition;
  if (count > 0) x = x - frequency * count - presence;
  return Number.isFinite(logit) ? Math.min(Math.max(x, -greatestFloat32), greatestFloat32) : x;
}

/** Records of so many words each: `int` and `double` read word `word` of record `i`. */
function records(buffer: Buffer, words: number) {
  const { buffer: memory, byteOffset, byteLength } = bytesOf(buffer), view = new DataView(memory, byteOffset, byteLength);
  return {
    count: Math.floor(byteLength / (4 * words)),
    int: (i: number, word: number): number => view.getInt32((i * words + word) * 4, true),
    double: (i: number, word: number): number => view.getFloat64((i * words + word) * 4, true),
    setInt: (i: number, word: number, value: number): void => view.setInt32((i * words + word) * 4, value, true),
    setFloat: (i: number, word: number, value: number): void => view.setFloat32((i * words + word) * 4, value, true),
    setDouble: (i: number, word: number, value: number): void => view.setFloat64((i * words + word) * 4, value, true),
  };
}

const rowOf = ({ data, stride, columns }: Activation, row: number): Float32Array => f32Of(data).subarray(row * stride, row * stride + columns);

function choiceOf(choices: ReturnType<typeof records>, i: number): Choice {
  const { temperature, topP, minP, uniform, topK } = choiceWord;
  return { temperature: choices.double(i, temperature), topP: choices.double(i, topP), minP: choices.double(i, minP), uniform: choices.double(i, uniform), topK: choices.int(i, topK) };
}

export const sample: SamplingOps["sample"] = ({ logits, choices, out, batch }) => {
  const count = i32Of(batch.header)[headerWord.numLogits]!, to = i32Of(out), given = records(choices, choiceWord.words);
  invariant(count <= to.length && count <= given.count, `${count} rows, room for ${to.length} tokens and ${given.count} choices`);
  for (let i = 0; i < count; i++) if (given.int(i, choiceWord.skip) === 0) to[i] = choose(rowOf(logits, i), choiceOf(given, i));
};

export const sampleRuled: SamplingOps["sampleRuled"] = ({ logits, choices, rules, edits, scratch, out, batch }) => {
  const count = i32Of(batch.header)[headerWord.numLogits]!, given = records(choices, choiceWord.words), ruled = records(rules, ruleWord.words), changes = records(edits, editWord.words);
  invariant(count <= ruled.count, `${count} rows with rules, room for ${ruled.count}`);
  for (let r = 0; r < count; r++) {
    const row = ruled.int(r, ruleWord.row), first = ruled.int(r, ruleWord.firstEdit), numEdits = ruled.int(r, ruleWord.numEdits);
    invariant(first >= 0 && first + numEdits <= Math.min(changes.count, scratch.bytes / 4), `edits ${first} to ${first + numEdits} of ${changes.count}, scratch of ${scratch.bytes} bytes`);
    const own = rowOf(logits, row), penalties = { repetition: ruled.double(r, ruleWord.repetition), frequency: ruled.double(r, ruleWord.frequency), presence: ruled.double(r, ruleWord.presence) };
    const changed = ruled.int(r, ruleWord.onlyEdited) === 0 ? own.slice() : new Float32Array(own.length).fill(-Infinity);
    for (let e = first; e < first + numEdits; e++) {
      const token = changes.int(e, editWord.token);
      invariant(token >= 0 && token < own.length, `an edit of token ${token} of ${own.length}`);
      changed[token] = editedLogit(own[token]!, changes.int(e, editWord.count), changes.double(e, editWord.bias), penalties);
    }
    i32Of(out)[row] = !isDistribution(own) ? -1 : isDistribution(changed) ? choose(changed, choiceOf(given, row)) : -2;
  }
};

export const logprobs: SamplingOps["logprobs"] = ({ logits, questions, sampled, out, batch }) => {
  const count = i32Of(batch.header)[headerWord.numLogits]!, asked = records(questions, questionWord.words), answers = records(out, answerWord.words);
  invariant(count <= asked.count && count <= answers.count, `${count} questions, room for ${asked.count} and ${answers.count} answers`);
  for (let i = 0; i < count; i++) {
    const row = asked.int(i, questionWord.row), given = asked.int(i, questionWord.token), numTop = asked.int(i, questionWord.numTop);
    const own = rowOf(logits, row), token = given >= 0 ? given : i32Of(sampled)[row]!;
    answers.setInt(i, answerWord.rank, 0);
    if (token < 0 || !isDistribution(own)) continue;
    const ids = ordered(own), largest = own[ids[0]!]!;
    answers.setDouble(i, answerWord.logSum, largest + Math.log(own.reduce((sum, x) => sum + Math.exp(x - largest), 0)));
    answers.setFloat(i, answerWord.logit, own[token]!);
    answers.setInt(i, answerWord.rank, 1 + own.filter((x) => x > own[token]!).length);
    ids.slice(0, Math.min(numTop, mostTop)).forEach((id, place) => {
      answers.setInt(i, answerWord.top + 2 * place, id);
      answers.setFloat(i, answerWord.top + 2 * place + 1, own[id]!);
    });
  }
};

export const feedTokens: Required<SamplingOps>["feedTokens"] = ({ sampled, batch }) => {
  const count = i32Of(batch.header)[headerWord.numTokens]!;
  const tokens = i32Of(batch.tokens), from = i32Of(sampled);
  for (let r = 0; r < count; r++) {
    if (tokens[r]! >= 0) continue;
    const row = -1 - tokens[r]!;
    invariant(row < from.length, `row ${row} of the step before, which has ${from.length} at most`);
    tokens[r] = Math.max(0, from[row]!);
  }
};
