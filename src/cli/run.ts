/** `tessera run`: one prompt, one answer on stdout as it is made. Everything that is not the answer goes to stderr. */
import { text as readAll } from "node:stream/consumers";
import { LLM } from "../llm.ts";
import { engineOptions, flagOf, spelledParams, type EngineFlags, type SamplingFlags } from "./options.ts";
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
  const params = spelledParams(flags);
  const prompt = given === "-" ? (await readAll(process.stdin)).trimEnd() : given;
  const progress = createProgress(process.stderr, seconds);
  // Here --seed is the answer's, not the engine's.
  const { seed: _, ...engineFlags } = flags;
  const options = { ...(await engineOptions(engineFlags)), ...(process.stderr.isTTY && { onProgress: progress.report }) };
  await using llm = await LLM.load(model, options).finally(progress.finish);
  const startedAt = seconds();
  const system = flags.system === undefined ? [] : [{ role: "system", content: flags.system }];
  const generation = llm.hasChatTemplate && !flags.raw
    ? llm.startChat([...system, { role: "user", content: prompt }], llm.check(params, flagOf), {})
    : llm.startPrompt(prompt, llm.check({ [flagOf("maxTokens")]: 128, ...params }, flagOf), "the prompt");
  let firstAt: number | undefined;
  try {
    for await (const { text } of generation) {
      firstAt ??= seconds();
      process.stdout.write(text);
    }
  } finally {
    // Where it failed in the middle, too: the error gets a line of its own.
    if (firstAt !== undefined) process.stdout.write("\n");
  }
  if (firstAt === undefined) process.stdout.write("\n");
  if (process.stderr.isTTY) process.stderr.write(`${speedLine(await generation, startedAt, firstAt ?? seconds(), seconds())}\n`);
}
