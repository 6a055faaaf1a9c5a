/** Tokens sampled on a GPU against the host's, how near a border the draw was where they differ, feedTokens, and times. */
import type { BatchInputs, Buffer as BackendBuffer } from "../../src/backend/backend.ts";
import { CudaBuffer } from "../../src/backend/cuda/memory.ts";
import { createSamplingOps } from "../../src/backend/cuda/sample.ts";
import { choose } from "../../src/backend/reference/sample.ts";
import { defaultSampling } from "../../src/sampling/params.ts";
import { loadModules, type Machine, timeOf } from "./machine.ts";
import { build, type Case, cases, kinds, paramsOf } from "./sample-cases.ts";

const mostRows = 256, untouched = -7, vocabulary = 128_256;
const bytesOf = (a: ArrayBufferView): Uint8Array => new Uint8Array(a.buffer as ArrayBuffer, a.byteOffset, a.byteLength);

class SampleBench {
  readonly #machine: Machine;
  readonly #ops: ReturnType<typeof createSamplingOps>;
  readonly #header: CudaBuffer;
  readonly #out: CudaBuffer;
  readonly #choices: CudaBuffer;
  readonly #logits: CudaBuffer;
  #step = { numTokens: 1, numSequences: 1, numLogits: 1 };

  static async open(machine: Machine): Promise<SampleBench> {
    return new SampleBench(machine, await loadModules(machine, [{ kind: "sample", element: "bf16" }]));
  }

  private constructor(machine: Machine, find: Awaited<ReturnType<typeof loadModules>>) {
    const { device } = machine, take = (bytes: number): CudaBuffer => new CudaBuffer(device.alloc(bytes), bytes);
    this.#machine = machine;
    [this.#header, this.#out, this.#choices, this.#logits] = [take(16), take(4 * mostRows), take(40 * mostRows), take(4 * (64 * vocabulary + 300_000))];
    this.#ops = createSamplingOps({ device, submit: (_needs, command) => command(this.#step, find) });
  }

  #batch(tokens: BackendBuffer, numTokens: number, numLogits: number): BatchInputs {
    this.#machine.device.write(this.#header.address, bytesOf(Int32Array.of(numTokens, 1, numLogits, 0)));
    return { header: this.#header, tokens, positions: this.#header, slots: this.#header, blockTable: this.#header, logitRows: this.#header, maxPagesPerSequence: 1 };
  }

  /** What launches the case. One row more than the step has is launched, and must write nothing. */
  prepare(c: Case): () => void {
    const { device } = this.#machine, { rows, columns, stride, offset } = c;
    device.write(this.#out.address, bytesOf(new Int32Array(mostRows).fill(untouched)));
    device.write(this.#choices.address, c.choices.bytes);
    device.write(this.#logits.address + 4 * offset, bytesOf(c.logits));
    const batch = this.#batch(this.#header, 1, rows), logits = { data: this.#logits.slice(4 * offset, this.#logits.bytes - 4 * offset), rows: "logits", columns, stride } as const;
    return () => {
      this.#step = { numTokens: 1, numSequences: 1, numLogits: rows + 1 };
      this.#ops.sample({ logits: { ...logits, data: logits.data.slice(0, 4 * ((rows + 1) * stride)) }, choices: this.#choices, out: this.#out, batch });
    };
  }

  async sampled(c: Case): Promise<Int32Array> {
    this.prepare(c)();
    return new Int32Array((await this.#machine.device.read(this.#out.address, 4 * (c.rows + 1))).slice().buffer);
  }

  async feed(tokens: Int32Array, sampled: Int32Array): Promise<Int32Array> {
    const { device } = this.#machine, at = this.#logits.slice(0, 4 * tokens.length);
    device.write(at.address, bytesOf(tokens));
    device.write(this.#out.address, bytesOf(sampled));
    this.#step = { numTokens: tokens.length, numSequences: 1, numLogits: 1 };
    this.#ops.feedTokens({ sampled: this.#out, batch: this.#batch(at, tokens.length - 1, 1) });
    return new Int32Array((await device.read(at.address, at.bytes)).slice().buffer);
  }
}

export async function run(machine: Machine, quick: boolean): Promise<void> {
  const { report, dry } = machine, bench = await SampleBench.open(machine);
  await report.section("sample", async () => {
    let rows = 0, different = 0;
    for (const c of cases(quick || dry)) {
      const got = await bench.sampled(c);
      report.result(() => {
        const wrong = c.expected.flatMap((want, r) => (got[r] === want ? [] : [r])), past = got[c.rows] !== untouched;
        rows += c.rows;
        different += wrong.length;
        return [wrong.length === 0 && !past, `${c.name}${past ? ": wrote past its rows" : ""}${wrong.length > 0 ? `: ${wrong.length} of ${c.rows}: ${wrong.slice(0, 3).map((r) => nearness(c, r, got[r]!)).join("; ")}` : ""}`];
      }, true);
    }
    report.note(`${rows} rows, ${different} different`);
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
      const c = build({ name: "timing", rows, columns: vocabulary, shape, kind: "greedy", seed: 5 });
      for (const kind of Object.keys(kinds)) {
        for (let r = 0; r < rows; r++) c.choices.set(r, paramsOf(kind), 5000 + r, 77 + r);
        const ms = await timeOf(machine, 20, bench.prepare(c));
        report.time(`${shape} ${rows} rows x ${vocabulary} ${kind}: ${(1000 * ms).toFixed(1)} us`);
      }
    }
  });
}

/** Where a token differs: how near the draw is to a border between tokens, and what the definition itself chooses. */
function nearness(c: Case, r: number, got: number): string {
  const row = c.logits.subarray(r * c.stride, r * c.stride + c.columns), numbers = new Float64Array(c.choices.bytes.buffer).subarray(r * 5, r * 5 + 5), topK = new Int32Array(c.choices.bytes.buffer)[r * 10 + 8]!;
  const [temperature, topP, minP, drawn] = [numbers[0]!, numbers[1]!, numbers[2]!, numbers[3]!];
  const tokenAt = (uniform: number): number => choose(row, { temperature, topP, minP, uniform: Math.min(1 - 2 ** -53, Math.max(0, uniform)), topK });
  const near = [1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7].find((e) => got === tokenAt(drawn - e) || got === tokenAt(drawn + e));
  const asked = Object.entries(c.params[r]!).filter(([name, value]) => (defaultSampling as unknown as Readonly<Record<string, unknown>>)[name] !== value);
  return `row ${r} ${JSON.stringify(Object.fromEntries(asked))}: got ${got} (logit ${row[got]}), expected ${c.expected[r]} (logit ${row[c.expected[r]!]}), definition ${tokenAt(drawn)}, drawn ${drawn}, ${near === undefined ? "not near" : `within ${near}`}`;
}
