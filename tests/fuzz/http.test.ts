/**
 * Hostile bodies for every route: each field at each of its boundaries, and good bodies with one to three places changed.
 *
 * A table of what OpenAI's and vLLM's documents allow, written without a look at our own, says of each field and value whether it is good: then the
 * answer is 200, and the engine is asked for what it may be asked for; else 400 that names the field. Nothing a client sends is ever a 5xx.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { createApp } from "../../src/server/app.ts";
import { fakeLLM, type FakeEngine } from "../api/fakes.ts";
import { assertCleanPrototypes, fuzz, long, pick } from "./fuzz.ts";
import { bodies, good, maxModelLen, room, values, vocabSize } from "./bodies.ts";
import { mutated } from "./json.ts";


const { llm, engine } = fakeLLM({ maxModelLen });
const app = createApp(llm);

interface Answer {
  readonly status: number;
  readonly param: string | null | undefined;
  readonly message: string | undefined;
  readonly ms: number;
}

/** Posts; a stream is read to its end. */
async function post(path: string, body: string | Uint8Array<ArrayBuffer>, headers: Readonly<Record<string, string>> = {}): Promise<Answer> {
  const begun = performance.now();
  const response = await app(new Request(`http://test${path}`, { method: "POST", headers: { "content-type": "application/json", ...headers }, body }));
  const text = await response.text();
  const ms = performance.now() - begun;
  if (response.status === 200) {
    assert.doesNotMatch(text, /"error"/);
    return { status: 200, param: undefined, message: undefined, ms };
  }
  const { error } = JSON.parse(text) as { readonly error: { readonly message: string; readonly param: string | null; readonly code: number } };
  assert.equal(error.code, response.status);
  assert.ok(error.message.length < 1000, `an error of ${error.message.length} characters`);
  return { status: response.status, param: error.param, message: error.message, ms };
}

/** What the engine may be asked for, whatever clients ask of the server. */
function checkEngine({ seen }: FakeEngine): void {
  for (const { prompt, params } of seen.splice(0)) {
    const isId = (id: number): boolean => Number.isInteger(id) && id >= 0 && id < vocabSize;
    assert.ok(prompt.length > 0 && prompt.every(isId), "a prompt of token ids");
    assert.ok(Number.isInteger(params.maxTokens) && params.maxTokens >= 1 && prompt.length + params.maxTokens <= maxModelLen, `${prompt.length} + ${params.maxTokens} tokens`);
    assert.ok(params.minTokens <= params.maxTokens && (params.logprobs ?? 0) <= 20);
    for (const name of ["temperature", "topP", "topK", "minP", "repetitionPenalty", "presencePenalty", "frequencyPenalty"] as const) assert.ok(Number.isFinite(params[name]), name);
    assert.ok([...params.stopTokenIds, ...(params.allowedTokenIds ?? []), ...(params.logitBias?.keys() ?? []), ...params.badWords.flat()].every(isId), "ids of params");
  }
  assert.equal(engine.stats.numRunning, 0, "still running");
}

type Ok = (value: unknown) => boolean;
const number = (least: number, most: number, { above = -Infinity, whole = false } = {}): Ok => (x) => typeof x === "number" && Number.isFinite(x) && (!whole || Number.isSafeInteger(x)) && x >= least && x <= most && x > above;
const whole = (least: number, most: number): Ok => number(least, most, { whole: true });
const flag: Ok = (x) => typeof x === "boolean";
const ids = (most: number, least = 0): Ok => (x) => Array.isArray(x) && x.length >= least && x.length <= most && x.every(whole(0, vocabSize - 1));
const texts = (most: number): Ok => (x) => (Array.isArray(x) ? x : [x]).every((item) => typeof item === "string" && item !== "" && item.length <= 1024 && item.isWellFormed()) && (!Array.isArray(x) || x.length <= most);
const isObject = (x: unknown): x is Readonly<Record<string, unknown>> => typeof x === "object" && x !== null && !Array.isArray(x);
const only = (...values: readonly unknown[]): Ok => (x) => values.includes(x);
const empty: Ok = (x) => x === "" || (Array.isArray(x) && x.length === 0) || (isObject(x) && Object.keys(x).length === 0);
const int32 = 2 ** 31 - 1;

/** Of fields that both routes of generation have. What is null or left out is good everywhere. */
const sampling: Readonly<Record<string, Ok>> = {
  temperature: number(0, 100), top_p: number(0, 1, { above: 0 }), top_k: whole(-1, int32), min_p: number(0, 1), seed: whole(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
  repetition_penalty: number(0, Infinity, { above: 0 }), presence_penalty: number(-2, 2), frequency_penalty: number(-2, 2), stop: texts(64), stop_token_ids: ids(1024), ignore_eos: flag, min_tokens: whole(0, 4),
  include_stop_str_in_output: flag, skip_special_tokens: flag, stream: flag, return_token_ids: flag, return_tokens_as_token_ids: flag,
  logit_bias: (x) => isObject(x) && Object.entries(x).every(([id, bias]) => /^\d+$/.test(id) && Number(id) < vocabSize && number(-100, 100)(bias)),
  allowed_token_ids: ids(2 ** 20, 1), bad_words: (x) => texts(1000)(x) && (Array.isArray(x) ? x : [x]).every((word) => (word as string).trim() !== ""),
  cache_salt: (x) => typeof x === "string" && x.length >= 1 && x.length <= 1024,
  // The server here takes requests in the order they come.
  n: whole(1, 128), best_of: only(1), prompt_logprobs: whole(0, 20), priority: only(0), use_beam_search: only(false), suffix: empty, prompt_embeds: () => false, truncate_prompt_tokens: () => false, tools: empty, functions: empty,
  structured_outputs: () => false, guided_json: () => false, guided_regex: () => false, guided_choice: () => false, guided_grammar: () => false, chat_template: () => false, documents: empty, audio: () => false, logits_processors: empty,
};
const fields: Readonly<Record<string, Readonly<Record<string, Ok>>>> = {
  "/v1/chat/completions": {
    ...sampling, max_tokens: whole(1, maxModelLen - 21), max_completion_tokens: whole(1, maxModelLen - 21), logprobs: flag, add_generation_prompt: flag, continue_final_message: flag,
    add_special_tokens: only(false), chat_template_kwargs: (x) => isObject(x) && Object.keys(x).every((key) => /^[A-Za-z]\w*$/.test(key) && key !== "constructor" && key !== "messages"),
  },
  "/v1/completions": {
    ...sampling, max_tokens: whole(1, room), echo: flag, logprobs: whole(0, 20), add_special_tokens: flag,
    prompt: (x) => (typeof x === "string" && x.length < room) || (Array.isArray(x) && x.length > 0 && (ids(room)(x) || (x.length <= 1024 && x.every((item) => typeof item === "string" || ids(room, 1)(item))))),
  },
  "/tokenize": { prompt: (x) => typeof x === "string", add_special_tokens: flag, return_token_strs: flag },
  "/detokenize": { tokens: ids(2 ** 20) },
};

/** For fields that are lists. */
const huge = JSON.stringify(Array(500_000).fill("stop"));
const lists: ReadonlySet<string> = new Set(long ? ["stop", "stop_token_ids", "bad_words", "allowed_token_ids", "prompt", "tokens", "temperature"] : ["stop"]);

test("every field of every route at every boundary is taken or refused by its name, and the engine hears of none that is wrong", async (t) => {
  let taken = 0, refused = 0;
  const begun = performance.now();
  const times: number[] = [];
  for (const [path, table] of Object.entries(fields)) {
    // In a normal run each field meets a fifth of the values, and each value a fifth of the fields.
    for (const [f, [field, ok]] of Object.entries(table).entries()) for (const value of [...values.filter((_, v) => long || (f + v) % 5 === 0), ...(lists.has(field) ? [huge] : [])]) {
      let parsed: unknown, isJson = true;
      try {
        parsed = JSON.parse(value);
      } catch {
        isJson = false;
      }
      const { [field]: _, ...rest } = good[path]!;
      const { status, param, message, ms } = await post(path, `${JSON.stringify(rest).slice(0, -1)},${JSON.stringify(field)}:${value}}`);
      const about = `${path} ${field} = ${value.slice(0, 60)}: ${status} ${message ?? ""}`;
      const depth = /(?:\[|\{"a":){64}/.test(value);
      // Null is as good as nothing, but where something must be there.
      const isGood = parsed === null ? !["prompt", "tokens"].includes(field) : ok(parsed);
      if (!isJson || depth) assert.ok(status === 400 && param === "body", about);
      else if (isGood) assert.equal(status, 200, about);
      else {
        assert.equal(status, 400, about);
        assert.ok(param === field || param?.startsWith(`${field}[`) || param?.startsWith(`${field}.`), `${about}: param ${param}`);
        assert.ok(message!.includes(field), about);
      }
      if (status === 200) taken++;
      else refused++;
      if (status !== 200 && value.length < 10_000) times.push(ms);
      checkEngine(engine);
    }
  }
  times.sort((a, b) => a - b);
  console.log(`${t.name}: ${taken + refused} executed in ${((performance.now() - begun) / 1000).toFixed(1)} s: ${taken} taken, ${refused} refused, half of them in ${times[times.length >> 1]!.toFixed(2)} ms, 99 of 100 in ${times[Math.floor(0.99 * times.length)]!.toFixed(1)} ms`);
  assert.ok(taken > 100 && refused > 1200, `${taken} taken, ${refused} refused`);
  assert.ok(times[times.length >> 1]! < 10, "a refusal takes 10 ms");
  assertCleanPrototypes();
});

test("bodies with one to three places changed are answered or refused, never a failure of ours", async (t) => {
  const statuses = new Map<number, number>();
  await fuzz(t, { inputs: [1500, 200_000], floors: { answered: 0.1, "refused by a field": 0.3, "refused as a whole": 0.05 } }, async ({ random, did }) => {
    const [path, tree] = pick(random, bodies);
    const text = mutated(tree, random, (what) => did(`${path} ${what}`));
    const bytes = new TextEncoder().encode(text);
    if (random() < 0.05 && bytes.length > 0) {
      bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
      did("a byte changed");
    }
    const { status, param, message } = await post(path, bytes);
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
    assert.ok([200, 400, 404, 413].includes(status), `${status} ${message}`);
    assert.ok(status === 200 || (typeof param === "string" && param !== ""), `${status} ${message}, param ${param}`);
    checkEngine(engine);
    return status === 200 ? "answered" : param === "body" ? "refused as a whole" : "refused by a field";
  });
});

test("paths, methods and content types of every spelling are refused by 4xx", async () => {
  const status = async (path: string, method: string, headers: Readonly<Record<string, string>> = {}) =>
    (await app(new Request(`http://test${path}`, { method, headers, ...(method === "POST" && { body: "{}" }) }))).status;
  for (const path of ["/v1/models/%ff", "/v1/models/%00", "/v1/models/__proto__", "/v1/models/a%2f..%2fb", "/%", "/v1//models", `/${"a".repeat(10_000)}`, "/v1/models/%e0%a4%a"]) {
    for (const method of ["GET", "POST", "PUT", "DELETE", "PATCH"]) {
      const got = await status(path, method);
      assert.ok(got >= 400 && got < 500, `${method} ${path.slice(0, 50)}: ${got}`);
    }
  }
  for (const type of ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "application/jsonp", "", "application/json;charset=utf-16"]) {
    for (const path of Object.keys(good)) {
      const got = await status(path, "POST", { "content-type": type });
      assert.ok(got === 415 || got === 400, `${type}: ${got}`);
    }
  }
});
