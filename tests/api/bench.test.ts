/** `tessera bench`: what it prints is what happened, against a server whose times are known and against our own. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { benchLatency, benchThroughput } from "../../src/cli/bench/offline.ts";
import { benchServe, type BenchServeFlags } from "../../src/cli/bench/serve.ts";
import { serve } from "../../src/server/node.ts";
import { fakeLLM } from "./fakes.ts";

const skip = existsSync(new URL("../../models/demo/model.safetensors", import.meta.url)) ? false : "models/demo has no weights";
const seconds = () => performance.now() / 1000;

const defaults: Omit<BenchServeFlags, "port"> = {
  host: "127.0.0.1", endpoint: "/v1/completions", numPrompts: 8, numWarmups: 0, requestRate: Infinity, burstiness: 1, randomInputLen: 12, randomOutputLen: 6, randomPrefixLen: 0,
  randomRangeRatio: 0, randomVocabSize: 200, seed: 0, temperature: 0, percentileMetrics: "ttft,tpot,itl,e2el", metricPercentiles: "99", resultDir: ".", ignoreEos: true,
};

interface Printed {
  readonly lines: readonly string[];
  value(name: string): number;
}

async function bench(flags: Partial<BenchServeFlags> & { readonly port: number }): Promise<Printed> {
  const lines: string[] = [];
  let last = 0;
  await benchServe({ ...defaults, ...flags }, { print: (line) => void lines.push(line), progress: (done) => void (last = done), now: seconds, date: () => new Date(0) });
  assert.equal(last, flags.numPrompts ?? defaults.numPrompts, "progress is told to the end");
  return {
    lines,
    value: (name) => Number(lines.find((line) => line.startsWith(`${name}:`))?.slice(40)),
  };
}

interface Seen {
  readonly body: Record<string, unknown>;
  readonly startedAt: number;
  readonly sentAt: number[];
  readonly running: number;
}

/** A server that writes its first chunk after `firstMs` and the others `gapMs` apart, and remembers when it did. */
async function fakeServer(answer: (seen: Seen, response: ServerResponse) => Promise<void>) {
  const seen: Seen[] = [];
  let running = 0;
  const server = createServer(async (request, response) => {
    if (request.url === "/v1/models") return void response.end(JSON.stringify({ data: [{ id: "org/fake" }] }));
    const startedAt = seconds();
    let text = "";
    for await (const part of request) text += String(part);
    const one: Seen = { body: JSON.parse(text) as Record<string, unknown>, startedAt, sentAt: [], running: ++running };
    seen.push(one);
    await answer(one, response);
    running--;
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { seen, port: (server.address() as AddressInfo).port, close: () => void (server.close(), server.closeAllConnections()) };
}

const chunk = (text: string) => `data: ${JSON.stringify({ choices: [{ index: 0, text }] })}\n\n`;
const steady = (firstMs: number, gapMs: number) => async ({ body, sentAt }: Seen, response: ServerResponse) => {
  response.writeHead(200, { "content-type": "text/event-stream" });
  for (let i = 0; i < Number(body["max_tokens"]); i++) {
    await sleep(i === 0 ? firstMs : gapMs);
    sentAt.push(seconds());
    response.write(chunk("é"));
  }
  response.write(`data: ${JSON.stringify({ choices: [], usage: { prompt_tokens: 12, completion_tokens: body["max_tokens"] } })}\n\n`);
  response.end("data: [DONE]\n\n");
};

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]!;
/** In milliseconds: a client in the same process sees a chunk a little after the server wrote it, later on a busy machine. */
const toleranceMs = 15;

test("the times printed are those of a server whose times are known", async () => {
  const server = await fakeServer(steady(100, 20));
  try {
    // Two at once: with more, the times of opening connections in this one process would be a part of the first tokens'.
    const { value, lines } = await bench({ port: server.port, maxConcurrency: 2 });
    const [, ...seen] = server.seen;
    assert.equal(seen.length, 8, "besides the first that tries the server");
    const close = (name: string, expected: number, least: number) => {
      assert.ok(value(name) >= least - 2, `${name} is ${value(name)}, and no less than ${least} can be`);
      assert.ok(Math.abs(value(name) - expected) < toleranceMs, `${name} is ${value(name)}, not ${expected}\n${lines.join("\n")}`);
    };
    close("Median TTFT (ms)", median(seen.map(({ sentAt, startedAt }) => 1000 * (sentAt[0]! - startedAt))), 100);
    close("Median ITL (ms)", median(seen.flatMap(({ sentAt }) => sentAt.slice(1).map((at, i) => 1000 * (at - sentAt[i]!)))), 20);
    close("Median TPOT (ms)", median(seen.map(({ sentAt }) => 200 * (sentAt.at(-1)! - sentAt[0]!))), 20);
    close("Median E2EL (ms)", median(seen.map(({ sentAt, startedAt }) => 1000 * (sentAt.at(-1)! - startedAt))), 200);
    assert.deepEqual([value("Successful requests"), value("Failed requests"), value("Total input tokens"), value("Total generated tokens")], [8, 0, 96, 48]);
    assert.equal(value("Peak concurrent requests"), 2);
    const duration = value("Benchmark duration (s)");
    assert.ok(Math.abs(value("Output token throughput (tok/s)") * duration - 48) < 48 * 0.05, "tokens over duration, both as printed");
    assert.deepEqual(seen[0]!.body, {
      model: "org/fake", temperature: 0, ignore_eos: true, prompt: seen[0]!.body["prompt"], max_tokens: 6, stream: true, stream_options: { include_usage: true },
    });
    assert.equal((seen[0]!.body["prompt"] as number[]).length, 12);
  } finally {
    server.close();
  }
});

test("no more run at once than --max-concurrency, and time spent waiting for a place is not the server's", async () => {
  const server = await fakeServer(steady(30, 1));
  try {
    const { value } = await bench({ port: server.port, maxConcurrency: 2, randomOutputLen: 2 });
    assert.equal(Math.max(...server.seen.map(({ running }) => running)), 2);
    assert.equal(value("Maximum request concurrency"), 2);
    assert.equal(value("Peak concurrent requests"), 2);
    assert.ok(value("Benchmark duration (s)") > 0.11, "four rounds of 31 ms");
    assert.ok(value("Median TTFT (ms)") < 60, "one round, not the wait for three others");
  } finally {
    server.close();
  }
});

test("a rate spreads requests over count / rate seconds", async () => {
  const server = await fakeServer(steady(1, 1));
  try {
    const { value } = await bench({ port: server.port, requestRate: 40, burstiness: 100, numPrompts: 12 });
    const starts = server.seen.slice(1).map(({ startedAt }) => startedAt);
    const spread = starts.at(-1)! - starts[0]!;
    assert.ok(spread > 0.24 && spread < 0.45, `12 requests at 40 a second came within ${spread} s`);
    assert.equal(value("Request rate configured (RPS)"), 40);
    assert.ok(value("Peak concurrent requests") < 12);
  } finally {
    server.close();
  }
});

test("requests that fail are counted and named, and are in no time", async () => {
  let number = 0;
  const good = steady(20, 1);
  const server = await fakeServer(async (seen, response) => {
    const turn = number++ % 4;
    if (turn === 1) return void response.writeHead(429).end(JSON.stringify({ error: { message: "too many" } }));
    if (turn === 2) return void response.writeHead(200).end(`${chunk("a")}data: ${JSON.stringify({ error: { message: "the engine died" } })}\n\n`);
    if (turn === 3) return void response.destroy();
    await good(seen, response);
  });
  try {
    const { value, lines } = await bench({ port: server.port });
    assert.deepEqual([value("Successful requests"), value("Failed requests"), value("Total generated tokens")], [2, 6, 12]);
    assert.ok(value("Median TTFT (ms)") >= 19);
    for (const reason of [/^2 failed: HTTP 429: too many$/m, /^2 failed: the engine died$/m, /^\d failed: (?!HTTP|the engine)/m]) assert.match(lines.join("\n"), reason);
  } finally {
    server.close();
  }
});

test("chunks that come cut in the middle of a line or a character are put together", async () => {
  const server = await fakeServer(async (_, response) => {
    response.writeHead(200);
    const bytes = Buffer.from(`: a comment\r\n\r\n${chunk("é→😀").replaceAll("\n", "\r\n")}${chunk("b")}data: [DONE]`);
    for (let i = 0; i < bytes.length; i += 7) {
      response.write(bytes.subarray(i, i + 7));
      await new Promise((resolve) => setImmediate(resolve));
    }
    response.end();
  });
  try {
    const { value } = await bench({ port: server.port, numPrompts: 2 });
    assert.deepEqual([value("Failed requests"), value("Total generated tokens")], [0, 4], "without usage, chunks are counted");
  } finally {
    server.close();
  }
});

test("against our own server: every token is counted, and the result is saved under vLLM's names", async () => {
  const { llm, engine } = fakeLLM({ stepMs: 2 });
  const server = await serve(llm, { port: 0, apiKeys: ["key"] });
  const folder = mkdtempSync(join(tmpdir(), "tessera-bench-"));
  try {
    const flags = { port: server.port, apiKey: "key", randomPrefixLen: 4, numPrompts: 20, goodput: ["ttft:60000"], saveDetailed: true as const, resultDir: join(folder, "results") };
    const { value } = await bench(flags);
    assert.deepEqual([value("Successful requests"), value("Total input tokens"), value("Total generated tokens")], [20, 320, 120]);
    assert.ok(Math.abs(value("Request goodput (req/s)") - value("Request throughput (req/s)")) < 0.011);
    assert.equal(engine.seen.length, 21);
    assert.ok(engine.seen.every(({ params, prompt }) => params.ignoreEos && params.maxTokens === 6 && prompt.length === 16));
    const [name] = readdirSync(join(folder, "results"));
    assert.equal(name, "openai-infqps-fake-19700101-000000.json");
    const saved = JSON.parse(readFileSync(join(folder, "results", name!), "utf8")) as Record<string, unknown>;
    assert.deepEqual([saved["completed"], saved["model_id"], saved["request_rate"], saved["total_output_tokens"], saved["num_prompts"]], [20, "fake", "inf", 120, 20]);
    assert.ok((saved["p99_ttft_ms"] as number) > 0 && (saved["itls"] as number[][]).every((gaps) => gaps.length === 5));
  } finally {
    rmSync(folder, { recursive: true });
    await server.close();
  }
});

test("a server that is not there, or refuses the first request, is told in one sentence", async () => {
  const { llm } = fakeLLM();
  const server = await serve(llm, { port: 0 });
  await assert.rejects(bench({ port: server.port, randomInputLen: 600 }), /^UsageError: a first request to .* failed: HTTP 400: prompt has 600 tokens/);
  await assert.rejects(bench({ port: server.port, endpoint: "/v1/nothing" }), /HTTP 404: there is no route/);
  await server.close();
  await assert.rejects(bench({ port: server.port }), /does not answer.*--base-url/);
  await assert.rejects(bench({ port: 1, baseUrl: "here" }), /--base-url is "here"/);
  await assert.rejects(bench({ port: 1, percentileMetrics: "speed" }), /--percentile-metrics has "speed"/);
});

test("latency and throughput run the engine in process, and their numbers agree with each other", { skip }, async () => {
  const lines: string[] = [];
  let ended = 0;
  const io = { print: (line: string) => void lines.push(line), progress: (done: number) => void (ended = done), now: seconds, date: () => new Date() };
  const folder = mkdtempSync(join(tmpdir(), "tessera-bench-"));
  try {
    const small = { inputLen: 20, outputLen: 4, seed: 0, threads: 1, maxModelLen: 64, maxNumSeqs: 4, outputJson: join(folder, "out.json") };
    await benchLatency({ ...small, batchSize: 2, numItersWarmup: 1, numIters: 3 }, io);
    assert.equal(ended, 4);
    assert.deepEqual(lines.map((line) => line.replace(/[\d.e-]+ seconds/, "x seconds")), [
      "Avg latency: x seconds", ...[10, 25, 50, 75, 90, 99].map((percent) => `${percent}% percentile latency: x seconds`),
    ]);
    const { avg_latency, latencies } = JSON.parse(readFileSync(small.outputJson, "utf8")) as { avg_latency: number; latencies: number[] };
    assert.equal(latencies.length, 3);
    assert.ok(Math.abs(avg_latency - latencies.reduce((sum, one) => sum + one, 0) / 3) < 1e-9 && avg_latency > 0);
    lines.length = 0;
    await benchThroughput({ ...small, numPrompts: 6 }, io);
    const [, requests, total, output] = /^Throughput: (.*) requests\/s, (.*) total tokens\/s, (.*) output tokens\/s$/.exec(lines[0]!)!.map(Number);
    assert.deepEqual(lines.slice(1), ["Total num prompt tokens:  120", "Total num output tokens:  24"]);
    assert.ok(Math.abs(total! / requests! - 24) < 0.1 && Math.abs(output! / requests! - 4) < 0.1);
    await assert.rejects(benchThroughput({ ...small, inputLen: 62, numPrompts: 1 }, io), /--input-len 62 and --output-len 4 make 66 tokens; the model's context is 64/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
