/** `tessera run`: one prompt, one answer on stdout as it is made. Everything that is not the answer goes to stderr. */
import { text as readAll } from "node:stream/consumers";
import { LLM } from "../llm.ts";
import { engineOptions, samplingParams, type EngineFlags, type SamplingFlags } from "./options.ts";
import { createProgress } from "./progress.ts";
import { speedLine } from "./speed.ts";

export interface RunFlags extends EngineFlags, SamplingFlags {
  readonly raw?: true;
  readonly system?: string;
}

const seconds = () => performance.now() / 1000;

/** `first` is the prompt, or the model when there is a `second`. A prompt of "-" is read from stdin. */
export async function runOnce(first: string, second: string | undefined, flags: RunFlags): Promise<void> {
  const [model, given] = second === undefined ? [undefined, first] : [first, second];
  const prompt = given === "-" ? (await readAll(process.stdin)).trimEnd() : given;
  const progress = createProgress(process.stderr, seconds);
  // Here --seed is the answer's, not the engine's.
  const { seed: _, ...engineFlags } = flags;
  const options = { ...(await engineOptions(engineFlags)), ...(process.stderr.isTTY && { onProgress: progress.report }) };
  await using llm = await LLM.load(model, options).finally(progress.finish);
  const params = samplingParams(flags);
  const startedAt = seconds();
  const system = flags.system === undefined ? [] : [{ role: "system", content: flags.system }];
  const generation = llm.hasChatTemplate && !flags.raw
    ? llm.chat([...system, { role: "user", content: prompt }], params)
    : llm.generate(prompt, { maxTokens: 128, ...params });
  let firstAt: number | undefined;
  for await (const { text } of generation) {
    firstAt ??= seconds();
    process.stdout.write(text);
  }
  process.stdout.write("\n");
  if (process.stderr.isTTY) process.stderr.write(`${speedLine(await generation, startedAt, firstAt ?? seconds(), seconds())}\n`);
}
