/** What ends an answer, and what does not yet: stop strings, stop ids and min_tokens by the library and by both routes, whole and streamed. */
import assert from "node:assert/strict";
import test from "node:test";
import type { GenerateParams } from "../../src/llm/params.ts";
import { snakeCase } from "../../src/llm/fields.ts";
import { createApp } from "../../src/server/app.ts";
import { fakeLLM, type FakeEngineOptions } from "./fakes.ts";

interface Ended {
  readonly text: string;
  readonly finish: string | null;
  readonly reason: string | number | null;
}
interface Choice {
  readonly text?: string;
  readonly message?: { readonly content: string };
  readonly delta?: { readonly content?: string };
  readonly finish_reason: string | null;
  readonly stop_reason?: string | number | null;
}

const textOf = ({ text, message, delta }: Choice): string => text ?? message?.content ?? delta?.content ?? "";

/** The same request by every way there is; every piece of a stream as it came. */
async function everyWay(options: FakeEngineOptions, params: GenerateParams): Promise<{ readonly ended: readonly Ended[]; readonly pieces: readonly string[] }> {
  const { llm, engine } = fakeLLM(options);
  const app = createApp(llm);
  const body = Object.fromEntries(Object.entries(params).map(([field, value]) => [snakeCase(field), value]));
  const ended: Ended[] = [], pieces: string[] = [];
  const messages = [{ role: "user", content: "x" }];
  for (const generation of [llm.generate("x", params), llm.chat(messages, params)]) {
    for await (const { text } of generation) pieces.push(text);
    const { text, finishReason, stopReason = null } = await generation;
    ended.push({ text, finish: finishReason, reason: stopReason });
  }
  for (const [path, input] of [["completions", { prompt: "x" }], ["chat/completions", { messages }]] as const) for (const stream of [false, true]) {
    const response = await app(new Request(`http://localhost/v1/${path}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ ...input, ...body, stream }) }));
    assert.equal(response.status, 200);
    const choices = stream
      ? (await response.text()).trim().split("\n\n").slice(0, -1).flatMap((frame) => (JSON.parse(frame.slice("data: ".length)) as { choices: Choice[] }).choices)
      : (await response.json() as { choices: Choice[] }).choices;
    if (stream) pieces.push(...choices.map(textOf));
    ended.push({ text: choices.map(textOf).join(""), finish: choices.at(-1)!.finish_reason, reason: choices.at(-1)!.stop_reason ?? null });
  }
  assert.equal(engine.stats.numRunning, 0);
  return { ended, pieces };
}

const cases: readonly (readonly [name: string, reply: string, params: GenerateParams, expected: Ended])[] = [
  ["a stop string across tokens ends before it", "one END two", { stop: ["END", "zzz"] }, { text: "one ", finish: "stop", reason: "END" }],
  ["or behind it", "one END two", { stop: ["END"], includeStopStrInOutput: true }, { text: "one END", finish: "stop", reason: "END" }],
  ["its beginning alone is text", "one EN", { stop: "END" }, { text: "one EN", finish: "stop", reason: null }],
  ["one of characters of several bytes", "añ→😀!", { stop: "→😀" }, { text: "añ", finish: "stop", reason: "→😀" }],
  ["one that ends within min_tokens is none, the next is", "ab ab ab", { stop: "ab", minTokens: 2 }, { text: "ab ", finish: "stop", reason: "ab" }],
  ["one that begins within min_tokens and ends behind them is one", "ab ab ab", { stop: "ab", minTokens: 1 }, { text: "", finish: "stop", reason: "ab" }],
  ["a stop id is no text", "abc!def", { stopTokenIds: [33] }, { text: "abc", finish: "stop", reason: 33 }],
  ["unless it is to be", "abc!def", { stopTokenIds: [33], includeStopStrInOutput: true }, { text: "abc!", finish: "stop", reason: 33 }],
  ["the end token ends it without a reason", "abc", { stop: "z" }, { text: "abc", finish: "stop", reason: null }],
  ["the length ends too, and lets out what was held back", "one END", { stop: "END", maxTokens: 6 }, { text: "one EN", finish: "length", reason: null }],
];
for (const [name, reply, params, expected] of cases) {
  test(`by every way: ${name}`, async () => {
    for (const tokensPerStep of [1, 3]) {
      const { ended, pieces } = await everyWay({ reply, tokensPerStep }, { maxTokens: 40, ...params });
      assert.deepEqual(ended, Array.from({ length: 6 }, () => expected), `${tokensPerStep} tokens a step`);
      assert.ok(pieces.every((piece) => piece.isWellFormed() && !piece.includes("\ufffd")));
    }
  });
}

test("by every way: the same seed gives the same text, another seed another, and -1 is none", async () => {
  const texts = async (seed: number) => (await everyWay({}, { seed, maxTokens: 12 })).ended.map(({ text }) => text);
  const [first, second] = [await texts(5), await texts(6)];
  assert.deepEqual(await texts(5), first);
  for (const [i, text] of first.entries()) assert.notEqual(second[i], text);
  const { llm, engine } = fakeLLM();
  await llm.generate("x", { seed: -1, maxTokens: 1 });
  assert.equal(engine.seen[0]!.params.seed, undefined);
});
