/** The routes beside generation: /tokenize, /detokenize, /ready, /load, over the fakes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createApp, type App } from "../../src/server/app.ts";
import { limits } from "../../src/server/limits.ts";
import { bos, eos, fakeLLM } from "./fakes.ts";

const post = (app: App, path: string, body: object, init: RequestInit = {}) =>
  app(new Request(`http://test${path}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), ...init }));
const get = (app: App, path: string) => app(new Request(`http://test${path}`));

async function refused(response: Promise<Response>, status: number, param: string | null, message: RegExp): Promise<void> {
  const { error } = await (await response).json() as { error: { message: string; param: string | null; code: number } };
  assert.equal(error.code, status, error.message);
  assert.equal(error.param, param);
  assert.match(error.message, message);
}

test("/tokenize has vLLM's form for a prompt, with and without special tokens and token strings", async () => {
  const app = createApp(fakeLLM().llm);
  assert.deepEqual(await (await post(app, "/tokenize", { model: "fake", prompt: "ab" })).json(), { count: 3, max_model_len: 512, tokens: [bos, 97, 98], token_strs: null });
  assert.deepEqual(await (await post(app, "/tokenize", { prompt: "ab", add_special_tokens: false, return_token_strs: true })).json(),
    { count: 2, max_model_len: 512, tokens: [97, 98], token_strs: ["a", "b"] });
  assert.deepEqual(await (await post(app, "/tokenize", { prompt: "", add_special_tokens: false })).json(), { count: 0, max_model_len: 512, tokens: [], token_strs: null });
  const long = await (await post(app, "/tokenize", { prompt: "x".repeat(5000) })).json() as { count: number };
  assert.equal(long.count, 5001, "longer than the context: counting is what one asks for");
});

test("/tokenize of messages gives the tokens that a chat completion of them sends to the model", async () => {
  const { llm, engine } = fakeLLM({ reply: "x" });
  const app = createApp(llm);
  const messages = [{ role: "user", content: [{ type: "text", text: "hi" }] }];
  await (await post(app, "/v1/chat/completions", { messages })).json();
  const { tokens } = await (await post(app, "/tokenize", { messages })).json() as { tokens: number[] };
  assert.deepEqual(tokens, engine.seen[0]!.prompt);
  const open = await (await post(app, "/tokenize", { messages, add_generation_prompt: false })).json() as { tokens: number[] };
  assert.equal(open.tokens.length, tokens.length - "assistant: ".length);
  assert.equal(engine.seen.length, 1, "the engine is not asked");
});

test("/detokenize gives the text of token ids, special tokens written out", async () => {
  const app = createApp(fakeLLM().llm);
  assert.deepEqual(await (await post(app, "/detokenize", { tokens: [bos, 97, 98, eos] })).json(), { prompt: "<bos>ab<eos>" });
  assert.deepEqual(await (await post(app, "/detokenize", { tokens: [] })).json(), { prompt: "" });
});

test("what is wrong with a token request is refused by field", async () => {
  const app = createApp(fakeLLM().llm);
  for (const prompt of [undefined, 5, ["a"], [1, 2], {}]) await refused(post(app, "/tokenize", { prompt }), 400, "prompt", /^prompt is .*must be a string/);
  await refused(post(app, "/tokenize", { prompt: "a", messages: [] }), 400, "prompt", /send one of them/);
  await refused(post(app, "/tokenize", { messages: [] }), 400, "messages", /1 to 10000/);
  await refused(post(app, "/tokenize", { messages: [{ role: "root", content: "x" }] }), 400, "messages[0].role", /one of/);
  await refused(post(app, "/tokenize", { messages: [{ role: "user", content: "x" }], chat_template: "{{ 1 }}" }), 400, "chat_template", /never run/);
  await refused(post(app, "/tokenize", { messages: [{ role: "user", content: "x" }], add_special_tokens: true }), 400, "add_special_tokens", /template/);
  await refused(post(app, "/tokenize", { prompt: "a", add_special_tokens: 1 }), 400, "add_special_tokens", /true or false/);
  await refused(post(app, "/tokenize", { prompt: "a", return_token_strs: "yes" }), 400, "return_token_strs", /true or false/);
  await refused(post(app, "/tokenize", { prompt: "a", model: "other" }), 404, "model", /"other"/);
  await refused(post(app, "/tokenize", { prompt: "x".repeat(limits.tokens) }), 400, "prompt", /in parts/);
  for (const tokens of [undefined, "1", [258], [-1], [0.5], ["a"]]) await refused(post(app, "/detokenize", { tokens }), 400, "tokens", /^tokens/);
  await refused(get(app, "/tokenize"), 405, null, /POST/);
  const bare = createApp(fakeLLM({ skipTokenizerInit: true }).llm);
  await refused(post(bare, "/tokenize", { prompt: "a" }), 400, "prompt", /skip-tokenizer-init/);
  await refused(post(bare, "/detokenize", { tokens: [97] }), 400, "tokens", /skip-tokenizer-init/);
});

test("/load counts what is in flight, and /ready says no when a request would be refused", async () => {
  const { llm, engine } = fakeLLM({ stepMs: 5 });
  const draining = new AbortController();
  const app = createApp(llm, { draining: draining.signal, maxNumQueuedReqs: 0 });
  const load = async () => (await (await get(app, "/load")).json() as { server_load: number }).server_load;
  assert.equal(await load(), 0);
  assert.equal((await get(app, "/ready")).status, 200);
  const three = await post(app, "/v1/completions", { prompt: ["a", "b", "c"], stream: true });
  assert.equal(await load(), 3);
  const rest = await post(app, "/v1/completions", { prompt: Array(61).fill("x"), stream: true });
  await refused(get(app, "/ready"), 503, null, /64 requests are in flight/);
  await refused(post(app, "/tokenize", { prompt: "a" }), 429, null, /in flight/);
  await refused(post(app, "/v1/completions", { prompt: "a" }), 429, null, /in flight/);
  await rest.body!.cancel();
  for (let i = 0; i < 100 && (await load()) > 3; i++) await sleep(10);
  assert.equal((await get(app, "/ready")).status, 200);
  draining.abort();
  await refused(get(app, "/ready"), 503, null, /shutting down/);
  await refused(post(app, "/v1/completions", { prompt: "a" }), 503, null, /shutting down/);
  assert.equal((await get(app, "/health")).status, 200, "it lives while it drains");
  assert.equal(engine.stats.numRunning, 3, "what runs goes on");
  await three.body!.cancel();
});

test("/ready is 503 once the engine has died", async () => {
  const app = createApp(fakeLLM({ dieAtToken: 0 }).llm);
  await (await post(app, "/v1/completions", { prompt: "a" })).text();
  await refused(get(app, "/ready"), 503, null, /engine has stopped/);
  await refused(post(app, "/tokenize", { prompt: "a" }), 503, null, /engine has stopped/);
});
