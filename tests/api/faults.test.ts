/** What goes wrong around a server that runs: engines that die, clients that leave, do not read or do not speak HTTP. Over real ports and real engines on a fake model. */
import assert from "node:assert/strict";
import { connect, type Socket } from "node:net";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { spawn } from "#thread";
import { stream } from "../../src/core/random.ts";
import { clientOf, type EngineClient } from "../../src/engine/client.ts";
import { Engine } from "../../src/engine/engine.ts";
import { supervise } from "../../src/engine/supervisor.ts";
import { LLM } from "../../src/llm.ts";
import { createApp } from "../../src/server/app.ts";
import { serve, type Serving, type ServeOptions } from "../../src/server/node.ts";
import { FakeModel } from "../engine/fake-model.ts";
import { type FaultyData, info, limits, vocabSize } from "../engine/faults.ts";
import { fakeLLM } from "./fakes.ts";

const long = process.env["TESSERA_LONG"] !== undefined;
setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;
const seconds = () => performance.now() / 1000;

async function open(t: TestContext, engine: EngineClient, options: Partial<ServeOptions> = {}): Promise<Serving> {
  const server = await serve(new LLM({ name: "faulty", engine, text: undefined }), { port: 0, ...options });
  t.after(async () => {
    await server.close();
    await engine.close();
  });
  return server;
}

/** Engines in threads, of which the first come to grief as `lives` says. */
function dying(lives: readonly FaultyData[], rest: FaultyData = {}): Promise<EngineClient> {
  let life = 0;
  const begin = () => spawn(new URL("../engine/faulty-engine.ts", import.meta.url), lives[life++] ?? rest);
  return supervise(begin(), { again: begin, seed: 0, stepsAreShort: true, now: seconds });
}

const healthy = (): EngineClient & { readonly model: FakeModel } => {
  const model = new FakeModel(vocabSize, limits);
  return Object.assign(clientOf(new Engine(model, { limits, eosTokenIds: info.eosTokenIds }), info, seconds), { model });
};

const bodyOf = (seed: number, more: object = {}) => JSON.stringify({ prompt: [1 + (seed % 40), 2, 3], seed, max_tokens: 100, ignore_eos: true, stream: true, return_token_ids: true, stream_options: { include_usage: true }, ...more });
const post = (url: string, body: string) => fetch(`${url}/v1/completions`, { method: "POST", headers: { "content-type": "application/json" }, body });
/** What a stream said, without its name and its time. */
const said = async (answer: Promise<Response>) => (await (await answer).text()).replaceAll(/"id":"[^"]*"|"created":\d+/g, "");

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < 500 && !(await holds()); i++) await sleep(5);
  assert.ok(await holds());
}

test("an engine that dies in the middle of streams: every byte of them is what it would have been, and /health and /ready say what is", async (t) => {
  const bodies = Array.from({ length: 8 }, (_, i) => bodyOf(i, { temperature: i % 2, logprobs: i % 3 }));
  const well = await open(t, healthy());
  const want = await Promise.all(bodies.map((body) => said(post(well.url, body))));
  const ill = await open(t, await dying([30, 40, 25].map((atStep) => ({ fault: { kind: "throw", atStep }, stepMs: 1 }))));
  const status = async (path: string) => (await fetch(`${ill.url}${path}`)).status;
  assert.deepEqual(await Promise.all(["/health", "/ready"].map(status)), [200, 200]);
  const got = Promise.all(bodies.map((body) => said(post(ill.url, body))));
  await until(async () => (await status("/health")) === 503);
  const refused = await post(ill.url, bodies[0]!);
  if (refused.status !== 200) assert.deepEqual([refused.status, refused.headers.get("retry-after")], [503, "1"]);
  await refused.body?.cancel();
  assert.deepEqual(await got, want);
  assert.deepEqual(await Promise.all(["/health", "/ready"].map(status)), [200, 200]);
  const metrics = await (await fetch(`${ill.url}/metrics`)).text();
  assert.match(metrics, /^tessera:engine_restarts_total\{.*\} 3$/m);
});

test("a request that engines die over ends in an error event and no finish reason; one that is not streamed gives 500", async (t) => {
  const server = await open(t, await dying([], { fault: { kind: "exit", atToken: 49 } }));
  const poison = { prompt: [5, 49] };
  const text = await said(post(server.url, bodyOf(1, poison)));
  assert.match(text, /^data: \{"error":\{"message":"the engine died 2 times over this request; it is not tried again","type":"InternalServerError","param":null,"code":500\}\}\n\ndata: \[DONE\]\n\n$/);
  const up = () => until(async () => (await fetch(`${server.url}/ready`)).status === 200);
  await up();
  assert.equal((await post(server.url, bodyOf(1, { ...poison, stream: false, stream_options: null }))).status, 500);
  await up();
  assert.match(await said(post(server.url, bodyOf(2, { logit_bias: { 49: -100 } }))), /"finish_reason":"length"/);
});

test("clients that leave at any moment: pages come back within two steps, and their neighbours get the same bytes", async (t) => {
  const engine = healthy();
  const server = await open(t, engine);
  const neighbours = [1, 2, 3].map((seed) => bodyOf(seed, { max_tokens: 200, temperature: seed % 2 }));
  const alone: string[] = [];
  for (const body of neighbours) alone.push(await said(post(server.url, body)));
  const random = stream(5);
  const leave = async (i: number): Promise<void> => {
    const body = bodyOf(100 + i, { max_tokens: 300, stream: i % 3 > 0, ...(i % 3 === 0 && { stream_options: null }), prompt: i % 2 ? [[1, 2], [3, 4]] : [7, 8] });
    const socket = connect(server.port, "127.0.0.1").on("error", () => {});
    socket.write(`POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`);
    socket.write(i % 7 === 0 ? body.slice(0, 20) : body);
    const bytes = Math.floor(random() * 6000);
    let heard = 0;
    await Promise.race([sleep(random() * 40), new Promise<void>((resolve) => socket.on("data", (data) => (heard += data.length) > bytes && resolve()))]);
    socket.resetAndDestroy();
  };
  const got = Promise.all(neighbours.map((body) => said(post(server.url, body))));
  for (let i = 0; i < (long ? 400 : 40); i += 4) await Promise.all([0, 1, 2, 3].map((more) => leave(i + more)));
  assert.deepEqual(await got, alone);
  await until(() => engine.stats.numRunning + engine.stats.numWaiting === 0 && engine.stats.numFreePages === limits.numPages);
  assert.equal(((await (await fetch(`${server.url}/load`)).json()) as { server_load: number }).server_load, 0);

  // One that leaves alone, counted in steps.
  const controller = new AbortController();
  const { signal } = controller;
  const left = await fetch(`${server.url}/v1/completions`, { method: "POST", headers: { "content-type": "application/json" }, body: bodyOf(9, { max_tokens: 390 }), signal });
  await left.body!.getReader().read();
  engine.model.during = () => sleep(10); // longer than a socket's close takes to be heard
  await until(() => engine.stats.numRunning === 1);
  const stepsAtAbort = engine.model.numForwards;
  controller.abort();
  await until(() => engine.stats.numFreePages === limits.numPages);
  assert.ok(engine.model.numForwards - stepsAtAbort <= 3, `${engine.model.numForwards - stepsAtAbort} steps: two, and the one that was under way`);
});

test("a client that reads slowly is cut off once it is too far behind, with an error; one that keeps up is not", async () => {
  const { llm, engine } = fakeLLM({ maxModelLen: 1e6, stepMs: 1, tokensPerStep: 20 });
  const app = createApp(llm, { stallSeconds: 0.3 });
  const start = async () => (await app(new Request("http://test/v1/completions", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ prompt: "x", max_tokens: 8000, stream: true, logprobs: 5 }) }))).body!.getReader();
  const slow = await start();
  let text = "";
  for (let part = await slow.read(); !part.done; part = await slow.read()) {
    text += new TextDecoder().decode(part.value);
    await sleep(20);
  }
  assert.match(text, /"error":\{"message":"the client is more than 0\.3 s behind[^\n]*\n\ndata: \[DONE\]\n\n$/);
  assert.doesNotMatch(text, /"finish_reason":"/);
  const quick = await start();
  let bytes = 0;
  for (let part = await quick.read(); !part.done; part = await quick.read()) bytes += part.value.length;
  assert.ok(bytes > text.length);
  assert.equal(engine.stats.numRunning, 0);
});

test("sockets that do not read, of whole answers and (in the long run) of streams, hold little and are closed", async (t) => {
  const { llm, engine } = fakeLLM({ maxModelLen: 2e6, stepMs: 1 });
  const server = await serve(llm, { port: 0, stallSeconds: 0.5 });
  t.after(() => server.close());
  const numSockets = long ? 60 : 1;
  // The prompts come back, 11 MB in the first frames or in the answer: more than sockets hold.
  const ask = (streamed: boolean): Socket => {
    const body = JSON.stringify({ prompt: Array(12).fill(Array(300_000).fill(97)), max_tokens: streamed ? 300_000 : 5, stream: streamed, return_token_ids: true });
    const socket = connect(server.port, "127.0.0.1").on("error", () => {}).pause();
    socket.write(`POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
    return socket;
  };
  let most = 0;
  collectGarbage();
  const before = process.memoryUsage.rss(), heapBefore = process.memoryUsage().heapUsed;
  for (let i = 0; i < numSockets; i += 2) {
    const sockets = Array.from({ length: Math.min(2, numSockets - i) }, (_, n) => ask(n % 2 === 1));
    await until(() => server.numRunning > 0);
    await until(() => {
      most = Math.max(most, process.memoryUsage.rss() - before);
      return server.numRunning === 0;
    });
    for (const socket of sockets) socket.destroy();
    engine.seen.length = 0; // the fake keeps every prompt
  }
  assert.equal(engine.stats.numRunning, 0);
  t.diagnostic(`${numSockets} sockets: at most ${(most / 2 ** 20).toFixed(0)} MiB more than before`);
  // Of one request at a time; two side by side in the long run, and garbage that nothing hurries to collect.
  assert.ok(most < (long ? 800 : 400) * 2 ** 20, `${(most / 2 ** 20).toFixed(0)} MiB more`);
  collectGarbage();
  const kept = process.memoryUsage().heapUsed - heapBefore;
  assert.ok(kept < 20 * 2 ** 20, `${(kept / 2 ** 20).toFixed(0)} MiB are kept of ${numSockets} sockets`);
});

test("what is no HTTP, too large or ambiguous is answered by 400, 413 or 431 and its connection closed; the next is served", async (t) => {
  const server = await open(t, healthy());
  const answer = async (...parts: readonly string[]): Promise<string> => {
    const socket = connect(server.port, "127.0.0.1").on("error", () => {});
    for (const part of parts) socket.write(part);
    let text = "";
    for await (const chunk of socket) text += String(chunk);
    return text;
  };
  const head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
  for (const [status, text] of [
    [400, "rubbish\r\n\r\n"], [400, "GET /health HTTP/1.1\r\n\r\n"], [400, "GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\nbad header\r\n\r\n"],
    [431, `GET /health HTTP/1.1\r\nhost: x\r\nx: ${"y".repeat(20_000)}\r\n\r\n`], [431, `GET /health HTTP/1.1\r\nhost: x\r\n${"a: b\r\n".repeat(5000)}\r\n`],
    [400, `${head}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\nhost: x\r\n\r\n`], [400, `${head}content-length: 2\r\ncontent-length: 3\r\n\r\n{}`],
    [400, `${head}content-length: -1\r\n\r\n`], [400, `${head}transfer-encoding: chunked\r\nconnection: close\r\n\r\nzz\r\n`], [413, `${head}content-length: 99999999999\r\nconnection: close\r\n\r\n{`],
  ] as const) assert.match(await answer(text), new RegExp(`^HTTP/1.1 ${status} `), text.slice(0, 80));
  const two = await answer("GET /version HTTP/1.1\r\nhost: x\r\n\r\nGET /load HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
  assert.match(two, /"version"[^]*HTTP\/1\.1 200[^]*"server_load"/, "pipelined requests are answered in order");
  if (!long) return;
  for (const [slow, text] of [["headers", "GET /health HTTP/1.1\r\nhost: x\r\nx: "], ["a body", `${head}content-length: 100\r\n\r\n{`]] as const) {
    const from = seconds();
    assert.match(await answer(text), /^HTTP\/1\.1 408 /, slow);
    assert.ok(seconds() - from < 65, slow);
  }
});
