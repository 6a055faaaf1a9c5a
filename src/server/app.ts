/**
 * The server as one function, Request to Response: which route answers what, who may ask, and how errors leave.
 *
 * It runs wherever Fetch's types exist; sockets, ports and signals of a process are somebody else's (node.ts).
 */
import { Hono } from "hono";
import { UsageError } from "../core/errors.ts";
import { silent, type Logger } from "../core/log.ts";
import { version } from "../core/version.ts";
import { GenerationFailed } from "../llm/generation.ts";
import type { Raw } from "../llm/fields.ts";
import type { LLM } from "../llm.ts";
import { keyCheck } from "./auth.ts";
import { readJson } from "./body.ts";
import { chatCompletion } from "./chat.ts";
import { completion } from "./completions.ts";
import { errorResponse, HttpError, toHttpError } from "./errors.ts";
import type { Context } from "./context.ts";
import { Gate, type GateOptions } from "./gate.ts";
import { limits } from "./limits.ts";
import { createMetrics } from "./metrics.ts";
import { listModels, showModel } from "./models.ts";
import { detokenize, tokenize } from "./tokens.ts";

export interface AppOptions extends GateOptions {
  /** Names a request's `model` may have; the first is the one answers carry. Default: the LLM's own name. */
  readonly servedModelNames?: readonly string[];
  /** Keys of which every request needs one, /health excepted. Default: none is needed. */
  readonly apiKeys?: readonly string[];
  readonly log?: Logger;
  /** Log lines for each request: method, path, status, seconds, and at its end its tokens and times; never what was asked or answered. Default false. */
  readonly logRequests?: boolean;
  /** A streaming client that reads nothing for so long, or is so far behind, is cut off. Default 30. */
  readonly stallSeconds?: number;
  /** Seconds since 1970, never running backwards. */
  readonly now?: () => number;
  readonly newId?: () => string;
}

export type App = (request: Request) => Promise<Response>;

const routes = {
  "POST /v1/chat/completions": "chat, OpenAI's format",
  "POST /v1/completions": "completion of text or token ids, OpenAI's format",
  "GET /v1/models": "what is served",
  "POST /tokenize": "text or messages to token ids",
  "POST /detokenize": "token ids to text",
  "GET /health": "200 while the engine lives",
  "GET /ready": "200 while a request would be let in",
  "GET /load": "how many requests are in flight",
  "GET /metrics": "Prometheus metrics, vLLM's names",
  "GET /version": "this server's version",
} as const;

/** Labels of metrics: a closed list, as a client can write any path and method. */
const handlers: ReadonlySet<string> = new Set(["/", ...Object.keys(routes).map((route) => route.split(" ")[1]!)]);
const methods: ReadonlySet<string> = new Set(["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"]);

/** The server over `llm`. */
export function createApp(llm: LLM, options: AppOptions = {}): App {
  const { log = silent, logRequests = false, apiKeys = [], stallSeconds = limits.stallSeconds } = options;
  const now = options.now ?? (() => (performance.timeOrigin + performance.now()) / 1000);
  const modelNames = options.servedModelNames?.length ? options.servedModelNames : [llm.name];
  const startedAt = Math.floor(now());
  const gate = new Gate(llm, now, options);
  const context: Context = {
    llm, gate, modelNames, now, stallSeconds,
    metrics: createMetrics(modelNames[0]!, llm, gate, now),
    logRequest: logRequests ? (line) => log.info(line) : undefined,
    newId: options.newId ?? (() => crypto.randomUUID().replaceAll("-", "")),
  };
  const report = (error: unknown): void => {
    if (toHttpError(error).status !== 500) return;
    // Where in our code an error of theirs was found helps nobody: a mod that left its table, a model that gave no number.
    const theirs = error instanceof UsageError || error instanceof GenerationFailed;
    log.error(error instanceof Error ? (theirs ? error.message : error.stack ?? error.message) : String(error));
  };

  const app = new Hono<{ Variables: { tenant?: string } }>({ strict: false });
  app.onError((error) => {
    report(error);
    return errorResponse(toHttpError(error));
  });
  app.notFound(({ req }) => errorResponse(new HttpError(404, `there is no route ${req.method} ${req.path}; GET / lists them`)));

  // The route that answers is the route that was checked: whatever comes to stand behind this line needs the key.
  app.get("/health", () => new Response(null, { status: llm.alive ? 200 : 503 }));
  if (apiKeys.length > 0) {
    const check = keyCheck(apiKeys);
    app.use(async (c, next) => {
      c.set("tenant", await check(c.req.raw.headers.get("authorization")));
      await next();
    });
  }

  const bodyOf = (request: Request): Promise<Raw> => {
    const declared = Number(request.headers.get("content-length") ?? NaN);
    return gate.reading(declared >= 0 && declared < limits.bodyBytes ? declared : limits.bodyBytes, () => readJson(request, limits.bodyBytes));
  };
  app.post("/v1/chat/completions", async ({ req, var: { tenant } }) => chatCompletion({ ...context, ...(tenant !== undefined && { tenant }) }, req.raw, await bodyOf(req.raw), report));
  app.post("/v1/completions", async ({ req, var: { tenant } }) => completion({ ...context, ...(tenant !== undefined && { tenant }) }, req.raw, await bodyOf(req.raw), report));
  app.post("/tokenize", async ({ req }) => tokenize(context, req.raw, await bodyOf(req.raw)));
  app.post("/detokenize", async ({ req }) => detokenize(context, req.raw, await bodyOf(req.raw)));
  app.get("/v1/models", () => listModels(context, startedAt));
  app.get("/v1/models/:name{.+}", ({ req }) => showModel(context, req.param("name"), startedAt));
  app.get("/ready", () => {
    const [, refused] = gate.refusal() ?? [];
    // For whoever routes, full and stopping are the same: send it elsewhere.
    return refused ? errorResponse(new HttpError(503, refused.message, null, refused.headers)) : new Response(null, { status: 200 });
  });
  app.get("/load", () => Response.json({ server_load: gate.inFlight }));
  app.get("/metrics", async () => new Response(await context.metrics.text(), { headers: { "content-type": context.metrics.contentType } }));
  app.get("/version", () => Response.json({ version }));
  app.get("/", () => Response.json({ name: "tessera", version, model: modelNames[0], routes }));
  for (const route of Object.keys(routes)) {
    const [allow, path] = route.split(" ") as [string, string];
    app.all(path, ({ req }) => errorResponse(new HttpError(405, `${path} answers ${allow}, not ${req.method}`, null, { allow })));
  }

  return async (request) => {
    const begun = now();
    const response = await app.fetch(request);
    const { pathname } = new URL(request.url);
    context.metrics.answered(handlers.has(pathname) ? pathname : "none", methods.has(request.method) ? request.method : "other", response.status);
    if (logRequests) log.info(`${request.method} ${pathname} ${response.status} ${(now() - begun).toFixed(3)} s`);
    return response;
  };
}
