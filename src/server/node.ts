/**
 * The app on a port: the only file that knows node:http. Listens, bounds how long a client may take to send its request, and
 * stops in order: no new connections, what runs may finish until the deadline, then it is ended.
 */
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { getRequestListener } from "@hono/node-server";
import { UsageError } from "../core/errors.ts";
import { createApp, type AppOptions } from "./app.ts";
import type { LLM } from "../llm.ts";

export interface ServeOptions extends Omit<AppOptions, "shutdown"> {
  /** Default 127.0.0.1: this machine only. */
  readonly host?: string;
  /** Default 8000; 0 takes any free port. */
  readonly port?: number;
}

export interface Serving {
  readonly url: string;
  readonly port: number;
  /** Stops: requests under way may finish for `drainSeconds` (default 0), then they end with an error. The LLM stays open. */
  close(drainSeconds?: number): Promise<void>;
}

const reasons: Readonly<Record<string, string>> = {
  EADDRINUSE: "is in use already; stop what listens there or choose another with --port",
  EACCES: "needs rights that this process does not have; choose one above 1023 with --port",
  EADDRNOTAVAIL: "is not an address of this machine; choose another with --host",
  ENOTFOUND: "is not a known host; choose another with --host",
};

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      const reason = reasons[error.code ?? ""];
      reject(reason ? new UsageError(`${host}:${port} ${reason}`) : error);
    });
    server.listen(port, host, resolve);
  });
}

/** Serves `llm`. Throws UsageError when the address cannot be had. */
export async function serve(llm: LLM, { host = "127.0.0.1", port = 8000, ...options }: ServeOptions = {}): Promise<Serving> {
  const shutdown = new AbortController();
  const app = createApp(llm, { ...options, shutdown: shutdown.signal });
  const listener = getRequestListener(app, { overrideGlobalObjects: false });
  const patience = { headersTimeout: 10_000, requestTimeout: 60_000, connectionsCheckingInterval: 5_000 };
  const server = createServer(patience, (incoming, outgoing) => void listener(incoming, outgoing));
  await listen(server, host, port);
  const address = server.address() as AddressInfo;
  const shown = address.family === "IPv6" ? `[${address.address}]` : address.address;
  return {
    url: `http://${shown}:${address.port}`,
    port: address.port,
    async close(drainSeconds = 0) {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      // A kept-alive connection becomes idle when its last answer is out; only then may it be closed.
      const sweep = setInterval(() => server.closeIdleConnections(), 50);
      const abort = setTimeout(() => shutdown.abort(), drainSeconds * 1000);
      const force = setTimeout(() => server.closeAllConnections(), drainSeconds * 1000 + 1000);
      await closed;
      clearInterval(sweep);
      clearTimeout(abort);
      clearTimeout(force);
      shutdown.abort();
    },
  };
}
