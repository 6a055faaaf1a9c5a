/**
 * Reads a request's body into a JSON object, within bounds on size and depth that hold before anything is parsed.
 *
 * It knows no field. Memory stays under twice the limit however the body is cut into chunks.
 */
import { BadRequest } from "../core/errors.ts";
import { contentMustBe, isObject, show, type Raw } from "../llm/fields.ts";
import { HttpError } from "./errors.ts";
import { limits } from "./limits.ts";

const maxDepth = limits.bodyDepth;

function tooLarge(limit: number): HttpError {
  return new HttpError(413, `the body is larger than ${limit} bytes, the most this server reads; send less at once`, "body");
}

async function readBytes(request: Request, limit: number): Promise<Uint8Array> {
  const declared = request.headers.get("content-length");
  if (declared !== null) {
    if (Number(declared) > limit) throw tooLarge(limit);
    return new Uint8Array(await request.arrayBuffer());
  }
  let bytes = new Uint8Array(4096);
  let length = 0;
  for await (const chunk of request.body ?? []) {
    if (length + chunk.length > limit) throw tooLarge(limit);
    if (length + chunk.length > bytes.length) {
      const grown = new Uint8Array(Math.min(limit, Math.max(2 * bytes.length, length + chunk.length)));
      grown.set(bytes.subarray(0, length));
      bytes = grown;
    }
    bytes.set(chunk, length);
    length += chunk.length;
  }
  return bytes.subarray(0, length);
}

/** How deep the brackets outside strings go; stops counting beyond `maxDepth`. */
function depthOf(json: string): number {
  let depth = 0;
  let deepest = 0;
  let inString = false;
  for (let i = 0; i < json.length && deepest <= maxDepth; i++) {
    const char = json.charCodeAt(i);
    if (inString) {
      if (char === 0x5c) i++;
      else if (char === 0x22) inString = false;
    } else if (char === 0x22) inString = true;
    else if (char === 0x5b || char === 0x7b) deepest = Math.max(deepest, ++depth);
    else if (char === 0x5d || char === 0x7d) depth--;
  }
  return deepest;
}

/** The body as a JSON object. Throws HttpError 413 or 415, and BadRequest for "body". */
export async function readJson(request: Request, limit: number): Promise<Raw> {
  const type = request.headers.get("content-type") ?? "application/json";
  // Besides being clearer, this keeps web pages from posting here without the browser asking first.
  if (!/^application\/(?:[\w.+-]+\+)?json\s*(?:;|$)/i.test(type)) {
    throw new HttpError(415, `content-type is ${show(type)}; it must be application/json (curl: -H 'content-type: application/json')`);
  }
  const bytes = await readBytes(request, limit).catch((error: unknown) => {
    // What can fail here besides is the connection.
    throw error instanceof HttpError ? error : new HttpError(499, "the client left before its body was whole");
  });
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new BadRequest("body", "the body is not valid UTF-8; encode it so");
  }
  if (depthOf(text) > maxDepth) throw new BadRequest("body", `the body is nested more than ${maxDepth} levels deep; send it flatter`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    // V8 quotes what stands there, which may be somebody's prompt.
    const [what] = (error as Error).message.split(/, (?:\.\.\.)?"/);
    throw new BadRequest("body", `the body is not valid JSON: ${what}`);
  }
  if (!isObject(value)) throw contentMustBe("body", value, "a JSON object");
  return value;
}
