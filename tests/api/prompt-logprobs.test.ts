/** How likely a prompt is: prompt_logprobs and echo as vLLM and OpenAI's completions write them, over the fake engine, and real ones whatever the chunks. */
import assert from "node:assert/strict";
import test from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { LLM } from "../../src/llm.ts";
import { createApp, type App } from "../../src/server/app.ts";
import { limits } from "../../src/server/limits.ts";
import { fixture } from "../engine/tiny-model.ts";
import { bos, fakeLLM } from "./fakes.ts";

interface Logprobs {
  readonly text_offset: readonly number[];
  readonly token_logprobs: readonly (number | null)[];
  readonly tokens: readonly string[];
  readonly top_logprobs: readonly (Readonly<Record<string, number>> | null)[];
}
interface Choice {
  readonly index: number;
  readonly text: string;
  readonly logprobs: Logprobs | null;
  readonly finish_reason: string | null;
  readonly token_ids?: readonly number[];
  readonly prompt_logprobs?: unknown;
}
interface Answer {
  readonly choices: readonly [Choice, ...Choice[]];
  readonly prompt_logprobs?: unknown;
  readonly usage: { readonly prompt_tokens: number; readonly completion_tokens: number };
  readonly error: { readonly message: string; readonly param: string };
}

const send = (app: App, body: object, path = "completions") => app(new Request(`http://localhost/v1/${path}`, {
  method: "POST", headers: { "content-type": "application/json" },
  body: JSON.stringify({ ...(path === "completions" ? { prompt: "hey" } : { messages: [{ role: "user", content: "a" }] }), ...body }),
}));
const answer = async (app: App, body: object, path?: string): Promise<Answer> => (await send(app, body, path)).json() as Promise<Answer>;
const frames = async (app: App, body: object): Promise<Answer[]> =>
  (await (await send(app, { ...body, stream: true })).text()).trim().split("\n\n").slice(0, -1).map((frame) => JSON.parse(frame.slice("data: ".length)) as Answer);

test("prompt_logprobs have vLLM's form: null, then logprob, rank and text by token id; for each choice of a completion, once for a chat", async () => {
  const { llm, engine } = fakeLLM({ reply: "ok" });
  const app = createApp(llm);
  const expected = [
    null,
    { 65: { logprob: -0.25, rank: 1, decoded_token: "A" }, 66: { logprob: -9999, rank: 2, decoded_token: "B" }, 104: { logprob: -1, rank: 2, decoded_token: "h" } },
    { 65: { logprob: -0.25, rank: 1, decoded_token: "A" }, 66: { logprob: -9999, rank: 2, decoded_token: "B" }, 101: { logprob: -2, rank: 2, decoded_token: "e" } },
    { 65: { logprob: -0.25, rank: 1, decoded_token: "A" }, 66: { logprob: -9999, rank: 2, decoded_token: "B" }, 121: { logprob: -3, rank: 2, decoded_token: "y" } },
  ];
  const body = await answer(app, { prompt_logprobs: 2, n: 2 });
  assert.deepEqual(body.choices.map((choice) => choice.prompt_logprobs), [expected, expected]);
  assert.deepEqual(body.choices.map(({ text, logprobs }) => [text, logprobs]), [["ok", null], ["ok", null]]);
  assert.deepEqual(engine.seen.map(({ params }) => params.promptLogprobs), [2, undefined], "the engine finds them once");
  const chat = await answer(app, { prompt_logprobs: 0 }, "chat/completions");
  assert.deepEqual(Object.keys(chat.choices[0]).includes("prompt_logprobs"), false);
  const list = chat.prompt_logprobs as readonly unknown[];
  assert.deepEqual([list.length, list[0], list[1]], [20, null, { 117: { logprob: -1, rank: 2, decoded_token: "u" } }]);
  for (const path of ["completions", "chat/completions"]) {
    const response = await send(app, { prompt_logprobs: 1, stream: true }, path);
    assert.equal(response.status, 400);
    assert.match((await response.json() as Answer).error.message, /^prompt_logprobs are not available with "stream": true/);
  }
  const ids = createApp(fakeLLM({ skipTokenizerInit: true }).llm);
  assert.deepEqual((await answer(ids, { prompt: [3, 4], prompt_logprobs: 0, max_tokens: 1 })).choices[0].prompt_logprobs, [null, { 4: { logprob: -1, rank: 2, decoded_token: null } }]);
  const { promptLogprobs } = await llm.generate("h", { promptLogprobs: 1 });
  assert.deepEqual(promptLogprobs, [null, { token: 104, logprob: -1, rank: 2, top: [{ token: 65, logprob: -0.25 }] }]);
  assert.equal((await llm.generate("h")).promptLogprobs, undefined);
});

test("echo puts the prompt before each choice, text or token ids, with the log-probabilities of its tokens where they are asked for", async () => {
  const app = createApp(fakeLLM({ reply: "ok" }).llm);
  assert.deepEqual((await answer(app, { prompt: ["hey", "a"], echo: true, n: 2, max_tokens: 2 })).choices.map(({ text, logprobs }) => [text, logprobs]),
    [["heyok", null], ["heyok", null], ["aok", null], ["aok", null]]);
  const { choices: [choice], usage } = await answer(app, { prompt: [bos, 104, 101], echo: true, logprobs: 1, max_tokens: 1 });
  assert.equal(choice.text, "<bos>heo");
  assert.deepEqual(choice.logprobs, {
    // The begin token's text is "" here.
    tokens: ["", "h", "e", "o"], text_offset: [0, 0, 1, 2], token_logprobs: [null, -1, -2, -0.5],
    top_logprobs: [null, { h: -1, A: -0.25 }, { e: -2, A: -0.25 }, { o: -0.5 }],
  });
  assert.deepEqual([usage.prompt_tokens, usage.completion_tokens], [3, 1]);
  const cut = await answer(app, { echo: true, logprobs: 1, prompt_logprobs: 3, max_tokens: 1 });
  assert.deepEqual(Object.keys(cut.choices[0].logprobs!.top_logprobs[1]!).sort(), ["A", "h"], "no more of them than of the answer's");
  assert.equal((cut.choices[0].prompt_logprobs as readonly object[]).length, 4);
});

test("echo with max_tokens 0 gives the prompt alone, and counts no token", async () => {
  const app = createApp(fakeLLM({ reply: "ok" }).llm);
  const body = { echo: true, logprobs: 0, max_tokens: 0, return_token_ids: true };
  const { choices: [choice], usage } = await answer(app, body);
  assert.deepEqual([choice.text, choice.finish_reason, choice.token_ids, usage.completion_tokens], ["hey", "length", [], 0]);
  assert.deepEqual(choice.logprobs!.token_logprobs, [null, -1, -2, -3]);
  const [frame, last, ...more] = await frames(app, { ...body, stream_options: { include_usage: true } });
  const { text, logprobs, finish_reason, token_ids } = frame!.choices[0];
  assert.deepEqual({ text, logprobs, finish_reason, token_ids }, { text: "hey", logprobs: choice.logprobs, finish_reason: "length", token_ids: [] });
  assert.deepEqual([last!.usage.completion_tokens, more], [0, []]);
});

test("a stream that echoes says the same, each choice beginning with its prompt", async () => {
  const app = createApp(fakeLLM().llm);
  const body = { prompt: ["hey", "you there"], n: 3, seed: 4, max_tokens: 4, echo: true, logprobs: 2 };
  const { choices } = await answer(app, body);
  assert.equal(new Set(choices.map(({ text }) => text)).size, 6);
  const got = (await frames(app, body)).map(({ choices: [choice] }) => choice);
  for (const choice of choices) {
    const own = got.filter(({ index }) => index === choice.index);
    assert.ok(own.length > 1 && own[0]!.text.startsWith(choice.index < 3 ? "hey" : "you there"));
    assert.equal(own.map(({ text }) => text).join(""), choice.text);
    for (const field of ["tokens", "token_logprobs", "text_offset", "top_logprobs"] as const) {
      assert.deepEqual(own.flatMap(({ logprobs }): readonly unknown[] => logprobs![field]), choice.logprobs![field]);
    }
  }
});

test("more of them than one answer may carry are refused, and nothing of it runs on", async () => {
  const { llm, engine } = fakeLLM({ maxModelLen: 2 ** 20 });
  const app = createApp(llm);
  const prompt = Array.from({ length: Math.ceil(limits.promptEntries / 21 / 128) + 1 }, () => 1);
  for (const [body, field] of [[{ prompt_logprobs: 20, n: 128 }, "prompt_logprobs"], [{ echo: true, logprobs: 20, n: 128 }, "echo"]] as const) {
    const response = await send(app, { prompt, ...body });
    const { error } = await response.json() as Answer;
    assert.deepEqual([response.status, error.param], [400, field]);
    assert.match(error.message, new RegExp(`^${field} gives back ${prompt.length} tokens of prompt with 20 others beside each, 128 times, which makes \\d+; this server gives at most ${limits.promptEntries}$`));
  }
  for (let turns = 0; engine.stats.numRunning > 0; turns++) {
    assert.ok(turns < 100, "it runs on");
    await nextTurn();
  }
});

test("a real prompt's log-probabilities are those that its tokens have when they are generated, to the bit, however it is cut, cached or not", async () => {
  const tiny = { skipTokenizerInit: true, threads: 2, maxModelLen: 64, blockSize: 4 } as const;
  await using llm = await LLM.load(fixture("llama"), { ...tiny, maxNumSeqs: 16 });
  const start = Array.from({ length: 9 }, (_, i) => (i * 37) % 50);
  const made = await llm.generate(start, { seed: 3, maxTokens: 20, ignoreEos: true, logprobs: 3 });
  const prompt = [...start, ...made.tokenIds];
  const read = await llm.generate(prompt, { maxTokens: 1, promptLogprobs: 3 });
  assert.equal(read.promptLogprobs!.length, prompt.length);
  assert.deepEqual(read.promptLogprobs!.slice(start.length), made.logprobs);
  assert.equal(read.usage.cachedTokens, 0, "it was computed whole");
  assert.deepEqual(read.promptLogprobs!.map((known) => known?.token ?? null), [null, ...prompt.slice(1)]);
  const again = await llm.generate(prompt, { n: 3, maxTokens: 1, promptLogprobs: 3 });
  assert.deepEqual(again.promptLogprobs, read.promptLogprobs);
  assert.deepEqual((await llm.generate([5], { maxTokens: 1, promptLogprobs: 3 })).promptLogprobs, [null]);
  for (const limit of [{ maxNumSeqs: 1 }, { maxNumSeqs: 3, maxNumBatchedTokens: 5 }, { maxNumSeqs: 8, enablePrefixCaching: false }]) {
    await using other = await LLM.load(fixture("llama"), { ...tiny, ...limit });
    const neighbour = other.generate(start, { seed: 3, maxTokens: 20, ignoreEos: true, logprobs: 3 });
    assert.deepEqual((await other.generate(prompt, { maxTokens: 1, promptLogprobs: 3 })).promptLogprobs, read.promptLogprobs, JSON.stringify(limit));
    assert.deepEqual((await neighbour).logprobs, made.logprobs);
  }
});
