/**
 * `tessera serve`: takes the address, loads a model, says what is running, and stops in order.
 *
 * The first SIGINT or SIGTERM lets running requests finish for --shutdown-timeout seconds; the second stops at once.
 */
import { pino } from "pino";
import type { Logger } from "../core/log.ts";
import { version } from "../core/version.ts";
import type { EngineEvent } from "../engine/start.ts";
import { LLM } from "../llm.ts";
import { bind, type Serving } from "../server/node.ts";
import { curlLine, describe } from "./describe.ts";
import { engineOptions, type EngineFlags } from "./options.ts";
import { createProgress } from "./progress.ts";
import { isRepeat, type Heard } from "./signals.ts";
import { statsLine } from "./stats-line.ts";

export interface ServeFlags extends EngineFlags {
  readonly host: string;
  readonly port: number;
  readonly apiKey?: readonly string[];
  readonly servedModelName?: readonly string[];
  readonly shutdownTimeout: number;
  readonly maxNumQueuedReqs: number;
  readonly maxNumQueuedTokens: number;
  readonly enableLogRequests?: true;
  readonly disableLogStats?: true;
}

const seconds = () => performance.now() / 1000;
const statsEverySeconds = 10;
const exitCodes = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;

/** Plain lines on a terminal, pino's JSON elsewhere; both to stderr. */
function createLog(): Logger {
  if (!process.stderr.isTTY) return pino({ base: null }, pino.destination({ dest: 2, sync: true }));
  const line = (level: string) => (message: string) => void process.stderr.write(`${new Date().toTimeString().slice(0, 8)} ${level} ${message}\n`);
  return { info: line("info "), warn: line("warn "), error: line("error") };
}

/** A line of throughput every ten seconds while there is any. Returns what stops it. */
function logStats(llm: LLM, log: Logger): () => void {
  let before = llm.stats;
  const timer = setInterval(() => {
    const now = llm.stats;
    const line = statsLine(before, now, statsEverySeconds);
    if (line !== undefined) log.info(line);
    before = now;
  }, statsEverySeconds * 1000);
  return () => clearInterval(timer);
}

const requests = (count: number): string => `${count === 0 ? "no" : count} request${count === 1 ? "" : "s"}`;

/** What becomes of the engine, as lines for the operator. */
function logEngine(log: Logger): (event: EngineEvent) => void {
  return (event) => {
    switch (event.kind) {
      case "died":
        if (event.refused) log.error("a request that every engine dies over is refused");
        return log.error(`${event.reason}; another is being started${event.numInFlight === 0 ? "" : `, and ${requests(event.numInFlight)} in flight will go on with it`}`);
      case "restarted":
        return log.info(`the engine is there again after ${event.seconds.toFixed(1)} s, with ${requests(event.numInFlight)} in flight`);
      case "ended":
        return log.error(`${event.reason}; no other is started: /health answers 503 and requests are refused; start the server again`);
    }
  };
}

/** Resolves when somebody wants the server to stop; a further signal ends the process at once, with the code that a shell gives for it. */
function stopSignal(): Promise<string> {
  return new Promise((resolve) => {
    let first: Heard | undefined;
    const onSignal = (signal: keyof typeof exitCodes) => {
      const heard = { signal, at: seconds() };
      if (first !== undefined && !isRepeat(first, heard)) process.exit(exitCodes[signal]);
      first ??= heard;
      resolve(signal);
    };
    for (const signal of Object.keys(exitCodes) as (keyof typeof exitCodes)[]) process.on(signal, onSignal);
  });
}

interface Banner {
  readonly name: string;
  /** Whether the shell has the key in TESSERA_API_KEY already; undefined: no key is needed. */
  readonly keyInShell: boolean | undefined;
  readonly attention: string | undefined;
}

function announce(llm: LLM, server: Serving, { name, keyInShell, attention }: Banner): void {
  const url = server.url.replace(/\/\/(0\.0\.0\.0|\[::\])/, "//127.0.0.1");
  console.log([
    `Tessera ${version} serves ${name}`,
    ...describe(llm.info).map((line) => `  ${line}`),
    ...(llm.seed === undefined ? [] : [`  seed     ${llm.seed}, of requests that bring none`]),
    ...(attention === undefined ? [] : [`  mods     ${attention} (tessera inspect shows them)`]),
    "", `  ${server.url}  (OpenAI's API under /v1; GET / lists the routes)`,
    "", ...(keyInShell === false ? ["  With your key in the shell's variable (TESSERA_API_KEY=...):"] : []), `  ${curlLine(url, llm, keyInShell !== undefined)}`, "",
  ].join("\n"));
}

/** The keys requests may bring: --api-key's, or the one in the environment; and whether TESSERA_API_KEY is among them. */
function findKeys(flags: ServeFlags, env: Readonly<Record<string, string | undefined>>): Pick<Banner, "keyInShell"> & { readonly apiKeys: readonly string[] } {
  const own = env["TESSERA_API_KEY"];
  const apiKeys = flags.apiKey ?? [own || env["VLLM_API_KEY"] || ""].filter(Boolean);
  return { apiKeys, keyInShell: apiKeys.length === 0 ? undefined : own !== undefined && apiKeys.includes(own) };
}

export async function runServe(model: string | undefined, flags: ServeFlags): Promise<void> {
  const stopped = stopSignal();
  const log = createLog();
  const options = await engineOptions(flags);
  const { apiKeys, keyInShell } = findKeys(flags, process.env);
  // Before the model: that the address is taken must not be found out after minutes of loading.
  const bound = await bind(flags);
  const progress = createProgress(process.stderr, seconds);
  const loading = LLM.load(model, { ...options, onProgress: progress.report, onEngineEvent: logEngine(log) }).finally(progress.finish);
  const llm = await Promise.race([loading, stopped]);
  if (typeof llm === "string") {
    log.info(`${llm}: stopping before the model is loaded`);
    bound.close();
    return;
  }
  try {
    const server = bound.serve(llm, {
      apiKeys, log, maxNumQueuedReqs: flags.maxNumQueuedReqs, maxNumQueuedTokens: flags.maxNumQueuedTokens, logRequests: flags.enableLogRequests ?? false, ...(flags.servedModelName && { servedModelNames: flags.servedModelName }),
    });
    announce(llm, server, { name: flags.servedModelName?.[0] ?? llm.name, keyInShell, attention: flags.attention });
    const stopStats = flags.disableLogStats ? () => {} : logStats(llm, log);
    const signal = await stopped;
    stopStats();
    const running = server.numRunning;
    log.info(running === 0 ? `${signal}: stopping`
      : `${signal}: ${running === 1 ? "the running request" : `${running} running requests`} may finish within ${flags.shutdownTimeout} s; send it again to stop at once`);
    await server.close(flags.shutdownTimeout);
  } finally {
    await llm.close();
  }
}
