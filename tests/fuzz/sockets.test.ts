/**
 * Hostile bytes on bare sockets: requests that lie about their length, that come byte by byte, in headers without end or two at a time, and good ones
 * with a few bytes changed, cut and sliced anywhere. Each gets a 4xx, its answer or a closed connection; never a 5xx, and nothing stays behind.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { silent } from "../../src/core/log.ts";
import { serve, type Serving } from "../../src/server/node.ts";
import { fakeLLM } from "../api/fakes.ts";
import { type Bytes, type Exchange, exchange as exchangeWith, type ExchangeOptions } from "./exchange.ts";
import { assertCleanPrototypes, below, fuzz, pick } from "./fuzz.ts";

const { llm, engine } = fakeLLM();
let server: Serving;
/** Lines that would be in the operator's log: a client that leaves is no failure of ours. */
const errors: string[] = [];
before(async () => void (server = await serve(llm, { port: 0, log: { ...silent, error: (line) => void errors.push(line) } })));
after(async () => {
  await server.close();
  assert.deepEqual(errors, []);
  assertCleanPrototypes();
});

const exchange = (parts: readonly Bytes[], options: ExchangeOptions = {}): Promise<Exchange> => exchangeWith(server.port, parts, options);

const json = JSON.stringify({ prompt: "hi", max_tokens: 3 });
const head = (...lines: readonly string[]): string => `POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n${lines.map((line) => `${line}\r\n`).join("")}\r\n`;
const whole = (body: Bytes, ...lines: readonly string[]): readonly Bytes[] => [head(`content-length: ${Buffer.byteLength(body)}`, ...lines), body];
const chunked = (...chunks: readonly string[]): string => chunks.map((chunk) => `${Buffer.byteLength(chunk).toString(16)}\r\n${chunk}\r\n`).join("");
const get = (...lines: readonly string[]): string => `GET /health HTTP/1.1\r\nhost: x\r\n${lines.map((line) => `${line}\r\n`).join("")}\r\n`;

/** What is sent, and which statuses may come back; 0 stands for a closed connection. */
const cases: Readonly<Record<string, readonly [parts: readonly Bytes[], allowed: readonly number[]]>> = {
  "a good request": [whole(json), [200]],
  "a body byte by byte": [[head("transfer-encoding: chunked"), ...[...json].map((char) => chunked(char)), "0\r\n\r\n"], [200]],
  "a body shorter than said": [[head("content-length: 100"), json], [400, 0]],
  "a body longer than said": [[head("content-length: 5"), json], [400]],
  "no length and no body": [[head()], [400]],
  "a length of -1": [[head("content-length: -1"), json], [400]],
  "a length in hexadecimal": [[head("content-length: 0x1f"), json], [400]],
  "a length beyond 2^64": [[head("content-length: 99999999999999999999"), json], [400, 413]],
  "two lengths": [[head(`content-length: ${json.length}`, "content-length: 5"), json], [400]],
  "length and chunks at once": [[head(`content-length: ${json.length}`, "transfer-encoding: chunked"), chunked(json), "0\r\n\r\n"], [400]],
  "chunks twice": [[head("transfer-encoding: chunked, chunked"), chunked(json), "0\r\n\r\n"], [400, 200]],
  "an encoding that is none": [[head("transfer-encoding: xchunked"), chunked(json)], [400]],
  "a chunk of 2^64 bytes": [[head("transfer-encoding: chunked"), "ffffffffffffffff1\r\n", json], [400, 0]],
  "a chunk of a negative length": [[head("transfer-encoding: chunked"), "-5\r\n", json], [400]],
  "a chunk with a long extension": [[head("transfer-encoding: chunked"), `5;${"a".repeat(100_000)}\r\n`], [400, 413, 431]],
  "chunks that never end": [[head("transfer-encoding: chunked"), chunked(json)], [400, 0]],
  "a gigabyte announced": [[head("content-length: 1000000000"), json], [413]],
  "more than is read, in chunks": [[head("transfer-encoding: chunked"), ...Array.from({ length: 20 }, () => chunked(" ".repeat(2 ** 20)))], [413, 0]],
  "a NUL in the body": [whole(`{"prompt": "a\0b"}`), [400]],
  "half a character": [whole(Uint8Array.of(0x7b, 0x22, 0xf0, 0x9f, 0x22, 0x7d)), [400]],
  "UTF-16": [whole(Buffer.from(json, "utf16le")), [400]],
  "brackets a million deep": [whole("[".repeat(1_000_000)), [400]],
  "objects a million deep": [whole('{"a":'.repeat(1_000_000)), [400]],
  "a body that is packed": [whole(Uint8Array.of(0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3), "content-encoding: gzip"), [400]],
  "a header of 20 KB": [[get(`x: ${"a".repeat(20_000)}`)], [431]],
  "a hundred thousand headers": [[get(...Array.from({ length: 100_000 }, (_, i) => `x${i}: 1`))], [431, 0]],
  "a NUL in a header": [[get("x: a\0b")], [400]],
  "a header without a colon": [[get("nonsense")], [400]],
  "a space before a colon": [[get("content-length : 5")], [400]],
  "a folded header": [[get("x: a\r\n b", "connection: close")], [200, 400]],
  "no host": [["GET /health HTTP/1.1\r\n\r\n"], [400]],
  "two hosts": [[get("host: y", "connection: close")], [200, 400]],
  "a host that is no host": [["GET /health HTTP/1.1\r\nhost: a b<>\r\nconnection: close\r\n\r\n"], [200, 400]],
  "a method that is none": [["BREW / HTTP/1.1\r\nhost: x\r\n\r\n"], [400]],
  "a path of 20 KB": [[`GET /${"a".repeat(20_000)} HTTP/1.1\r\nhost: x\r\n\r\n`], [431, 414]],
  "a path with spaces": [["GET /a b HTTP/1.1\r\nhost: x\r\n\r\n"], [400]],
  "an absolute path elsewhere": [["GET http://elsewhere/v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"], [200, 400, 404]],
  "HTTP 9.9": [["GET /health HTTP/9.9\r\nhost: x\r\n\r\n"], [400]],
  "TLS": [[Uint8Array.of(0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3)], [400]],
  "an upgrade": [[get("connection: upgrade", "upgrade: websocket", "sec-websocket-key: x")], [200, 400, 426, 0]],
  "an expectation": [whole(json, "expect: 200-ok"), [417, 400]],
  "nothing at all": [[], [0, 400]],
};

for (const [what, [parts, allowed]] of Object.entries(cases)) {
  test(`${what} gets ${allowed.map((status) => status || "a closed connection").join(" or ")}`, async () => {
    for (const slices of [false, true]) {
      const { statuses, text } = await exchange(parts, { slices, ...(allowed.includes(0) && { patienceMs: 0 }) });
      const [first = 0] = statuses.filter((status) => status !== 100);
      assert.ok(allowed.includes(first) && statuses.every((status) => status < 500), `${statuses.join(", ")}: ${text.slice(0, 400)}`);
    }
    assert.equal(engine.stats.numRunning, 0);
  });
}

test("fifty requests in one packet get fifty answers in their order", async () => {
  const paths = Array.from({ length: 50 }, (_, i) => (i % 2 === 0 ? "/health" : `/nowhere/${i}`));
  const { statuses, text } = await exchange(paths.map((path, i) => `GET ${path} HTTP/1.1\r\nhost: x\r\n${i === 49 ? "connection: close\r\n" : ""}\r\n`).join("").match(/[^]{1,1000}/g)!);
  assert.deepEqual(statuses, paths.map((_, i) => (i % 2 === 0 ? 200 : 404)));
  assert.deepEqual([...text.matchAll(/\/nowhere\/(\d+)/g)].map(([, i]) => Number(i)), paths.flatMap((_, i) => (i % 2 === 0 ? [] : [i])));
});

test("requests with bytes changed, cut and sliced anywhere get a 4xx, an answer or a closed connection", async (t) => {
  const stream = JSON.stringify({ prompt: "hi", max_tokens: 20, stream: true });
  const seeds: readonly Buffer[] = [
    ...[json, stream].map((body) => Buffer.concat(whole(body).map((part) => Buffer.from(part)))), Buffer.from(head("transfer-encoding: chunked") + chunked(json.slice(0, 9), json.slice(9)) + "0\r\n\r\n"),
    Buffer.from(get("connection: close")), Buffer.from(get() + get("connection: close")),
  ];
  const bits = ["\r\n", "\n", "\r", "\0", ":", " ", "\t", "0", "-1", "ffff", "HTTP/1.1", "content-length: 7\r\n", "transfer-encoding: chunked\r\n", "{", '"', "%00", "../", "é", "a".repeat(5000)];
  await fuzz(t, { inputs: [250, 20_000], floors: { answered: 0.03, refused: 0.2 } }, async ({ random, did }) => {
    let bytes = pick(random, seeds);
    for (let left = 1 + below(random, 3); left > 0; left--) {
      const at = below(random, bytes.length + 1), what = below(random, 4);
      did(`${["a byte", "a bit put in", "cut", "left out"][what]} at ${at}`);
      if (what === 0) bytes = Buffer.concat([bytes.subarray(0, at), Buffer.of(below(random, 256)), bytes.subarray(at + 1)]);
      if (what === 1) bytes = Buffer.concat([bytes.subarray(0, at), Buffer.from(pick(random, bits)), bytes.subarray(at)]);
      if (what === 2 && random() < 0.3) bytes = bytes.subarray(0, at);
      if (what === 3) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + below(random, 10))]);
    }
    const parts: Buffer[] = [];
    for (let at = 0; at < bytes.length; ) parts.push(bytes.subarray(at, (at += random() < 0.2 ? 1 : 1 + below(random, 200))));
    const { statuses, text } = await exchange(parts, { slices: random() < 0.3, patienceMs: random() < 0.7 ? 40 : 0 });
    assert.ok(statuses.every((status) => status < 500), text.slice(0, 500));
    return statuses.length === 0 ? "closed" : statuses.some((status) => status >= 400) ? "refused" : "answered";
  });
  for (let i = 0; engine.stats.numRunning > 0 || server.numRunning > 0; i++) {
    assert.ok(i < 200, `${engine.stats.numRunning} run, ${server.numRunning} are open`);
    await sleep(10);
  }
  const load = (await (await fetch(`${server.url}/load`)).json()) as { readonly server_load: number };
  assert.equal(load.server_load, 0);
});
