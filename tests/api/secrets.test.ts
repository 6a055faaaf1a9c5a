/** What nobody may learn: the way round the API key, and prompts, keys and paths from errors and logs. Over a real port where paths and hosts matter. */
import assert from "node:assert/strict";
import { connect } from "node:net";
import { test } from "node:test";
import { createApp } from "../../src/server/app.ts";
import { serve } from "../../src/server/node.ts";
import { fakeLLM } from "./fakes.ts";

const routes = ["POST /v1/chat/completions", "POST /v1/completions", "GET /v1/models", "POST /tokenize", "POST /detokenize", "GET /ready", "GET /load", "GET /metrics", "GET /version", "GET /"];

/** Ways to write a path so that somebody might take it for /health, or for none. */
const dressedUp: readonly ((path: string) => string)[] = [
  (p) => p, (p) => `${p}/`, (p) => `/${p}`, (p) => `//${p}`, (p) => `/health/..${p}`, (p) => `/health${p}`, (p) => `/health/%2e%2e${p}`, (p) => `/health%2f..${p}`, (p) => `${p}?/health`, (p) => `${p}#/health`,
  (p) => `${p};/health`, (p) => `${p}/../health/..${p}`, (p) => `${p}%00/health`, (p) => `${p}%2fhealth`, (p) => p.toUpperCase(), (p) => `/.${p}`, (p) => p.replace(/\/(\w)/, (_, c: string) => `/%${c.charCodeAt(0).toString(16)}`),
  (p) => `\\health\\..${p}`, (p) => `http://x${p}`, (p) => `http://x/health/..${p}`, (p) => `//x${p}`, (p) => `/health//..//..${p}`, (p) => `${p}?key=right`, (p) => `*${p}`,
];
const hosts = ["x", "a/?", "a/health?", "a/health#", "health", "a@b", "[::1]", "a:1/health?x=", "x/../health"];
const keys: readonly string[] = ["", "authorization: Bearer wrong", "authorization: Bearer", "authorization: right-key", "authorization: Basic right-key", "authorization:  Bearer right-key2", "x-api-key: right-key", "authorization: Bearer right-ke", "cookie: authorization=Bearer right-key"];

test("no spelling of path, host or key gets past the API key, on any route", async (t) => {
  const { llm, engine } = fakeLLM();
  const server = await serve(llm, { port: 0, apiKeys: ["right-key", "other-key"] });
  t.after(() => server.close());
  /** What was answered, to the connection's end. */
  const ask = async (request: string): Promise<string> => {
    const socket = connect(server.port, "127.0.0.1");
    socket.write(request);
    let text = "";
    for await (const chunk of socket) text += String(chunk);
    return text;
  };
  const write = (route: string, { path = route.split(" ")[1]!, host = "x", key = "" }) => {
    const body = !route.startsWith("POST") ? "" : route.includes("chat") ? '{"messages": [{"role": "user", "content": "x"}]}' : '{"prompt": "x", "tokens": [1]}';
    const lines = [`${route.split(" ")[0]} ${path} HTTP/1.1`, `host: ${host}`, "connection: close", "content-type: application/json", `content-length: ${body.length}`, ...(key ? [key] : [])];
    return `${lines.join("\r\n")}\r\n\r\n${body}`;
  };
  let asked = 0;
  for (const route of routes) {
    const variants = [...dressedUp.map((dress) => ({ path: dress(route.split(" ")[1]!) })), ...hosts.map((host) => ({ host })), ...keys.map((key) => ({ key }))];
    await Promise.all(variants.map(async (variant) => {
      const answer = await ask(write(route, variant));
      const status = Number(/^HTTP\/1\.1 (\d+)/.exec(answer)?.[1]);
      // What is /health however one reads it may say so: it has no body.
      const isHealth = status === 200 && /^(GET|HEAD)/.test(route) && /\r\n\r\n(0\r\n\r\n)?$/.test(answer);
      assert.ok(status === 401 || status === 400 || isHealth, `${route} as ${JSON.stringify(variant)}: ${answer}`);
      asked++;
    }));
    for (const key of ["right-key", "other-key"]) {
      const answer = await ask(write(route, { key: `authorization: bearer ${key}` }));
      assert.match(answer, /^HTTP\/1\.1 200 /, route);
    }
  }
  assert.ok(asked > 400 && engine.seen.length === 4, `${asked} asked, of which ${engine.seen.length} reached the engine`);
});

test("errors and logs never repeat a prompt or a key, nor say where anything lies", async () => {
  const logged: string[] = [];
  const log = { info: (line: string) => void logged.push(line), warn: (line: string) => void logged.push(line), error: (line: string) => void logged.push(line) };
  const { llm } = fakeLLM({ failAtToken: 3, maxModelLen: 64 });
  const app = createApp(llm, { apiKeys: ["kanarienkey"], log, logRequests: true });
  const c = "canary";
  const bodies: readonly string[] = [
    ...[c, { text: c }, [c, 5], [[c]], Array(2000).fill(c), c.repeat(100)].map((prompt) => JSON.stringify({ prompt })),
    ...[c, [c], [{ role: "user" }, c], [{ role: "user", content: [{ type: "text", text: [c] }] }], [{ role: "user", content: { a: c } }], [{ role: "user", content: c }], [{ role: "user", content: c.repeat(50) }]].map((messages) => JSON.stringify({ messages })),
    JSON.stringify({ prompt: c, max_tokens: -1 }), JSON.stringify({ prompt: c, temperature: "x" }), JSON.stringify({ messages: [{ role: "user", content: c }], prompt: c }), JSON.stringify({ prompt: c, stream: true }),
    JSON.stringify(c), JSON.stringify([c]), `{"prompt": "${c}", }`, `{"prompt": "${c}" "x"}`, `{"prompt": "${c}`, `{prompt: ${c}}`, c, `{"prompt": "${c}"} ${c}`, `{"prompt": ${c}}`,
  ];
  let asked = 0;
  for (const path of ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", `/nothing?prompt=${c}`]) {
    for (const body of bodies) {
      for (const authorization of ["Bearer kanarienkey", "Bearer kanarienkeys"]) {
        const response = await app(new Request(`http://test${path}`, { method: "POST", headers: { "content-type": "application/json", authorization }, body }));
        const text = await response.text();
        asked++;
        if (response.status !== 200) assert.ok(!/canary|kanarien/.test(text), `${path} of ${body} says ${text}`);
        assert.ok(!/\.ts\b|node_modules|\/tmp\/|\/src\//.test(text), text);
      }
    }
  }
  assert.ok(asked > 200 && logged.length >= asked);
  assert.ok(!/canary|kanarien/.test(logged.join("\n")), logged.join("\n"));
});
