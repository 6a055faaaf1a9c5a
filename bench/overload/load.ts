/**
 * Load in open loop: requests are sent at their times, whether others were answered or not, and every one of them is in the ledger with what became of it.
 */
import { type ChildProcess, fork } from "node:child_process";
import { Agent, request as httpRequest } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { stream } from "../../src/core/random.ts";
import type { FromServer, ServerOptions } from "./server.ts";

/** A line of the ledger. Times in milliseconds. */
export interface Entry {
  readonly id: number;
  readonly sentAt: number;
  /** "done": every token, in order, to the end; "refused": 429 with Retry-After; anything else is what it looked like. */
  outcome: string | undefined;
  endedAt: number;
}

export interface PacedServer {
  readonly port: number;
  /** Bytes that the process has, and that its heap holds in use. It stands still for a moment to find out. */
  memory(): Promise<{ readonly residentBytes: number; readonly heapBytes: number }>;
  close(): void;
}

export async function startServer(options: ServerOptions): Promise<PacedServer> {
  const child: ChildProcess = fork(fileURLToPath(new URL("server.ts", import.meta.url)), [JSON.stringify(options)], { execArgv: ["--expose-gc"] });
  let told: (memory: Awaited<ReturnType<PacedServer["memory"]>>) => void = () => {};
  const port = await new Promise<number>((resolve, reject) => {
    child.on("exit", (code) => reject(new Error(`the server ended with ${code}`)));
    child.on("message", (message) => {
      const from = message as FromServer;
      if ("port" in from) return resolve(from.port);
      told(from);
    });
  });
  const memory: PacedServer["memory"] = () => new Promise((resolve) => {
    told = resolve;
    child.send("memory");
  });
  return { port, memory, close: () => void child.kill("SIGKILL") };
}

export interface Client {
  readonly ledger: readonly Entry[];
  /** Sends one request; resolves when it is over, whatever became of it. */
  send(): Promise<Entry>;
  close(): void;
}

/** Streams of `tokens` tokens each. */
export function createClient(port: number, tokens: number): Client {
  const ledger: Entry[] = [];
  const agent = new Agent({ keepAlive: true, timeout: 2000 });
  const send = (): Promise<Entry> => new Promise((resolve) => {
    const entry: Entry = { id: ledger.length, sentAt: performance.now(), outcome: undefined, endedAt: 0 };
    ledger.push(entry);
    const end = (outcome: string): void => {
      if (entry.outcome !== undefined) return;
      entry.outcome = outcome;
      entry.endedAt = performance.now();
      resolve(entry);
    };
    const body = JSON.stringify({ prompt: [entry.id % 64, (entry.id >> 6) % 64, (entry.id >> 12) % 64, 1], max_tokens: tokens, temperature: 0, stream: true });
    const headers = { "content-type": "application/json", "content-length": body.length };
    const request = httpRequest({ port, host: "127.0.0.1", method: "POST", path: "/v1/completions", agent, headers }, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (more: string) => (text += more));
      response.on("end", () => {
        if (response.statusCode === 429) return end(Number(response.headers["retry-after"]) >= 1 ? "refused" : "refused without Retry-After");
        const frames = text.split("\n\n").filter((frame) => frame.includes('"choices"'));
        const isWhole = response.statusCode === 200 && frames.length === tokens && frames.at(-1)!.includes('"finish_reason":"length"') && text.endsWith("data: [DONE]\n\n");
        end(isWhole ? "done" : `HTTP ${response.statusCode}, ${frames.length} frames`);
      });
      response.on("error", (error) => end(error.message));
    });
    request.on("error", (error: NodeJS.ErrnoException) => end(error.code ?? error.message));
    request.end(body);
  });
  return { ledger, send, close: () => agent.destroy() };
}

/** Requests answered per second by a server that always has `concurrency` of them: its peak. */
export async function closedLoop(client: Client, concurrency: number, seconds: number): Promise<number> {
  const from = performance.now(), until = from + 1000 * seconds;
  await Promise.all(Array.from({ length: concurrency }, async () => {
    while (performance.now() < until) await client.send();
  }));
  return perSecond(client.ledger, from + 200 * seconds, until);
}

/** Sends `rate` requests a second, at times of chance, for so long, and waits for all of them to be over. */
export async function openLoop(client: Client, rate: number, seconds: number, seed = 1): Promise<readonly Entry[]> {
  const random = stream(seed);
  const from = performance.now(), sent: Promise<Entry>[] = [];
  for (let at = from; at < from + 1000 * seconds; at += (-1000 * Math.log(1 - random())) / rate) {
    const wait = at - performance.now();
    if (wait > 1) await sleep(wait);
    sent.push(client.send());
  }
  return Promise.all(sent);
}

/** Requests done per second between two times. */
export function perSecond(entries: readonly Entry[], from: number, until: number): number {
  return entries.filter(({ outcome, endedAt }) => outcome === "done" && endedAt >= from && endedAt < until).length / ((until - from) / 1000);
}

/** How many ended how. */
export function outcomes(entries: readonly Entry[]): Readonly<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const { outcome = "lost" } of entries) counts[outcome] = (counts[outcome] ?? 0) + 1;
  return counts;
}

/** The `p`th percentile of how long those that ended by `outcome` took, in milliseconds. */
export function percentile(entries: readonly Entry[], outcome: string, p: number): number {
  const sorted = entries.filter((entry) => entry.outcome === outcome).map(({ sentAt, endedAt }) => endedAt - sentAt).sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil((p / 100) * sorted.length) - 1)] ?? NaN;
}
