/**
 * Rules of the rows of a case and questions about them, as records, and what the definition makes of them. Every way to change logits in turn, with
 * every way to choose a token. Knows no device.
 */
import { answerWord, type Activation, choiceWord, editWord, headerWord, mostTop, questionWord, ruleWord } from "../../src/backend/backend.ts";
import { ReferenceBuffer } from "../../src/backend/reference/memory.ts";
import { editedLogit, logprobs, sampleRuled } from "../../src/backend/reference/sample.ts";
import { stream } from "../../src/core/random.ts";
import { build, type Case, nearness, shapes } from "./sample-cases.ts";

/** A token's edit, and how it takes part in penalties. */
type Edit = readonly [token: number, count: number, bias: number];
interface Rule {
  readonly edits: readonly Edit[];
  readonly onlyEdited?: true;
  /** Repetition, frequency, presence; none when left out. */
  readonly penalties?: readonly [number, number, number];
}

/** What a rule is made of: tokens of the row, some of them at random, all different and in order, or its likeliest; and random numbers. */
interface Making {
  some(count: number): readonly number[];
  likeliest(count: number): readonly number[];
  random(): number;
}

const all = Infinity;
const biased = ({ some, random }: Making, count: number, size = 10): Edit[] => some(count).map((token) => [token, -1, size * (2 * random() - 1)]);
/** Of counts from -1 to 4, every second with a bias, every tenth forbidden. */
const counted = ({ some, random }: Making, count: number): Edit[] =>
  some(count).map((token, i) => [token, Math.floor(6 * random()) - 1, i % 10 === 7 ? -Infinity : i % 2 === 0 ? 4 * random() - 2 : 0]);

const penaltiesOf = ({ penalties }: Rule): readonly [number, number, number] => penalties ?? [1, 0, 0];

/** How a row is changed. "own": by nothing, so `sample` has its token; "host": as little, and something else chooses. */
export const rules: Readonly<Record<string, "own" | "host" | ((making: Making) => Rule)>> = {
  own: "own", host: "host",
  nothing: () => ({ edits: [], penalties: [1.5, 1, 1] }),
  bias: (m) => ({ edits: biased(m, 10) }),
  penalties: (m) => ({ edits: counted(m, 2000), penalties: [1.3, 0.5, 0.25] }),
  rewards: (m) => ({ edits: counted(m, 300), penalties: [0.7, -0.5, -0.2] }),
  "likeliest forbidden": ({ likeliest }) => ({ edits: likeliest(3).map((token, i) => [token, i - 1, -Infinity]), penalties: [1.1, 0, 0] }),
  "all forbidden": ({ some }) => ({ edits: some(all).map((token) => [token, -1, -Infinity]) }),
  "ends of f32": (m) => ({ edits: counted(m, 50).map(([token, count, bias]) => [token, count, 3e38 * bias]), penalties: [1e-300, 1e38, -1e38] }),
  "no number": ({ likeliest }) => ({ edits: likeliest(1).map((token) => [token, 1, NaN]) }),
  "only 1": (m) => ({ edits: biased(m, 1), onlyEdited: true }),
  "only 2": (m) => ({ edits: counted(m, 2), onlyEdited: true, penalties: [2, 0.5, 0] }),
  "only 100": (m) => ({ edits: biased(m, 100, 0), onlyEdited: true }),
  "only 5000": (m) => ({ edits: counted(m, 5000), onlyEdited: true, penalties: [1.3, 0.5, 0.25] }),
  "only all": (m) => ({ edits: biased(m, all), onlyEdited: true }),
  "only forbidden": ({ some }) => ({ edits: some(5).map((token) => [token, 0, -Infinity]), onlyEdited: true }),
  "only none": () => ({ edits: [], onlyEdited: true }),
};

/** A model's, and the most that there may be. */
const vocabulary = 128_256, mostColumns = 2 ** 18;
/** What stands where nothing is written: of each word of answers, and in place of tokens. */
export const unwritten = 0x5a5a5a5a;

/** What the ops are given for a case: as many records as are said, and one more that nobody may read. */
export interface Records {
  readonly of: Case;
  readonly choices: Uint8Array;
  readonly rules: Int32Array<ArrayBuffer>;
  readonly edits: Int32Array<ArrayBuffer>;
  readonly questions: Int32Array<ArrayBuffer>;
  readonly numRules: number;
  readonly numEdits: number;
  readonly numQuestions: number;
  /** By row: what `sampled` holds before, the host's token or `unwritten`. */
  readonly before: Int32Array<ArrayBuffer>;
  /** By row: how it is changed. */
  readonly changes: readonly { readonly name: string; readonly rule: "own" | "host" | Rule }[];
}

/** And what must become of it. */
export interface RuledCase extends Records {
  readonly tokens: Int32Array<ArrayBuffer>;
  readonly answers: Int32Array<ArrayBuffer>;
}

const buffer = (a: Int32Array<ArrayBuffer> | Float32Array | Uint8Array): ReferenceBuffer => new ReferenceBuffer(a.buffer as ArrayBuffer, a.byteOffset, a.byteLength);
const headerOf = (numLogits: number): ReferenceBuffer => buffer(Int32Array.from({ length: headerWord.words }, (_, word) => (word === headerWord.numLogits ? numLogits : 0)));

const rowOf = ({ logits, stride, columns }: Case, row: number): Float32Array => logits.subarray(row * stride, row * stride + columns);

/** What rules a case's rows have, in turn from the `first` on, and how many of the likeliest tokens are asked for; all kinds of both when left out. */
interface Asked {
  readonly seed: number;
  readonly first?: number;
  readonly rules?: readonly string[];
  readonly numTop?: number;
}

export function recordsOf(of: Case, { seed, first = seed, rules: names = Object.keys(rules), numTop }: Asked): Records {
  const random = stream(seed), { rows: numRows, columns } = of;
  const changes = Array.from({ length: numRows }, (_, row) => {
    const name = names[(first + row) % names.length]!, make = rules[name]!, own = rowOf(of, row);
    const some = (count: number): number[] => {
      if (2 * count > columns) return Array.from({ length: columns }, (_, id) => id).filter(() => count >= columns || random() < count / columns);
      const found = new Set<number>();
      while (found.size < count) found.add(Math.floor(random() * columns));
      return [...found].toSorted((a, b) => a - b);
    };
    const likeliest = (count: number): number[] => {
      const found: number[] = [];
      for (let n = Math.min(count, columns); n > 0; n--) found.push(own.reduce((best, x, id) => (found.includes(id) || (best >= 0 && !(x > own[best]!)) ? best : id), -1));
      return found;
    };
    return { name, rule: typeof make === "string" ? make : make({ some, likeliest, random }) };
  });
  const choices = of.choices.bytes.slice(), choiceInts = new Int32Array(choices.buffer);
  changes.forEach(({ rule }, row) => (choiceInts[row * choiceWord.words + choiceWord.skip] = rule === "own" ? 0 : 1 + row));

  // Records stand in another order than rows.
  const withRules = changes.flatMap(({ rule }, row) => (typeof rule === "string" ? [] : [{ row, rule }])).toReversed();
  const numEdits = withRules.reduce((sum, { rule }) => sum + rule.edits.length, 0), numRules = withRules.length, numQuestions = numRows + 2;
  const ruleInts = new Int32Array((numRules + 1) * ruleWord.words), ruleDoubles = new Float64Array(ruleInts.buffer), edits = new Int32Array((numEdits + 1) * editWord.words), editDoubles = new Float64Array(edits.buffer);
  let at = 0;
  withRules.forEach(({ row, rule }, i) => {
    ruleInts.set([row, at, rule.edits.length, rule.onlyEdited ? 1 : 0], i * ruleWord.words);
    [ruleWord.repetition, ruleWord.frequency, ruleWord.presence].forEach((word, p) => (ruleDoubles[(i * ruleWord.words + word) / 2] = penaltiesOf(rule)[p]!));
    for (const [token, count, bias] of rule.edits) {
      edits.set([token, count], at * editWord.words);
      editDoubles[(at++ * editWord.words + editWord.bias) / 2] = bias;
    }
  });

  // Of the sampled token and of others, of rows in another order, and of two rows twice.
  const questions = new Int32Array((numQuestions + 1) * questionWord.words);
  for (let i = 0; i < numQuestions; i++) {
    const asked = [-1, Math.floor(random() * columns), -1, 0, columns - 1][i % 5]!;
    questions.set([(2 * numRows - 1 - i) % numRows, asked, numTop ?? [mostTop, 0, 5, 1, mostTop + 5, 3][i % 6]!], i * questionWord.words);
  }
  const before = Int32Array.from(changes, ({ rule }, row) => (rule !== "host" ? unwritten : row % 2 === 0 ? -1 : Math.floor(random() * columns)));
  return { of, choices, rules: ruleInts, edits, questions, numRules, numEdits, numQuestions, before, changes };
}

export function ruledCase(of: Case, asked: Asked): RuledCase {
  const r = recordsOf(of, asked), { numRules, numEdits, numQuestions } = r;
  const logits: Activation = { data: buffer(of.logits), rows: "logits", columns: of.columns, stride: of.stride }, tokens = r.before.slice(), answers = new Int32Array((numQuestions + 1) * answerWord.words).fill(unwritten);
  sampleRuled({ logits, choices: buffer(r.choices), rules: buffer(r.rules), edits: buffer(r.edits), scratch: buffer(new Float32Array(numEdits + 1)), out: buffer(tokens), batch: { header: headerOf(numRules) } });
  r.changes.forEach(({ rule }, row) => {
    if (rule === "own") tokens[row] = of.expected[row]!;
  });
  logprobs({ logits, questions: buffer(r.questions), sampled: buffer(tokens), out: buffer(answers), batch: { header: headerOf(numQuestions) } });
  return { ...r, tokens, answers };
}

/** The logits that a row's token is chosen from, and of which tokens they are where not of all. */
function changedRow({ of, changes }: Records, row: number): { readonly logits: Float32Array; readonly tokens: readonly number[] | undefined } {
  const own = rowOf(of, row), { rule } = changes[row]!;
  if (typeof rule === "string") return { logits: own, tokens: undefined };
  const [repetition, frequency, presence] = penaltiesOf(rule), logits = rule.onlyEdited ? new Float32Array(rule.edits.length) : own.slice();
  rule.edits.forEach(([token, count, bias], place) => (logits[rule.onlyEdited ? place : token] = editedLogit(own[token]!, count, bias, { repetition, frequency, presence })));
  return { logits, tokens: rule.onlyEdited && rule.edits.map(([token]) => token) };
}

/** All cases, each made when it is wanted; those of whole vocabularies are few, as the definition sorts every row. */
export function* ruledCases(quick: boolean): Generator<RuledCase> {
  const of = (columns: number, shape: string, rows: number, seed: number): RuledCase =>
    ruledCase(build({ name: `${shape} ${columns} x ${rows} with rules`, rows, columns, stride: columns + (seed % 5), offset: seed % 4, shape, kind: "mixed", seed }), { seed });
  let seed = 100;
  for (const columns of quick ? [1, 3, 1000] : [1, 2, 3, 5, 19, 127, 1000, 5003]) for (const shape of Object.keys(shapes)) yield of(columns, shape, quick ? 17 : 51, seed++);
  for (const columns of quick ? [] : [50_257, vocabulary, mostColumns]) for (const shape of columns === vocabulary ? Object.keys(shapes) : ["peaked", "holes", "equal"]) yield of(columns, shape, columns === mostColumns ? 2 : 17, seed++);
}

/** Rows whose token is another than it must be, and what is to be said of each. */
export function tokenProblems(c: RuledCase, found: Int32Array): readonly string[] {
  return c.changes.flatMap(({ name }, row) => {
    if (found[row] === c.tokens[row]) return [];
    const { logits, tokens } = changedRow(c, row);
    return [`"${name}", ${nearness(c.of, row, found[row]!, c.tokens[row]!, logits, tokens)}`];
  });
}

/** Where an answer differs from what it must be, if it does, and by how much its logSum does at most. */
export function answerProblem(c: RuledCase, found: Int32Array): { readonly problem: string | undefined; readonly error: number } {
  const doubles = [found, c.answers].map((words) => new DataView(words.buffer, words.byteOffset, words.byteLength)), allowed = 1e-9;
  let error = 0;
  for (let i = 0; i <= c.numQuestions; i++) {
    const at = i * answerWord.words, what = (): string => `question ${i} of ${c.of.name}, of row ${c.questions[i * questionWord.words]}`;
    const answered = i < c.numQuestions && c.answers[at + answerWord.rank] !== 0;
    for (let word = answered ? answerWord.logit : 0; word < answerWord.words; word++) {
      if (found[at + word] !== c.answers[at + word]) return { problem: `${what()}: word ${word} is ${found[at + word]}, the definition's ${c.answers[at + word]}`, error };
    }
    if (!answered) continue;
    const [got, wanted] = doubles.map((view) => view.getFloat64(4 * (at + answerWord.logSum), true)), off = Math.abs(got! - wanted!);
    if (!(off <= allowed)) return { problem: `${what()}: the sum's logarithm is ${got}, the definition's ${wanted}`, error };
    error = Math.max(error, off);
  }
  return { problem: undefined, error };
}
