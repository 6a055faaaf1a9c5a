/** POST /v1/chat/completions: messages in, one assistant message out, whole or as it is made. The wire format is OpenAI's with vLLM's extras. */
import type { Raw } from "../llm/fields.ts";
import { salted } from "./auth.ts";
import type { Context } from "./context.ts";
import { aboutTokens, openJob, type Job } from "./job.ts";
import { checkModel, parseChat, type ChatRequest } from "./schema.ts";
import { streamEvents } from "./sse.ts";
import { chatLogprobs, checkPromptEntries, decodedBy, wirePromptLogprobs, wireUsage, type TokenText } from "./usage.ts";

/** Answers `body`. Throws BadRequest and HttpError before anything is streamed; later errors are frames. */
export async function chatCompletion(context: Context, request: Request, body: Raw, onError: (error: unknown) => void): Promise<Response> {
  const { llm, modelNames, newId, now, stallSeconds, tenant } = context;
  checkModel(body, modelNames);
  const chat = parseChat(body, llm);
  const head = { id: `chatcmpl-${newId()}`, created: Math.floor(now()), model: modelNames[0]! };
  const { n, maxTokens, sampling: { promptLogprobs: numTop } } = chat.params;
  const check = (prompts: readonly Int32Array[]) => numTop !== undefined && checkPromptEntries(prompts, numTop, 1, "prompt_logprobs");
  const job = await openJob(context, request, { id: head.id, n, maxTokens, check }, [{
    tokens: chat.messages.reduce((sum, { content }) => sum + aboutTokens(String(content)), 0),
    start: (signal) => llm.startChat(chat.messages, salted(chat.params, tenant), chat.template, signal),
  }]);
  const tokenText: TokenText = chat.tokensAsTokenIds ? (token) => `token_id:${token}` : (token) => llm.tokenText(token);
  if (chat.stream) return streamEvents(chunks(chat, job, head, tokenText), { stallSeconds, onEnd: job.cancel, onError });
  for await (const _ of job.steps);
  const [result] = await job.results();
  const { choices, usage, promptLogprobs } = result!;
  return Response.json({
    id: head.id, object: "chat.completion", created: head.created, model: head.model,
    choices: choices.map(({ index, text, tokenIds, finishReason, stopReason, logprobs }) => ({
      index,
      message: { role: "assistant", content: text, refusal: null },
      logprobs: chat.params.sampling.logprobs === undefined ? null : chatLogprobs(logprobs ?? [], tokenText),
      finish_reason: finishReason,
      stop_reason: stopReason ?? null,
      ...(chat.returnTokenIds && { token_ids: tokenIds }),
    })),
    usage: wireUsage(job, usage.completionTokens),
    ...(chat.returnTokenIds && { prompt_token_ids: Array.from(job.prompts[0]!) }),
    ...(promptLogprobs && { prompt_logprobs: wirePromptLogprobs(promptLogprobs, decodedBy(llm)) }),
  });
}

async function* chunks(chat: ChatRequest, job: Job, head: object, tokenText: TokenText): AsyncGenerator<object, void, void> {
  let completionTokens = 0;
  const chunk = (choices: readonly object[], more: object = {}) => ({
    ...head, object: "chat.completion.chunk", choices, ...more,
    ...(chat.includeUsage && { usage: chat.continuousUsage || choices.length === 0 ? wireUsage(job, completionTokens) : null }),
  });
  for (let index = 0; index < chat.params.n; index++) {
    yield chunk([{ index, delta: { role: "assistant", content: "" }, logprobs: null, finish_reason: null }],
      chat.returnTokenIds && index === 0 ? { prompt_token_ids: Array.from(job.prompts[0]!) } : {});
  }
  for await (const { index, delta } of job.steps) {
    completionTokens += delta.tokens.length;
    yield chunk([{
      index,
      delta: { content: delta.text },
      logprobs: delta.logprobs ? chatLogprobs(delta.logprobs, tokenText) : null,
      finish_reason: delta.finishReason ?? null,
      ...(delta.finishReason && { stop_reason: delta.stopReason ?? null }),
      ...(chat.returnTokenIds && { token_ids: delta.tokens }),
    }]);
  }
  if (chat.includeUsage) yield chunk([]);
}
