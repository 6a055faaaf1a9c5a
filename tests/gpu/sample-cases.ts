/** Logits and choices to sample from, and the tokens that the host chooses of them. Knows no device. */
import { choiceWord } from "../../src/backend/backend.ts";
import { choose } from "../../src/backend/reference/sample.ts";
import { stream } from "../../src/core/random.ts";
import { Choices } from "../../src/sampling/choices.ts";
import { defaultSampling, type SamplingParams } from "../../src/sampling/params.ts";
import { Sampler } from "../../src/sampling/sampler.ts";

export interface Case {
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  /** Elements from a row to the next; what lies between is larger than any logit. */
  readonly stride: number;
  /** Elements before the first row: it need not begin at 16 bytes. */
  readonly offset: number;
  readonly logits: Float32Array;
  readonly choices: Choices;
  readonly params: readonly SamplingParams[];
  /** Tokens, -1 for none. */
  readonly expected: readonly number[];
}

/** How a token is chosen. */
export const kinds: Readonly<Record<string, Partial<SamplingParams>>> = {
  greedy: { temperature: 0 }, plain: { temperature: 1 }, cold: { temperature: 0.3 }, hot: { temperature: 3 }, coldest: { temperature: 0.001 },
  "top-k 1": { topK: 1 }, "top-k 50": { topK: 50 }, "top-k 5000": { topK: 5000, temperature: 2 }, "top-p 0.1": { topP: 0.1 }, "top-p 0.9": { topP: 0.9 }, "top-p 1e-9": { topP: 1e-9 },
  "min-p 0.05": { minP: 0.05 }, "min-p 1": { minP: 1 }, "all three": { topK: 300, topP: 0.8, minP: 0.01, temperature: 0.9 }, "k and p": { topK: 50, topP: 0.95, temperature: 0.7 },
};
export const paramsOf = (kind: string): SamplingParams => ({ ...defaultSampling, ...kinds[kind]! });

/** Logits: as noise, as a model's, of few values, of one, half of them -Infinity (and rows with NaN and Infinity), far apart, at the ends of f32. */
export const shapes: Readonly<Record<string, (random: () => number) => number>> = {
  normal: (r) => 2.5 * Math.sqrt(-2 * Math.log(1 - r())) * Math.cos(2 * Math.PI * r()),
  peaked: (r) => (r() < 0.0005 ? 12 * r() + 4 : 3 * (r() + r() + r()) - 9),
  ties: (r) => Math.round((r() - 0.5) * 12) / 2,
  equal: () => 0.25,
  holes: (r) => (r() < 0.5 ? -Infinity : 8 * (r() - 0.5)),
  wide: (r) => 1e4 * (r() - 0.5),
  extreme: (r) => (r() < 0.001 ? 3.4e38 : -3.4e38 * r()),
};
/** What rows of "holes" have besides, by their number modulo 5. */
const special: Readonly<Record<number, (row: Float32Array, random: () => number) => void>> = {
  1: (row) => void row.fill(-Infinity), 2: (row, random) => void (row[Math.floor(random() * row.length)] = NaN), 3: (row) => void (row[row.length - 1] = Infinity), 4: (row) => void (row[0] = -NaN),
};
const between = 1e30;

interface Asked {
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  readonly stride?: number;
  readonly offset?: number;
  readonly shape: string;
  /** "mixed": all kinds in turn. */
  readonly kind: string;
  readonly seed: number;
}

export function build({ name, rows, columns, stride = columns, offset = 0, shape, kind, seed }: Asked): Case {
  const random = stream(seed), logits = new Float32Array(rows * stride).fill(between), choices = new Choices(rows), sampler = new Sampler(columns), all = Object.keys(kinds);
  const params: SamplingParams[] = [], expected: number[] = [];
  for (let r = 0; r < rows; r++) {
    // Cheap noise: Philox takes too long for the largest cases.
    let x = (seed * 7919 + r * 104729 + 1) >>> 0;
    const noise = (): number => {
      x = (x ^ (x << 13)) >>> 0;
      x = (x ^ (x >>> 17)) >>> 0;
      x = (x ^ (x << 5)) >>> 0;
      return x / 2 ** 32;
    };
    const row = logits.subarray(r * stride, r * stride + columns), next = shapes[shape]!;
    for (let id = 0; id < columns; id++) row[id] = next(noise);
    if (shape === "holes") special[r % 5]?.(row, random);
    const p = paramsOf(kind === "mixed" ? all[r % all.length]! : kind);
    params.push(p);
    choices.set(r, p, seed * 1000 + r, 77 + r);
    expected.push(sampler.sample(row, p, seed * 1000 + r, 77 + r) ?? -1);
  }
  return { name, rows, columns, stride, offset, logits, choices, params, expected };
}

/** All cases, each made when it is wanted: of a few columns, of whole vocabularies, and of each kind by itself. */
export function* cases(quick: boolean): Generator<Case> {
  let seed = 0;
  for (const columns of quick ? [1, 3, 1000] : [1, 2, 3, 5, 127, 1000, 50_257]) for (const shape of Object.keys(shapes)) {
    seed++;
    yield build({ name: `${shape} ${columns} mixed`, rows: 32, columns, stride: columns + (seed % 5), offset: seed % 4, shape, kind: "mixed", seed });
  }
  for (const columns of quick ? [] : [32_000, 128_256, 262_144]) for (const shape of Object.keys(shapes)) for (const rows of columns === 262_144 ? [1] : [1, 5, 64]) {
    seed++;
    yield build({ name: `${shape} ${columns} x ${rows} mixed`, rows, columns, shape, kind: "mixed", seed });
  }
  for (const shape of ["normal", "peaked"]) for (const kind of Object.keys(kinds)) for (const columns of quick ? [1000] : [1000, 128_256]) {
    seed++;
    yield build({ name: `${shape} ${columns} x 5 ${kind}`, rows: 5, columns, shape, kind, seed });
  }
}

/** Where a token differs: how near the draw is to a border between tokens. `tokens`: which these are the logits of, where not of all. */
export function nearness(c: Case, r: number, got: number, expected: number, logits: Float32Array = c.logits.subarray(r * c.stride, r * c.stride + c.columns), tokens?: readonly number[]): string {
  const at = r * choiceWord.words, doubles = new Float64Array(c.choices.bytes.buffer), topK = new Int32Array(c.choices.bytes.buffer)[at + choiceWord.topK]!;
  const [temperature, topP, minP, drawn] = [choiceWord.temperature, choiceWord.topP, choiceWord.minP, choiceWord.uniform].map((word) => doubles[(at + word) / 2]!) as [number, number, number, number];
  const tokenAt = (uniform: number): number => {
    const found = choose(logits, { temperature, topP, minP, uniform: Math.min(1 - 2 ** -53, Math.max(0, uniform)), topK });
    return tokens?.[found] ?? found;
  };
  const logitOf = (token: number): number | undefined => logits[tokens ? tokens.indexOf(token) : token];
  const near = [1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7].find((e) => got === tokenAt(drawn - e) || got === tokenAt(drawn + e));
  const asked = Object.entries(c.params[r]!).filter(([name, value]) => (defaultSampling as unknown as Readonly<Record<string, unknown>>)[name] !== value);
  return `row ${r} ${JSON.stringify(Object.fromEntries(asked))}: got ${got} (logit ${logitOf(got)}), expected ${expected} (logit ${logitOf(expected)}), definition ${tokenAt(drawn)}, drawn ${drawn}, ${near === undefined ? "not near" : `within ${near}`}`;
}
