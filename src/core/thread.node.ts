/** Threads as Node has them, and processes in their place: what ends a process, such as a driver, ends nothing else. */
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { deserialize, serialize } from "node:v8";
import { parentPort, Worker, workerData } from "node:worker_threads";
import { invariant } from "./errors.ts";
import type { Parent, Thread } from "./thread.ts";

/** A thread or process inherits this one's flags, and refuses to start on this one (node --input-type=module -e "..."). */
const execArgv = (): { readonly execArgv?: string[] } => (process.execArgv.some((flag) => flag.startsWith("--input-type")) ? { execArgv: [] } : {});

const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Starts the module at `url` in a thread of its own, where `parent().data` is `data`. */
export function spawn(url: URL, data: unknown): Thread {
  const worker = new Worker(url, { workerData: data, ...execArgv() });
  let failure: string | undefined, ended: string | undefined;
  worker.on("error", (error: unknown) => (failure = reasonOf(error)));
  worker.once("exit", (code) => (ended = failure ?? `exit code ${code}`));
  return {
    post: (message, transfer) => worker.postMessage(message, [...(transfer ?? [])]),
    onMessage: (handler) => void worker.on("message", handler),
    onExit: (handler) => void (ended === undefined ? worker.once("exit", () => handler(ended!)) : queueMicrotask(() => handler(ended!))),
    unref: () => worker.unref(),
    ref: () => worker.ref(),
    terminate: async () => void (await worker.terminate()),
  };
}

/** The variable in which a process finds its data, and by which it knows that it is one. */
const dataVariable = "TESSERA_PROCESS_DATA";

/** What a process sends: a message of its module, or why it ends. */
type FromProcess = { readonly message: unknown } | { readonly failure: string };

/**
 * Starts the module at `url` in a process of its own, where `parent().data` is `data`: little, as it goes through the environment. What is posted is
 * copied: no ArrayBuffer is transferred, none shared. The process ends when this one does, however that happens.
 */
export function spawnProcess(url: URL, data: unknown): Thread {
  const env = { ...process.env, [dataVariable]: serialize(data).toString("base64") };
  const child = fork(fileURLToPath(url), [], { serialization: "advanced", stdio: ["ignore", "inherit", "inherit", "ipc"], env, ...execArgv() });
  let failure: string | undefined, ended: string | undefined;
  const handlers: ((message: unknown) => void)[] = [], early: unknown[] = [], exits: ((reason: string) => void)[] = [];
  const end = (reason: string): void => {
    if (ended !== undefined) return;
    ended = reason;
    for (const exit of exits) exit(reason);
  };
  child.on("message", (sent: unknown) => {
    const from = sent as FromProcess;
    if ("failure" in from) failure = from.failure;
    else if (handlers.length === 0) early.push(from.message);
    else for (const handler of handlers) handler(from.message);
  });
  // One that could not be started has no exit.
  child.on("error", (error) => {
    failure ??= error.message;
    if (child.pid === undefined) end(failure);
  });
  child.once("exit", (code, signal) => end(failure ?? (signal ? `ended by ${signal}` : `exit code ${code}`)));
  return {
    // A process that is gone hears nothing, and its exit is told.
    post: (message) => void (child.connected && child.send(message as object, () => {})),
    onMessage: (handler) => {
      handlers.push(handler);
      for (const message of early.splice(0)) handler(message);
    },
    onExit: (handler) => void (ended === undefined ? exits.push(handler) : queueMicrotask(() => handler(ended!))),
    unref: () => {
      child.unref();
      child.channel?.unref();
    },
    ref: () => {
      child.ref();
      child.channel?.ref();
    },
    terminate: () => new Promise((resolve) => {
      if (ended !== undefined) return resolve();
      exits.push(() => resolve());
      child.kill("SIGKILL");
    }),
  };
}

export function parent(): Parent {
  return parentPort ? threadParent(parentPort) : processParent();
}

function threadParent(port: NonNullable<typeof parentPort>): Parent {
  return {
    data: workerData,
    post: (message, transfer) => port.postMessage(message, [...(transfer ?? [])]),
    onMessage: (handler) => void port.on("message", handler),
  };
}

function processParent(): Parent {
  const data = process.env[dataVariable];
  invariant(data !== undefined && process.send, "neither a thread nor a process that somebody spawned");
  delete process.env[dataVariable];
  const send = (sent: FromProcess, then: () => void = () => {}): void => void (process.connected ? process.send!(sent, then) : then());
  process.once("disconnect", () => process.exit());
  // Who stops the parent by these stops this process by way of it: requests may be left to finish.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});
  process.on("uncaughtException", (error) => send({ failure: reasonOf(error) }, () => process.exit(1)));
  return {
    data: deserialize(Buffer.from(data, "base64")) as unknown,
    post: (message) => send({ message }),
    onMessage: (handler) => void process.on("message", handler),
  };
}
