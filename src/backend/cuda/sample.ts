/**
 * What becomes of logits on the GPU: the commands of kernels/sample.cu, ruled.cu and logprobs.cu.
 *
 * One block of threads takes a row, or a record that names one. Knows no sequence and no filter.
 */
import { invariant, UsageError } from "../../core/errors.ts";
import { type Activation, answerWord, type Buffer, choiceWord, editWord, questionWord, ruleWord, type SamplingOps } from "../backend.ts";
import { addressOf, own } from "./memory.ts";
import type { ModuleKind, ModuleName } from "./modules.ts";
import type { OpsContext } from "./ops.ts";
import { Params } from "./params.ts";

/** The kernels know no 16-bit type; one module of each is enough. */
const element = "bf16";
const kinds = ["sample", "ruled", "logprobs"] as const satisfies readonly ModuleKind[];
/** The modules of all these commands. */
export const samplingModules: readonly ModuleName[] = kinds.map((kind) => ({ kind, element }));

const rowThreads = 1024, feedThreads = 256;
/** Tokens of a vocabulary: sums of their masses fit 64 bits. */
export const maxVocabSize = 2 ** 18;

/** How many records, or numbers of one word, a buffer has room for. */
const roomFor = ({ bytes }: Buffer, words = 1): number => Math.floor(bytes / (4 * words));

/** Rows that there is room for in logits as the kernels read them, `what` they do with them. */
function rowsOf({ data, dtype, columns, stride }: Activation, what: string): number {
  invariant(dtype === undefined || dtype === "f32", `logits are ${dtype}, not f32`);
  if (columns > maxVocabSize) throw new UsageError(`the model has ${columns} tokens; device cuda ${what} ${maxVocabSize} at most`);
  return Math.floor((data.bytes / 4 - columns) / stride) + 1;
}

/** Records with doubles in them. */
function aligned(records: Readonly<Record<string, Buffer>>): void {
  for (const [what, buffer] of Object.entries(records)) invariant(own(buffer).address % 8 === 0, `${what} at address ${own(buffer).address}, which is no multiple of 8`);
}

export function createSamplingOps(context: Pick<OpsContext, "device" | "submit">): Required<SamplingOps> {
  /** Submits a kernel that takes things by the thread or, of 1, by the block: as many as the step has of `count`, within what there is `room` for. */
  const submit = (kind: (typeof kinds)[number], kernel: string, count: "numTokens" | "numLogits", room: number, each: number, block: number, params: Params): void => {
    const bytes = params.bytes();
    context.submit([{ kind, element }], (step, find) => {
      if (step[count] > 0) context.device.launch(find(`${kernel}_${element}`), { grid: [Math.ceil(Math.min(step[count], room) / each), 1, 1], block, dependent: true }, bytes);
    });
  };

  return {
    sample({ logits, choices, out, batch }) {
      const rows = rowsOf(logits, "samples from");
      invariant(roomFor(choices, choiceWord.words) >= rows && roomFor(out) >= rows, `${rows} rows, ${choices.bytes} bytes of choices, ${out.bytes} of tokens`);
      aligned({ choices });
      submit("sample", "sample", "numLogits", rows, 1, rowThreads,
        new Params().ptr(addressOf(batch.header)).ptr(addressOf(logits.data)).ptr(addressOf(choices)).ptr(addressOf(out)).i32(logits.stride).i32(logits.columns));
    },

    sampleRuled({ logits, choices, rules, edits, scratch, out, batch }) {
      const rows = rowsOf(logits, "samples from");
      invariant(roomFor(choices, choiceWord.words) >= rows && roomFor(out) >= rows, `${rows} rows, ${choices.bytes} bytes of choices, ${out.bytes} of tokens`);
      invariant(roomFor(scratch) >= roomFor(edits, editWord.words), `${edits.bytes} bytes of edits, ${scratch.bytes} of scratch`);
      aligned({ choices, rules, edits });
      submit("ruled", "sampleRuled", "numLogits", roomFor(rules, ruleWord.words), 1, rowThreads,
        new Params().ptr(addressOf(batch.header)).ptr(addressOf(logits.data)).ptr(addressOf(choices)).ptr(addressOf(rules)).ptr(addressOf(edits)).ptr(addressOf(scratch)).ptr(addressOf(out))
          .i32(logits.stride).i32(logits.columns));
    },

    logprobs({ logits, questions, sampled, out, batch }) {
      const rows = rowsOf(logits, "has log-probabilities of"), room = Math.min(roomFor(questions, questionWord.words), roomFor(out, answerWord.words));
      invariant(roomFor(sampled) >= rows && room > 0, `${rows} rows, ${sampled.bytes} bytes of tokens, ${questions.bytes} of questions, ${out.bytes} of answers`);
      aligned({ answers: out });
      submit("logprobs", "logprobs", "numLogits", room, 1, rowThreads,
        new Params().ptr(addressOf(batch.header)).ptr(addressOf(logits.data)).ptr(addressOf(questions)).ptr(addressOf(sampled)).ptr(addressOf(out)).i32(logits.stride).i32(logits.columns));
    },

    feedTokens({ sampled, batch }) {
      submit("sample", "feedTokens", "numTokens", roomFor(batch.tokens), feedThreads, feedThreads,
        new Params().ptr(addressOf(batch.header)).ptr(addressOf(batch.tokens)).ptr(addressOf(sampled)));
    },
  };
}
