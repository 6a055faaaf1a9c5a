/**
 * Sixteen honest clients stream from a server with a real model while hostile ones hit every route: broken and boundary bodies, bytes that are no
 * HTTP, clients that leave at any byte, that read slowly or not at all, huge prompts, and requests that are good and nasty.
 *
 * The honest streams are, byte for byte, those of an undisturbed server. Each hostile request gets a 4xx, an answer or a closed connection, never a
 * failure of ours; and in the end every page is back, nothing is in flight, and memory is as it was.
 */
import assert from "node:assert/strict";
import { connect } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { silent } from "../../src/core/log.ts";
import { stream } from "../../src/core/random.ts";
import { clientOf } from "../../src/engine/client.ts";
import { Engine, type EngineLimits } from "../../src/engine/engine.ts";
import { LLM } from "../../src/llm.ts";
import { serve } from "../../src/server/node.ts";
import { fakeText } from "../api/fakes.ts";
import { fixture, openTiny } from "../engine/tiny-model.ts";
import { bodies, values } from "./bodies.ts";
import { exchange } from "./exchange.ts";
import { assertCleanPrototypes, below, long, pick, type Random } from "./fuzz.ts";
import { mutated } from "./json.ts";

const numHostile = long ? 10_000 : 70;
const numHonest = 16, numAttackers = 24;

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;
const seconds = () => performance.now() / 1000;

const limits: EngineLimits = { maxNumBatchedTokens: 256, maxNumSeqs: 32, pageSize: 4, maxModelLen: 128, numPages: 96 };

/** What an honest client asks: all kinds of sampling, prompts that share their beginnings and ones that do not. */
const honest = (i: number): readonly [path: string, body: object] => {
  const params = { stream: true, max_tokens: 24 + i, seed: i, return_token_ids: true, ignore_eos: true, temperature: i % 3 === 0 ? 0 : 1, ...(i % 4 === 1 && { logprobs: i % 2 === 0 ? true : 2, repetition_penalty: 1.2 }), ...(i % 5 === 2 && { top_k: 20, top_p: 0.9 }) };
  const said = `${"the same beginning, ".repeat(i % 2)}and honest ${i}`;
  return i % 4 === 2 ? ["/v1/chat/completions", { ...params, messages: [{ role: "user", content: said }] }] : ["/v1/completions", { ...params, prompt: said }];
};

type Attack = (port: number, random: Random) => Promise<readonly number[]>;

const request = (path: string, body: string | Uint8Array): Buffer =>
  Buffer.concat([Buffer.from(`POST ${path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n`), Buffer.from(body)]);
const send = async (port: number, bytes: Buffer, patienceMs = Infinity): Promise<readonly number[]> => (await exchange(port, [bytes], { patienceMs, limitMs: 60_000 })).statuses;

const nasty = (random: Random): readonly [string, object] => pick(random, [
  ["/v1/completions", { prompt: "x", max_tokens: 120, ignore_eos: true, logprobs: 20 }],
  ["/v1/completions", { prompt: "x", max_tokens: 120, ignore_eos: true, min_tokens: 120, stop: Array.from({ length: 64 }, (_, i) => `stop ${i}`) }],
  ["/v1/completions", { prompt: Array.from({ length: 30 }, (_, i) => `prompt ${i}`), max_tokens: 5 }],
  ["/v1/completions", { prompt: Array.from({ length: 100 }, (_, i) => i), max_tokens: 20, logit_bias: Object.fromEntries(Array.from({ length: 300 }, (_, i) => [i, i % 7 === 0 ? -100 : 100])) }],
  ["/v1/completions", { prompt: "x", max_tokens: 60, temperature: 100, top_k: 1, repetition_penalty: 1e30, bad_words: Array.from({ length: 200 }, (_, i) => `bad ${i}`) }],
  ["/v1/completions", { prompt: [0], max_tokens: 60, allowed_token_ids: [319], presence_penalty: 2, frequency_penalty: -2, stream: true }],
  ["/v1/completions", { prompt: "the same beginning, and honest 1", max_tokens: 90, temperature: 1e-30, min_p: 1, stream: true }],
  ["/v1/chat/completions", { messages: Array.from({ length: 9 }, () => ({ role: "user", content: "hi" })), max_tokens: 30, logprobs: true, top_logprobs: 20 }],
  ["/v1/completions", { prompt: ["x", "y"], n: 16, max_tokens: 8, temperature: 1, logprobs: 20, echo: true }],
  ["/v1/chat/completions", { messages: [{ role: "user", content: "z".repeat(90) }], n: 4, max_tokens: 4, prompt_logprobs: 20 }],
  ["/tokenize", { prompt: "z".repeat(100_000), return_token_strs: true }],
  ["/detokenize", { tokens: Array.from({ length: 50_000 }, (_, i) => i % 258) }],
] as const);

/** Opens a streamed request, and does with its socket what it likes. */
function open(port: number, random: Random): ReturnType<typeof connect> {
  const socket = connect(port, "127.0.0.1");
  socket.on("error", () => {});
  socket.write(request("/v1/completions", JSON.stringify({ prompt: `leaves ${below(random, 100)}`, max_tokens: 90, stream: true, ignore_eos: true })));
  return socket;
}

const attacks: Readonly<Record<string, Attack>> = {
  "a changed body": (port, random) => {
    const [path, tree] = pick(random, bodies);
    return send(port, request(path, mutated(tree, random, () => {})));
  },
  "a boundary": (port, random) => {
    const [path, tree] = pick(random, bodies);
    const fields = tree.kind === "object" ? tree.entries.map(([name]) => name) : [];
    const field = pick(random, [...fields, "temperature", "max_tokens", "logprobs", "stop", "seed", "logit_bias", "n", "best_of", "priority", "prompt_logprobs", "echo"]);
    return send(port, request(path, `{"prompt":"x","tokens":[1],"messages":[{"role":"user","content":"x"}],${JSON.stringify(field)}:${pick(random, values)}}`));
  },
  "bytes that are no HTTP": (port, random) => {
    const bytes = request("/v1/completions", '{"prompt": "x", "max_tokens": 2}');
    for (let k = 0; k < 3; k++) bytes[below(random, bytes.length)] = below(random, 256);
    return send(port, bytes, 30);
  },
  "a client that leaves while it asks": async (port, random) => {
    const bytes = request("/v1/completions", '{"prompt": "x", "max_tokens": 50}');
    const socket = connect(port, "127.0.0.1");
    socket.on("error", () => {});
    socket.write(bytes.subarray(0, below(random, bytes.length + 1)));
    await sleep(below(random, 5));
    if (random() < 0.5) socket.destroy();
    else socket.resetAndDestroy();
    return [];
  },
  "a client that leaves while it reads": async (port, random) => {
    const socket = open(port, random);
    let left = below(random, 4000);
    await new Promise<void>((resolve) => {
      socket.on("data", (chunk) => {
        left -= chunk.length;
        if (left < 0) socket.destroy();
      });
      socket.on("close", () => resolve());
    });
    return [];
  },
  "a client that reads nothing": async (port, random) => {
    const socket = open(port, random);
    socket.pause();
    await sleep(below(random, 100));
    socket.destroy();
    return [];
  },
  "a huge prompt": (port, random) => send(port, request("/v1/completions", JSON.stringify({ prompt: random() < 0.5 ? "a".repeat(100_000) : Array(50_000).fill(5) }))),
  "a good request that is nasty": (port, random) => {
    const [path, body] = nasty(random);
    return send(port, request(path, JSON.stringify(body)));
  },
  "any route": (port, random) => {
    const path = pick(random, ["/", "/health", "/ready", "/load", "/metrics", "/version", "/v1/models", "/v1/models/fake", "/v1/models/%ff", "/v1/chat/completions", "/tokenize", "/..", "/%", "/v2"]);
    return send(port, Buffer.from(`${pick(random, ["GET", "POST", "PUT", "OPTIONS", "DELETE", "HEAD"])} ${path} HTTP/1.1\r\nhost: ${pick(random, ["x", "a/b", "", "[::1", "x:99999"])}\r\nconnection: close\r\n\r\n`));
  },
};

test(`${numHonest} honest streams stay as they are while ${numHostile} hostile requests hit every route`, async (t) => {
  const model = await openTiny(fixture("llama"), limits, 1);
  const engine = clientOf(new Engine(model, { limits, eosTokenIds: model.eosTokenIds }), {
    ...limits, architecture: "", backend: "", dtype: "", kvCacheDtype: "", numParameters: 0, vocabSize: model.vocabSize, eosTokenIds: [], weightBytes: 0, kvBytes: 0, enablePrefixCaching: true, schedulingPolicy: "fcfs", loadSeconds: 0,
  }, seconds);
  const errors: string[] = [];
  const log = { ...silent, error: (line: string) => void errors.push(line) };
  const server = await serve(new LLM({ name: "fake", engine, text: fakeText(), seed: 1 }), { port: 0, stallSeconds: 0.3, now: () => 1, newId: () => "id", log });
  t.after(async () => {
    await server.close();
    await engine.close();
    await model[Symbol.asyncDispose]();
  });
  const ask = async (i: number): Promise<string> => {
    const [path, body] = honest(i);
    const response = await fetch(`${server.url}${path}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
    assert.equal(response.status, 200);
    return response.text();
  };
  const undisturbed: string[] = [];
  for (let i = 0; i < numHonest; i++) undisturbed.push(await ask(i));
  assert.equal(new Set(undisturbed).size, numHonest);
  for (const text of undisturbed) assert.match(text, /"finish_reason":"length"[^]*data: \[DONE\]\n\n$/);

  const kinds = Object.entries(attacks), counts = new Map(kinds.map(([kind]) => [kind, 0])), statuses = new Map<number, number>();
  let next = 0, done = 0, whole = 0;
  const memory: { readonly rss: number; readonly heap: number }[] = [];
  const attacker = async (): Promise<void> => {
    for (let n = next++; n < numHostile; n = next++) {
      const random = stream(n);
      const [kind, attack] = kinds[n % kinds.length]!;
      const got = await attack(server.port, random).catch((error: unknown) => assert.fail(`request ${n}, ${kind}: ${(error as Error).message}`));
      for (const status of got) {
        statuses.set(status, (statuses.get(status) ?? 0) + 1);
        assert.ok(status < 500, `request ${n}, ${kind}: ${status}`);
      }
      counts.set(kind, counts.get(kind)! + 1);
      if (++done % (numHostile / 10) > 0) continue;
      collectGarbage();
      memory.push({ rss: process.memoryUsage().rss, heap: process.memoryUsage().heapUsed });
    }
  };
  const neighbour = async (i: number): Promise<void> => {
    while (done < numHostile) {
      assert.equal(await ask(i), undisturbed[i], `honest stream ${i}, after ${done} hostile requests`);
      whole++;
    }
  };
  const begun = performance.now();
  await Promise.all([...Array.from({ length: numAttackers }, attacker), ...Array.from({ length: numHonest }, (_, i) => neighbour(i))]);
  const took = (performance.now() - begun) / 1000;

  const { numPages } = limits;
  for (let i = 0; engine.stats.numRunning + engine.stats.numWaiting > 0 || engine.stats.numFreePages < numPages || server.numRunning > 0; i++) {
    assert.ok(i < 400, `still held: ${JSON.stringify(engine.stats)}, ${server.numRunning} are open`);
    await sleep(10);
  }
  const { server_load } = (await (await fetch(`${server.url}/load`)).json()) as { readonly server_load: number };
  const { numPreemptions, numSteps } = engine.stats;
  assert.equal(server_load, 0);
  assertCleanPrototypes();
  for (const [kind, count] of counts) assert.ok(count >= Math.floor(numHostile / kinds.length), `${kind}: ${count}`);
  assert.ok(whole >= numHonest && numPreemptions > 0, `${whole} honest streams, ${numPreemptions} preemptions`);
  const [first, last] = [memory[2]!, memory.at(-1)!], mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  console.log(`${t.name}: ${done} hostile requests in ${took.toFixed(1)} s beside ${whole} honest streams; ${[...statuses].sort(([a], [b]) => a - b).map(([status, count]) => `${count} times ${status}`).join(", ")}; ` +
    `${numSteps} steps, ${numPreemptions} preemptions; from the third tenth to the last the heap grew by ${mib(last.heap - first.heap)}, the process by ${mib(last.rss - first.rss)}`);
  // Cut off as they were told, or a failure that a client was told of with its 200.
  assert.deepEqual(errors.filter((line) => !/read nothing for .* cut off/.test(line)), []);
  assert.ok(last.heap - first.heap < 2 ** 25 && last.rss - first.rss < 2 ** 27, "memory grew");
});
