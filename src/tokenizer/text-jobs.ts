/**
 * What the text worker does, without any thread: encode a text, render a chat and encode it, or decode. Errors travel as data, so
 * that theirs and ours stay apart on the other side.
 */
import { BadRequest, UsageError } from "../core/errors.ts";
import type { ChatMessage, ChatTemplate, RenderOptions } from "./chat-template.ts";
import type { EncodeOptions, Tokenizer } from "./tokenizer.ts";

export type Job =
  | { readonly kind: "encode"; readonly text: string; readonly options: Pick<EncodeOptions, "addSpecialTokens" | "allowSpecial"> }
  | { readonly kind: "chat"; readonly messages: readonly ChatMessage[]; readonly options: RenderOptions }
  | { readonly kind: "decode"; readonly ids: Int32Array };

/** Token ids and their text, whichever was made from the other. */
export interface Encoded {
  readonly ids: Int32Array;
  readonly text: string;
}

/** What a request calls the text of a job. */
export const fieldOf: Readonly<Record<Job["kind"], string>> = { encode: "prompt", chat: "messages", decode: "tokens" };

/** Does one job. `template` is undefined where the model has none. Throws BadRequest that names the request's field where a text cannot be said. */
export function runJob(job: Job, tokenizer: Tokenizer, template: ChatTemplate | undefined): Encoded {
  try {
    return run(job, tokenizer, template);
  } catch (error) {
    if (error instanceof BadRequest && error.param === "text") throw new BadRequest(fieldOf[job.kind], `${fieldOf[job.kind]}: ${error.message}`);
    throw error;
  }
}

function run(job: Job, tokenizer: Tokenizer, template: ChatTemplate | undefined): Encoded {
  if (job.kind === "encode") return { ids: tokenizer.encode(job.text, job.options), text: job.text };
  if (job.kind === "decode") return { ids: job.ids, text: tokenizer.decode(job.ids, { skipSpecialTokens: false }) };
  if (template === undefined) {
    throw new UsageError("this model has no chat template: use /v1/completions, or give one (--chat-template)");
  }
  const { text, untrusted } = template.render(job.messages, job.options);
  // The template writes the beginning-of-text token itself.
  return { ids: tokenizer.encode(text, { addSpecialTokens: false, allowSpecial: true, untrusted }), text };
}

export interface Fault {
  readonly kind: "request" | "usage" | "ours";
  readonly param: string;
  readonly message: string;
}

export function toFault(error: unknown): Fault {
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof BadRequest) return { kind: "request", param: error.param, message };
  return { kind: error instanceof UsageError ? "usage" : "ours", param: "", message };
}

export function fromFault({ kind, param, message }: Fault): Error {
  if (kind === "request") return new BadRequest(param, message);
  return kind === "usage" ? new UsageError(message) : new Error(message);
}

/** Worker to service: `ready` once, then one for each job, in the order of the jobs. */
export type Reply =
  | { readonly kind: "ready" }
  | { readonly kind: "done"; readonly id: number; readonly result: Encoded }
  | { readonly kind: "failed"; readonly id: number; readonly fault: Fault };

/** Service to worker. */
export interface Order {
  readonly id: number;
  readonly job: Job;
}
