/**
 * One streamed completion against any OpenAI-compatible server, with the time of every chunk. It does as little as can be done per
 * chunk, so that a benchmark measures the server and not its client: plain sockets, kept open, and one look at each line.
 */
import { Agent as HttpAgent, request as httpRequest } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import { StringDecoder } from "node:string_decoder";
import type { Sample } from "./dataset.ts";

export interface Target {
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  /** Further fields of every request: model, temperature, ignore_eos. */
  readonly fields: Readonly<Record<string, unknown>>;
}

/** How one request went. Times in seconds of the caller's clock. */
export interface Outcome {
  /** Why it failed; undefined: it did not. */
  readonly error: string | undefined;
  readonly promptTokens: number;
  /** As the server counts them; where it does not, the number of chunks. */
  readonly outputTokens: number;
  readonly startedAt: number;
  /** When each chunk with a choice came. */
  readonly chunksAt: readonly number[];
  readonly endedAt: number;
}

interface Chunk {
  readonly choices?: readonly unknown[];
  readonly usage?: { readonly completion_tokens?: number } | null;
  readonly error?: unknown;
}

export interface Client {
  /** Sends `sample` and reads to the end. Never rejects: what goes wrong is in the outcome. */
  complete(sample: Sample): Promise<Outcome>;
  close(): void;
}

/** A client of `target`; `now` in seconds. Connections are kept open between requests, one for each that runs. */
export function createClient({ url, headers, fields }: Target, now: () => number): Client {
  const secure = url.protocol === "https:";
  // An idle connection is given up before the other side closes it (servers wait 5 s): a request on a closing one would fail.
  const pool = { keepAlive: true, timeout: 2000 };
  const agent = secure ? new HttpsAgent(pool) : new HttpAgent(pool);
  const open = secure ? httpsRequest : httpRequest;
  const complete = ({ prompt, outputTokens }: Sample): Promise<Outcome> => new Promise((resolve) => {
    const body = JSON.stringify({ ...fields, prompt, max_tokens: outputTokens, stream: true, stream_options: { include_usage: true } });
    const chunksAt: number[] = [];
    let counted: number | undefined;
    let error: string | undefined;
    const startedAt = now();
    let endedAt: number | undefined;
    const end = (why?: string) => {
      error ??= why ?? (chunksAt.length === 0 ? "the stream ended without a single chunk" : undefined);
      resolve({ error, promptTokens: prompt.length, outputTokens: counted ?? chunksAt.length, startedAt, chunksAt, endedAt: endedAt ?? now() });
    };
    const line = (text: string, at: number) => {
      if (!text.startsWith("data:")) return;
      const data = text.slice(5).trim();
      if (data === "[DONE]") return;
      let chunk: Chunk;
      try {
        chunk = JSON.parse(data) as Chunk;
      } catch {
        error ??= `a chunk is not JSON: ${shorten(data)}`;
        return;
      }
      if (chunk.error) error ??= messageOf(data);
      if (chunk.choices && chunk.choices.length > 0) {
        chunksAt.push(at);
        endedAt = at;
      }
      counted = chunk.usage?.completion_tokens ?? counted;
    };
    const request = open(url, { method: "POST", agent, headers: { "content-type": "application/json", "content-length": Buffer.byteLength(body), ...headers } }, (response) => {
      const utf8 = new StringDecoder("utf8");
      let rest = "";
      if (response.statusCode !== 200) {
        response.on("data", (bytes: Buffer) => (rest += utf8.write(bytes)));
        response.on("end", () => end(`HTTP ${response.statusCode}: ${messageOf(rest)}`));
      } else {
        response.on("data", (bytes: Buffer) => {
          const at = now();
          const lines = (rest + utf8.write(bytes)).split("\n");
          rest = lines.pop()!;
          for (const text of lines) line(text, at);
        });
        response.on("end", () => {
          line(rest, now());
          end();
        });
      }
      response.on("error", (cause: Error) => end(cause.message));
    });
    request.on("error", (cause: Error) => end(cause.message || "the connection failed"));
    request.end(body);
  });
  return { complete, close: () => agent.destroy() };
}

const shorten = (text: string) => (text.length > 300 ? `${text.slice(0, 297)}...` : text);

/** The message of an OpenAI-style error body; the body where it is none. */
function messageOf(body: string): string {
  try {
    const { error } = JSON.parse(body) as { error?: string | { message?: string } };
    return shorten(typeof error === "object" && error?.message ? error.message : String(error ?? body));
  } catch {
    return shorten(body.trim());
  }
}
