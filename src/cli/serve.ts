/**
 * `tessera serve`: takes the address, loads a model, says what is running, and stops in order.
 *
 * The first SIGINT or SIGTERM lets running requests finish for --shutdown-timeout seconds; the second stops at once.
 */
import { pino } from "pino";
import type { Logger } from "../core/log.ts";
import { version } from "../core/version.ts";
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
  readonly enableLogRequests?: true;
  readonly disableLogStats?: true;
}

const seconds = () => performance.now() / 1000;
const statsEverySeconds = 10;

/** Plain lines on a terminal, pino's JSON elsewhere; both to stderr. */
function createLog(): Logger {
  if (!process.stderr.isTTY) return pino({ base: null }, pino.destination({ dest: 2, sync: true }));
  const line = (level: string) => (message: string) => void process.stderr.write(`${new Date().toTimeString().slice(0, 8)} ${level} ${message}\n`);
  return { info: line("info "), warn: line("warn "), error: line("error") };
}

/** Watches the engine: a line of throughput while there is any, and one when it dies. Returns what stops the watching. */
function watch(llm: LLM, log: Logger, quiet: boolean): () => void {
  let before = llm.stats;
  let told = false;
  const timer = setInterval(() => {
    const now = llm.stats;
    const line = quiet ? undefined : statsLine(before, now, statsEverySeconds);
    if (line !== undefined) log.info(line);
    before = now;
    if (!llm.alive && !told) log.error("the engine has stopped: /health answers 503 and requests are refused; start the server again");
    told = !llm.alive;
  }, statsEverySeconds * 1000);
  return () => clearInterval(timer);
}

/** Resolves when somebody wants the server to stop; further signals end the process at once. */
function stopSignal(): Promise<string> {
  return new Promise((resolve) => {
    let first: Heard | undefined;
    const onSignal = (signal: string) => {
      const heard = { signal, at: seconds() };
      if (first !== undefined && !isRepeat(first, heard)) process.exit(130);
      first ??= heard;
      resolve(signal);
    };
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, onSignal);
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
  const loading = LLM.load(model, { ...options, onProgress: progress.report }).finally(progress.finish);
  const llm = await Promise.race([loading, stopped]);
  if (typeof llm === "string") {
    log.info(`${llm}: stopping before the model is loaded`);
    bound.close();
    return;
  }
  try {
    const server = bound.serve(llm, {
      apiKeys, log, logRequests: flags.enableLogRequests ?? false, ...(flags.servedModelName && { servedModelNames: flags.servedModelName }),
    });
    announce(llm, server, { name: flags.servedModelName?.[0] ?? llm.name, keyInShell, attention: flags.attention });
    const unwatch = watch(llm, log, flags.disableLogStats ?? false);
    const signal = await stopped;
    unwatch();
    const running = server.numRunning;
    log.info(running === 0 ? `${signal}: stopping`
      : `${signal}: ${running === 1 ? "the running request" : `${running} running requests`} may finish within ${flags.shutdownTimeout} s; send it again to stop at once`);
    await server.close(flags.shutdownTimeout);
  } finally {
    await llm.close();
  }
}
