/** POST /v1/completions: one or many prompts, text or token ids, each continued. The wire format is OpenAI's with vLLM's extras. */
import type { Raw } from "../llm/fields.ts";
import type { Choice, GenerationDelta } from "../llm/generation.ts";
import type { LLM } from "../llm.ts";
import { salted } from "./auth.ts";
import type { Context } from "./context.ts";
import { aboutTokens, openJob, type Job, type Step } from "./job.ts";
import { checkModel, parseCompletion, type CompletionRequest } from "./schema.ts";
import { streamEvents } from "./sse.ts";
import { checkPromptEntries, completionLogprobs, decodedBy, type PromptLogprobs, shownPrompt, wirePromptLogprobs, wireUsage, type TokenText } from "./usage.ts";

/** Answers `body`. Throws BadRequest and HttpError before anything is streamed; later errors are frames. */
export async function completion(context: Context, request: Request, body: Raw, onError: (error: unknown) => void): Promise<Response> {
  const { llm, modelNames, newId, now, stallSeconds, tenant } = context;
  checkModel(body, modelNames);
  const asked = parseCompletion(body, llm);
  const params = salted(asked.params, tenant);
  const head = { id: `cmpl-${newId()}`, object: "text_completion", created: Math.floor(now()), model: modelNames[0]! };
  const { n, maxTokens, sampling: { promptLogprobs: numTop } } = params;
  const field = asked.showsPromptLogprobs ? "prompt_logprobs" : "echo";
  const check = (prompts: readonly Int32Array[]) => (asked.echo || numTop !== undefined) && checkPromptEntries(prompts, numTop ?? 0, n, field);
  const job = await openJob(context, request, { id: head.id, n, maxTokens, check }, asked.prompts.map((prompt) => ({
    tokens: aboutTokens(prompt), start: (signal) => llm.startPrompt(prompt, params, "prompt", signal),
  })));
  const tokenText: TokenText = asked.tokensAsTokenIds ? (token) => `token_id:${token}` : (token) => llm.tokenText(token);
  const view: View = { asked, job, tokenText, echoes: asked.echo ? await promptTexts(llm, asked, job) : [] };
  if (asked.stream) return streamEvents(chunks(view, head), { stallSeconds, onEnd: job.cancel, onError });
  for await (const _ of job.steps);
  const results = await job.results();
  return Response.json({
    ...head,
    choices: results.flatMap(({ choices, promptLogprobs }, prompt) => choices.map((choice) => ({
      index: prompt * n + choice.index,
      ...show(view, choice, prompt, promptLogprobs),
      finish_reason: choice.finishReason,
      stop_reason: choice.stopReason ?? null,
      ...(asked.showsPromptLogprobs && { prompt_logprobs: wirePromptLogprobs(promptLogprobs ?? [], decodedBy(llm)) }),
      ...(asked.returnTokenIds && { prompt_token_ids: Array.from(job.prompts[prompt]!), token_ids: asked.onlyPrompt ? [] : choice.tokenIds }),
    }))),
    usage: wireUsage(job, asked.onlyPrompt ? 0 : results.reduce((sum, { usage }) => sum + usage.completionTokens, 0)),
  });
}

/** What is shown of a job. */
interface View {
  readonly asked: CompletionRequest;
  readonly job: Job;
  readonly tokenText: TokenText;
  /** The prompts' texts, where they are to be given back. */
  readonly echoes: readonly string[];
}

/** The prompts as text, token ids too; "" where there is no tokenizer. The job ends where that fails. */
async function promptTexts(llm: LLM, { prompts }: CompletionRequest, job: Job): Promise<readonly string[]> {
  try {
    return await Promise.all(prompts.map((prompt, i) => (typeof prompt === "string" ? prompt : llm.hasTokenizer ? llm.detokenize(job.prompts[i]!, "prompt") : "")));
  } catch (error) {
    job.cancel();
    throw error;
  }
}

/** Text and log-probabilities of a choice, or of its first piece: with prompt number `prompt` before them where that is echoed. */
function show(view: View, { text, logprobs = [] }: Pick<Choice, "text" | "logprobs">, prompt: number, promptLogprobs: PromptLogprobs = []) {
  const { asked, job, tokenText, echoes } = view;
  const echoed = asked.echo ? shownPrompt(job.prompts[prompt]!, promptLogprobs, asked.logprobs ?? 0) : [];
  return {
    text: `${echoes[prompt] ?? ""}${asked.onlyPrompt ? "" : text}`,
    logprobs: asked.logprobs === undefined ? null : completionLogprobs([...echoed, ...(asked.onlyPrompt ? [] : logprobs)], tokenText, 0),
  };
}

async function* chunks(view: View, head: object): AsyncGenerator<object, void, void> {
  const { asked, job, tokenText } = view;
  let completionTokens = 0;
  const chunk = (choices: readonly object[]) => ({
    ...head, choices,
    ...(asked.includeUsage && { usage: asked.continuousUsage || choices.length === 0 ? wireUsage(job, completionTokens) : null }),
  });
  const offsets = new Map<number, number>();
  const promptLogprobs = new Map<number, GenerationDelta["promptLogprobs"]>();
  const rest = (index: number, delta: GenerationDelta) => ({ text: delta.text, logprobs: delta.logprobs ? completionLogprobs(delta.logprobs, tokenText, offsets.get(index)!) : null });
  for await (const { prompt, index, delta } of asked.echo && asked.logprobs !== undefined ? promptsFirst(job.steps) : job.steps) {
    if (!asked.onlyPrompt) completionTokens += delta.tokens.length;
    if (delta.promptLogprobs) promptLogprobs.set(prompt, delta.promptLogprobs);
    const isFirst = !offsets.has(index);
    const { text, logprobs } = isFirst ? show(view, delta, prompt, promptLogprobs.get(prompt)) : rest(index, delta);
    offsets.set(index, (offsets.get(index) ?? 0) + (logprobs?.tokens.reduce((sum, { length }) => sum + length, 0) ?? 0));
    yield chunk([{
      index, text, logprobs,
      finish_reason: delta.finishReason ?? null,
      stop_reason: delta.stopReason ?? null,
      ...(asked.returnTokenIds && { ...(isFirst && { prompt_token_ids: Array.from(job.prompts[prompt]!) }), token_ids: asked.onlyPrompt ? [] : delta.tokens }),
    }]);
  }
  if (asked.includeUsage) yield chunk([]);
}

/** The steps, those of each prompt held back until the one has come that has the prompt's log-probabilities, which every choice begins with. */
async function* promptsFirst(steps: AsyncIterable<Step>): AsyncGenerator<Step, void, void> {
  const known = new Set<number>();
  const held = new Map<number, Step[]>();
  for await (const step of steps) {
    const { prompt, delta } = step;
    if (known.has(prompt)) yield step;
    else if (!delta.promptLogprobs) {
      const waiting = held.get(prompt) ?? [];
      waiting.push(step);
      held.set(prompt, waiting);
    } else {
      known.add(prompt);
      yield step;
      yield* held.get(prompt) ?? [];
      held.delete(prompt);
    }
  }
}
