/** Prefix caching as clients and operators see it: who shares with whom, what usage and metrics say, how it is switched off. */
import assert from "node:assert/strict";
import test from "node:test";
import { Command } from "commander";
import { maskMod } from "../../src/attention/index.ts";
import { addEngineFlags, loadOptions } from "../../src/cli/options.ts";
import { LLM } from "../../src/llm.ts";
import { createApp, type App } from "../../src/server/app.ts";
import { fixture } from "../engine/tiny-model.ts";
import { fakeLLM } from "./fakes.ts";

const ask = (app: App, body: object, key?: string, path = "completions") => app(new Request(`http://localhost/v1/${path}`, {
  method: "POST", body: JSON.stringify({ max_tokens: 2, ...(path === "completions" ? { prompt: "abc" } : { messages: [{ role: "user", content: "abc" }] }), ...body }),
  headers: { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) },
}));

test("tenants and salts share with nobody else: every pair of key and cache_salt is a salt of its own", async () => {
  const { llm, engine } = fakeLLM();
  const app = createApp(llm, { apiKeys: ["first", "second"] });
  const salts = new Set<string>();
  // What a client can send must not become another tenant's salt.
  const tricks = [undefined, "x", "key 1", '["key 1",null]', 'x"],["'];
  for (const key of ["first", "second"]) for (const salt of tricks) for (const path of ["completions", "chat/completions"]) {
    assert.equal((await ask(app, { cache_salt: salt }, key, path)).status, 200);
    salts.add(engine.seen.at(-1)!.salt);
  }
  assert.equal(salts.size, 2 * tricks.length, "one for each pair, the same on both routes");
  assert.ok(![...salts].some((salt) => salt.includes("first") || salt.includes("second")), "keys go nowhere");
});

test("without keys all requests share, but for those with a cache_salt", async () => {
  const { llm, engine } = fakeLLM();
  const app = createApp(llm);
  for (const body of [{}, { cache_salt: null }, { cache_salt: "x" }]) await ask(app, body);
  assert.deepEqual(engine.seen.map(({ salt }) => salt), ["", "", "x"]);
  await llm.generate("abc", { cacheSalt: "y", maxTokens: 1 });
  assert.equal(engine.seen.at(-1)!.salt, "y");
});

test("a cache_salt that is no text, empty or endless is refused", async () => {
  const app = createApp(fakeLLM().llm);
  for (const cache_salt of ["", 5, "x".repeat(1025)]) {
    const response = await ask(app, { cache_salt });
    assert.equal(response.status, 400);
    const { error } = await response.json() as { error: { message: string; param: string } };
    assert.equal(error.param, "cache_salt");
    assert.match(error.message, /^cache_salt is .*; it must be a string of at /);
  }
});

test("usage says how much of the prompts was in the cache, streamed and not, and the metrics add it up", async () => {
  const app = createApp(fakeLLM({ cachedTokens: 2 }).llm);
  type Answer = { usage: { prompt_tokens: number; prompt_tokens_details: { cached_tokens: number } } };
  for (const path of ["completions", "chat/completions"]) {
    const { usage } = await (await ask(app, {}, undefined, path)).json() as Answer;
    assert.equal(usage.prompt_tokens_details.cached_tokens, 2);
    const frames = (await (await ask(app, { stream: true, stream_options: { include_usage: true } }, undefined, path)).text()).trim().split("\n\n");
    assert.equal((JSON.parse(frames.at(-2)!.slice("data: ".length)) as Answer).usage.prompt_tokens_details.cached_tokens, 2);
  }
  const both = await (await ask(app, { prompt: ["abc", "de"] })).json() as Answer;
  assert.deepEqual([both.usage.prompt_tokens_details.cached_tokens, both.usage.prompt_tokens], [4, 4 + 3]);

  const text = await (await app(new Request("http://localhost/metrics"))).text();
  const value = (name: string) => Number(new RegExp(`^vllm:${name}\\{model_name="fake",engine="0"\\} (.*)$`, "m").exec(text)?.[1]);
  for (const name of ["prefix_cache_hits_total", "gpu_prefix_cache_hits_total"]) assert.equal(value(name), 6 * 2, name);
  for (const name of ["prefix_cache_queries_total", "gpu_prefix_cache_queries_total"]) assert.equal(value(name), value("prompt_tokens_total"), name);
  assert.match(text, /vllm:cache_config_info\{[^}]*enable_prefix_caching="True"/);
});

const tiny = { skipTokenizerInit: true, threads: 1, maxNumSeqs: 4, maxModelLen: 64, blockSize: 4 } as const;
const folder = fixture("llama");

test("a model answers the same from the cache as without it, says so, and can be told not to cache", async () => {
  await using cached = await LLM.load(folder, tiny);
  await using plain = await LLM.load(folder, { ...tiny, enablePrefixCaching: false });
  assert.deepEqual([cached.info.enablePrefixCaching, plain.info.enablePrefixCaching], [true, false]);
  const prompt = Array.from({ length: 22 }, (_, i) => (i * 37) % cached.info.vocabSize);
  const run = async (llm: LLM, cacheSalt?: string) => {
    const { tokenIds, logprobs, usage } = await llm.generate(prompt, { temperature: 0, maxTokens: 8, ignoreEos: true, logprobs: 2, ...(cacheSalt && { cacheSalt }) });
    return { answer: { tokenIds, logprobs }, cachedTokens: usage.cachedTokens };
  };
  const first = await run(plain);
  assert.equal(first.cachedTokens, 0);
  assert.deepEqual(await run(plain), first);
  assert.deepEqual(await run(cached), first);
  assert.deepEqual(await run(cached), { ...first, cachedTokens: 20 });
  assert.deepEqual(await run(cached, "other"), first);
  assert.deepEqual([cached.stats.prefixCacheQueries, cached.stats.prefixCacheHits, cached.stats.numFreePages], [66, 20, cached.stats.numPages]);
  assert.deepEqual([plain.stats.prefixCacheQueries, plain.stats.prefixCacheHits], [0, 0]);
});

test("mods that read arrays which others may write to are not served from a cache: off by itself, refused where it was asked for", async () => {
  const attention = { maskMod: maskMod(({ sizes }) => (_b, _h, q, kv) => q >= kv && q - kv < sizes[0]!, { sizes: new Int32Array(new SharedArrayBuffer(4)).fill(9) }) };
  await using llm = await LLM.load(folder, { ...tiny, attention });
  assert.equal(llm.info.enablePrefixCaching, false);
  await assert.rejects(LLM.load(folder, { ...tiny, attention, enablePrefixCaching: true }), /enablePrefixCaching \(--enable-prefix-caching\) is true, but .* SharedArrayBuffer.*; leave the option out/);
  await assert.rejects(LLM.load(folder, { ...tiny, enablePrefixCaching: "yes" as unknown as boolean }), /enablePrefixCaching \(--enable-prefix-caching\) is "yes"; it must be true or false/);
});

test("the flags are vLLM's", () => {
  const options = (...args: readonly string[]) => loadOptions(addEngineFlags(new Command()).parse(args, { from: "user" }).opts(), {}).enablePrefixCaching;
  assert.deepEqual([options(), options("--enable-prefix-caching"), options("--no-enable-prefix-caching")], [undefined, true, false]);
});
