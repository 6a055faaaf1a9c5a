/** What becomes of logits on a device, or on what stands for one: cases are written there, launched, and read back. Knows no case. */
import { answerWord, type BatchInputs, type Buffer as BackendBuffer, choiceWord, editWord, headerWord, questionWord, ruleWord } from "../../src/backend/backend.ts";
import type { CudaDevice } from "../../src/backend/cuda/device.ts";
import { CudaBuffer } from "../../src/backend/cuda/memory.ts";
import type { FindKernel } from "../../src/backend/cuda/modules.ts";
import { createSamplingOps } from "../../src/backend/cuda/sample.ts";
import type { Case } from "./sample-cases.ts";
import { type Records, unwritten } from "./ruled-cases.ts";

/** What a bench has room for: rows, logits, edits. */
export interface Room {
  readonly rows: number;
  readonly logits: number;
  readonly edits: number;
}

export interface Found {
  readonly tokens: Int32Array<ArrayBuffer>;
  readonly answers: Int32Array<ArrayBuffer>;
  /** Whether every byte of the logits, and between rows, is as it was written. */
  readonly kept: boolean;
}

/** What headers count as logits. */
type Counted = "step" | "rules" | "questions";
type Device = Pick<CudaDevice, "alloc" | "write" | "read" | "launch" | "numSms" | "maxSharedBytes">;

const bytesOf = (a: ArrayBufferView): Uint8Array => new Uint8Array(a.buffer as ArrayBuffer, a.byteOffset, a.byteLength);
/** Questions are some more than rows, and so are records and rows that nothing may be read of. */
const spare = 4;

export class SampleBench {
  readonly #device: Device;
  readonly #ops: ReturnType<typeof createSamplingOps>;
  readonly #at: Readonly<Record<"out" | "choices" | "rules" | "edits" | "scratch" | "questions" | "answers" | "logits", CudaBuffer>>;
  readonly #headers: Readonly<Record<Counted, CudaBuffer>>;
  #step = { numTokens: 1, numSequences: 1, numLogits: 1 };

  constructor(device: Device, find: FindKernel, { rows, logits, edits }: Room) {
    const take = (words: number): CudaBuffer => new CudaBuffer(device.alloc(4 * words), 4 * words), most = rows + spare;
    this.#device = device;
    this.#headers = { step: take(headerWord.words), rules: take(headerWord.words), questions: take(headerWord.words) };
    this.#at = {
      out: take(most), choices: take(most * choiceWord.words), rules: take(most * ruleWord.words), edits: take((edits + 1) * editWord.words), scratch: take(edits + 1),
      questions: take(most * questionWord.words), answers: take(most * answerWord.words), logits: take(logits + spare),
    };
    this.#ops = createSamplingOps({ device, submit: (_needs, command) => command(this.#step, find) });
  }

  #header(of: Counted, numTokens: number, numLogits: number): CudaBuffer {
    this.#device.write(this.#headers[of].address, bytesOf(Int32Array.of(numTokens, 1, numLogits, 0)));
    return this.#headers[of];
  }
  #batch(header: CudaBuffer, tokens: BackendBuffer = header): BatchInputs {
    return { header, tokens, positions: header, slots: header, blockTable: header, logitRows: header, maxPagesPerSequence: 1 };
  }
  /** Launches for one more than the header counts: that must write nothing. */
  #launch(count: number, op: () => void): void {
    this.#step = { numTokens: 1, numSequences: 1, numLogits: count + 1 };
    op();
  }
  #logitsOf({ rows, columns, stride, offset }: Case) {
    return { data: this.#at.logits.slice(4 * offset, 4 * (rows + 1) * stride), rows: "logits", columns, stride } as const;
  }
  async #words(at: CudaBuffer, count: number): Promise<Int32Array<ArrayBuffer>> {
    return new Int32Array((await this.#device.read(at.address, 4 * count)).slice().buffer);
  }

  #write(c: Case, choices: Uint8Array, tokens: Int32Array): void {
    this.#device.write(this.#at.logits.address + 4 * c.offset, bytesOf(c.logits));
    this.#device.write(this.#at.choices.address, choices);
    this.#device.write(this.#at.out.address, bytesOf(tokens));
  }

  /** Writes a case, and gives what launches `sample` of it. */
  prepare(c: Case, choices: Uint8Array = c.choices.bytes, tokens = new Int32Array(c.rows + 1).fill(unwritten)): () => void {
    this.#write(c, choices, tokens);
    const batch = this.#batch(this.#header("step", 1, c.rows));
    return () => this.#launch(c.rows, () => this.#ops.sample({ logits: this.#logitsOf(c), choices: this.#at.choices, out: this.#at.out, batch }));
  }

  /** Writes a case with rules, and gives what launches each op of it. */
  prepareRuled(c: Records): Readonly<Record<"sample" | "sampleRuled" | "logprobs", () => void>> {
    const { out, choices, rules, edits, scratch, questions, answers } = this.#at, write = (to: CudaBuffer, data: ArrayBufferView): void => this.#device.write(to.address, bytesOf(data));
    const sample = this.prepare(c.of, c.choices, Int32Array.of(...c.before, unwritten));
    write(rules, c.rules);
    write(edits, c.edits);
    write(scratch, new Int32Array(c.numEdits + 1).fill(unwritten));
    write(questions, c.questions);
    write(answers, new Int32Array((c.numQuestions + 1) * answerWord.words).fill(unwritten));
    const logits = this.#logitsOf(c.of), ruledBatch = this.#batch(this.#header("rules", 1, c.numRules)), askedBatch = this.#batch(this.#header("questions", 1, c.numQuestions));
    return {
      sample,
      sampleRuled: () => this.#launch(c.numRules, () => this.#ops.sampleRuled({ logits, choices, rules, edits, scratch, out, batch: ruledBatch })),
      logprobs: () => this.#launch(c.numQuestions, () => this.#ops.logprobs({ logits, questions, sampled: out, out: answers, batch: askedBatch })),
    };
  }

  /** The tokens of a case, and the word behind them. */
  async sampled(c: Case): Promise<Int32Array> {
    this.prepare(c)();
    return this.#words(this.#at.out, c.rows + 1);
  }

  async ruled(c: Records): Promise<Found> {
    const { sample, sampleRuled, logprobs } = this.prepareRuled(c);
    sample();
    sampleRuled();
    logprobs();
    const { out, answers, logits, scratch } = this.#at;
    const tokens = await this.#words(out, c.of.rows + 1), row = await this.#device.read(logits.address + 4 * c.of.offset, c.of.logits.byteLength), behind = await this.#words(scratch, c.numEdits + 1);
    return { tokens, answers: await this.#words(answers, (c.numQuestions + 1) * answerWord.words), kept: Buffer.compare(row, bytesOf(c.of.logits)) === 0 && behind[c.numEdits] === unwritten };
  }

  async feed(tokens: Int32Array, sampled: Int32Array): Promise<Int32Array> {
    const at = this.#at.logits.slice(0, 4 * tokens.length);
    this.#device.write(at.address, bytesOf(tokens));
    this.#device.write(this.#at.out.address, bytesOf(sampled));
    this.#step = { numTokens: tokens.length, numSequences: 1, numLogits: 1 };
    this.#ops.feedTokens({ sampled: this.#at.out, batch: this.#batch(this.#header("step", tokens.length - 1, 1), at) });
    return this.#words(at, tokens.length);
  }
}
