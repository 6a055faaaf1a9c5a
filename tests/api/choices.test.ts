/** Several choices of one prompt, and priorities, as clients and operators see them: both routes, streamed and not, usage, logs, metrics. */
import assert from "node:assert/strict";
import test from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Command } from "commander";
import { addEngineFlags, loadOptions } from "../../src/cli/options.ts";
import { BadRequest } from "../../src/core/errors.ts";
import { createApp, type App } from "../../src/server/app.ts";
import { fakeLLM } from "./fakes.ts";

interface Choice {
  readonly index: number;
  readonly text?: string;
  readonly message?: { readonly content: string };
  readonly delta?: { readonly role?: string; readonly content?: string };
  readonly token_ids: readonly number[];
  readonly finish_reason: string | null;
  readonly logprobs: { readonly tokens?: readonly string[]; readonly content?: readonly { readonly token: string }[]; readonly text_offset?: readonly number[] } | null;
}
interface Answer {
  readonly choices: readonly Choice[];
  readonly usage: { readonly prompt_tokens: number; readonly completion_tokens: number; readonly total_tokens: number; readonly prompt_tokens_details: { readonly cached_tokens: number } };
  readonly error: { readonly message: string; readonly param: string };
}

const send = (app: App, path: string, body: object, signal?: AbortSignal) => app(new Request(`http://localhost/v1/${path}`, {
  method: "POST", headers: { "content-type": "application/json" }, ...(signal && { signal }),
  body: JSON.stringify({ ...(path === "completions" ? { prompt: "hi" } : { messages: [{ role: "user", content: "hi" }] }), ...body }),
}));
const json = async (response: Response): Promise<Answer> => await response.json() as Answer;
const frames = async (response: Response): Promise<Answer[]> => (await response.text()).trim().split("\n\n").slice(0, -1).map((frame) => JSON.parse(frame.slice("data: ".length)) as Answer);
const textOf = ({ text, message, delta }: Choice) => text ?? message?.content ?? delta?.content ?? "";

for (const path of ["completions", "chat/completions"]) {
  test(`${path}: n choices are what n requests with seeds one apart give, streamed and not; the prompt is counted once`, async () => {
    const { llm, engine } = fakeLLM({ cachedTokens: 2, queueSeconds: 0.5 });
    const logged: string[] = [];
    const app = createApp(llm, { log: { info: (line) => logged.push(line), warn() {}, error() {} }, logRequests: true, newId: () => "x" });
    const body = { seed: 40, max_tokens: 5, return_token_ids: true, ...(path === "completions" ? { logprobs: 1 } : { logprobs: true, top_logprobs: 1 }) };
    const apart: Answer[] = [];
    for (let i = 0; i < 3; i++) apart.push(await json(await send(app, path, { ...body, seed: 40 + i })));
    assert.equal(new Set(apart.map(({ choices }) => textOf(choices[0]!))).size, 3);
    const before = engine.seen.length;
    const { choices, usage } = await json(await send(app, path, { ...body, n: 3, best_of: 3 }));
    assert.deepEqual(choices, apart.map((answer, index) => ({ ...answer.choices[0], index })));
    const prompt = apart[0]!.usage.prompt_tokens;
    assert.deepEqual(usage, { prompt_tokens: prompt, completion_tokens: 15, total_tokens: prompt + 15, prompt_tokens_details: { cached_tokens: 2 } });
    const seen = engine.seen.slice(before);
    assert.deepEqual(seen.map(({ params }) => params.seed), [40, 41, 42]);
    assert.ok(seen[0]!.standing.family !== undefined && seen.every(({ standing }) => standing.family === seen[0]!.standing.family), "they know each other");

    const got = await frames(await send(app, path, { ...body, n: 3, stream: true, stream_options: { include_usage: true } }));
    assert.notEqual(engine.seen.at(-1)!.standing.family, seen[0]!.standing.family);
    assert.deepEqual(got.at(-1)!.usage, usage);
    for (const { index, logprobs, ...choice } of choices) {
      const own = got.flatMap((frame) => frame.choices).filter((c) => c.index === index);
      assert.equal(own.map(textOf).join(""), textOf({ index, logprobs, ...choice }));
      assert.deepEqual(own.flatMap(({ token_ids }) => token_ids ?? []), choice.token_ids);
      assert.deepEqual(own.map(({ finish_reason }) => finish_reason).filter(Boolean), ["length"]);
      assert.equal(own.at(-1)!.finish_reason, "length");
      assert.deepEqual(own.flatMap((c): readonly unknown[] => c.logprobs?.content ?? c.logprobs?.tokens ?? []), logprobs!.content ?? logprobs!.tokens);
      assert.deepEqual(own.flatMap((c) => c.logprobs?.text_offset ?? []), logprobs!.text_offset ?? []);
      if (path !== "completions") assert.deepEqual(own.map(({ delta }) => delta!.role).filter(Boolean), ["assistant"], "every choice begins with its role");
    }
    const lines = logged.filter((line) => line.includes("generated"));
    assert.equal(lines.length, 3 + 3 + 3, "a line for each choice");
    assert.deepEqual(lines.slice(3, 6).map((line) => /^\S*-x(-\d)?:/.exec(line)?.[1]), ["-0", "-1", "-2"]);

    const metrics = await (await app(new Request("http://localhost/metrics"))).text();
    const value = (name: string) => Number(new RegExp(`^vllm:${name}\\{(?:le="[^"]*",)?model_name="fake",engine="0"(?:,finished_reason="length")?\\} (.*)$`, "m").exec(metrics)?.[1]);
    assert.equal(value("request_success_total"), 9, "each choice");
    assert.deepEqual([value("request_params_n_sum"), value("request_params_n_count")], [3 * 1 + 2 * 3, 5], "each request");
    assert.deepEqual([value("request_max_num_generation_tokens_count"), value("request_params_max_tokens_count")], [5, 5]);
    assert.deepEqual([value("request_prompt_tokens_count"), value("time_to_first_token_seconds_count")], [9, 9]);
  });
}

test("choices of several prompts are numbered through, and each names its prompt", async () => {
  const app = createApp(fakeLLM().llm);
  const body = { prompt: ["a", "bb"], n: 2, seed: 7, max_tokens: 3, return_token_ids: true };
  const { choices, usage } = await json(await send(app, "completions", body));
  const alone = [];
  for (const prompt of body.prompt) alone.push(...(await json(await send(app, "completions", { ...body, prompt }))).choices);
  assert.deepEqual(choices, alone.map((choice, index) => ({ ...choice, index })));
  assert.equal(new Set(choices.map(textOf)).size, 4);
  assert.deepEqual([usage.prompt_tokens, usage.completion_tokens], [5, 12]);
  const got = (await frames(await send(app, "completions", { ...body, stream: true }))).flatMap((frame) => frame.choices);
  for (const choice of choices) assert.equal(got.filter(({ index }) => index === choice.index).map(textOf).join(""), textOf(choice));
});

test("choices end apart, each for its own reason", async () => {
  const { llm } = fakeLLM();
  const plain = await llm.generate("hi", { n: 3, seed: 3, maxTokens: 30 });
  // A letter that the second choice has first.
  const stop = [...plain.choices[1]!.text].map((letter, at) => ({ letter, at })).find(({ letter, at }) => plain.choices.every(({ text }, i) => i === 1 || text.slice(0, at + 1).indexOf(letter) < 0))!;
  const { choices, text, finishReason, stopReason } = await llm.generate("hi", { n: 3, seed: 3, maxTokens: 30, stop: stop.letter });
  assert.deepEqual([choices[1]!.text, choices[1]!.stopReason], [plain.choices[1]!.text.slice(0, stop.at), stop.letter]);
  for (const [i, choice] of choices.entries()) {
    const at = plain.choices[i]!.text.indexOf(stop.letter);
    assert.deepEqual([choice.text, choice.finishReason], at < 0 ? [plain.choices[i]!.text, "length"] : [plain.choices[i]!.text.slice(0, at), "stop"]);
  }
  assert.deepEqual([text, finishReason, stopReason], [choices[0]!.text, choices[0]!.finishReason, choices[0]!.stopReason], "the result is the first");
});

test("the library streams choices mixed, each with its index; one choice is as natural as before", async () => {
  const { llm, engine } = fakeLLM();
  const generation = llm.generate("hi", { n: 2, seed: 1, maxTokens: 4 });
  const texts = ["", ""];
  const order: number[] = [];
  for await (const { index, text } of generation) {
    texts[index] += text;
    order.push(index);
  }
  const { choices, usage } = await generation;
  assert.deepEqual(choices.map(({ text }) => text), texts);
  assert.deepEqual(order.slice(0, 2), [0, 1], "side by side");
  assert.deepEqual(usage, { promptTokens: 3, completionTokens: 8, totalTokens: 11, cachedTokens: 0 });
  const { text, choices: [only, ...more] } = await llm.generate("hi", { seed: 1, maxTokens: 4 });
  assert.deepEqual([only.text, only.index, more], [text, 0, []]);
  assert.equal(engine.seen.at(-1)!.standing.family, undefined);
  for (const [params, param, message] of [
    [{ n: 2, temperature: 0 }, "n", /^n is 2; it must be 1 where temperature is 0/], [{ n: 129 }, "n", /1 to 128/],
    [{ n: 3, seed: Number.MAX_SAFE_INTEGER - 1 }, "seed", /at most 9007199254740989/],
  ] as const) assert.throws(() => llm.generate("x", params), (error) => error instanceof BadRequest && error.param === param && message.test(error.message));
});

test("leaving ends all choices; when one fails the others end and the generation rejects with its error", async () => {
  const { llm, engine } = fakeLLM({ stepMs: 1 });
  const left = llm.generate("x", { n: 4, maxTokens: 400 });
  for await (const _ of left) break;
  assert.deepEqual((await left).choices.map(({ finishReason }) => finishReason), ["abort", "abort", "abort", "abort"]);
  assert.equal(engine.stats.numRunning, 0);

  const client = new AbortController();
  const app = createApp(llm);
  const response = await send(app, "completions", { n: 4, max_tokens: 400, stream: true }, client.signal);
  await response.body!.getReader().read();
  assert.equal(engine.stats.numRunning, 4);
  client.abort();
  for (let i = 0; engine.stats.numRunning > 0; i++) {
    assert.ok(i < 200, "a choice still runs");
    await sleep(1);
  }

  const failing = fakeLLM({ failAtToken: 3 });
  await assert.rejects(Promise.resolve(failing.llm.generate("x", { n: 3, maxTokens: 9 })), /index 3 is outside the table/);
  assert.equal(failing.engine.stats.numRunning, 0);
});

test("what n can not be is refused: too many for one server, greedy, or with best_of", async () => {
  const app = createApp(fakeLLM().llm);
  for (const [body, param, message] of [
    [{ n: 2, temperature: 0 }, "n", /^n is 2; it must be 1 where temperature is 0/],
    [{ n: 128, prompt: Array.from({ length: 9 }, () => "x") }, "n", /^n is 128; it must be at most 113 with 9 prompts/],
    [{ n: 2, best_of: 3 }, "best_of", /^best_of is 3; this server supports only the value of n/],
  ] as const) {
    const response = await send(app, "completions", body);
    const { error } = await json(response);
    assert.deepEqual([response.status, error.param], [400, param]);
    assert.match(error.message, message);
  }
});

test("priority reaches the engine where its policy is priority, and is refused where it is not", async () => {
  const { llm, engine } = fakeLLM({ schedulingPolicy: "priority" });
  const app = createApp(llm);
  for (const path of ["completions", "chat/completions"]) {
    assert.equal((await send(app, path, { priority: -3, max_tokens: 1 })).status, 200);
    assert.equal(engine.seen.at(-1)!.standing.priority, -3);
  }
  await llm.generate("x", { priority: 8, maxTokens: 1 });
  assert.equal(engine.seen.at(-1)!.standing.priority, 8);
  const fcfs = fakeLLM().llm;
  assert.throws(() => fcfs.generate("x", { priority: 1 }), (error) => error instanceof BadRequest && error.param === "priority" && /--scheduling-policy/.test(error.message));
  await fcfs.generate("x", { priority: 0, maxTokens: 1 });
  const options = (...flags: string[]) => loadOptions(addEngineFlags(new Command()).exitOverride().configureOutput({ writeErr() {} }).parse(flags, { from: "user" }).opts(), {});
  assert.equal(options("--scheduling-policy", "priority").schedulingPolicy, "priority");
  assert.equal(options().schedulingPolicy, "fcfs");
  assert.throws(() => options("--scheduling-policy", "lottery"), /Allowed choices are fcfs, priority/);
});
