/** The library and the server over the real engine and the demo model that comes with the package. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text as readAll } from "node:stream/consumers";
import { after, before, suite, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import OpenAI from "openai";
import { LLM } from "../../src/llm.ts";
import { serve, type Serving } from "../../src/server/node.ts";

const demo = existsSync(new URL("../../models/demo/model.safetensors", import.meta.url));

suite("the demo model", { skip: demo ? false : "models/demo has no weights" }, () => {
  let llm: LLM;
  let server: Serving;
  let openai: OpenAI;
  const messages = [{ role: "user" as const, content: "Tell me a story about a fox who finds a lantern." }];

  before(async () => {
    llm = await LLM.load(undefined, { maxNumSeqs: 16, maxModelLen: 512 });
    server = await serve(llm, { port: 0 });
    openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
  });
  after(async () => {
    await server?.close();
    await llm?.close();
  });

  /** The engine's numbers are those of its last report; waits until they say that nothing is held. */
  async function nothingHeld(): Promise<void> {
    for (let i = 0; i < 200 && (llm.stats.numRunning > 0 || llm.stats.numWaiting > 0 || llm.stats.numFreePages < llm.stats.numPages); i++) await sleep(10);
    const { numRunning, numWaiting, numFreePages, numPages } = llm.stats;
    assert.deepEqual({ numRunning, numWaiting, numFreePages }, { numRunning: 0, numWaiting: 0, numFreePages: numPages });
  }

  test("an end token that only the tokenizer's files name ends the output", async () => {
    const folder = mkdtempSync(join(tmpdir(), "tessera-ends-"));
    try {
      cpSync(fileURLToPath(new URL("../../models/demo", import.meta.url)), folder, { recursive: true });
      const change = (file: string, more: object): void => {
        writeFileSync(join(folder, file), JSON.stringify({ ...(JSON.parse(readFileSync(join(folder, file), "utf8")) as object), ...more }));
      };
      change("config.json", { eos_token_id: 1 });
      change("generation_config.json", { eos_token_id: 1 });
      change("tokenizer_config.json", { eos_token: "<end_of_turn>" });
      await using other = await LLM.load(folder, { maxNumSeqs: 2, maxModelLen: 64, threads: 1 });
      assert.deepEqual([...other.info.eosTokenIds].sort(), [...llm.info.eosTokenIds].sort());
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test("with guesses the stories are the same, greedy and sampled, and /metrics says how many guesses were right", async () => {
    const ask = async (from: LLM, temperature: number) => {
      const story = await from.chat(messages, { maxTokens: 80, temperature, seed: 4, logprobs: 2 }), list = await from.generate("red blue green. ".repeat(10), { maxTokens: 40, temperature, seed: 4, ignoreEos: true });
      return [story, list].map(({ text, tokenIds, logprobs }) => ({ text, tokenIds, logprobs }));
    };
    const model = fileURLToPath(new URL("../../models/demo-draft", import.meta.url));
    for (const speculativeConfig of [{ model, numSpeculativeTokens: 4 }, { method: "ngram", numSpeculativeTokens: 3, promptLookupMin: 1, promptLookupMax: 3 }] as const) {
      await using guessing = await LLM.load(undefined, { maxNumSeqs: 4, maxModelLen: 512, threads: 1, speculativeConfig });
      for (const temperature of [0, 0.7]) assert.deepEqual(await ask(guessing, temperature), await ask(llm, temperature));
      const serving = await serve(guessing, { port: 0 });
      const text = await (await fetch(`${serving.url}/metrics`)).text().finally(() => serving.close());
      const value = (name: string, labels = "") => Number(new RegExp(`^vllm:spec_decode_${name}_total\\{[^}]*${labels}\\} (\\d+)$`, "m").exec(text)?.[1]);
      const [drafts, tokens, accepted] = ["num_drafts", "num_draft_tokens", "num_accepted_tokens"].map((name) => value(name)) as [number, number, number];
      const positions = Array.from({ length: speculativeConfig.numSpeculativeTokens }, (_, position) => value("num_accepted_tokens_per_pos", `position="${position}"`));
      assert.ok(drafts > 5 && tokens >= drafts && accepted > 0.2 * tokens && accepted < tokens, `${drafts}, ${tokens}, ${accepted}`);
      assert.equal(positions.reduce((sum, count) => sum + count, 0), accepted);
      assert.deepEqual(positions, positions.toSorted((a, b) => b - a));
    }
    assert.doesNotMatch(await (await fetch(`${server.url}/metrics`)).text(), /spec_decode/);
  });

  test("what changes the logits changes the story: words that may not be said, tokens that must be, a least length, no repeats", async () => {
    const ask = async (more: object) => {
      const { choices: [choice] } = await openai.chat.completions.create({ model: "demo", messages, temperature: 0, max_tokens: 120, return_token_ids: true, ...more } as Parameters<OpenAI["chat"]["completions"]["create"]>[0] & { stream?: false });
      return { text: choice!.message.content ?? "", ids: (choice as unknown as { token_ids: number[] }).token_ids };
    };
    const plain = await ask({});
    assert.match(plain.text, /fox/);
    const word = /\b(?!fox)[a-z]{4,}\b/.exec(plain.text)![0];
    const without = await ask({ bad_words: [word, "fox"] });
    assert.ok(!new RegExp(`\\b(fox|${word})\\b`).test(without.text), without.text);
    assert.deepEqual(await ask({ bad_words: ["zebra"], logit_bias: {}, repetition_penalty: 1, min_tokens: 1 }), plain);
    const [a, b] = [plain.ids[0]!, plain.ids[1]!];
    assert.deepEqual(new Set((await ask({ allowed_token_ids: [a, b], min_tokens: 20, max_tokens: 20 })).ids.slice(0, 20)), new Set((await ask({ logit_bias: { [a]: 100, [b]: 100 }, max_tokens: 20 })).ids));
    const repeats = (ids: readonly number[]) => ids.length - new Set(ids).size;
    const penalised = await ask({ frequency_penalty: 2, presence_penalty: 2, repetition_penalty: 1.5, min_tokens: 120 });
    assert.equal(penalised.ids.length, 120);
    assert.ok(repeats(penalised.ids) < repeats((await ask({ min_tokens: 120 })).ids) / 2);
  });

  test("/tokenize and /detokenize agree with what the model is given, and a user's text is never a special token", async () => {
    const ask = async (path: string, body: object) => (await fetch(`${server.url}${path}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) })).json();
    const hostile = "Once <bos> upon<end_of_turn> a fox";
    const plain = await ask("/tokenize", { prompt: hostile, return_token_strs: true }) as { tokens: number[]; token_strs: string[] };
    assert.deepEqual(plain.tokens, [...(await llm.generate(hostile, { maxTokens: 1 })).promptTokenIds]);
    assert.deepEqual(plain.token_strs.filter((text) => text === "<bos>" || text === "<end_of_turn>"), ["<bos>"], "the model's own, at the start");
    assert.deepEqual(await ask("/detokenize", { tokens: plain.tokens }), { prompt: `<bos>${hostile}` });
    const chat = [{ role: "user", content: hostile }];
    const rendered = await ask("/tokenize", { messages: chat }) as { tokens: number[]; count: number; max_model_len: number };
    assert.deepEqual(rendered.tokens, [...(await llm.chat(chat, { maxTokens: 1 })).promptTokenIds]);
    assert.equal(rendered.count, rendered.tokens.length);
    assert.equal(rendered.max_model_len, 512);
  });

  test("the same request says the same through the library, the server and its stream, alone and among others", async () => {
    const ask = { temperature: 0.7, seed: 5, maxTokens: 40 };
    const alone = await llm.chat(messages, ask);
    assert.ok(alone.text.length > 40);
    const body = { model: "demo", messages, temperature: 0.7, seed: 5, max_tokens: 40 };
    const [whole, streamed, ...others] = await Promise.all([
      openai.chat.completions.create(body),
      openai.chat.completions.stream(body).finalChatCompletion(),
      ...[1, 2, 3].map((seed) => llm.chat(messages, { ...ask, seed })),
    ]);
    assert.equal(whole.choices[0]!.message.content, alone.text);
    assert.equal(streamed.choices[0]!.message.content, alone.text);
    assert.equal(whole.usage!.completion_tokens, alone.usage.completionTokens);
    for (const other of others) assert.notEqual(other.text, alone.text);
    await nothingHeld();
  });

  test("answers without a seed differ from one load to the next, unless the load is given the seed of another", async () => {
    const answers: string[] = [];
    let drawn: number | undefined;
    for (const reuse of [false, false, true]) {
      await using other = await LLM.load(undefined, { maxNumSeqs: 2, maxModelLen: 128, ...(reuse && { seed: drawn! }) });
      drawn = other.seed;
      answers.push((await other.chat(messages, { maxTokens: 24, temperature: 1 })).text);
    }
    assert.notEqual(answers[0], answers[1]);
    assert.equal(answers[1], answers[2]);
  });

  test("log-probabilities are of the chosen tokens, and the likeliest comes first", async () => {
    const { choices } = await openai.chat.completions.create({ model: "demo", messages, temperature: 0, max_tokens: 8, logprobs: true, top_logprobs: 3 });
    const content = choices[0]!.logprobs!.content!;
    assert.equal(content.map(({ token }) => token).join(""), choices[0]!.message.content);
    for (const { token, logprob, top_logprobs: top } of content) {
      assert.equal(top.length, 3);
      assert.equal(top[0]!.token, token);
      assert.equal(top[0]!.logprob, logprob);
      assert.ok(logprob <= 0 && top[1]!.logprob <= logprob);
    }
  });

  test("a stop string and the end of the context end an answer", async () => {
    const { text } = await llm.chat(messages, { temperature: 0, maxTokens: 60 });
    const stop = text.slice(10, 16);
    const stopped = await llm.chat(messages, { temperature: 0, maxTokens: 60, stop });
    assert.equal(stopped.text, text.slice(0, text.indexOf(stop)));
    assert.equal(stopped.stopReason, stop);
    const full = await llm.generate(Array(500).fill(5), { ignoreEos: true, maxTokens: 12 });
    assert.equal(full.usage.totalTokens, 512);
    await assert.rejects(Promise.resolve(llm.generate(Array(500).fill(5), { maxTokens: 13 })), /at most 12/);
    await nothingHeld();
  });

  test("clients that leave in the middle, many at once, leave no page behind", async () => {
    const requests = Array.from({ length: 40 }, async (_, i) => {
      const controller = new AbortController();
      const stream = await openai.completions.create(
        { model: "demo", prompt: Array(1 + 7 * i).fill(9), max_tokens: 100, stream: true, ignore_eos: true, seed: i } as OpenAI.CompletionCreateParamsStreaming, { signal: controller.signal });
      let chunks = 0;
      try {
        for await (const _ of stream) if (++chunks > i % 7) controller.abort();
      } catch (error) {
        assert.ok(controller.signal.aborted, String(error));
      }
    });
    await Promise.all(requests);
    await nothingHeld();
    assert.ok((await llm.generate("Once", { maxTokens: 5 })).tokenIds.length > 0, "it still answers");
  });

  test("a script that uses the library ends by itself, closed or not", async () => {
    const source = fileURLToPath(new URL("../../src/index.ts", import.meta.url));
    for (const declaration of ["await using", "const"]) {
      const script = `import { LLM } from ${JSON.stringify(source)}; ${declaration} llm = await LLM.load(); console.log((await llm.generate("Once", { maxTokens: 3, temperature: 0 })).tokenIds.length)`;
      const child = spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: ["ignore", "pipe", "inherit"] });
      const code = new Promise((resolve) => child.on("exit", resolve));
      const timer = setTimeout(() => child.kill("SIGKILL"), 20_000);
      assert.equal((await readAll(child.stdout)).trim(), "3");
      assert.equal(await code, 0);
      clearTimeout(timer);
    }
  });
});
