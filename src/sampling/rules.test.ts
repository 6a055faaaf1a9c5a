import assert from "node:assert/strict";
import test from "node:test";
import { editWord } from "../backend/backend.ts";
import { editedLogit } from "../backend/reference/sample.ts";
import { stream } from "../core/random.ts";
import { BadRequest } from "../core/errors.ts";
import { checkSampling, defaultSampling, type LogitsProcessor, type SamplingParams } from "./params.ts";
import { Records } from "./records.ts";
import { LogitRules } from "./rules.ts";
import { Sampler } from "./sampler.ts";

/** vLLM's definition in its order, over the whole vocabulary, in doubles. */
function oracle(logits: Float32Array, p: SamplingParams, prompt: readonly number[], output: readonly number[], ends: readonly number[]): number[] {
  const x = [...logits];
  if (p.allowedTokenIds) for (const id of x.keys()) if (!p.allowedTokenIds.includes(id)) x[id] = -Infinity;
  for (const word of p.badWords) {
    const before = word.slice(0, -1);
    if (output.length >= before.length && before.every((token, i) => output[output.length - before.length + i] === token)) x[word.at(-1)!] = -Infinity;
  }
  if (output.length < p.minTokens) for (const id of [...ends, ...p.stopTokenIds]) x[id] = -Infinity;
  for (const [id, bias] of p.logitBias ?? []) x[id]! += bias;
  if (p.logitsProcessors) {
    const row = Float32Array.from(x);
    for (const processor of p.logitsProcessors) processor(row, { promptTokenIds: Int32Array.from(prompt), outputTokenIds: output });
    x.splice(0, x.length, ...row);
  }
  for (const id of x.keys()) {
    const count = output.filter((token) => token === id).length;
    if (count > 0 || prompt.includes(id)) x[id] = x[id]! > 0 ? x[id]! / p.repetitionPenalty : x[id]! * p.repetitionPenalty;
    x[id]! -= p.frequencyPenalty * count;
    x[id]! -= count > 0 ? p.presencePenalty : 0;
  }
  return x;
}

/** Edits of rules, as [token, count, bias]. */
function editsOf(rules: LogitRules, numOutput: number): readonly (readonly [number, number, number])[] {
  const records = new Records(editWord.words);
  // Behind those of another row.
  records.add(3);
  rules.writeEdits(records, numOutput);
  return Array.from({ length: records.count - 3 }, (_, i) => {
    const at = (i + 3) * editWord.words;
    return [records.ints[at + editWord.token]!, records.ints[at + editWord.count]!, records.doubles[(at + editWord.bias) / 2]!] as const;
  });
}

/** The logits under the rules: what a backend makes of the edits, or the row that functions have written to. */
function apply(rules: LogitRules, logits: Float32Array, p: SamplingParams, numOutput: number): Float32Array {
  if (rules.haveProcessors) return rules.apply(logits);
  const row = rules.onlyEdited ? new Float32Array(logits.length).fill(-Infinity) : logits.slice(), edits = editsOf(rules, numOutput), edited = edits.map(([token]) => token);
  for (const [token, count, bias] of edits) row[token] = editedLogit(logits[token]!, count, bias, { repetition: p.repetitionPenalty, frequency: p.frequencyPenalty, presence: p.presencePenalty });
  assert.equal(new Set(edited).size, edited.length, "no token twice");
  if (rules.onlyEdited) assert.deepEqual(edited, edited.toSorted((x, y) => x - y));
  return row;
}

type Rule = "repetitionPenalty" | "presencePenalty" | "frequencyPenalty" | "logitBias" | "allowedTokenIds" | "badWords" | "minTokens" | "logitsProcessors";
const rules: readonly Rule[] = ["repetitionPenalty", "presencePenalty", "frequencyPenalty", "logitBias", "allowedTokenIds", "badWords", "minTokens", "logitsProcessors"];

const random = stream(17);
const int = (from: number, to: number) => from + Math.floor(random() * (to - from + 1));
const list = (length: number, vocabSize: number) => Array.from({ length }, () => int(0, vocabSize - 1));

function draw(rule: Rule, vocabSize: number): Partial<SamplingParams> {
  switch (rule) {
    case "repetitionPenalty": return { repetitionPenalty: [0.5, 1.1, 1.3, 2, 10][int(0, 4)]! };
    case "presencePenalty": return { presencePenalty: [-2, -0.3, 0.7, 2][int(0, 3)]! };
    case "frequencyPenalty": return { frequencyPenalty: [-2, -0.1, 0.3, 2][int(0, 3)]! };
    case "logitBias": return { logitBias: new Map(list(int(1, 5), vocabSize).map((id) => [id, random() * 200 - 100])) };
    case "allowedTokenIds": return { allowedTokenIds: list(int(1, vocabSize), vocabSize) };
    case "badWords": return { badWords: Array.from({ length: int(1, 8) }, () => list(int(1, 3), vocabSize)) };
    case "minTokens": return { minTokens: int(1, 12), stopTokenIds: list(int(0, 2), vocabSize) };
    case "logitsProcessors": return { logitsProcessors: Array.from({ length: int(1, 3) }, () => drawProcessor(vocabSize)) };
  }
}

/** It forbids one, allows another whatever was before, and moves the rest by what has come so far. */
function drawProcessor(vocabSize: number): LogitsProcessor {
  const [forbidden, allowed, moved] = list(3, vocabSize) as [number, number, number];
  return (logits, { promptTokenIds, outputTokenIds }) => {
    logits[moved]! += promptTokenIds[0]! - outputTokenIds.length;
    logits[forbidden] = -Infinity;
    logits[allowed] = (outputTokenIds.at(-1) ?? 5) % 7;
  };
}

function check(chosen: readonly Rule[], vocabSize: number): { changed: boolean; stuck: boolean } {
  const params: SamplingParams = Object.assign({ ...defaultSampling, temperature: int(0, 1), maxTokens: 99 }, ...chosen.map((rule) => draw(rule, vocabSize)));
  assert.equal(checkSampling(params, vocabSize), undefined);
  const prompt = list(int(1, 10), vocabSize), ends = list(int(1, 2), vocabSize);
  const made = LogitRules.of(params, Int32Array.from(prompt), new Set(ends))!;
  const sampler = new Sampler(vocabSize), plain = new Sampler(vocabSize);
  const output: number[] = [];
  let changed = false, stuck = false;
  for (let step = 0; step < 20; step++) {
    const logits = Float32Array.from({ length: vocabSize }, () => (random() < 0.05 ? -Infinity : (random() - 0.5) * 12));
    logits[int(0, vocabSize - 1)] = 3;
    const before = logits.slice();
    const expected = Float32Array.from(oracle(logits, params, prompt, output, ends));
    assert.deepEqual(apply(made, logits, params, output.length), expected, `${chosen.join()} after ${output.length} tokens`);
    // Tokens that are only assumed leave nothing behind.
    const assumed = list(int(0, 3), vocabSize);
    for (const token of assumed) made.add(token);
    assert.deepEqual(apply(made, logits, params, output.length + assumed.length), Float32Array.from(oracle(logits, params, prompt, [...output, ...assumed], ends)));
    for (const _ of assumed) made.removeLast();
    assert.deepEqual(apply(made, logits, params, output.length), expected, "as before");
    assert.deepEqual(logits, before, "the logits are as they were");
    const token = plain.sample(expected, params, 5, step);
    if (made.haveProcessors) assert.equal(sampler.sample(logits, params, 5, step, made), token);
    changed ||= token !== plain.sample(logits, params, 5, step);
    stuck ||= token === undefined;
    const next = token ?? int(0, vocabSize - 1);
    output.push(next);
    made.add(next);
  }
  return { changed, stuck };
}

for (const rule of rules) {
  test(`${rule} alone is vLLM's definition, to the bit`, () => {
    let changed = 0;
    for (let round = 0; round < 60; round++) if (check([rule], int(2, 40)).changed) changed++;
    assert.ok(changed > 20, `it chose another token in ${changed} of 60 outputs`);
  });
}

test("any rules together are vLLM's definition in its order, to the bit", () => {
  let changed = 0, stuck = 0;
  for (let round = 0; round < 1000; round++) {
    const some = rules.filter(() => random() < 0.5);
    const got = check(some.length > 0 ? some : [rules[round % rules.length]!], int(2, 40));
    if (got.changed) changed++;
    if (got.stuck) stuck++;
  }
  assert.ok(changed > 300 && stuck > 10, `${changed} outputs were changed, ${stuck} had nothing left to choose`);
});

test("a request without rules has none, and neutral values are no rules", () => {
  const of = (p: Partial<SamplingParams>) => LogitRules.of({ ...defaultSampling, ...p }, Int32Array.of(1), new Set([0]));
  assert.equal(of({}), undefined);
  assert.equal(of({ repetitionPenalty: 1, presencePenalty: -0, frequencyPenalty: 0, logitBias: new Map(), badWords: [], minTokens: 0, stopTokenIds: [3] }), undefined);
  assert.notEqual(of({ allowedTokenIds: [1] }), undefined);
});

test("penalties at the ends of their ranges make no infinity of a number, and none of an infinity", () => {
  for (const repetitionPenalty of [1e-300, 1e300]) {
    const params = { ...defaultSampling, repetitionPenalty }, row = apply(LogitRules.of(params, Int32Array.of(0, 1, 2), new Set())!, Float32Array.of(5, -5, -Infinity), params, 0);
    assert.ok(Number.isFinite(row[0]) && Number.isFinite(row[1]), String(row));
    assert.equal(row[2], -Infinity);
  }
  const params = { ...defaultSampling, repetitionPenalty: 2 };
  assert.deepEqual([...apply(LogitRules.of(params, Int32Array.of(0, 1), new Set())!, Float32Array.of(Infinity, NaN), params, 0)], [Infinity, NaN], "the model's fault stays visible");
});

test("a logits processor that throws, returns something or gives the logits away is named, with what it did", () => {
  const logits = Float32Array.of(1, 2, 3);
  const fine: LogitsProcessor = () => {};
  const of = (processor: LogitsProcessor) => LogitRules.of({ ...defaultSampling, logitsProcessors: [fine, processor] }, Int32Array.of(1), new Set())!;
  for (const [processor, message] of [
    [() => { throw new RangeError("no such word"); }, "logitsProcessors[1] threw RangeError: no such word, after 1 tokens of output"],
    [() => { throw "a text"; }, "logitsProcessors[1] threw a text, after 1 tokens of output"], // eslint-disable-line no-throw-literal
    [() => { throw Object.create(null); }, "logitsProcessors[1] threw a value of type object, after 1 tokens of output"],
    [async () => { throw new Error("unheard"); }, "logitsProcessors[1] returned something; it must write to the logits it is given, at once, and return nothing, after 1 tokens of output"],
    [(row: Float32Array) => void structuredClone(row, { transfer: [row.buffer as ArrayBuffer] }), "logitsProcessors[1] gave the logits away, after 1 tokens of output"],
  ] as const) {
    const made = of(processor);
    made.add(0);
    assert.throws(() => made.apply(logits), (error) => error instanceof BadRequest && error.param === "logitsProcessors" && error.message === message);
    assert.deepEqual([...logits], [1, 2, 3], "what others use was not touched");
  }
});

test("penalties touch the distinct tokens seen and nothing else", () => {
  const made = LogitRules.of({ ...defaultSampling, repetitionPenalty: 1.5, frequencyPenalty: 0.5 }, Int32Array.of(7, 7, 9), new Set([1]))!;
  for (const token of [9, 4, 4, 4]) made.add(token);
  assert.deepEqual(editsOf(made, 4), [[7, 0, 0], [9, 1, 0], [4, 3, 0]]);
  const biased = LogitRules.of({ ...defaultSampling, presencePenalty: 1, logitBias: new Map([[4, 2], [8, -1]]), badWords: [[8]], minTokens: 3 }, Int32Array.of(7), new Set([1]))!;
  for (const token of [4, 5]) biased.add(token);
  assert.deepEqual(editsOf(biased, 2), [[4, 1, 2], [8, -1, -Infinity], [5, 1, 0], [1, -1, -Infinity]]);
});

test("rules that know their output are not asked what follows another number of tokens", () => {
  const made = LogitRules.of({ ...defaultSampling, presencePenalty: 1 }, Int32Array.of(7), new Set())!;
  made.add(3);
  assert.throws(() => editsOf(made, 0), /know 1 tokens of output are asked what follows 0/);
  const counting = LogitRules.of({ ...defaultSampling, minTokens: 2 }, Int32Array.of(7), new Set([1]))!;
  assert.deepEqual([0, 1, 2].map((numOutput) => editsOf(counting, numOutput).map(([token]) => token)), [[1], [1], []]);
});
