/**
 * The app on a port: the only file that knows node:http. Listens (before there is a model, where wanted: requests are then answered
 * 503), bounds what a client may send before anybody has read it and how long it may take to send or to read (limits.ts), and stops in order: no new
 * connections, what runs may finish until the deadline, then it is ended.
 */
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { getRequestListener } from "@hono/node-server";
import { UsageError } from "../core/errors.ts";
import type { LLM } from "../llm.ts";
import { createApp, type App, type AppOptions } from "./app.ts";
import { errorResponse, HttpError } from "./errors.ts";
import { limits } from "./limits.ts";

export interface Address {
  /** Default 127.0.0.1: this machine only. */
  readonly host?: string;
  /** Default 8000; 0 takes any free port. */
  readonly port?: number;
}

export type ServingOptions = Omit<AppOptions, "draining" | "shutdown">;

export interface ServeOptions extends Address, ServingOptions {}

/** An address that is taken, while what will answer there is still being loaded: requests get 503. */
export interface Bound {
  readonly url: string;
  readonly port: number;
  /** Serves `llm` there from now on. */
  serve(llm: LLM, options?: ServingOptions): Serving;
  /** Gives the address back, where nothing is served. */
  close(): void;
}

export interface Serving {
  readonly url: string;
  readonly port: number;
  /** Requests that are not yet answered to the end. */
  readonly numRunning: number;
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

const loading: App = async () => errorResponse(new HttpError(503, "the model is still being loaded; try again soon", null, { "retry-after": "1" }));

/** Takes an address. Throws UsageError when it cannot be had. */
export async function bind({ host = "127.0.0.1", port = 8000 }: Address = {}): Promise<Bound> {
  let app = loading, stallMs = 1000 * limits.stallSeconds;
  let numRunning = 0;
  const listener = getRequestListener((request) => app(request), { overrideGlobalObjects: false });
  const bounds = { maxHeaderSize: limits.headerBytes, headersTimeout: limits.headersMs, requestTimeout: limits.requestMs, keepAliveTimeout: limits.idleMs, connectionsCheckingInterval: limits.lookMs };
  const server = createServer(bounds, (incoming, outgoing) => {
    numRunning++;
    outgoing.once("close", () => numRunning--);
    // An answer that is made whole waits in the socket for whoever does not read it. A stream in the making is sse.ts's.
    outgoing.once("prefinish", () => outgoing.setTimeout(stallMs, () => outgoing.destroy()));
    void listener(incoming, outgoing);
  });
  server.maxConnections = limits.connections;
  await listen(server, host, port);
  const address = server.address() as AddressInfo;
  const shown = address.family === "IPv6" ? `[${address.address}]` : address.address;
  const place = { url: `http://${shown}:${address.port}`, port: address.port };
  return {
    ...place,
    serve(llm, options = {}) {
      const draining = new AbortController();
      const shutdown = new AbortController();
      const { stallSeconds = limits.stallSeconds } = options;
      stallMs = 1000 * stallSeconds;
      app = createApp(llm, { ...options, draining: draining.signal, shutdown: shutdown.signal });
      return {
        ...place,
        get numRunning() {
          return numRunning;
        },
        close(drainSeconds = 0) {
          draining.abort();
          return drain(server, shutdown, drainSeconds);
        },
      };
    },
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}

async function drain(server: Server, shutdown: AbortController, drainSeconds: number): Promise<void> {
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
}

/** Serves `llm`. Throws UsageError when the address cannot be had. */
export async function serve(llm: LLM, { host, port, ...options }: ServeOptions = {}): Promise<Serving> {
  const bound = await bind({ ...(host !== undefined && { host }), ...(port !== undefined && { port }) });
  return bound.serve(llm, options);
}
