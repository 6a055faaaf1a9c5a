/**
 * Tokens sampled on the GPU, and fed to the step behind: the commands of kernels/sample.cu.
 *
 * One block of threads takes a row. Knows no sequence and no filter.
 */
import { invariant, UsageError } from "../../core/errors.ts";
import { choiceWord, type SamplingOps } from "../backend.ts";
import { addressOf, own } from "./memory.ts";
import type { ModuleName } from "./modules.ts";
import type { OpsContext } from "./ops.ts";
import { Params } from "./params.ts";

/** The kernels know no 16-bit type; one module of them is enough. */
const module: ModuleName = { kind: "sample", element: "bf16" };
const sampleThreads = 1024, feedThreads = 256;
/** Tokens of a vocabulary: sums of their masses fit 64 bits. */
export const maxVocabSize = 2 ** 18;

export function createSamplingOps(context: Pick<OpsContext, "device" | "submit">): SamplingOps {
  const { device } = context;
  return {
    sample({ logits, choices, out, batch }) {
      const { columns, stride } = logits;
      invariant(logits.dtype === undefined || logits.dtype === "f32", `logits are ${logits.dtype}, not f32`);
      if (columns > maxVocabSize) throw new UsageError(`the model has ${columns} tokens; device cuda samples from ${maxVocabSize} at most`);
      const rows = Math.floor((logits.data.bytes / 4 - columns) / stride) + 1;
      invariant(own(choices).address % 8 === 0 && choices.bytes >= 4 * choiceWord.words * rows && out.bytes >= 4 * rows, `${rows} rows, ${choices.bytes} bytes of choices, ${out.bytes} of tokens`);
      const params = new Params().ptr(addressOf(batch.header)).ptr(addressOf(logits.data)).ptr(addressOf(choices)).ptr(addressOf(out)).i32(stride).i32(columns).bytes();
      context.submit([module], ({ numLogits }, find) => {
        if (numLogits > 0) device.launch(find(`sample_${module.element}`), { grid: [Math.min(numLogits, rows), 1, 1], block: sampleThreads, dependent: true }, params);
      });
    },

    feedTokens({ sampled, batch }) {
      const params = new Params().ptr(addressOf(batch.header)).ptr(addressOf(batch.tokens)).ptr(addressOf(sampled)).bytes();
      context.submit([module], ({ numTokens }, find) => {
        if (numTokens > 0) device.launch(find(`feedTokens_${module.element}`), { grid: [Math.ceil(Math.min(numTokens, batch.tokens.bytes / 4) / feedThreads), 1, 1], block: feedThreads, dependent: true }, params);
      });
    },
  };
}
