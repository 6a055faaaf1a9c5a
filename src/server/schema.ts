/**
 * From a request's JSON to a typed request: the only place that knows the API's field names and refuses what is not supported.
 *
 * Fields that choose tokens are checked by the library's own table of limits. Fields that would change the answer and are not
 * supported are refused by name; fields nobody knows are ignored, as vLLM does.
 */
import { BadRequest } from "../core/errors.ts";
import { contentMustBe, fieldsOf, isObject, mustBe, own, show, snakeCase, tokenIds, type Raw, type Spelling } from "../llm/fields.ts";
import { limits as paramLimits, type CheckedParams } from "../llm/params.ts";
import type { LLM, Prompt, TemplateOptions } from "../llm.ts";
import type { ChatMessage } from "../tokenizer/text.ts";
import { HttpError } from "./errors.ts";
import { limits } from "./limits.ts";

/** What both routes take beside how tokens are chosen. */
interface Common {
  readonly params: CheckedParams;
  readonly stream: boolean;
  readonly includeUsage: boolean;
  readonly continuousUsage: boolean;
  /** Whether the prompt's log-probabilities were asked for in a field of their own, and go into one. */
  readonly showsPromptLogprobs: boolean;
  readonly returnTokenIds: boolean;
  readonly tokensAsTokenIds: boolean;
}

export interface ChatRequest extends Common {
  readonly messages: readonly ChatMessage[];
  readonly template: TemplateOptions;
}

export interface CompletionRequest extends Common {
  readonly prompts: readonly Prompt[];
  /** Log-probabilities of this many likeliest tokens, where asked for. */
  readonly logprobs: number | undefined;
  /** Each choice begins with its prompt: its text, and its tokens' log-probabilities where those of the answer's are asked for. */
  readonly echo: boolean;
  /** Nothing is wanted but that: one token is generated, for the engine has to, and kept back. */
  readonly onlyPrompt: boolean;
}

const is = (...values: readonly unknown[]) => (value: unknown) => values.includes(value);
const empty = (value: unknown) => value === "" || (Array.isArray(value) ? value.length === 0 : isObject(value) && Object.keys(value).length === 0);
const never = () => false;

/** Fields this server cannot honour yet, the values that ask for nothing, and what to say. */
const unsupported: Readonly<Record<string, { readonly neutral: (value: unknown, body: Raw) => boolean; readonly only: string }>> = {
  best_of: { neutral: (value, body) => value === (own(body, "n") ?? 1), only: "the value of n, as every choice that is made is given (vLLM has no best_of any more)" },
  use_beam_search: { neutral: is(false), only: "false" },
  suffix: { neutral: empty, only: "an empty string" },
  prompt_embeds: { neutral: never, only: "prompts as text or token ids" },
  truncate_prompt_tokens: { neutral: never, only: "null; cut the prompt before sending it" },
  tools: { neutral: empty, only: "an empty list (tools are not supported yet)" },
  tool_choice: { neutral: is("none", "auto"), only: '"none" (tools are not supported yet)' },
  functions: { neutral: empty, only: "an empty list (tools are not supported yet)" },
  response_format: {
    neutral: (value) => isObject(value) && value["type"] === "text", only: '{"type": "text"} (structured output is not supported yet)',
  },
  structured_outputs: { neutral: never, only: "null (structured output is not supported yet)" },
  guided_json: { neutral: never, only: "null (structured output is not supported yet)" },
  guided_regex: { neutral: never, only: "null (structured output is not supported yet)" },
  guided_choice: { neutral: never, only: "null (structured output is not supported yet)" },
  guided_grammar: { neutral: never, only: "null (structured output is not supported yet)" },
  chat_template: { neutral: never, only: "the model's own chat template; templates from a request are never run" },
  documents: { neutral: empty, only: "an empty list" },
  modalities: { neutral: (value) => Array.isArray(value) && value.every(is("text")), only: '["text"]' },
  audio: { neutral: never, only: "text" },
  logits_processors: { neutral: empty, only: "an empty list" },
};

const samplingFields = [
  "n", "temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "stop", "stop_token_ids", "include_stop_str_in_output",
  "prompt_logprobs", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "allowed_token_ids", "bad_words", "min_tokens",
  "ignore_eos", "skip_special_tokens", "add_special_tokens", "cache_salt", "priority",
] as const;

/** Throws BadRequest for a field that would change the answer and is not supported. */
export function refuseUnsupported(body: Raw): void {
  for (const [field, { neutral, only }] of Object.entries(unsupported)) {
    const value = own(body, field);
    if (value !== undefined && !neutral(value, body)) throw new BadRequest(field, `${field} is ${show(value)}; this server supports only ${only}`);
  }
}

/** Refuses a model name that is not served. A request may leave it out. */
export function checkModel(body: Raw, names: readonly string[]): void {
  const model = own(body, "model");
  if (model === undefined) return;
  if (typeof model !== "string") throw mustBe("model", model, "a string");
  if (!names.includes(model)) {
    throw new HttpError(404, `The model ${show(model)} does not exist; this server has ${names.map(show).join(", ")}`, "model");
  }
}

/** `given`: fields in place of the body's. */
function parseCommon(body: Raw, llm: LLM, given: Raw, maxTokensField = "max_tokens"): Common {
  refuseUnsupported(body);
  const fields = fieldsOf(body, snakeCase);
  const stream = fields.boolean("stream") ?? false;
  const showsPromptLogprobs = own(body, "prompt_logprobs") !== undefined;
  if (showsPromptLogprobs && stream) throw new BadRequest("prompt_logprobs", 'prompt_logprobs are not available with "stream": true; send the request without it');
  const streamOptions = fields.object("streamOptions");
  if (streamOptions && !stream) throw new BadRequest("stream_options", 'stream_options needs "stream": true');
  const options = fieldsOf(streamOptions ?? {}, snakeCase);
  const includeUsage = options.boolean("includeUsage") ?? false;
  const chosen: Record<string, unknown> = {};
  for (const field of samplingFields) chosen[field] = own(body, field);
  const spell: Spelling = (field) => (field === "maxTokens" ? maxTokensField : snakeCase(field));
  chosen[maxTokensField] = own(body, maxTokensField);
  return {
    params: llm.check({ ...chosen, ...given }, spell),
    stream, includeUsage, showsPromptLogprobs,
    continuousUsage: includeUsage && (options.boolean("continuousUsageStats") ?? false),
    returnTokenIds: fields.boolean("returnTokenIds") ?? !llm.hasTokenizer,
    tokensAsTokenIds: fields.boolean("returnTokensAsTokenIds") ?? !llm.hasTokenizer,
  };
}

/** The body of POST /v1/completions. Throws BadRequest. */
export function parseCompletion(body: Raw, llm: LLM): CompletionRequest {
  const fields = fieldsOf(body);
  const logprobs = fields.integer("logprobs", paramLimits.logprobs), echo = fields.boolean("echo") ?? false;
  const onlyPrompt = echo && own(body, "max_tokens") === 0;
  const promptLogprobs = own(body, "prompt_logprobs") ?? (echo ? logprobs : undefined);
  const common = parseCommon(body, llm, { logprobs, prompt_logprobs: promptLogprobs, ...(onlyPrompt && { max_tokens: 1 }) }), prompts = parsePrompts(own(body, "prompt"), llm.info.vocabSize);
  const { n } = common.params;
  if (n * prompts.length > limits.choices) {
    throw mustBe("n", n, `at most ${Math.floor(limits.choices / prompts.length)} with ${prompts.length} prompts, as one request has at most ${limits.choices} choices`);
  }
  checkLists(common.params, n * prompts.length);
  return { ...common, prompts, logprobs, echo, onlyPrompt };
}

/** @throws BadRequest where the choices of a request would be started with more entries of lists than there may be */
function checkLists({ n, badWords, sampling: { allowedTokenIds, logitBias, stopTokenIds } }: CheckedParams, numChoices: number): void {
  const entries = (allowedTokenIds?.length ?? 0) + (logitBias?.size ?? 0) + stopTokenIds.length + badWords.reduce((sum, { length }) => sum + length, 0);
  if (entries * numChoices <= limits.listEntries) return;
  const message = `n is ${n}; ${numChoices} choices with ${entries} entries each in allowed_token_ids, logit_bias, stop_token_ids and bad_words are more than ${limits.listEntries} in all: ask for fewer choices, or shorter lists`;
  throw new BadRequest("n", message);
}

/** prompt: a string, token ids, or a list of either. */
function parsePrompts(prompt: unknown, vocabSize: number): readonly Prompt[] {
  if (typeof prompt === "string") return [prompt];
  const expected = "a string, a list of strings, a list of token ids, or a list of lists of token ids";
  if (!Array.isArray(prompt)) throw contentMustBe("prompt", prompt, expected);
  if (prompt.length === 0) throw new BadRequest("prompt", "prompt is an empty list; give at least one token or text");
  if (typeof prompt[0] === "number") return [tokenIds("prompt", prompt, vocabSize, Infinity)];
  if (prompt.length > limits.prompts) throw mustBe("prompt", prompt, `a list of at most ${limits.prompts} prompts`);
  return prompt.map((item: unknown, i) => {
    const path = `prompt[${i}]`;
    if (typeof item === "string") return item;
    if (!Array.isArray(item)) throw contentMustBe("prompt", item, "a string or a list of token ids", path);
    return tokenIds("prompt", item, vocabSize, Infinity, path);
  });
}

/** The body of POST /v1/chat/completions. Throws BadRequest. */
export function parseChat(body: Raw, llm: LLM): ChatRequest {
  const fields = fieldsOf(body, snakeCase);
  const wantsLogprobs = fields.boolean("logprobs") ?? false;
  const topLogprobs = fields.integer("topLogprobs", paramLimits.logprobs);
  if (topLogprobs && !wantsLogprobs) throw new BadRequest("top_logprobs", `top_logprobs is ${topLogprobs}; it needs "logprobs": true`);
  if (fields.boolean("echo")) throw mustBe("echo", true, "false; a chat's prompt is not text to give back (/v1/completions has echo)");
  const maxTokensField = own(body, "max_completion_tokens") === undefined ? "max_tokens" : "max_completion_tokens";
  const common = parseCommon(body, llm, { logprobs: wantsLogprobs ? topLogprobs ?? 0 : undefined }, maxTokensField);
  checkLists(common.params, common.params.n);
  return {
    ...common,
    messages: parseMessages(body),
    template: parseTemplate(body),
  };
}

/** How a chat's template is to be run. Throws BadRequest. */
export function parseTemplate(body: Raw): TemplateOptions {
  const fields = fieldsOf(body, snakeCase);
  const templateKwargs = fields.object("chatTemplateKwargs");
  const bad = templateKwargs && Object.keys(templateKwargs).find((key) => !/^[A-Za-z]\w*$/.test(key) || key === "constructor" || key === "messages");
  if (bad !== undefined) {
    throw new BadRequest("chat_template_kwargs", `chat_template_kwargs has ${show(bad)}, which cannot be a template's variable; rename it`);
  }
  const continueFinalMessage = fields.boolean("continueFinalMessage") ?? false;
  const addGenerationPrompt = fields.boolean("addGenerationPrompt") ?? !continueFinalMessage;
  if (continueFinalMessage && addGenerationPrompt) {
    const message = "continue_final_message and add_generation_prompt are both true; a message is either continued or answered";
    throw new BadRequest("continue_final_message", message);
  }
  if (fields.boolean("addSpecialTokens")) throw mustBe("add_special_tokens", true, "false, as the chat template writes the special tokens itself");
  return { addGenerationPrompt, continueFinalMessage, templateKwargs };
}

const roles = ["system", "developer", "user", "assistant"] as const;

/** The messages of a chat. Throws BadRequest. */
export function parseMessages(body: Raw): readonly ChatMessage[] {
  const messages = own(body, "messages");
  if (!Array.isArray(messages)) throw contentMustBe("messages", messages, "a list of messages");
  if (messages.length === 0 || messages.length > limits.messages) {
    throw mustBe("messages", messages, `a list of 1 to ${limits.messages} messages`);
  }
  return messages.map((message: unknown, i) => {
    const path = `messages[${i}]`;
    if (!isObject(message)) throw contentMustBe(path, message, "an object with role and content");
    const role = roles.find((name) => name === own(message, "role"));
    if (!role) throw mustBe(`${path}.role`, own(message, "role"), `one of ${roles.join(", ")}`);
    for (const field of ["tool_calls", "function_call"]) {
      const value = own(message, field);
      if (value !== undefined && !empty(value)) throw mustBe(`${path}.${field}`, value, "absent, as tools are not supported yet");
    }
    // OpenAI's newer name for the same role; templates know the older one.
    return { role: role === "developer" ? "system" : role, content: parseContent(own(message, "content"), `${path}.content`) };
  });
}

/** A string, or text parts, which are joined by line ends as vLLM does. */
function parseContent(content: unknown, path: string): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) throw contentMustBe(path, content, "a string or a list of text parts");
  return content.map((part: unknown, i) => {
    if (typeof part === "string") return part;
    if (!isObject(part)) throw contentMustBe(`${path}[${i}]`, part, "a text part");
    if (own(part, "type") !== "text") throw mustBe(`${path}[${i}].type`, own(part, "type"), '"text", as this model reads text only');
    const text = own(part, "text");
    if (typeof text !== "string") throw contentMustBe(`${path}[${i}].text`, text, "a string");
    return text;
  }).join("\n");
}
