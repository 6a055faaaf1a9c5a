/** The clients people have, over a real port: OpenAI's own, Vercel's ai, and bare sockets that misbehave. */
import assert from "node:assert/strict";
import { connect, type Socket } from "node:net";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import OpenAI, { APIConnectionError, APIUserAbortError, AuthenticationError, BadRequestError, NotFoundError } from "openai";
import { UsageError } from "../../src/core/errors.ts";
import { bind, serve, type Serving } from "../../src/server/node.ts";
import { fakeLLM, type FakeEngine } from "./fakes.ts";

let server: Serving;
let openai: OpenAI;
let engine: FakeEngine;
const reply = "Grüße, 世界 😀!";

before(async () => {
  const fake = fakeLLM({ reply, stepMs: 0 });
  engine = fake.engine;
  server = await serve(fake.llm, { port: 0, apiKeys: ["key"] });
  openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "key", maxRetries: 0 });
});
after(() => server.close());

const messages = [{ role: "user" as const, content: "hi" }];

/** Waits until `holds`, at most two seconds. */
async function until(holds: () => boolean): Promise<void> {
  for (let i = 0; i < 200 && !holds(); i++) await sleep(10);
  assert.ok(holds());
}

test("OpenAI's client lists models, chats, completes", async () => {
  const models = await openai.models.list();
  assert.deepEqual(models.data.map(({ id }) => id), ["fake"]);
  const chat = await openai.chat.completions.create({ model: "fake", messages, logprobs: true, top_logprobs: 2 });
  assert.equal(chat.choices[0]!.message.content, reply);
  assert.equal(chat.choices[0]!.finish_reason, "stop");
  assert.equal(chat.choices[0]!.logprobs!.content!.length, chat.usage!.completion_tokens);
  const completion = await openai.completions.create({ model: "fake", prompt: ["a", "b"], max_tokens: 3 });
  assert.deepEqual(completion.choices.map(({ text, finish_reason }) => [text, finish_reason]), [["Gr", "length"], ["Gr", "length"]].map(([text, finish]) => [`${text}\ufffd`, finish]));
});

test("OpenAI's client gets several choices, and prompts echoed with their log-probabilities", async () => {
  const chat = await openai.chat.completions.create({ model: "fake", messages, n: 3, seed: 1 });
  assert.deepEqual(chat.choices.map(({ index, message, finish_reason }) => [index, message.content, finish_reason]), [0, 1, 2].map((index) => [index, reply, "stop"]));
  const runner = openai.chat.completions.stream({ model: "fake", messages, n: 2 });
  assert.deepEqual((await runner.finalChatCompletion()).choices.map(({ message }) => message.content), [reply, reply]);
  const { choices } = await openai.completions.create({ model: "fake", prompt: "abc", n: 2, echo: true, logprobs: 1, max_tokens: 0 });
  assert.deepEqual(choices.map(({ text, logprobs }) => [text, logprobs!.tokens, logprobs!.token_logprobs]), [0, 1].map(() => ["abc", ["", "a", "b", "c"], [null, -1, -2, -3]]));
});

test("OpenAI's client streams chats and completions, with usage", async () => {
  const stream = await openai.chat.completions.create({ model: "fake", messages, stream: true, stream_options: { include_usage: true } });
  let text = "", usage, finish;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    finish = chunk.choices[0]?.finish_reason ?? finish;
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, reply);
  assert.equal(finish, "stop");
  assert.equal(usage!.completion_tokens, new TextEncoder().encode(reply).length + 1);
  const runner = openai.chat.completions.stream({ model: "fake", messages });
  assert.equal((await runner.finalChatCompletion()).choices[0]!.message.content, reply);
  let completed = "";
  for await (const chunk of await openai.completions.create({ model: "fake", prompt: "x", max_tokens: 100, stream: true })) completed += chunk.choices[0]!.text;
  assert.equal(completed, reply);
});

test("OpenAI's client turns our errors into its own classes, with the field", async () => {
  const bad = openai.chat.completions.create({ model: "fake", messages, temperature: -1 });
  await assert.rejects(bad, (error) => error instanceof BadRequestError && error.param === "temperature" && /-1/.test(error.message));
  await assert.rejects(openai.chat.completions.create({ model: "nope", messages }), NotFoundError);
  await assert.rejects(new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "wrong", maxRetries: 0 }).models.list(), AuthenticationError);
});

test("OpenAI's client aborts a stream, and the engine is free again", async () => {
  const stream = await openai.chat.completions.create({ model: "fake", messages, stream: true, ignore_eos: true } as OpenAI.ChatCompletionCreateParamsStreaming);
  for await (const _ of stream) if (engine.stats.numRunning === 1) break;
  await until(() => engine.stats.numRunning === 0);
  const controller = new AbortController();
  const whole = openai.chat.completions.create({ model: "fake", messages, ignore_eos: true } as OpenAI.ChatCompletionCreateParamsNonStreaming, { signal: controller.signal });
  const failed = assert.rejects(whole, APIUserAbortError);
  await until(() => engine.stats.numRunning === 1);
  controller.abort();
  await failed;
  await until(() => engine.stats.numRunning === 0);
});

test("Vercel's ai generates and streams text", async () => {
  const model = createOpenAICompatible({ name: "tessera", baseURL: `${server.url}/v1`, apiKey: "key", includeUsage: true })("fake");
  const whole = await generateText({ model, prompt: "hi", maxOutputTokens: 100 });
  assert.equal(whole.text, reply);
  assert.equal(whole.finishReason, "stop");
  const stream = streamText({ model, messages });
  let text = "";
  for await (const part of stream.textStream) text += part;
  assert.equal(text, reply);
  assert.ok((await stream.usage).outputTokens! > 0);
  await assert.rejects(generateText({ model, prompt: "hi", temperature: -5, maxRetries: 0 }), /temperature/);
});

/** A request written by hand on a socket of its own. */
async function raw(body: object, more = ""): Promise<Socket> {
  const text = JSON.stringify(body);
  const socket = connect(server.port, "127.0.0.1");
  socket.on("error", () => {});
  await new Promise((resolve) => socket.once("connect", resolve));
  socket.write(`POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer key\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(text)}\r\n${more}\r\n${text}`);
  return socket;
}

test("sockets that die in the queue, before the first byte or in the middle leave nothing running", async () => {
  const before = engine.seen.length;
  for (const wait of [0, 1, 3, 10, 30]) {
    const sockets = await Promise.all([true, false].map((stream) => raw({ prompt: "x", max_tokens: 500, ignore_eos: true, stream })));
    await sleep(wait);
    for (const socket of sockets) socket.destroy();
  }
  await sleep(20);
  await until(() => engine.stats.numRunning === 0);
  assert.ok(engine.seen.length > before, "some came as far as the engine");
});

test("a socket that stops reading is cut off after the limit, whatever the kernel had room for", async () => {
  const fake = fakeLLM({ maxModelLen: 1e6, stepMs: 1 });
  const other = await serve(fake.llm, { port: 0, stallSeconds: 0.2 });
  // The prompts come back in the first frames: 11 MB, more than sockets hold.
  const body = JSON.stringify({ prompt: Array(12).fill(Array(300_000).fill(97)), max_tokens: 600_000, stream: true, return_token_ids: true });
  const socket = connect(other.port, "127.0.0.1");
  socket.on("error", () => {});
  socket.pause();
  socket.write(`POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
  await until(() => fake.engine.stats.numRunning === 12);
  await until(() => fake.engine.stats.numRunning === 0);
  socket.destroy();
  await other.close();
});

test("a request whose path or host is dressed up as /health still needs the key", async () => {
  const ask = async (path: string, host: string) => {
    const socket = connect(server.port, "127.0.0.1");
    socket.write(`GET ${path} HTTP/1.1\r\nhost: ${host}\r\nconnection: close\r\n\r\n`);
    let text = "";
    for await (const chunk of socket) text += String(chunk);
    return Number(/^HTTP\/1.1 (\d+)/.exec(text)?.[1]);
  };
  assert.equal(await ask("/health", "x"), 200);
  for (const [path, host] of [
    ["/v1/models", "a/health?"], ["/v1/models", "a/?"], ["/health/../v1/models", "x"], ["/v1/models?/health", "x"], ["/v1/models#/health", "x"], ["//health/v1/models", "x"],
    ["/health%2f..%2fv1/models", "x"], ["http://x/v1/models", "x"], ["/v1/models;/health", "x"], ["/./v1/models", "x"], ["\\health\\v1/models", "x"],
  ] as const) {
    const status = await ask(path, host);
    assert.ok(status === 401 || status === 400, `${path} of ${host} gave ${status}`);
  }
});

test("a port that is taken is an error that says what to do", async () => {
  await assert.rejects(serve(fakeLLM().llm, { port: server.port }), (error) => error instanceof UsageError && /in use.*--port/.test(error.message));
});

test("closing lets what runs finish within its time, and ends it after", async () => {
  for (const [drainSeconds, whole] of [[5, true], [0.05, false]] as const) {
    const fake = fakeLLM({ reply: "x".repeat(100), stepMs: 2 });
    const other = await serve(fake.llm, { port: 0 });
    const client = new OpenAI({ baseURL: `${other.url}/v1`, apiKey: "none", maxRetries: 0 });
    const stream = await client.chat.completions.create({ model: "fake", messages, stream: true });
    const closed = other.close(drainSeconds);
    await assert.rejects(client.models.list(), APIConnectionError);
    let text = "";
    const read = async () => {
      for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
    };
    if (whole) await read();
    else await assert.rejects(read(), /shutting down/);
    await closed;
    assert.equal(text.length === 100, whole);
    assert.equal(fake.engine.stats.numRunning, 0);
  }
});

test("an address is held before there is a model: requests get 503, and answers from then on", async () => {
  const bound = await bind({ port: 0 });
  await assert.rejects(bind({ port: bound.port }), UsageError);
  const early = await fetch(`${bound.url}/health`);
  assert.deepEqual([early.status, early.headers.get("retry-after")], [503, "1"]);
  assert.match(((await early.json()) as { error: { message: string } }).error.message, /still being loaded/);
  const serving = bound.serve(fakeLLM().llm);
  assert.equal((await fetch(`${bound.url}/health`)).status, 200);
  assert.equal(serving.url, bound.url);
  await serving.close();
  const unused = await bind({ port: 0 });
  unused.close();
  await assert.rejects(fetch(unused.url));
});
