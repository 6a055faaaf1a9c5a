/**
 * What becomes of logits in CUDA, without a GPU: the kernels' very text on emulated threads, against the definition. Every way to change a row in turn, and
 * to choose a token from it; questions about all rows. And texts with a slip in them are found out. `npm run gpu -- sample` is the same on a GPU, and more.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { answerWord } from "../../src/backend/backend.ts";
import { moduleText } from "../../src/backend/cuda/modules.ts";
import { samplingModules } from "../../src/backend/cuda/sample.ts";
import { answerProblem, recordsOf, ruledCase, tokenProblems, unwritten } from "../gpu/ruled-cases.ts";
import { type Found, SampleBench } from "../gpu/sample-bench.ts";
import { build, type Case, shapes } from "../gpu/sample-cases.ts";
import { EmulatedDevice, Emulator, missing } from "./cuda-emulator.ts";

const long = Boolean(process.env["TESSERA_LONG"]);
const kernels = { sample: ["sample", "feedTokens"], ruled: ["sampleRuled"], logprobs: ["logprobs"] } as const;
type Kind = keyof typeof kernels;
const textOf = (kind: Kind): string => moduleText({ kind, element: "bf16" });
const kinds = samplingModules.map(({ kind }) => kind as Kind);

/** Which thread goes on first: what became ready last, or one at random (cuda-emulator.cpp). */
const orders = [0, 2, 4, 6, 8] as const;

/** Columns and shapes of rows: a token, a few, less than a quad for each thread, more than that; ties and holes of each. */
const all = Object.keys(shapes), sizes: Readonly<Record<number, readonly string[]>> = long
  ? { 1: all, 2: all, 3: all, 5: all, 19: all, 127: all, 1000: all, 4099: all, 50_257: ["peaked", "holes", "equal"] }
  : { 1: ["normal"], 3: ["holes"], 19: ["holes"], 127: ["extreme"], 1000: ["peaked"], 4099: ["ties"] };
const caseOf = (columns: number, shape: string, seed: number, offset = seed % 4, rows = long ? 51 : 17): Case =>
  build({ name: `${shape} ${columns}`, rows, columns, stride: columns + 3, offset, shape, kind: "mixed", seed });

/** Slips: a line of a kernel, and rows that must not survive another in its place. */
interface Slip {
  readonly kind: Kind;
  readonly rows: readonly [columns: number, shape: string];
  readonly line: string;
  readonly instead: string;
}
const slips: Readonly<Record<string, Slip>> = {
  "sums of tiles that are read before all are there": { kind: "ruled", rows: [1000, "normal"], line: "  __syncthreads();\n  constexpr int EACH", instead: "  constexpr int EACH" },
  "a row that is read before all of it is changed": { kind: "ruled", rows: [1000, "normal"], line: "    __syncthreads();\n    const int found", instead: "    const int found" },
  "what was no distribution, and looks like one": { kind: "ruled", rows: [127, "holes"], line: "int token = extremes(Row(logits, p.columns), s);", instead: "int token = 0;" },
  "a count that begins anywhere": { kind: "logprobs", rows: [19, "normal"], line: "if (threadIdx.x == 0) numCandidates = 0;", instead: "" },
  ...(long && {
    "more candidates than there is room for": { kind: "logprobs", rows: [4099, "equal"], line: "s.before + s.inside > MOST_CANDIDATES", instead: "false" },
    "logits that stay changed": { kind: "ruled", rows: [127, "normal"], line: "logits[tokenOf(e)] = scratch[e];", instead: "(void)0;" },
    "a row that something else chooses for": { kind: "sample", rows: [3, "normal"], line: " | (choice[SKIP] != 0)", instead: "" },
    "a place in the edits for a token": { kind: "ruled", rows: [1000, "normal"], line: "onlyEdited ? tokenOf(found) : found;", instead: "found;" },
    "a penalty that makes an infinity": { kind: "ruled", rows: [127, "normal"], line: "x > greatest ? greatest : x < -greatest ? -greatest : x;", instead: "x;" },
    "a rank that counts equals": { kind: "logprobs", rows: [127, "ties"], line: "larger += x > logit;", instead: "larger += x >= logit;" },
    "no place for tokens of -infinity": { kind: "logprobs", rows: [19, "holes"], line: "wanted < numTop && threadIdx.x < 32", instead: "false" },
  }),
};
const slipNames = Object.keys(slips);

describe("sampling on emulated threads", { skip: missing }, () => {
  let emulator: Emulator;
  before(async () => {
    emulator = await Emulator.compile([...kinds.map((kind) => ({ kind, text: textOf(kind) })), ...slipNames.map((name) => {
      const { kind, line, instead } = slips[name]!, text = textOf(kind);
      assert.equal(text.split(line).length, 2, `${name}: ${line}`);
      return { kind, text: text.replace(line, () => instead) };
    })].map(({ kind, text }) => ({ text, kernels: kernels[kind].map((kernel) => `${kernel}_bf16`) })));
  });
  after(() => emulator?.close());

  /** Memory of its own for a case. `slip`: with the kernels that have it. */
  function benchOf(c: Case, edits: number, order: number, slip?: number): SampleBench {
    const functions: Emulator["functions"][number] = Object.assign({}, ...emulator.functions.slice(0, kinds.length), slip !== undefined && emulator.functions[kinds.length + slip]);
    return new SampleBench(new EmulatedDevice(emulator, order).device, (name) => functions[name]!, { rows: c.rows, logits: (c.rows + 1) * c.stride + c.offset, edits });
  }
  /** What is wrong of a case, under an order. */
  async function problem(c: ReturnType<typeof ruledCase>, order: number, slip?: number): Promise<string | undefined> {
    const found = await benchOf(c.of, c.numEdits, order, slip).ruled(c), answers = answerProblem(c, found.answers);
    // Half a unit of 2^-52 a token of at most 50,257, here and in the definition's running sum.
    if (answers.error > 1.2e-11) return `the sums' logarithms are off by ${answers.error}`;
    return tokenProblems(c, found.tokens)[0] ?? answers.problem ?? (found.tokens[c.of.rows] !== unwritten ? "written past the rows" : found.kept ? undefined : "the logits are others now");
  }

  let seed = 0;
  for (const [columns, some] of Object.entries(sizes)) test(`rows of ${columns}: ${some.join(", ")}`, async () => {
    for (const shape of some) {
      const c = ruledCase(caseOf(Number(columns), shape, seed), { seed });
      for (const order of long ? orders : [orders[seed++ % orders.length]!]) assert.equal(await problem(c, order), undefined, `${shape}, order ${order}`);
    }
  });

  test("rows without rules", async () => {
    for (const [columns, shape] of [[127, "ties"], [1000, "peaked"]] as const) {
      const c = caseOf(columns, shape, columns, 1, 30), found = await benchOf(c, 0, orders[1]).sampled(c);
      assert.deepEqual([...found], [...c.expected, unwritten]);
    }
  });

  test("an answer's bits are the row's own, wherever it lies and whoever goes first", async () => {
    let first: Found | undefined;
    for (const [offset, order] of [[0, 0], [1, 2], [3, 6]] as const) {
      const c = caseOf(1000, "normal", 3, offset, 5), records = recordsOf(c, { seed: 4 }), found = await benchOf(c, records.numEdits, order).ruled(records);
      assert.ok(found.answers[answerWord.rank] !== unwritten);
      first ??= found;
      assert.deepEqual(found, first);
    }
  });

  test("tokens of the step before, and token 0 where there was none", async () => {
    const c = caseOf(300, "equal", 1), tokens = Int32Array.from({ length: 290 }, (_, i) => (i % 3 === 0 ? -1 - (i % 5) : i)), sampled = Int32Array.of(100, 101, -1, 103, -2);
    const wanted = tokens.map((token, i) => (i === 289 || token >= 0 ? token : Math.max(0, sampled[-1 - token]!))); // the last is behind the step's
    assert.deepEqual(await benchOf(c, 0, 0).feed(tokens, sampled), wanted);
  });

  slipNames.forEach((name, i) => test(`${name} is found out`, async () => {
    const [columns, shape] = slips[name]!.rows, c = ruledCase(caseOf(columns, shape, 1), { seed: 1, first: 0 });
    for (const order of orders) if ((await problem(c, order, i).catch((error: Error) => error.message)) !== undefined) return;
    assert.fail("no order shows it");
  }));
});
