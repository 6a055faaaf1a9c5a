/** What the wasm backend makes of logits, by one thread and by two, against the definition: tokens, rows with rules, log-probabilities. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type Activation, answerWord, type Backend, type BatchInputs, type Buffer, choiceWord, editWord, mostTop, questionWord, ruleWord, type SamplingOps } from "../../src/backend/backend.ts";
import { open as openReference } from "../../src/backend/reference/open.ts";
import { choose, editedLogit, logprobs, sample, sampleRuled } from "../../src/backend/reference/sample.ts";
import { open as openWasm } from "../../src/backend/wasm/open.ts";
import { stream } from "../../src/core/random.ts";
import { Choices } from "../../src/sampling/choices.ts";
import { build, type Case, kinds, paramsOf, shapes } from "../gpu/sample-cases.ts";

const long = process.env["TESSERA_LONG"] !== undefined;
/** The definition, one thread, two threads. */
const places: { readonly backend: Backend; readonly ops: Pick<SamplingOps, "sample" | "sampleRuled" | "logprobs"> }[] = [];
before(async () => {
  places.push({ backend: await openReference(), ops: { sample, sampleRuled, logprobs } });
  for (const threads of [1, 2]) {
    const backend = await openWasm({ threads });
    places.push({ backend, ops: backend.ops });
  }
});
after(() => Promise.all(places.map(({ backend }) => backend.close())));

const poison = 0x5a5a5a5a;
const poisoned = (words: number): Int32Array => new Int32Array(words).fill(poison);
/** A case's logits as they lie in memory: behind `offset` others. */
const placed = ({ logits, offset }: Case): Float32Array => Float32Array.from({ length: offset + logits.length + 3 }, (_, i) => logits[i - offset] ?? 1e30);
const bytesOf = (data: ArrayBufferView): Uint8Array => new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);

/** Runs an operation at a place. `data` by name: all of it is read again afterwards. */
async function at<Names extends string>(
  place: (typeof places)[number], data: Readonly<Record<Names, ArrayBufferView>>, op: (ops: (typeof places)[number]["ops"], buffers: Readonly<Record<Names, Buffer>>) => void,
): Promise<Record<Names, Int32Array>> {
  const { backend } = place;
  const entries = Object.entries<ArrayBufferView>(data).map(([name, value]) => {
    const buffer = backend.alloc(Math.max(4, value.byteLength));
    backend.write(buffer, 0, bytesOf(value));
    return [name, buffer] as const;
  });
  op(place.ops, Object.fromEntries(entries) as Record<Names, Buffer>);
  const results: [string, Int32Array][] = [];
  for (const [name, buffer] of entries) {
    results.push([name, new Int32Array((await backend.read(buffer, 0, buffer.bytes)).slice().buffer)]);
    backend.free(buffer);
  }
  return Object.fromEntries(results) as Record<Names, Int32Array>;
}

const headerOf = (numLogits: number): Int32Array => Int32Array.of(9999, 1, numLogits, 0);
const matrix = ({ columns, stride, offset }: Pick<Case, "columns" | "stride" | "offset">, data: Buffer): Activation => ({ data: data.slice(4 * offset, data.bytes - 4 * offset), rows: "logits", columns, stride });
const batchOf = (header: Buffer): BatchInputs => ({ header, tokens: header, positions: header, slots: header, blockTable: header, logitRows: header, maxPagesPerSequence: 1 });

type Choice = Parameters<typeof choose>[1];
function choiceAt(choices: Choices, row: number): Choice {
  const numbers = new Float64Array(choices.bytes.buffer, row * choiceWord.words * 4, 4);
  return { temperature: numbers[0]!, topP: numbers[1]!, minP: numbers[2]!, uniform: numbers[3]!, topK: new Int32Array(choices.bytes.buffer)[row * choiceWord.words + choiceWord.topK]! };
}

/** How often a token was another than the definition's. */
const seen = { rows: 0, different: 0 };
/** Asserts that `got` is the row's token by the definition, or is it where the draw, top-p or min-p is 1e-9 off. */
function assertToken(what: string, got: number, expected: number, row: Float32Array, choice: Choice): void {
  seen.rows++;
  if (got === expected) return;
  seen.different++;
  const near = [-1e-9, 1e-9].flatMap((e): Choice[] => [
    { ...choice, uniform: Math.min(1 - 2 ** -53, Math.max(0, choice.uniform + e)) }, { ...choice, topP: choice.topP * (1 + e) }, { ...choice, minP: choice.minP * (1 + e) },
  ]);
  assert.ok(near.some((other) => choose(row, other) === got), `${what}: token ${got} (logit ${row[got]}), ${expected} expected (logit ${row[expected]}), and no border is near: ${JSON.stringify(choice)}`);
}
after(() => assert.ok(seen.rows > 1000 && seen.different <= seen.rows / 1000, `${seen.different} of ${seen.rows} tokens differ from the definition's`));

const rowOf = (c: Case, row: number): Float32Array => c.logits.subarray(row * c.stride, row * c.stride + c.columns);

/** Samples a case on the wasm backends; rows `skipped` are another's. */
async function sampleCase(c: Case, skipped: (row: number) => boolean = () => false): Promise<void> {
  const choices = new Int32Array(c.choices.bytes.slice().buffer);
  for (let r = 0; r < c.rows; r++) if (skipped(r)) choices[r * choiceWord.words + choiceWord.skip] = 1 + r;
  const data = { header: headerOf(c.rows), logits: placed(c), choices, out: poisoned(c.rows + 2) };
  const [one, two] = await Promise.all(places.slice(1).map((place) => at(place, data, (ops, b) => ops.sample({ logits: matrix(c, b.logits), choices: b.choices, out: b.out.slice(4, b.out.bytes - 4), batch: batchOf(b.header) }))));
  assert.deepEqual(two, one, `${c.name}: two threads`);
  for (const name of ["header", "logits", "choices"] as const) assert.deepEqual(bytesOf(one![name]), bytesOf(data[name]), `${c.name}: ${name} are as they were`);
  for (const i of [0, c.rows + 1]) assert.equal(one!.out[i], poison, `${c.name}: wrote beside its rows`);
  for (let r = 0; r < c.rows; r++) {
    if (skipped(r)) assert.equal(one!.out[r + 1], poison, `${c.name}: wrote row ${r}, which is skipped`);
    else {
      // Sorting a vocabulary takes its time: there it is the host's sampler, which is held to the definition elsewhere.
      const choice = choiceAt(c.choices, r), row = rowOf(c, r);
      assertToken(`${c.name}, row ${r}`, one!.out[r + 1]!, c.columns <= 1000 ? choose(row, choice) : c.expected[r]!, row, choice);
    }
  }
}

const everyKind = Object.keys(kinds).length;

test("sample: every shape of logits, every kind of choice, odd sizes, strides and beginnings", async () => {
  let seed = 100;
  for (const columns of [1, 2, 3, 5, 127, 128, 129, 1000]) for (const shape of Object.keys(shapes)) {
    seed++;
    await sampleCase(build({ name: `${shape} ${columns}`, rows: (long ? 20 : 3) * everyKind, columns, stride: columns + (seed % 5), offset: seed % 4, shape, kind: "mixed", seed }), (row) => row % 7 === 3);
  }
});

test("sample: whole vocabularies", async () => {
  let seed = 500;
  for (const columns of long ? [50_257, 151_936, 262_144] : [50_257]) for (const shape of Object.keys(shapes)) {
    seed++;
    await sampleCase(build({ name: `${shape} ${columns}`, rows: everyKind, columns, stride: columns + (seed % 5), offset: seed % 4, shape, kind: "mixed", seed }));
  }
});

/** What is kept by whole numbers alone, where logits are whole octaves below the first: ids, and their masses' running sums. Kernels must find the same to the last unit. */
function keptExactly(octaves: readonly number[], { topP, minP, topK }: Choice): { readonly ids: readonly number[]; readonly sums: readonly bigint[] } {
  const unit = 41, mass = octaves.map((below) => (below <= unit ? 1n << BigInt(unit - below) : 0n)), runningSums = (ids: readonly number[]): bigint[] => {
    let sum = 0n;
    return ids.map((id) => (sum += mass[id]!));
  };
  const first = Array.from(octaves.keys()).sort((a, b) => octaves[a]! - octaves[b]! || a - b).slice(0, topK > 0 ? topK : undefined).filter((id) => mass[id]! > 0n && mass[id]! << 12n >= BigInt(minP * 2 ** 53));
  const sums = runningSums(first), enough = BigInt(topP * 2 ** 53) * sums.at(-1)!;
  const ids = first.filter((_, i) => i === 0 || sums[i - 1]! << 53n < enough).sort((a, b) => a - b);
  return { ids, sums: runningSums(ids) };
}

test("sample: masses that are powers of two, drawn at the very borders between tokens", async () => {
  const random = stream(21);
  for (const columns of [1, 2, 3, 6, 50, 700]) {
    const rows = long ? 5000 : 300, choices = new Int32Array(rows * choiceWord.words), numbers = new Float64Array(choices.buffer), logits = new Float32Array(rows * columns);
    const expected = Array.from({ length: rows }, (_, r) => {
      const deepest = pick(random, [0, 2, 10, 45]), octaves = Array.from({ length: columns }, () => Math.floor(random() * (deepest + 1)));
      octaves[Math.floor(random() * columns)] = 0;
      // Half of the mass is half a unit more than the first's; a mass of 2 where 2.5 is asked for.
      const crafted = columns === 3 ? [{ octaves: [0, 0, 41], topP: 0.5 }, { octaves: [0, 40, 0], minP: 5 * 2 ** -42 }][r % 10] : undefined;
      octaves.splice(0, crafted?.octaves.length ?? 0, ...crafted?.octaves ?? []);
      logits.set(octaves.map((below) => -below), r * columns);
      // A temperature, top-p and min-p whose products with masses are whole numbers too.
      const choice = { temperature: Math.LOG2E, topP: pick(random, [1, 0.5, 0.75, 0.875, 2 ** -30, 0]), minP: pick(random, [0, 0, 2 ** -9, 3 * 2 ** -41, 5 * 2 ** -42]), topK: pick(random, [0, 0, 1, 3, Math.ceil(columns / 2)]), uniform: 0, ...(crafted ? { topP: 1, minP: 0, topK: 0, ...crafted } : {}) };
      const { ids, sums } = keptExactly(octaves, choice), total = sums.at(-1)!;
      // The least number that draws some token, or the one before, which draws the token before.
      const second = ids.findIndex((id) => id >= 512); // the first of a row's second part that is summed up by itself
      const drawn = second > 0 && random() < 0.3 ? second : Math.floor(random() * ids.length), border = drawn === 0 ? 0n : ((sums[drawn - 1]! << 53n) + total - 1n) / total, draw = random() < 0.5 && border > 0n ? border - 1n : border;
      numbers.set([choice.temperature, choice.topP, choice.minP, Number(draw) / 2 ** 53], (r * choiceWord.words) / 2);
      choices[r * choiceWord.words + choiceWord.topK] = choice.topK;
      return ids[sums.findIndex((sum) => draw * total < sum << 53n)]!;
    });
    for (const place of places.slice(1)) {
      const { out } = await at(place, { header: headerOf(rows), logits, choices, out: poisoned(rows) }, (ops, b) => ops.sample({ ...b, logits: matrix({ columns, stride: columns, offset: 0 }, b.logits), batch: batchOf(b.header) }));
      assert.deepEqual([...out], expected, `${columns} columns`);
    }
  }
});

test("sample: the last that is kept, where logits fall and neighbours differ by a bit", async () => {
  const random = stream(22), columns = 1500, names = Object.keys(shapes), rows = (names.length + 2) * everyKind, logits = new Float32Array(rows * columns), choices = new Choices(rows);
  const numbers = new Float64Array(choices.bytes.buffer);
  for (let r = 0; r < rows; r++) {
    const shape = shapes[names[Math.floor(r / everyKind)]!], kind = Object.keys(kinds)[r % everyKind]!;
    // Beyond the shapes: every float of a stretch that a temperature of 0.01 spreads over all bins, and one around 0.
    const row = Float32Array.from({ length: columns }, shape ? () => shape(random) : (_, i) => (r >= rows - everyKind ? (i - 700) * 2 ** -149 : 1000 + i * 2 ** -14));
    logits.set(row.sort().reverse(), r * columns);
    choices.set(r, { ...paramsOf(kind), ...(shape || kind === "greedy" ? {} : { temperature: 0.01 }) }, 0, 0);
    numbers[(r * choiceWord.words + choiceWord.uniform) / 2] = 1 - 2 ** -20; // above all but the last, if that is likely enough
  }
  const [one, two] = await Promise.all(places.slice(1).map((place) => at(place, { header: headerOf(rows), logits, choices: choices.bytes, out: poisoned(rows) }, (ops, b) =>
    ops.sample({ ...b, logits: matrix({ columns, stride: columns, offset: 0 }, b.logits), batch: batchOf(b.header) }))));
  assert.deepEqual(two, one);
  for (let r = 0; r < rows; r++) {
    const row = logits.subarray(r * columns, (r + 1) * columns), choice = choiceAt(choices, r);
    assertToken(`row ${r}`, one!.out[r]!, choose(row, choice), row, choice);
  }
});

interface Edit { readonly token: number; readonly count: number; readonly bias: number }
interface Rule { readonly row: number; readonly edits: readonly Edit[]; readonly onlyEdited: boolean; readonly repetition: number; readonly frequency: number; readonly presence: number }

/** The records of rules, and of their edits behind `gap` that nobody names. */
function recordsOf(rules: readonly Rule[], gap: number): { readonly rules: Int32Array; readonly edits: Int32Array } {
  const edits = poisoned(editWord.words * (gap + rules.reduce((sum, { edits }) => sum + edits.length, 0) + 1)), records = poisoned(ruleWord.words * (rules.length + 1));
  const editDoubles = new Float64Array(edits.buffer), doubles = new Float64Array(records.buffer);
  let next = gap;
  rules.forEach((rule, i) => {
    const words = records.subarray(ruleWord.words * i), numbers = doubles.subarray((ruleWord.words / 2) * i);
    words.set([rule.row, next, rule.edits.length, Number(rule.onlyEdited)]);
    numbers.set([rule.repetition, rule.frequency, rule.presence], ruleWord.repetition / 2);
    for (const { token, count, bias } of rule.edits) {
      edits.set([token, count], editWord.words * next);
      editDoubles[(editWord.words / 2) * next + editWord.bias / 2] = bias;
      next++;
    }
  });
  return { rules: records, edits };
}

/** Applies rules to a case on every place; asserts equal tokens, and that nothing but tokens, scratch and edits is written. Returns the scratch that one thread left. */
async function ruleCase(c: Case, rules: readonly Rule[], gap: number): Promise<Int32Array> {
  const records = recordsOf(rules, gap), numEdits = records.edits.length / editWord.words;
  const data = { header: headerOf(rules.length), logits: placed(c), choices: c.choices.bytes, ...records, scratch: poisoned(numEdits + 2), out: poisoned(c.rows + 2) };
  const [want, one, two] = await Promise.all(places.map((place) => at(place, data, (ops, b) => ops.sampleRuled({
    logits: matrix(c, b.logits), choices: b.choices, rules: b.rules, edits: b.edits, scratch: b.scratch.slice(4, 4 * numEdits), out: b.out.slice(4, b.out.bytes - 4), batch: { header: b.header },
  }))));
  assert.deepEqual(two, one, `${c.name}: two threads`);
  for (const name of ["header", "logits", "choices", "rules"] as const) assert.deepEqual(bytesOf(one![name]), bytesOf(data[name]), `${c.name}: ${name} are as they were`);
  const ruled = new Map(rules.map((rule) => [rule.row, rule]));
  for (let r = -1; r <= c.rows; r++) {
    const got = one!.out[r + 1]!, expected = want!.out[r + 1]!, rule = ruled.get(r), row = rule ? rowOf(c, r).slice() : new Float32Array(0);
    if (!rule || expected < 0) {
      assert.equal(got, expected, `${c.name}, row ${r}`);
      continue;
    }
    const raw = row.slice();
    if (rule.onlyEdited) row.fill(-Infinity);
    for (const { token, count, bias } of rule.edits) row[token] = editedLogit(raw[token]!, count, bias, rule);
    assertToken(`${c.name}, row ${r}`, got, expected, row, choiceAt(c.choices, r));
  }
  for (const i of [0, ...Array.from({ length: gap }, (_, e) => e + 1), numEdits, numEdits + 1]) assert.equal(one!.scratch[i], poison, `${c.name}: wrote scratch ${i}, which is nobody's edit`);
  return one!.scratch.subarray(1 + gap, numEdits);
}

/** Different tokens below `columns`, ascending. */
function someTokens(random: () => number, columns: number, count: number): number[] {
  const all = Array.from({ length: columns }, (_, i) => i);
  for (let i = 0; i < count; i++) {
    const other = i + Math.floor(random() * (columns - i));
    [all[i], all[other]] = [all[other]!, all[i]!];
  }
  return all.slice(0, count).sort((a, b) => a - b);
}
const pick = <T>(random: () => number, from: readonly T[]): T => from[Math.floor(random() * from.length)]!;

function randomRules(random: () => number, rows: number, columns: number): Rule[] {
  const ruled = someTokens(random, rows, Math.ceil(rows * 0.8));
  return ruled.map((row) => {
    const onlyEdited = random() < 0.4, tokens = someTokens(random, columns, Math.floor((columns + 1) * random() ** 3));
    if (!onlyEdited) tokens.sort(() => random() - 0.5);
    const bias = pick(random, [() => 0, () => 200 * (random() - 0.5), () => (random() < 0.3 ? -Infinity : random()), () => -Infinity]);
    const count = pick(random, [() => -1, () => 0, () => Math.floor(random() * 9) - 1]);
    return {
      row, onlyEdited, edits: tokens.map((token) => ({ token, count: count(), bias: bias() })),
      repetition: pick(random, [1, 0.7 + random(), 1e300]), frequency: pick(random, [0, 4 * random() - 2]), presence: pick(random, [0, 4 * random() - 2]),
    };
  }).sort(() => random() - 0.5);
}

test("sampleRuled: random rules on every shape; the logits are as they were, and so is everything that is not named", async () => {
  const random = stream(7);
  let seed = 900;
  for (const columns of [1, 2, 3, 5, 127, 129, 1000]) for (const shape of Object.keys(shapes)) for (let round = 0; round < (long ? 20 : 1); round++) {
    seed++;
    const c = build({ name: `rules, ${shape} ${columns}, seed ${seed}`, rows: 2 * everyKind, columns, stride: columns + (seed % 5), offset: seed % 4, shape, kind: "mixed", seed });
    await ruleCase(c, randomRules(random, c.rows, columns), seed % 3);
  }
});

test("sampleRuled: changed logits have the definition's bits, among others and alone; -1, -2 and a row without edits", async () => {
  const random = stream(8), columns = 40, rows = 400;
  const c = build({ name: "bits", rows, columns, shape: "normal", kind: "greedy", seed: 3 });
  const rules = Array.from({ length: rows }, (_, row): Rule => {
    const own = c.logits.subarray(row * columns, (row + 1) * columns), scale = pick(random, [1, 1e-30, 1e30, 1e-44]), drawn = randomRules(random, 1, columns)[0]!;
    // Token a is changed to x; token b, which is no edit's, is given x. The first of the two is the likeliest if x is what a becomes: both ways round, that is equality.
    const [a, b] = row % 2 === 0 ? [5, 6] : [6, 5], edit: Edit = { token: a, count: Math.floor(random() * 5) - 1, bias: pick(random, [0, random() - 0.5, 1e-3 * random()]) };
    own.fill(-Infinity);
    own[a] = scale * (random() - 0.5);
    // What the presence penalty leaves of some is the rounding of all that came before.
    const biased = own[a]! + edit.bias, repeated = biased > 0 ? biased / drawn.repetition : biased * drawn.repetition;
    const rule = row % 4 < 2 || !Number.isFinite(repeated) ? drawn : { ...drawn, presence: repeated - drawn.frequency * edit.count + 1e-16 * (random() - 0.5) };
    own[b] = editedLogit(own[a]!, edit.count, edit.bias, rule);
    return { ...rule, row, onlyEdited: false, edits: [edit] };
  });
  const results = await Promise.all(places.slice(1).map((place) => at(place, { header: headerOf(rows), logits: c.logits, choices: c.choices.bytes, ...recordsOf(rules, 0), scratch: poisoned(rows), out: poisoned(rows) }, (ops, buffers) =>
    ops.sampleRuled({ ...buffers, logits: matrix(c, buffers.logits), batch: { header: buffers.header } }))));
  for (const { out } of results) assert.deepEqual([...out], rules.map(() => 5), "a changed logit is another than the definition's");

  // Alone, they are left in the scratch.
  const alone = build({ name: "bits alone", rows: 30, columns, shape: "extreme", kind: "mixed", seed: 4 });
  const only = randomRules(random, 30, columns).map((rule): Rule => ({ ...rule, onlyEdited: true, edits: rule.edits.toSorted((a, b) => a.token - b.token) }));
  const expected = only.flatMap((rule) => rule.edits.map(({ token, count, bias }) => editedLogit(rowOf(alone, rule.row)[token]!, count, bias, rule)));
  assert.ok(expected.length > 100);
  assert.deepEqual([...await ruleCase(alone, only, 2)], [...new Int32Array(Float32Array.from(expected).buffer)]);

  const nothing = { count: -1, bias: -Infinity }, neutral = { repetition: 1, frequency: 0, presence: 0 };
  const few = build({ name: "none left", rows: 5, columns: 3, shape: "normal", kind: "greedy", seed: 5 });
  few.logits.set([NaN, 1, 2], 6);
  few.logits.set([1, 3, 3], 9);
  const records = recordsOf([
    { row: 0, onlyEdited: false, edits: [0, 1, 2].map((token) => ({ token, ...nothing })), ...neutral }, { row: 1, onlyEdited: true, edits: [], ...neutral },
    { row: 2, onlyEdited: true, edits: [{ token: 1, count: -1, bias: 0 }], ...neutral }, { row: 3, onlyEdited: false, edits: [], ...neutral },
    { row: 4, onlyEdited: false, edits: [{ token: 2, count: -1, bias: Infinity }], ...neutral },
  ], 0);
  for (const place of places) {
    const { out } = await at(place, { header: headerOf(5), logits: few.logits, choices: few.choices.bytes, ...records, scratch: poisoned(10), out: poisoned(5) }, (ops, buffers) =>
      ops.sampleRuled({ ...buffers, logits: matrix(few, buffers.logits), batch: { header: buffers.header } }));
    assert.deepEqual([...out], [-2, -2, -1, 1, 2]);
  }
});

test("logprobs: sum, rank and the likeliest, of given tokens and of sampled ones", async () => {
  const random = stream(9);
  let seed = 1300;
  for (const columns of [1, 2, 3, 5, 19, 20, 21, 127, 128, 129, 1000, ...(long ? [50_257, 151_936] : [20_000])]) for (const shape of Object.keys(shapes)) {
    seed++;
    const rows = columns > 1000 ? 3 : 10, c = build({ name: `logprobs, ${shape} ${columns}`, rows, columns, stride: columns + (seed % 5), offset: seed % 4, shape, kind: "greedy", seed });
    if (seed % 3 === 0) c.logits.subarray(0, columns).sort();
    const numQuestions = columns > 1000 ? 4 : 40, questions = poisoned(questionWord.words * (numQuestions + 1));
    for (let q = 0; q < numQuestions; q++) questions.set([Math.floor(random() * rows), random() < 0.3 ? -1 : Math.floor(random() * columns), pick(random, [0, 1, 3, 5, mostTop, 25])], questionWord.words * q);
    const sampled = Int32Array.from({ length: rows }, () => (random() < 0.2 ? -1 - Math.floor(2 * random()) : Math.floor(random() * columns)));
    const data = { header: headerOf(numQuestions), logits: placed(c), questions, sampled, out: poisoned(answerWord.words * (numQuestions + 1)) };
    const [want, one, two] = await Promise.all(places.map((place) => at(place, data, (ops, b) => ops.logprobs({ logits: matrix(c, b.logits), questions: b.questions, sampled: b.sampled, out: b.out, batch: { header: b.header } }))));
    assert.deepEqual(two, one, `${c.name}: two threads`);
    for (const name of ["header", "logits", "questions", "sampled"] as const) assert.deepEqual(bytesOf(one![name]), bytesOf(data[name]), `${c.name}: ${name} are as they were`);
    for (let q = 0; q < numQuestions; q++) {
      const what = `${c.name}: question ${q}`, words = (from: Int32Array): Int32Array => from.subarray(answerWord.words * q, answerWord.words * (q + 1));
      const [expected, got] = [words(want!.out), words(one!.out)], sum = (of: Int32Array): number => new Float64Array(of.slice(answerWord.logSum, answerWord.logSum + 2).buffer)[0]!;
      if (expected[answerWord.rank]! > 0) assert.ok(Math.abs(sum(got) - sum(expected)) <= 1e-12 * Math.max(1, Math.abs(sum(expected))), `${what}: log of the sum is ${sum(got)}, ${sum(expected)} expected`);
      else assert.deepEqual(got.subarray(0, answerWord.rank), expected.subarray(0, answerWord.rank), what);
      assert.deepEqual(got.subarray(answerWord.logit), expected.subarray(answerWord.logit), what);
    }
    assert.ok(one!.out.subarray(answerWord.words * numQuestions).every((word) => word === poison), `${c.name}: wrote behind its answers`);
  }
});

test("in a recorded program, after scratch memory of other sizes, a header's rows are sampled", async () => {
  const small = build({ name: "small", rows: 4, columns: 5, shape: "normal", kind: "plain", seed: 11 }), large = build({ name: "large", rows: 4, columns: 9000, shape: "normal", kind: "top-p 0.9", seed: 12 });
  for (const { backend } of places.slice(1)) {
    const put = (data: ArrayBufferView): Buffer => {
      const buffer = backend.alloc(data.byteLength);
      backend.write(buffer, 0, bytesOf(data));
      return buffer;
    };
    const header = put(headerOf(4)), outs = [small, large].map(() => put(poisoned(4)));
    const program = backend.record(() => [small, large].forEach((c, i) => backend.ops.sample({ logits: matrix(c, put(c.logits)), choices: put(c.choices.bytes), out: outs[i]!, batch: batchOf(header) })));
    for (const rows of [4, 0, 2]) {
      backend.write(header, 0, bytesOf(headerOf(rows)));
      for (const out of outs) backend.write(out, 0, bytesOf(poisoned(4)));
      program.run({ numTokens: 9999, numSequences: 1, numLogits: rows });
      for (const [i, c] of [small, large].entries()) {
        const got = new Int32Array((await backend.read(outs[i]!, 0, 16)).slice().buffer);
        assert.deepEqual([...got], c.expected.map((token, r) => (r < rows ? token : poison)), `${c.name}, ${rows} rows`);
      }
    }
  }
});
