/** The library's own interface over fakes: streams that are awaitable, stop strings, aborts. */
import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { BadRequest, UsageError } from "../../src/core/errors.ts";
import { LLM } from "../../src/llm.ts";
import { bos, eos, fakeLLM } from "./fakes.ts";

test("awaiting a generation gives text, ids, usage and why it ended", async () => {
  const { llm } = fakeLLM({ reply: "hello" });
  const result = await llm.generate("hi", { maxTokens: 50 });
  assert.equal(result.text, "hello");
  assert.deepEqual(result.tokenIds, [...new TextEncoder().encode("hello"), eos]);
  assert.deepEqual(result.promptTokenIds, [bos, 104, 105]);
  assert.equal(result.finishReason, "stop");
  assert.deepEqual(result.usage, { promptTokens: 3, completionTokens: 6, totalTokens: 9, cachedTokens: 0 });
});

test("streaming gives the same text, whatever characters the tokens cut in two", async () => {
  const reply = "añ→😀z";
  for (const tokensPerStep of [1, 2, 3, 7]) {
    const { llm } = fakeLLM({ reply, tokensPerStep });
    const generation = llm.chat([{ role: "user", content: "hi" }]);
    let text = "";
    for await (const delta of generation) {
      assert.ok(delta.text.isWellFormed() && !delta.text.includes("\ufffd"));
      text += delta.text;
    }
    assert.equal(text, reply);
    assert.equal((await generation).text, reply);
  }
});

test("a stop string ends the text before it, across token borders, and frees the engine", async () => {
  const { llm, engine } = fakeLLM({ reply: "one END two" });
  const result = await llm.generate("x", { stop: ["END", "zzz"], maxTokens: 50 });
  assert.equal(result.text, "one ");
  assert.equal(result.finishReason, "stop");
  assert.equal(result.stopReason, "END");
  assert.equal(result.tokenIds.length, 7);
  assert.equal(engine.stats.numRunning, 0);
  assert.equal((await llm.generate("x", { stop: "END", includeStopStrInOutput: true, maxTokens: 50 })).text, "one END");
});

test("what was held back for a stop string comes out when the output ends without it", async () => {
  const { llm } = fakeLLM({ reply: "one EN" });
  const result = await llm.generate("x", { stop: "END", maxTokens: 50 });
  assert.equal(result.text, "one EN");
  assert.equal(result.stopReason, undefined);
});

test("a stop token id ends it, is reported, and is no part of the text", async () => {
  const { llm } = fakeLLM({ reply: "abc!def" });
  const result = await llm.generate("x", { stopTokenIds: [33], maxTokens: 50 });
  assert.equal(result.text, "abc");
  assert.equal(result.stopReason, 33);
  assert.deepEqual(result.tokenIds, [97, 98, 99, 33]);
});

test("generations started together run together", async () => {
  const { llm, engine } = fakeLLM();
  const generations = [1, 2, 3].map((seed) => llm.generate("x", { seed, maxTokens: 20 }));
  await Promise.all(generations.map(({ prompt }) => prompt));
  await nextTurn();
  assert.equal(engine.stats.numRunning, 3);
  await Promise.all(generations);
  assert.equal(engine.stats.numRunning, 0);
});

test("leaving the loop early ends the generation, and its result says so", async () => {
  const { llm, engine } = fakeLLM();
  const generation = llm.generate("x", { maxTokens: 400 });
  for await (const _ of generation) break;
  const result = await generation;
  assert.equal(result.finishReason, "abort");
  assert.ok(result.tokenIds.length < 400);
  assert.equal(engine.stats.numRunning, 0);
});

test("an aborted signal rejects with its reason, before the start or in the middle", async () => {
  const { llm, engine } = fakeLLM();
  const reason = new Error("enough");
  await assert.rejects(Promise.resolve(llm.generate("x", { signal: AbortSignal.abort(reason) })), reason);
  const controller = new AbortController();
  const generation = llm.generate("x", { maxTokens: 400, signal: controller.signal });
  await assert.rejects(async () => {
    for await (const _ of generation) controller.abort(reason);
  }, reason);
  await assert.rejects(Promise.resolve(generation), reason);
  assert.equal(engine.stats.numRunning, 0);
});

test("wrong parameters throw at once; a prompt that does not fit rejects", async () => {
  const { llm, engine } = fakeLLM({ maxModelLen: 8 });
  assert.throws(() => llm.generate("x", { topP: 2 }), (error) => error instanceof BadRequest && error.param === "topP");
  await assert.rejects(Promise.resolve(llm.generate("123456789")), (error) => error instanceof BadRequest && error.param === "prompt");
  await assert.rejects(Promise.resolve(llm.generate([1, 999])), (error) => error instanceof BadRequest && error.param === "prompt");
  assert.equal(engine.seen.length, 0);
});

test("an option nobody knows is refused with the nearest that is known, before anything starts", async () => {
  const { llm, engine } = fakeLLM();
  const untyped = llm as unknown as { generate(...given: readonly unknown[]): unknown; chat(...given: readonly unknown[]): unknown };
  const messages = [{ role: "user", content: "hi" }];
  for (const [call, field, message] of [
    [() => untyped.generate("x", { max_tokens: 5 }), "max_tokens", "max_tokens is no option of generate; did you mean maxTokens?"],
    [() => untyped.generate("x", { temprature: 0 }), "temprature", "temprature is no option of generate; did you mean temperature?"],
    [() => untyped.chat(messages, { template_kwargs: {} }), "template_kwargs", "template_kwargs is no option of chat; did you mean templateKwargs?"],
  ] as const) assert.throws(call, (error) => error instanceof BadRequest && error.param === field && error.message === message);
  assert.throws(() => untyped.generate("x", { banana: 1 }), /banana is no option of generate; it takes n, temperature, topP, .*maxTokens/);
  assert.throws(() => untyped.generate("x", 5), /params is 5; it must be an object/);
  assert.equal((await llm.generate("x", { maxTokens: 2, ...({ max_tokens: undefined } as object) })).tokenIds.length, 2, "undefined is as good as absent");
  await assert.rejects(LLM.load(undefined, { maxModelLength: 10 } as object),
    (error) => error instanceof UsageError && error.message === "maxModelLength is no option of LLM.load; did you mean maxModelLen?");
  assert.equal(engine.seen.length, 1);
});

test("prompts and messages of the wrong kind are refused by field", () => {
  const { llm, engine } = fakeLLM();
  const untyped = llm as unknown as { generate(...given: readonly unknown[]): unknown; chat(...given: readonly unknown[]): unknown };
  for (const [call, field, message] of [
    [() => untyped.generate(undefined), "prompt", /^prompt is undefined; it must be text or a list of token ids$/],
    [() => untyped.generate({}), "prompt", /text or a list of token ids/],
    [() => untyped.chat("hello"), "messages", /^messages is "hello"; it must be a list of messages/],
    [() => untyped.chat(undefined), "messages", /^messages is undefined/],
    [() => untyped.chat([]), "messages", /empty/],
    [() => untyped.chat(["hello"]), "messages[0]", /an object with role and content/],
    [() => untyped.chat([{ content: "hi" }]), "messages[0].role", /messages\[0\]\.role is undefined/],
    [() => untyped.chat([{ role: "user", content: "hi" }, { role: "user" }]), "messages[1].content", /^messages\[1\]\.content is undefined; it must be a string or a list of text parts$/],
  ] as const) assert.throws(call, (error) => error instanceof BadRequest && error.param === field && message.test(error.message));
  assert.equal(engine.seen.length, 0);
});

test("a model that is a file, or a folder without a config, is told as that first", async () => {
  await assert.rejects(LLM.load(import.meta.filename), (error) => error instanceof UsageError && /llm\.test\.ts" is neither a folder nor a \.gguf file/.test(error.message));
  await assert.rejects(LLM.load(import.meta.dirname), (error) => error instanceof UsageError && /api" has no config\.json; give a folder in Hugging Face layout/.test(error.message));
});

test("without a tokenizer token ids go in and come out, and text is refused by name", async () => {
  const { llm } = fakeLLM({ skipTokenizerInit: true });
  const result = await llm.generate([1, 2, 3], { maxTokens: 4 });
  assert.equal(result.text, "");
  assert.equal(result.tokenIds.length, 4);
  await assert.rejects(Promise.resolve(llm.generate("text")), BadRequest);
  assert.throws(() => llm.generate([1], { stop: "x" }), (error) => error instanceof BadRequest && error.param === "stop");
  assert.throws(() => llm.decode([1]), UsageError);
});

test("an engine that dies rejects what runs and says nothing but that", async () => {
  const { llm } = fakeLLM({ dieAtToken: 3 });
  await assert.rejects(Promise.resolve(llm.generate("x")), /died/);
  assert.equal(llm.alive, false);
});

test("a model of the hub is asked for where and as whom the caller says", async () => {
  const asked: (readonly [path: string, authorization: string | undefined])[] = [];
  const hub = createServer(({ url, headers }, response) => {
    asked.push([url!, headers.authorization]);
    response.writeHead(401).end();
  });
  await new Promise<void>((resolve) => hub.listen(0, "127.0.0.1", resolve));
  try {
    const hubUrl = `http://127.0.0.1:${(hub.address() as AddressInfo).port}`;
    await assert.rejects(LLM.load("some/model", { hub: { hubUrl, token: "hf_secret", cacheDir: `${tmpdir()}/tessera-no-cache` } }),
      (error) => error instanceof UsageError && /some\/model with status 401/.test(error.message));
    assert.ok(asked.length > 0 && asked.every(([path, authorization]) => path.includes("some/model") && authorization === "Bearer hf_secret"));
  } finally {
    hub.closeAllConnections();
    hub.close();
  }
});
