/** What becomes of logits on a GPU: tokens against the host's, rules and log-probabilities against the definition, feedTokens, and times. */
import { samplingModules } from "../../src/backend/cuda/sample.ts";
import { loadModules, type Machine, timeOf } from "./machine.ts";
import { answerProblem, recordsOf, ruledCases, tokenProblems, unwritten } from "./ruled-cases.ts";
import { SampleBench } from "./sample-bench.ts";
import { build, cases, kinds, nearness, paramsOf } from "./sample-cases.ts";

const mostRows = 256, vocabulary = 128_256;
const microseconds = (ms: number): string => `${(1000 * ms).toFixed(1)} us`;

export async function run(machine: Machine, quick: boolean): Promise<void> {
  const { report, dry } = machine;
  const bench = new SampleBench(machine.device, await loadModules(machine, samplingModules), { rows: mostRows, logits: 64 * vocabulary + 300_000, edits: 1_000_000 });
  await report.section("sample", async () => {
    let rows = 0, different = 0;
    for (const c of cases(quick || dry)) {
      const got = await bench.sampled(c);
      report.result(() => {
        const wrong = c.expected.flatMap((want, r) => (got[r] === want ? [] : [r])), past = got[c.rows] !== unwritten;
        rows += c.rows;
        different += wrong.length;
        return [wrong.length === 0 && !past, `${c.name}${past ? ": wrote past its rows" : ""}${wrong.length > 0 ? `: ${wrong.length} of ${c.rows}: ${wrong.slice(0, 3).map((r) => nearness(c, r, got[r]!, c.expected[r]!)).join("; ")}` : ""}`];
      }, true);
    }
    report.note(`${rows} rows, ${different} different`);
  });
  await report.section("rules and log-probabilities", async () => {
    let rows = 0, different = 0, questions = 0, mostError = 0;
    for (const c of ruledCases(quick || dry)) {
      const found = await bench.ruled(c);
      report.result(() => {
        const wrong = tokenProblems(c, found.tokens), { problem, error } = answerProblem(c, found.answers);
        rows += c.of.rows;
        different += wrong.length;
        questions += c.numQuestions;
        mostError = Math.max(mostError, error);
        const problems = [...wrong.slice(0, 3), ...(found.tokens[c.of.rows] === unwritten ? [] : ["wrote past its rows"]), ...(found.kept ? [] : ["the logits, or what lies between them, are others now"]), ...(problem === undefined ? [] : [problem])];
        return [problems.length === 0, `${c.of.name}${problems.map((what) => `; ${what}`).join("")}`];
      }, true);
    }
    report.note(`${rows} rows, ${different} different; ${questions} questions, the sums' logarithms within ${mostError} of the definition's`);
  });
  await report.section("feedTokens", async () => {
    for (const [n, num] of [[300, 7], [5, 3]] as const) {
      // Below 0: a row of what was sampled. The third sampled none; the last token is behind the step's.
      const tokens = Int32Array.from({ length: n }, (_, i) => (i % 3 === 0 ? -1 - (i % num) : i)), sampled = Int32Array.from({ length: num }, (_, i) => (i === 2 ? -1 : 100 + i));
      const got = await bench.feed(tokens, sampled), want = tokens.map((token, i) => (i === n - 1 || token >= 0 ? token : Math.max(0, sampled[-1 - token]!)));
      report.result(() => [got.every((x, i) => x === want[i]), `feedTokens of ${n}`]);
    }
  });
  if (quick || dry) return;
  await report.section("times", async () => {
    for (const shape of ["normal", "peaked", "ties"]) for (const rows of [1, 64]) {
      const c = build({ name: "timing", rows, columns: vocabulary, shape, kind: "greedy", seed: 5 }), what = `${shape} ${rows} rows x ${vocabulary}`;
      const choose = (kind: string): void => {
        for (let r = 0; r < rows; r++) c.choices.set(r, paramsOf(kind), 5000 + r, 77 + r);
      };
      for (const kind of Object.keys(kinds)) {
        choose(kind);
        report.time(`${what} ${kind}: ${microseconds(await timeOf(machine, 20, bench.prepare(c)))}`);
      }
      for (const rule of ["bias", "penalties", "only 100"]) for (const kind of ["greedy", "plain"]) {
        choose(kind);
        report.time(`${what} ruled, ${rule} ${kind}: ${microseconds(await timeOf(machine, 20, bench.prepareRuled(recordsOf(c, { seed: 6, rules: [rule] })).sampleRuled))}`);
      }
      for (const numTop of [0, 5, 20]) {
        const { sample, logprobs } = bench.prepareRuled(recordsOf(c, { seed: 7, rules: ["own"], numTop }));
        sample(); // most questions are of sampled tokens
        report.time(`${what} log-probabilities, numTop ${numTop}: ${microseconds(await timeOf(machine, 20, logprobs))}`);
      }
    }
  });
}
