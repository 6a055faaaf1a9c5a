/**
 * What speculation gains: one stream at a time, with guesses and without. A figure is tokens a second from the first token to the last.
 *
 * All engines are in this process and take turns, prompt by prompt, so that whatever else the machine does meets them alike; what counts is the ratio of
 * neighbours. Their outputs are compared: a guess changes no token.
 *
 *   stories    the model's own chat: a story for each question, to its end
 *   repeats    a text that repeats itself, to be continued past every end: what looking tokens up is for
 *
 *   npm run bench -- speculation [--model DIR] [--draft DIR] [--tokens 2,3,4] [--rounds N] [--threads N] [--temperature T]
 */
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { SpeculativeConfig } from "../src/engine/speculative-config.ts";
import { LLM } from "../src/index.ts";
import { median, report } from "./row.ts";

const { values: flags } = parseArgs({
  options: {
    model: { type: "string" }, draft: { type: "string", default: fileURLToPath(new URL("../models/demo-draft", import.meta.url)) }, tokens: { type: "string", default: "2,3,4" },
    rounds: { type: "string", default: "3" }, threads: { type: "string", default: String(availableParallelism()) }, temperature: { type: "string", default: "0" }, help: { type: "boolean" },
  },
});
if (flags.help) {
  console.log("npm run bench -- speculation [--model DIR] [--draft DIR] [--tokens 2,3,4] [--rounds N] [--threads N] [--temperature T]");
  process.exit(0);
}
const rounds = Number(flags.rounds), threads = Number(flags.threads), temperature = Number(flags.temperature);

const load = (speculativeConfig?: SpeculativeConfig): Promise<LLM> => LLM.load(flags.model, { threads, seed: 0, maxNumSeqs: 4, ...(speculativeConfig && { speculativeConfig }) });
const lengths = flags.tokens.split(",").map(Number);
const plain = await load();
const guessing: (readonly [name: string, llm: LLM])[] = [];
for (const numSpeculativeTokens of lengths) guessing.push([`draft model, ${numSpeculativeTokens} tokens`, await load({ model: flags.draft, numSpeculativeTokens })]);
for (const numSpeculativeTokens of lengths) guessing.push([`n-gram, ${numSpeculativeTokens} tokens`, await load({ method: "ngram", numSpeculativeTokens, promptLookupMin: 2, promptLookupMax: 4 })]);

const stories = [
  "Tell me a story about a fox who finds a lantern.", "can you tell me a story about a lizard who finds a big shoe in the forest?", "Tell me a story about a bear who loses a key.",
  "Tell me a story about a goat and a princess.", "Please tell a story about a swan who finds a ring.", "Tell me a story about an owl who lost a hat.",
];
const repeats = ["apple, bear, cat, dog, egg, fox, goat, hat. ".repeat(6), "red blue green. ".repeat(10), "Once there was a shy lizard called Tom, who lived in a hollow tree. ".repeat(5)];

/** Tokens a second behind the first, the tokens, and how many drafts were right of how many. */
async function once(llm: LLM, text: string, chats: boolean) {
  const before = llm.stats;
  let first = 0, last = 0;
  const tokens: number[] = [];
  const generation = chats ? llm.chat([{ role: "user", content: text }], { maxTokens: 250, temperature, seed: 1 }) : llm.generate(text, { maxTokens: 200, temperature, seed: 1, ignoreEos: true });
  for await (const delta of generation) {
    last = performance.now();
    if (tokens.length === 0) first = last;
    tokens.push(...delta.tokens);
  }
  const { acceptedPerPosition, numDraftTokens, numSteps, draftSeconds } = llm.stats;
  const accepted = (counts: readonly number[]): number => counts.reduce((sum, count) => sum + count, 0);
  return {
    rate: ((tokens.length - 1) / (last - first)) * 1000, tokens, drafted: numDraftTokens - before.numDraftTokens, accepted: accepted(acceptedPerPosition) - accepted(before.acceptedPerPosition),
    steps: numSteps - before.numSteps, draftSeconds: draftSeconds - before.draftSeconds, seconds: (last - first) / 1000,
  };
}

for (const [kind, texts, chats] of [["stories", stories, true], ["repeats", repeats, false]] as const) {
  const rates = guessing.map(() => [] as number[]), ratios = guessing.map(() => [] as number[]), plainRates: number[] = [];
  const counts = guessing.map(() => ({ drafted: 0, accepted: 0, steps: 0, tokens: 0, draftSeconds: 0, seconds: 0 }));
  for (let round = -1; round < rounds; round++) {
    for (const text of texts) {
      for (const [i, [name, llm]] of guessing.entries()) {
        const without = await once(plain, text, chats), got = await once(llm, text, chats);
        if (got.tokens.join() !== without.tokens.join()) throw new Error(`${name}: a guess changed a token`);
        if (round < 0) continue;
        plainRates.push(without.rate);
        rates[i]!.push(got.rate);
        ratios[i]!.push(got.rate / without.rate);
        const count = counts[i]!;
        count.drafted += got.drafted;
        count.accepted += got.accepted;
        count.steps += got.steps;
        count.tokens += got.tokens.length;
        count.draftSeconds += got.draftSeconds;
        count.seconds += got.seconds;
      }
    }
  }
  const label = `${kind}${temperature > 0 ? ` at temperature ${temperature}` : ""}, one stream`;
  report(`${label}: no guesses`, plainRates, "tokens/s", threads);
  for (const [i, [name]] of guessing.entries()) {
    report(`${label}: ${name}`, rates[i]!, "tokens/s", threads);
    report(`${label}: ${name}, times faster`, ratios[i]!, "times", threads);
    const { drafted, accepted, steps, tokens, draftSeconds, seconds } = counts[i]!;
    console.log(`  ${((100 * accepted) / Math.max(1, drafted)).toFixed(1)}% of ${drafted} drafts were right; ${(tokens / steps).toFixed(2)} tokens a step; ${((100 * draftSeconds) / seconds).toFixed(0)}% of the time went into drafts`);
  }
  console.log(`  median of all ratios: ${ratios.map((list) => median(list).toFixed(2)).join(", ")}`);
}
for (const llm of [plain, ...guessing.map(([, llm]) => llm)]) await llm.close();
