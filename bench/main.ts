/**
 * The demo model's speed: one stream, eight streams, a prompt of 512 tokens; and the memory it takes.
 *
 * The cases take turns within a round, so that a noisy neighbour slows all alike; a row is the median of the rounds.
 *
 *   npm run bench -- [--model DIR] [--rounds N] [--threads N]
 *   npm run bench -- attention | decode | matmul | peers | batch | prefix | sampling | engine-host | overload | quality | cuda-attention | cuda-engine | cuda-page [--help]
 */
import { parseArgs } from "node:util";
import { stream } from "../src/core/random.ts";
import { LLM } from "../src/index.ts";
import { report } from "./row.ts";

const { values: flags } = parseArgs({ options: { model: { type: "string" }, rounds: { type: "string", default: "7" }, threads: { type: "string" }, help: { type: "boolean" } } });
if (flags.help) {
  console.log("npm run bench -- [--model DIR] [--rounds N] [--threads N]   the demo model\nnpm run bench -- attention [--help]                        classification, compilation, kernels\nnpm run bench -- decode [--help]                           attention over long caches\nnpm run bench -- matmul                                    the matrix kernels alone\nnpm run bench -- peers [--help]                            beside llama.cpp, on the same file\nnpm run bench -- batch [--help]                            decode steps of 1 to 32 sequences\nnpm run bench -- quality [--help]                          what each format costs in quality\nnpm run bench -- prefix [--help]                           requests that begin alike, with and without prefix caching\nnpm run bench -- sampling [--help]                         what choosing a token costs\nnpm run bench -- engine-host [--help]                      what the engine costs the host, on a backend that does nothing\nnpm run bench -- overload [--help]                         ten times more requests than the server can do\nnpm run bench -- cuda-attention [--help]                   attention on a GPU, beside PyTorch's\nnpm run bench -- cuda-engine [--help]                      decode steps on a GPU, of a model of random weights\nnpm run bench -- cuda-page [--help]                        the page of what those two measured");
  process.exit(0);
}
await using llm = await LLM.load(flags.model, { ...(flags.threads ? { threads: Number(flags.threads) } : {}) });
const threads = Number(/(\d+) thread/.exec(llm.info.backend)?.[1] ?? 1);
console.log(`${llm.name}: ${(llm.info.numParameters / 1e6).toFixed(1)}M parameters, ${llm.info.backend}, ${llm.info.dtype}`);
const random = stream(1);
const tokens = (count: number): Int32Array => Int32Array.from({ length: count }, () => Math.floor(random() * llm.info.vocabSize));

/** Generated tokens per second of `streams` requests at once, from the last one's first token to the first one's last. */
async function decode(streams: number, promptTokens: number, newTokens: number): Promise<number> {
  const times = await Promise.all(Array.from({ length: streams }, async () => {
    const seen: number[] = [];
    for await (const delta of llm.generate(tokens(promptTokens), { maxTokens: newTokens, ignoreEos: true, temperature: 0 })) {
      seen.push(...delta.tokens.map(() => performance.now()));
    }
    return seen;
  }));
  const from = Math.max(...times.map((t) => t[0]!)), to = Math.min(...times.map((t) => t.at(-1)!));
  const counted = times.flat().filter((t) => t > from && t <= to).length;
  return counted / ((to - from) / 1000);
}

/** Prompt tokens per second until the first token. */
async function prefill(promptTokens: number): Promise<number> {
  const start = performance.now();
  await llm.generate(tokens(promptTokens), { maxTokens: 1, ignoreEos: true, temperature: 0 });
  return promptTokens / ((performance.now() - start) / 1000);
}

const cases: Readonly<Record<string, () => Promise<number>>> = {
  "decode, 1 stream, context 16-272": () => decode(1, 16, 256),
  "decode, 8 streams, context 16-272": () => decode(8, 16, 256),
  "prefill, 512 tokens": () => prefill(512),
};
const results = new Map<string, number[]>(Object.keys(cases).map((name) => [name, []]));
await decode(8, 16, 128); // V8 compiles hot kernels again, better, after some calls
await prefill(512);
for (let round = 0; round < Number(flags.rounds); round++) {
  for (const [name, run] of Object.entries(cases)) results.get(name)!.push(await run());
}
for (const [name, measured] of results) report(name, measured, "tokens/s", threads);
const resident = process.memoryUsage.rss() - llm.info.weightBytes - llm.info.kvBytes;
report("resident memory beyond weights+KV", [resident / 2 ** 20], "MiB", threads);
