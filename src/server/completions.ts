/** POST /v1/completions: one or many prompts, text or token ids, each continued. The wire format is OpenAI's with vLLM's extras. */
import type { Raw } from "../llm/fields.ts";
import { salted } from "./auth.ts";
import type { Context } from "./context.ts";
import { aboutTokens, openJob, type Job } from "./job.ts";
import { checkModel, parseCompletion, type CompletionRequest } from "./schema.ts";
import { streamEvents } from "./sse.ts";
import { completionLogprobs, wireUsage, type TokenText } from "./usage.ts";

/** Answers `body`. Throws BadRequest and HttpError before anything is streamed; later errors are frames. */
export async function completion(context: Context, request: Request, body: Raw, onError: (error: unknown) => void): Promise<Response> {
  const { llm, modelNames, newId, now, stallSeconds, tenant } = context;
  checkModel(body, modelNames);
  const asked = parseCompletion(body, llm);
  const params = salted(asked.params, tenant);
  const head = { id: `cmpl-${newId()}`, object: "text_completion", created: Math.floor(now()), model: modelNames[0]! };
  const job = await openJob(context, request, { id: head.id, maxTokens: asked.params.maxTokens }, asked.prompts.map((prompt) => ({
    tokens: aboutTokens(prompt), start: (signal) => llm.startPrompt(prompt, params, "prompt", signal),
  })));
  const tokenText: TokenText = asked.tokensAsTokenIds ? (token) => `token_id:${token}` : (token) => llm.tokenText(token);
  if (asked.stream) return streamEvents(chunks(asked, job, head, tokenText), { stallSeconds, onEnd: job.cancel, onError });
  for await (const _ of job.steps);
  const results = await job.results();
  return Response.json({
    ...head,
    choices: results.map(({ text, tokenIds, finishReason, stopReason, logprobs }, index) => ({
      index, text,
      logprobs: asked.params.sampling.logprobs === undefined ? null : completionLogprobs(logprobs ?? [], tokenText, 0),
      finish_reason: finishReason,
      stop_reason: stopReason ?? null,
      ...(asked.returnTokenIds && { prompt_token_ids: Array.from(job.prompts[index]!), token_ids: tokenIds }),
    })),
    usage: wireUsage(job, results.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0)),
  });
}

async function* chunks(asked: CompletionRequest, job: Job, head: object, tokenText: TokenText): AsyncGenerator<object, void, void> {
  let completionTokens = 0;
  const chunk = (choices: readonly object[]) => ({
    ...head, choices,
    ...(asked.includeUsage && { usage: asked.continuousUsage || choices.length === 0 ? wireUsage(job, completionTokens) : null }),
  });
  const offsets = job.prompts.map(() => 0);
  const begun = new Set<number>();
  for await (const { index, delta } of job.steps) {
    completionTokens += delta.tokens.length;
    const logprobs = delta.logprobs ? completionLogprobs(delta.logprobs, tokenText, offsets[index]!) : null;
    offsets[index]! += logprobs?.tokens.reduce((sum, { length }) => sum + length, 0) ?? 0;
    yield chunk([{
      index, text: delta.text, logprobs,
      finish_reason: delta.finishReason ?? null,
      stop_reason: delta.stopReason ?? null,
      ...(asked.returnTokenIds && { ...(!begun.has(index) && { prompt_token_ids: Array.from(job.prompts[index]!) }), token_ids: delta.tokens }),
    }]);
    begun.add(index);
  }
  if (asked.includeUsage) yield chunk([]);
}
