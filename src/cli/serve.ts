/**
 * `tessera serve`: loads a model, listens, says what is running, and stops in order.
 *
 * The first SIGINT or SIGTERM lets running requests finish for --shutdown-timeout seconds; the second stops at once.
 */
import { pino } from "pino";
import type { Logger } from "../core/log.ts";
import { version } from "../core/version.ts";
import type { Stats } from "../engine/messages.ts";
import { LLM } from "../llm.ts";
import { serve, type Serving } from "../server/node.ts";
import { curlLine, describe } from "./describe.ts";
import { engineOptions, type EngineFlags } from "./options.ts";
import { createProgress } from "./progress.ts";

export interface ServeFlags extends EngineFlags {
  readonly host: string;
  readonly port: number;
  readonly apiKey?: readonly string[];
  readonly servedModelName?: readonly string[];
  readonly shutdownTimeout: number;
  readonly enableLogRequests?: true;
  readonly disableLogStats?: true;
}

const seconds = () => performance.now() / 1000;
const statsEverySeconds = 10;
/** A terminal's Ctrl-C reaches this process and its launcher, which passes it on: that is one signal, not two. */
const sameSignalSeconds = 0.5;

/** Plain lines on a terminal, pino's JSON elsewhere; both to stderr. */
function createLog(): Logger {
  if (!process.stderr.isTTY) return pino({ base: null }, pino.destination({ dest: 2, sync: true }));
  const line = (level: string) => (message: string) => void process.stderr.write(`${new Date().toTimeString().slice(0, 8)} ${level} ${message}\n`);
  return { info: line("info "), warn: line("warn "), error: line("error") };
}

/** vLLM's line of throughput, from two readings `elapsed` seconds apart. */
function statsLine(before: Stats, now: Stats, elapsed: number): string {
  const rate = (count: number) => (count / elapsed).toFixed(1);
  const used = 100 * (1 - now.numFreePages / now.numPages);
  return `Avg prompt throughput: ${rate(now.promptTokens - before.promptTokens)} tokens/s, ` +
    `Avg generation throughput: ${rate(now.generationTokens - before.generationTokens)} tokens/s, ` +
    `Running: ${now.numRunning} reqs, Waiting: ${now.numWaiting} reqs, KV cache usage: ${used.toFixed(1)}%`;
}

/** Watches the engine: a line of throughput while there is any, and one when it dies. Returns what stops the watching. */
function watch(llm: LLM, log: Logger, quiet: boolean): () => void {
  let before = llm.stats;
  let told = false;
  const timer = setInterval(() => {
    const now = llm.stats;
    if (!quiet && (now.numSteps !== before.numSteps || now.numRunning > 0)) log.info(statsLine(before, now, statsEverySeconds));
    before = now;
    if (!llm.alive && !told) log.error("the engine has stopped: /health answers 503 and requests are refused; start the server again");
    told = !llm.alive;
  }, statsEverySeconds * 1000);
  return () => clearInterval(timer);
}

/** Resolves when somebody wants the server to stop; further signals end the process at once. */
function stopSignal(): Promise<string> {
  return new Promise((resolve) => {
    let firstAt: number | undefined;
    const onSignal = (signal: string) => {
      if (firstAt !== undefined && seconds() - firstAt > sameSignalSeconds) process.exit(130);
      firstAt ??= seconds();
      resolve(signal);
    };
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, onSignal);
  });
}

function announce(llm: LLM, server: Serving, keyed: boolean, attention: string | undefined): void {
  const url = server.url.replace(/\/\/(0\.0\.0\.0|\[::\])/, "//127.0.0.1");
  console.log([
    `Tessera ${version} serves ${llm.name}`,
    ...describe(llm.info).map((line) => `  ${line}`),
    ...(attention === undefined ? [] : [`  mods     ${attention} (tessera inspect shows them)`]),
    "", `  ${server.url}  (OpenAI's API under /v1; GET / lists the routes)`,
    "", `  ${curlLine(url, llm, keyed)}`, "",
  ].join("\n"));
}

export async function runServe(model: string | undefined, flags: ServeFlags): Promise<void> {
  const stopped = stopSignal();
  const log = createLog();
  const progress = createProgress(process.stderr, seconds);
  const llm = await LLM.load(model, { ...(await engineOptions(flags)), onProgress: progress.report }).finally(progress.finish);
  try {
    const apiKeys = flags.apiKey ?? [process.env["TESSERA_API_KEY"] ?? process.env["VLLM_API_KEY"] ?? ""].filter(Boolean);
    const server = await serve(llm, {
      host: flags.host, port: flags.port, apiKeys, log, logRequests: flags.enableLogRequests ?? false,
      ...(flags.servedModelName && { servedModelNames: flags.servedModelName }),
    });
    announce(llm, server, apiKeys.length > 0, flags.attention);
    const unwatch = watch(llm, log, flags.disableLogStats ?? false);
    const signal = await stopped;
    unwatch();
    log.info(`${signal}: running requests may finish within ${flags.shutdownTimeout} s; send it again to stop at once`);
    await server.close(flags.shutdownTimeout);
  } finally {
    await llm.close();
  }
}
