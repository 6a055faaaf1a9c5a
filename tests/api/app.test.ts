/** The server as a function, without a port: formats, errors, limits, over the fake engine. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createApp, type App } from "../../src/server/app.ts";
import { bos, eos, fakeLLM } from "./fakes.ts";

/** What answers hold, as far as these tests look. */
interface Choice {
  readonly index: number;
  readonly text: string;
  readonly message: { readonly content: string };
  readonly delta: { readonly role?: string; readonly content: string };
  readonly finish_reason: string | null;
  readonly stop_reason: string | number | null;
  readonly logprobs: { readonly content: readonly object[]; readonly tokens: readonly [string]; readonly text_offset: readonly number[] };
  readonly token_ids: readonly number[];
  readonly prompt_token_ids: readonly number[];
}
interface Answer {
  readonly id: string;
  readonly object: string;
  readonly model: string;
  readonly version: string;
  readonly routes: Readonly<Record<string, string>>;
  readonly choices: readonly [Choice, ...Choice[]];
  readonly usage: { readonly completion_tokens: number };
  readonly prompt_token_ids: readonly number[];
  readonly data: readonly [{ readonly id: string; readonly max_model_len: number }];
  readonly error: { readonly message: string; readonly type: string; readonly param: string | null; readonly code: number };
}

const post = (app: App, path: string, body: unknown, init: RequestInit = {}) => app(new Request(`http://test${path}`, {
  method: "POST", headers: { "content-type": "application/json" }, body: typeof body === "string" ? body : JSON.stringify(body), ...init,
}));
const chat = (app: App, body: object) => post(app, "/v1/chat/completions", { messages: [{ role: "user", content: "hi" }], ...body });
const complete = (app: App, body: object) => post(app, "/v1/completions", { prompt: "hi", ...body });
const json = async (response: Response | Promise<Response>): Promise<Answer> => (await response).json() as Promise<Answer>;
const get = (app: App, path: string, headers: Record<string, string> = {}) => app(new Request(`http://test${path}`, { headers }));

/** The JSON of every frame, after checking each byte of the framing. */
async function frames(response: Response): Promise<[Answer, ...Answer[]]> {
  assert.equal(response.status, 200);
  assert.match(response.headers.get("content-type")!, /^text\/event-stream/);
  const text = new TextDecoder("utf-8", { fatal: true }).decode(await response.arrayBuffer());
  assert.ok(text.endsWith("\n\n"));
  const events = text.slice(0, -2).split("\n\n");
  for (const event of events) assert.match(event, /^data: [^\r\n]+$/);
  assert.equal(events.pop(), "data: [DONE]");
  assert.ok(events.length > 0);
  return events.map((event) => JSON.parse(event.slice(6)) as Answer) as [Answer, ...Answer[]];
}

async function refused(response: Response | Promise<Response>, status: number, param: string | null, message: RegExp = /./): Promise<void> {
  const { status: got } = await response;
  const { error } = await json(response);
  assert.equal(got, status, error?.message);
  assert.deepEqual(Object.keys(error), ["message", "type", "param", "code"]);
  assert.equal(error.param, param, error.message);
  assert.equal(error.code, status);
  assert.match(error.message, message);
}

test("a chat completion has OpenAI's form", async () => {
  const { llm, engine } = fakeLLM({ reply: "hello" });
  const app = createApp(llm, { now: () => 1234.5, newId: () => "1" });
  const body = await json(chat(app, { model: "fake", temperature: 0.5, seed: 7 }));
  assert.deepEqual(body, {
    id: "chatcmpl-1", object: "chat.completion", created: 1234, model: "fake",
    choices: [{ index: 0, message: { role: "assistant", content: "hello", refusal: null }, logprobs: null, finish_reason: "stop", stop_reason: null }],
    usage: { prompt_tokens: 21, total_tokens: 27, completion_tokens: 6, prompt_tokens_details: { cached_tokens: 0 } },
  });
  assert.equal(engine.seen[0]!.params.temperature, 0.5);
  assert.equal(engine.seen[0]!.params.seed, 7);
  assert.equal(engine.seen[0]!.params.maxTokens, 512 - 21, "the rest of the context");
});

test("a streamed chat says the same as one that is not, with usage when asked", async () => {
  const { llm } = fakeLLM({ reply: "añ→😀" });
  const app = createApp(llm);
  const got = await frames(await chat(app, { stream: true, stream_options: { include_usage: true }, return_token_ids: true }));
  assert.deepEqual(got[0].choices[0].delta, { role: "assistant", content: "" });
  assert.equal(got[0].prompt_token_ids.length, 21);
  const usage = got.pop()!;
  assert.deepEqual(usage.choices, []);
  assert.deepEqual(usage.usage, { prompt_tokens: 21, total_tokens: 21 + 11, completion_tokens: 11, prompt_tokens_details: { cached_tokens: 0 } });
  assert.ok(got.every((chunk) => chunk.usage === null && chunk.object === "chat.completion.chunk" && chunk.id === got[0].id));
  assert.equal(got.map((chunk) => chunk.choices[0].delta.content).join(""), "añ→😀");
  assert.deepEqual(got.map((chunk) => chunk.choices[0].finish_reason).filter(Boolean), ["stop"]);
  assert.deepEqual(got.slice(1).flatMap((chunk) => chunk.choices[0].token_ids), [...new TextEncoder().encode("añ→😀"), eos]);
});

test("continuous usage counts up in every chunk", async () => {
  const { llm } = fakeLLM();
  const app = createApp(llm);
  const got = await frames(await complete(app, { stream: true, max_tokens: 3, stream_options: { include_usage: true, continuous_usage_stats: true } }));
  assert.deepEqual(got.map((chunk) => chunk.usage.completion_tokens), [1, 2, 3, 3]);
});

test("completions take a text, texts, token ids and lists of them, and answer each in its place", async () => {
  const { llm, engine } = fakeLLM();
  const app = createApp(llm);
  const alone = [];
  for (const prompt of ["a", "bb"]) alone.push((await json(complete(app, { prompt }))).choices[0].text);
  const both = await json(complete(app, { prompt: ["a", "bb"] }));
  assert.deepEqual(both.choices.map(({ text }) => text), alone);
  assert.deepEqual(both.choices.map(({ index }) => index), [0, 1]);
  assert.deepEqual(both.usage, { prompt_tokens: 5, completion_tokens: 32, total_tokens: 37, prompt_tokens_details: { cached_tokens: 0 } });
  const ids = await json(complete(app, { prompt: [bos, 97], return_token_ids: true }));
  assert.equal(ids.choices[0].text, alone[0]);
  assert.deepEqual(ids.choices[0].prompt_token_ids, [bos, 97]);
  assert.equal(ids.choices[0].token_ids.length, 16);
  const lists = await json(complete(app, { prompt: [[bos, 97], [bos, 98, 98]] }));
  assert.deepEqual(lists.choices.map(({ text }) => text), alone);
  const streamed = await frames(await complete(app, { prompt: ["a", "bb"], stream: true }));
  for (const index of [0, 1]) {
    assert.equal(streamed.filter((chunk) => chunk.choices[0].index === index).map((chunk) => chunk.choices[0].text).join(""), alone[index]);
  }
  assert.equal(engine.stats.numRunning, 0);
});

test("logprobs have OpenAI's form in both routes, streamed and not", async () => {
  const { llm } = fakeLLM({ reply: "ab" });
  const app = createApp(llm);
  const body = await json(chat(app, { logprobs: true, top_logprobs: 3, max_tokens: 2 }));
  assert.deepEqual(body.choices[0].logprobs.content[0], {
    token: "a", logprob: -0.5, bytes: [97],
    top_logprobs: [{ token: "a", logprob: -0.5, bytes: [97] }, { token: "B", logprob: -1.5, bytes: [66] }, { token: "C", logprob: -9999, bytes: [67] }],
  });
  const streamed = await frames(await chat(app, { logprobs: true, top_logprobs: 3, max_tokens: 2, stream: true }));
  assert.deepEqual(streamed.flatMap((chunk) => chunk.choices[0].logprobs?.content ?? []), body.choices[0].logprobs.content);
  const completed = await json(complete(app, { logprobs: 2, max_tokens: 2 }));
  assert.deepEqual(completed.choices[0].logprobs, {
    text_offset: [0, 1], token_logprobs: [-0.5, -0.5], tokens: ["a", "b"], top_logprobs: [{ a: -0.5, B: -1.5 }, { b: -0.5, B: -1.5 }],
  });
  const offsets = (await frames(await complete(app, { logprobs: 0, max_tokens: 2, stream: true }))).flatMap((chunk) => chunk.choices[0].logprobs.text_offset);
  assert.deepEqual(offsets, [0, 1]);
  assert.equal((await json(complete(app, { logprobs: 0, max_tokens: 1, return_tokens_as_token_ids: true }))).choices[0].logprobs.tokens[0], "token_id:97");
});

test("what changes the logits reaches the engine, bad words as the tokens they are written in, and a stop string can stay in the text", async () => {
  const { llm, engine } = fakeLLM({ reply: "one END" });
  const app = createApp(llm);
  const body = {
    repetition_penalty: 1.1, presence_penalty: -2, frequency_penalty: 0.5, logit_bias: { 97: -100, 5: 1.5 }, allowed_token_ids: [1, 2], bad_words: ["ab", " c"], min_tokens: 4,
    max_tokens: 20, stop: ["one", "END"], include_stop_str_in_output: true,
  };
  for (const send of [complete, chat]) {
    const { choices: [choice] } = await json(send(app, body));
    assert.equal(choice.text ?? choice.message.content, "one END", "a stop string that ends before min_tokens is none");
    assert.equal(choice.stop_reason, "END");
    const { repetitionPenalty, presencePenalty, frequencyPenalty, logitBias, allowedTokenIds, badWords, minTokens } = engine.seen.at(-1)!.params;
    assert.deepEqual([repetitionPenalty, presencePenalty, frequencyPenalty, minTokens, allowedTokenIds], [1.1, -2, 0.5, 4, [1, 2]]);
    assert.deepEqual(logitBias, new Map([[5, 1.5], [97, -100]]));
    assert.deepEqual(badWords, [[97, 98], [99]]);
  }
  const tokensOnly = createApp(fakeLLM({ skipTokenizerInit: true }).llm);
  await refused(complete(tokensOnly, { prompt: [1], bad_words: ["x"] }), 400, "bad_words", /logit_bias/);
  await refused(complete(app, { max_tokens: 3, min_tokens: 4 }), 400, "min_tokens", /^min_tokens is 4; it must be at most 3, .*max_tokens/);
});

test("vLLM's extras reach the engine, and a stop reason comes back", async () => {
  const { llm, engine } = fakeLLM({ reply: "one END" });
  const app = createApp(llm);
  const body = await json(complete(app, { stop: ["END"], max_tokens: 20, top_k: 5, min_p: 0.1, top_p: 0.9, ignore_eos: true, stop_token_ids: [1] }));
  assert.equal(body.choices[0].text, "one ");
  assert.equal(body.choices[0].stop_reason, "END");
  assert.deepEqual(engine.seen[0]!.params, {
    temperature: 1, topP: 0.9, topK: 5, minP: 0.1, seed: undefined, repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0, logitBias: undefined,
    allowedTokenIds: undefined, badWords: [], minTokens: 0, stopTokenIds: [1], ignoreEos: true, logprobs: undefined, maxTokens: 20,
  });
  assert.equal((await json(complete(app, { stop_token_ids: [33 - 1], max_tokens: 20 }))).choices[0].stop_reason, 32);
});

const boundary: Readonly<Record<string, readonly unknown[]>> = {
  temperature: [-1, 101, "hot", true, [], {}], top_p: [0, -1, 1.1, "1"], top_k: [-2, 1.5, 2 ** 31, "1"], min_p: [-1, 1.1, "0"],
  max_tokens: [0, -1, 1.5, 10_000, 1e9, "16", true], seed: [1.5, 2 ** 53, "1"], stop: ["", [1], [""], 5, Array(65).fill("x")],
  stop_token_ids: [[258], [-1], [0.5], "1", {}], ignore_eos: [1, "true"], stream: [1, "yes"], skip_special_tokens: [0],
  n: [0, -1, 1.5, 129, 1e9, "1"], best_of: [2, 0, "1"], frequency_penalty: [2.5, -3, "x"], presence_penalty: [2.1], repetition_penalty: [0, -1, "1"],
  logits_processors: [["f"], 5], logit_bias: [{ 1: 101 }, 5, { 258: 1 }, { x: 1 }, { 1: "1" }], min_tokens: [-1, 1.5, "1", 9999], bad_words: [[""], [5], [" "]], allowed_token_ids: [[], [258], 5], use_beam_search: [true], prompt_logprobs: [-1, 21, 1.5, "1"], response_format: [{ type: "json_object" }, "x"],
  structured_outputs: [{ regex: "a" }], priority: [1, -1, 0.5, "1", 1e300], return_token_ids: [1], stream_options: [{ include_usage: true }, 5], tools: [[{}]],
  model: [5, {}],
};

test("every field beyond its bounds gives 400 with its name, on both routes, and the engine sees nothing", async () => {
  const { llm, engine } = fakeLLM();
  const app = createApp(llm);
  for (const [field, values] of Object.entries(boundary)) {
    for (const value of values) {
      for (const send of [chat, complete]) await refused(send(app, { [field]: value }), 400, field, new RegExp(`^${field}`));
    }
  }
  for (const top_logprobs of [-1, 21, 1.5, "1"]) await refused(chat(app, { logprobs: true, top_logprobs }), 400, "top_logprobs");
  await refused(chat(app, { top_logprobs: 2 }), 400, "top_logprobs", /needs/);
  await refused(chat(app, { logprobs: 2 }), 400, "logprobs");
  await refused(chat(app, { max_completion_tokens: 0 }), 400, "max_completion_tokens");
  await refused(chat(app, { max_completion_tokens: 9999 }), 400, "max_completion_tokens", /at most 491/);
  for (const logprobs of [-1, 21, true]) await refused(complete(app, { logprobs }), 400, "logprobs");
  for (const echo of [1, "true"]) for (const send of [chat, complete]) await refused(send(app, { echo }), 400, "echo");
  await refused(chat(app, { echo: true }), 400, "echo", /completions has echo/);
  await refused(complete(app, { echo: false, max_tokens: 0 }), 400, "max_tokens");
  assert.equal(engine.seen.length, 0);
});

test("numbers that JSON cannot hold are refused by the field's name", async () => {
  const app = createApp(fakeLLM().llm);
  for (const [field, literal] of [["temperature", "1e400"], ["max_tokens", "1e400"], ["top_k", "-1e400"], ["seed", "9007199254740993"], ["top_p", "-0.0"]] as const) {
    await refused(post(app, "/v1/completions", `{"prompt": "x", "${field}": ${literal}}`), 400, field);
  }
  await refused(post(app, "/v1/completions", '{"prompt": "x", "temperature": NaN}'), 400, "body");
});

test("what is absent, null, neutral or unknown is no error", async () => {
  const app = createApp(fakeLLM({ reply: "x" }).llm);
  const neutral = {
    n: 1, best_of: null, frequency_penalty: 0, presence_penalty: 0.0, repetition_penalty: 1, logit_bias: {}, min_tokens: 0, tools: [], response_format: { type: "text" },
    echo: false, seed: -1, top_k: -1, stop: null, user: "me", priority: 0, no_such_field: { a: [1] }, constructor: 1, metadata: {},
  };
  assert.equal((await complete(app, neutral)).status, 200);
  assert.equal((await chat(app, neutral)).status, 200);
});

test("prompts and messages that are wrong are refused by name", async () => {
  const { llm, engine } = fakeLLM();
  const app = createApp(llm);
  for (const prompt of [null, [], "", 5, {}, [1.5], [-1], [258], [1, "a"], ["a", 1], [[]], [[1], [999]], [null], ["x".repeat(600)], "x".repeat(600), true]) {
    await refused(complete(app, { prompt, add_special_tokens: false }), 400, "prompt");
  }
  const messages: readonly (readonly [unknown, string])[] = [
    [null, "messages"], [[], "messages"], ["hi", "messages"], [[5], "messages[0]"], [[{}], "messages[0].role"],
    [[{ role: "root", content: "x" }], "messages[0].role"], [[{ role: "user" }], "messages[0].content"], [[{ role: "user", content: 5 }], "messages[0].content"],
    [[{ role: "user", content: "x" }, { role: "user", content: [{ type: "image_url", image_url: {} }] }], "messages[1].content[0].type"],
    [[{ role: "user", content: [{ type: "text" }] }], "messages[0].content[0].text"],
    [[{ role: "assistant", content: "x", tool_calls: [{}] }], "messages[0].tool_calls"],
    [[{ role: "user", content: "x".repeat(600) }], "messages"],
  ];
  for (const [value, param] of messages) await refused(chat(app, { messages: value }), 400, param);
  assert.equal(engine.seen.length, 0);
  await refused(complete(app, { prompt: "x".repeat(600) }), 400, "prompt", /601 tokens.*511.*512/);
});

test("text parts of a message are joined", async () => {
  const { llm, engine } = fakeLLM({ reply: "x" });
  await chat(createApp(llm), { messages: [{ role: "user", content: [{ type: "text", text: "a" }, { type: "text", text: "b" }] }] });
  assert.equal(new TextDecoder().decode(Uint8Array.from(engine.seen[0]!.prompt.slice(1))), "user: a\nb\nassistant: ");
});

test("bodies that are no JSON object, too deep, too large, or of another type are refused", async () => {
  const app = createApp(fakeLLM().llm);
  for (const body of ["", "{", "[]", "5", "null", '"x"', '{"a":}', "{'a':1}", "\u0000", '{"prompt": "a\nb"}', "[".repeat(1e6), `{"a":${'{"a":'.repeat(70)}1${"}".repeat(70)}}`]) {
    await refused(post(app, "/v1/completions", body), 400, "body");
  }
  const bad = new Uint8Array([123, 34, 0xff, 34, 58, 49, 125]);
  await refused(app(new Request("http://test/v1/completions", { method: "POST", headers: { "content-type": "application/json" }, body: bad })), 400, "body", /UTF-8/);
  await refused(app(new Request("http://test/v1/completions", { method: "POST", headers: { "content-type": "text/plain" }, body: "{}" })), 415, null, /content-type/);
  const declared = { method: "POST", headers: { "content-type": "application/json", "content-length": String(2 ** 30) }, body: "{}" };
  await refused(app(new Request("http://test/v1/completions", declared)), 413, "body");
  let sent = 0;
  const endless = new ReadableStream({
    pull(controller) {
      sent++;
      controller.enqueue(new Uint8Array(2 ** 20).fill(32));
    },
  });
  await refused(app(new Request("http://test/v1/completions", { method: "POST", headers: { "content-type": "application/json" }, body: endless, duplex: "half" } as RequestInit)), 413, "body");
  assert.ok(sent < 32, `it stops reading at the limit (${sent} MB read)`);
  assert.equal((await post(app, "/v1/completions", '{"prompt": "[[[[\\"{{{{", "max_tokens": 1}')).status, 200, "brackets in strings are no depth");
});

test("a body cannot reach a prototype", async () => {
  const app = createApp(fakeLLM({ reply: "x" }).llm);
  const response = await post(app, "/v1/completions", '{"prompt": "x", "__proto__": {"temperature": -1, "polluted": 1}, "constructor": {"prototype": {"polluted": 1}}}');
  assert.equal(response.status, 200);
  assert.equal(({} as { polluted?: number }).polluted, undefined);
  for (const key of ["__proto__", "constructor", "a b", "messages"]) {
    await refused(post(app, "/v1/chat/completions", `{"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"${key}": {}}}`), 400, "chat_template_kwargs");
  }
});

test("a wrong model is 404 by name; served names are what /v1/models lists", async () => {
  const app = createApp(fakeLLM({ reply: "x" }).llm, { servedModelNames: ["one", "org/two"] });
  await refused(chat(app, { model: "three" }), 404, "model", /"three".*"one", "org\/two"/);
  assert.equal((await json(chat(app, { model: "org/two" }))).model, "one");
  const models = await json(get(app, "/v1/models"));
  assert.deepEqual(models.data.map(({ id }) => id), ["one", "org/two"]);
  assert.equal(models.data[0].max_model_len, 512);
  assert.equal((await json(get(app, "/v1/models/org/two"))).id, "org/two");
  await refused(get(app, "/v1/models/three"), 404, "model");
});

test("unknown routes and wrong methods say so", async () => {
  const app = createApp(fakeLLM().llm);
  await refused(get(app, "/v2/nothing"), 404, null, /GET \/v2\/nothing/);
  await refused(get(app, "/v1/completions"), 405, null, /POST/);
  await refused(post(app, "/health", {}), 405, null);
  assert.match((await json(get(app, "/version"))).version, /^\d+\.\d+\.\d+$/);
  assert.ok((await json(get(app, "/"))).routes["POST /v1/chat/completions"]);
});

test("with a key set every route but /health needs it", async () => {
  const app = createApp(fakeLLM({ reply: "x" }).llm, { apiKeys: ["secret", "other"] });
  assert.equal((await get(app, "/health")).status, 200);
  const paths = ["/", "/v1/models", "/v1/models/fake", "/metrics", "/version", "/nothing", "/health/", "/health/x", "//health", "/HEALTH", "/v1/../health/../version"];
  for (const path of paths.filter((path) => path !== "/health/")) {
    for (const key of [undefined, "", "wrong", "secre", "secret2", "Bearer secret"]) {
      await refused(get(app, path, key === undefined ? {} : { authorization: `Bearer ${key}` }), 401, null);
    }
    await refused(get(app, path, { authorization: "secret" }), 401, null);
    assert.notEqual((await get(app, path, { authorization: "Bearer secret" })).status, 401);
    assert.notEqual((await get(app, path, { authorization: "Bearer other" })).status, 401);
  }
  for (const path of ["/v1/completions", "/v1/chat/completions", "/health"]) await refused(post(app, path, { prompt: "x" }), 401, null);
});

test("without a tokenizer completions take and give token ids, and text is refused", async () => {
  const app = createApp(fakeLLM({ skipTokenizerInit: true }).llm);
  const body = await json(complete(app, { prompt: [1, 2], max_tokens: 3, logprobs: 1 }));
  assert.equal(body.choices[0].text, "");
  assert.equal(body.choices[0].token_ids.length, 3);
  assert.match(body.choices[0].logprobs.tokens[0], /^token_id:\d+$/);
  await refused(complete(app, { prompt: "hi" }), 400, "prompt", /skip-tokenizer-init/);
  await refused(chat(app, {}), 400, "messages", /tokenizer/);
  await refused(complete(app, { prompt: [1], stop: "x" }), 400, "stop");
});

test("a dead engine makes /health and new requests 503, and tells no secrets", async () => {
  const logged: string[] = [];
  const app = createApp(fakeLLM({ dieAtToken: 2 }).llm, { log: { info() {}, warn() {}, error: (message) => logged.push(message) } });
  const got = await frames(await complete(app, { stream: true }));
  assert.equal(got.at(-1)!.error.code, 500);
  assert.ok(!JSON.stringify(got).includes("/a/secret/path"));
  assert.ok(logged.join().includes("/a/secret/path"), "the operator is told");
  assert.equal((await get(app, "/health")).status, 503);
  await refused(complete(app, {}), 503, null, /engine/);
});

test("a client that leaves ends its generations, streaming or not", async () => {
  const { llm, engine } = fakeLLM({ stepMs: 1 });
  const app = createApp(llm);
  const streamed = await complete(app, { prompt: ["a", "b"], stream: true, max_tokens: 400 });
  const reader = streamed.body!.getReader();
  await reader.read();
  assert.equal(engine.stats.numRunning, 2);
  await reader.cancel();
  await sleep(20);
  assert.equal(engine.stats.numRunning, 0);

  const controller = new AbortController();
  const whole = post(app, "/v1/completions", { prompt: "x", max_tokens: 400 }, { signal: controller.signal });
  await sleep(10);
  assert.equal(engine.stats.numRunning, 1);
  controller.abort();
  await whole;
  assert.equal(engine.stats.numRunning, 0);
  assert.match(await (await get(app, "/metrics")).text(), /request_success_total\{[^}]*finished_reason="abort"\} 3/);
});

test("a client that stops reading is cut off, and what waits for it stays small", async () => {
  const { llm, engine } = fakeLLM({ maxModelLen: 1e6, tokensPerStep: 50 });
  const app = createApp(llm, { stallSeconds: 0.05 });
  const response = await complete(app, { stream: true, max_tokens: 900_000 });
  const reader = response.body!.getReader();
  await reader.read();
  for (let i = 0; i < 300 && engine.stats.numRunning > 0; i++) await sleep(10);
  assert.equal(engine.stats.numRunning, 0);
  await assert.rejects(async () => {
    for (;;) if ((await reader.read()).done) return;
  }, /read nothing for 0.05 s/);
});

test("shutting down ends what runs with an error and refuses what is new", async () => {
  const { llm, engine } = fakeLLM({ stepMs: 1 });
  const shutdown = new AbortController();
  const app = createApp(llm, { shutdown: shutdown.signal });
  const streamed = await complete(app, { stream: true, max_tokens: 400 });
  const whole = complete(app, { max_tokens: 400 });
  await sleep(5);
  shutdown.abort();
  assert.equal((await frames(streamed)).at(-1)!.error.code, 503);
  await refused(whole, 503, null, /shutting down/);
  await refused(complete(app, {}), 503, null);
  assert.equal(engine.stats.numRunning, 0);
});

test("lists that every choice would be started with are bounded over all choices, and bad words in all their characters", async () => {
  const { llm } = fakeLLM(), app = createApp(llm);
  const words = Array.from({ length: 1000 }, (_, i) => `word number ${1000 + i}`.slice(0, 16));
  await refused(await complete(app, { prompt: Array(8).fill("x"), n: 128, bad_words: words }), 400, "n", /^n is 128; 1024 choices with 16000 entries each in allowed_token_ids, logit_bias, stop_token_ids and bad_words are more than 4194304/);
  await refused(await complete(app, { bad_words: Array(17).fill("a".repeat(1000)) }), 400, "bad_words", /^bad_words has 17000 characters in all; it must have at most 16384/);
  assert.equal((await complete(app, { bad_words: words, n: 3, max_tokens: 1 })).status, 200);
});

test("more requests in flight than the limit are refused at once with Retry-After", async () => {
  const { llm, engine } = fakeLLM({ stepMs: 5 });
  const app = createApp(llm, { maxNumQueuedReqs: 10 });
  const many = await complete(app, { prompt: Array(74).fill("x"), stream: true });
  const response = await complete(app, {});
  assert.match(response.headers.get("retry-after")!, /^\d+$/);
  await refused(response, 429, null, /^74 requests are in flight; 64 run at once and 10 may wait \(--max-num-queued-reqs\)/);
  await many.body!.cancel();
  await sleep(50);
  assert.equal(engine.stats.numRunning, 0);
  assert.equal((await complete(app, { max_tokens: 1 })).status, 200);
});

test("metrics carry vLLM's names and count what happened", async () => {
  const { llm } = fakeLLM({ reply: "abc" });
  const app = createApp(llm);
  await json(complete(app, { max_tokens: 10 }));
  await json(complete(app, { max_tokens: 2 }));
  const text = await (await get(app, "/metrics")).text();
  const value = (name: string, more = "") => Number(new RegExp(`^vllm:${name}\\{model_name="fake",engine="0"${more}\\} (.*)$`, "m").exec(text)?.[1]);
  assert.equal(value("num_requests_running"), 0);
  assert.equal(value("num_requests_waiting"), 0);
  assert.equal(value("kv_cache_usage_perc"), 0);
  assert.equal(value("prompt_tokens_total"), 6);
  assert.equal(value("generation_tokens_total"), 6);
  assert.equal(value("request_success_total", ',finished_reason="stop"'), 1);
  assert.equal(value("request_success_total", ',finished_reason="length"'), 1);
  assert.equal(value("time_to_first_token_seconds_count"), 2);
  assert.equal(value("inter_token_latency_seconds_count"), 4);
  assert.equal(value("e2e_request_latency_seconds_count"), 2);
  assert.equal(value("request_generation_tokens_sum"), 6);
  assert.match(text, /vllm:cache_config_info\{[^}]*block_size="16"[^}]*num_gpu_blocks="64"/);
  assert.match(text, /vllm:inter_token_latency_seconds_bucket\{le="0.0025"/);
  assert.equal(value("time_per_output_token_seconds_count"), 4, "the old name");
  assert.equal(value("gpu_cache_usage_perc"), 0, "the old name");
  assert.equal(value("num_requests_waiting_by_reason", ',reason="capacity"'), 0);
  assert.equal(value("request_params_max_tokens_sum"), 12);
  assert.equal(value("request_params_n_count"), 2);
  assert.equal(value("request_prefill_kv_computed_tokens_sum"), 6, "nothing was cached");
  assert.equal(value("request_max_num_generation_tokens_sum"), 6);
  const steps = [...text.matchAll(/^vllm:iteration_tokens_total_bucket\{le="(.*?)",model_name="fake",engine="0"\} (\d+)$/gm)].map(([, most, count]) => [most, Number(count)]);
  assert.deepEqual([steps.length, ...steps.slice(0, 3), steps.at(-1)], [14, ["1", 2], ["8", 2], ["16", 3], ["+Inf", 3]]);
  assert.equal(value("iteration_tokens_total_sum"), 11);
  for (const part of ["queue", "prefill", "decode", "inference"]) assert.equal(value(`request_${part}_time_seconds_count`), 2, part);
  assert.match(text, /^tessera:num_requests_in_flight\{.*\} 0$/m);
  assert.match(text, /^tessera:num_queued_tokens\{.*\} 0$/m);
  assert.match(text, /^tessera:requests_refused_total\{.*reason="tokens"\} 0$/m);
  assert.match(text, /^tessera:steps_ahead_total\{model_name="fake",engine="0"\} 0$/m);
  assert.match(text, /^http_requests_total\{handler="\/v1\/completions",method="POST",status="2xx"\} 2$/m);
});

test("the parts of a request's time add up: queue, prefill, decode", async () => {
  const { llm } = fakeLLM({ reply: "abcdefgh", stepMs: 2, queueSeconds: 0.5, cachedTokens: 2 });
  // Each look at the clock takes a second, so that every part is known.
  let seconds = 0;
  const app = createApp(llm, { now: () => seconds++ });
  await json(complete(app, { max_tokens: 4 }));
  const text = await (await get(app, "/metrics")).text();
  const sum = (name: string) => Number(new RegExp(`^vllm:${name}_sum\\{[^}]*\\} (.*)$`, "m").exec(text)?.[1]);
  assert.equal(sum("request_queue_time_seconds"), 0.5);
  assert.equal(sum("request_prefill_time_seconds"), 0.5, "one second to the first token, less what it waited");
  assert.equal(sum("request_decode_time_seconds"), 3);
  assert.equal(sum("request_inference_time_seconds"), 3.5);
  assert.equal(sum("time_to_first_token_seconds"), 2);
  assert.equal(sum("inter_token_latency_seconds"), 3);
  assert.equal(sum("request_time_per_output_token_seconds"), 1);
  assert.equal(sum("request_prefill_kv_computed_tokens"), 1, "of three prompt tokens two were cached");
  assert.match(text, /^vllm:prompt_tokens_by_source_total\{.*source="local_cache_hit"\} 2$/m);
  assert.match(text, /^vllm:prompt_tokens_by_source_total\{.*source="local_compute"\} 1$/m);
  assert.match(text, /^vllm:prompt_tokens_cached_total\{.*\} 2$/m);
});

test("metrics cannot be filled with paths and methods that a client makes up", async () => {
  const app = createApp(fakeLLM().llm);
  for (let i = 0; i < 20; i++) await app(new Request(`http://test/made-up/${i}`, { method: `X${i}` }));
  const text = await (await get(app, "/metrics")).text();
  assert.deepEqual(text.match(/^http_requests_total.*$/gm), ['http_requests_total{handler="none",method="other",status="4xx"} 20']);
});

test("request log lines say tokens and times, and nothing of what was asked or answered", async () => {
  const lines: string[] = [];
  const log = { info: (line: string) => void lines.push(line), warn() {}, error() {} };
  const app = createApp(fakeLLM({ reply: "secret answer" }).llm, { log, logRequests: true, newId: () => "1", apiKeys: ["key"] });
  const headers = { "content-type": "application/json", authorization: "Bearer key" };
  await (await post(app, "/v1/completions?q=secret", { prompt: ["secret prompt", "b"], max_tokens: 3 }, { headers })).text();
  await (await post(app, "/v1/chat/completions", { messages: [{ role: "user", content: "secret" }], stream: true }, { headers })).text();
  assert.match(lines.join("\n"), /^cmpl-1-0: 14 prompt tokens, 3 generated, first after \d+\.\d{3} s, length after \d+\.\d{3} s$/m);
  assert.match(lines.join("\n"), /^cmpl-1-1: 2 prompt tokens, 3 generated, /m);
  assert.match(lines.join("\n"), /^chatcmpl-1: 25 prompt tokens, 14 generated, first after .* stop after /m);
  assert.match(lines.join("\n"), /^POST \/v1\/completions 200 /m);
  assert.ok(!/secret|key/.test(lines.join("\n")), lines.join("\n"));
  const silentLines: string[] = [];
  await (await complete(createApp(fakeLLM().llm, { log: { ...log, info: (line) => void silentLines.push(line) } }), {})).text();
  assert.deepEqual(silentLines, [], "off by default");
});

test("a request that fails by somebody's mod is logged by its message, without where in our code that was found", async () => {
  const logged: string[] = [];
  const app = createApp(fakeLLM({ failAtToken: 2 }).llm, { log: { info() {}, warn() {}, error: (message) => logged.push(message) } });
  const response = await complete(app, {});
  assert.equal(response.status, 500);
  assert.equal((await json(response)).error.message, "index 3 is outside the table 't'");
  await (await complete(app, { stream: true })).text();
  assert.deepEqual(logged, ["index 3 is outside the table 't'", "index 3 is outside the table 't'"]);
});
