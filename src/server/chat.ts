/** POST /v1/chat/completions: messages in, one assistant message out, whole or as it is made. The wire format is OpenAI's with vLLM's extras. */
import type { Raw } from "../llm/fields.ts";
import { salted } from "./auth.ts";
import type { Context } from "./context.ts";
import { aboutTokens, openJob, type Job } from "./job.ts";
import { checkModel, parseChat, type ChatRequest } from "./schema.ts";
import { streamEvents } from "./sse.ts";
import { chatLogprobs, wireUsage, type TokenText } from "./usage.ts";

/** Answers `body`. Throws BadRequest and HttpError before anything is streamed; later errors are frames. */
export async function chatCompletion(context: Context, request: Request, body: Raw, onError: (error: unknown) => void): Promise<Response> {
  const { llm, modelNames, newId, now, stallSeconds, tenant } = context;
  checkModel(body, modelNames);
  const chat = parseChat(body, llm);
  const head = { id: `chatcmpl-${newId()}`, created: Math.floor(now()), model: modelNames[0]! };
  const job = await openJob(context, request, { id: head.id, maxTokens: chat.params.maxTokens }, [{
    tokens: chat.messages.reduce((sum, { content }) => sum + aboutTokens(String(content)), 0),
    start: (signal) => llm.startChat(chat.messages, salted(chat.params, tenant), chat.template, signal),
  }]);
  const tokenText: TokenText = chat.tokensAsTokenIds ? (token) => `token_id:${token}` : (token) => llm.tokenText(token);
  if (chat.stream) return streamEvents(chunks(chat, job, head, tokenText), { stallSeconds, onEnd: job.cancel, onError });
  for await (const _ of job.steps);
  const [result] = await job.results();
  const { text, tokenIds, finishReason, stopReason, logprobs } = result!;
  return Response.json({
    id: head.id, object: "chat.completion", created: head.created, model: head.model,
    choices: [{
      index: 0,
      message: { role: "assistant", content: text, refusal: null },
      logprobs: chat.params.sampling.logprobs === undefined ? null : chatLogprobs(logprobs ?? [], tokenText),
      finish_reason: finishReason,
      stop_reason: stopReason ?? null,
      ...(chat.returnTokenIds && { token_ids: tokenIds }),
    }],
    usage: wireUsage(job, tokenIds.length),
    ...(chat.returnTokenIds && { prompt_token_ids: Array.from(job.prompts[0]!) }),
  });
}

async function* chunks(chat: ChatRequest, job: Job, head: object, tokenText: TokenText): AsyncGenerator<object, void, void> {
  let completionTokens = 0;
  const chunk = (choices: readonly object[], more: object = {}) => ({
    ...head, object: "chat.completion.chunk", choices, ...more,
    ...(chat.includeUsage && { usage: chat.continuousUsage || choices.length === 0 ? wireUsage(job, completionTokens) : null }),
  });
  yield chunk([{ index: 0, delta: { role: "assistant", content: "" }, logprobs: null, finish_reason: null }],
    chat.returnTokenIds ? { prompt_token_ids: Array.from(job.prompts[0]!) } : {});
  for await (const { delta } of job.steps) {
    completionTokens += delta.tokens.length;
    yield chunk([{
      index: 0,
      delta: { content: delta.text },
      logprobs: delta.logprobs ? chatLogprobs(delta.logprobs, tokenText) : null,
      finish_reason: delta.finishReason ?? null,
      ...(delta.finishReason && { stop_reason: delta.stopReason ?? null }),
      ...(chat.returnTokenIds && { token_ids: delta.tokens }),
    }]);
  }
  if (chat.includeUsage) yield chunk([]);
}
