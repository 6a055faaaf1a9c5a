/**
 * Messages to text, by the model's own chat template (Jinja), with the variables that Hugging Face gives it.
 *
 * The result says which characters a user wrote (untrusted.ts), so that the tokenizer reads special tokens in the template's
 * own text only. Templates come from the model's files, never from a request. What they may take is bounded (bounded-template.ts, text.ts).
 */
import { tokenize } from "@huggingface/jinja";
import { BadRequest, clipped, UsageError } from "../core/errors.ts";
import { compileTemplate } from "./bounded-template.ts";
import type { Json, TextFiles } from "./files.ts";
import { field, list, parseFile, text } from "./files.ts";
import { tokenText } from "./tokenizer.ts";
import { Guard } from "./untrusted.ts";

/** One message, in OpenAI's form; templates may look at further fields. */
export interface ChatMessage {
  readonly role: string;
  readonly content?: string | null | readonly { readonly type: string; readonly text?: string }[];
  readonly [field: string]: unknown;
}

export interface RenderOptions {
  /** Tools in OpenAI's form, for templates that describe them. */
  readonly tools?: readonly unknown[] | undefined;
  /** End with the start of the assistant's turn. Default true, and false when the final message is continued. */
  readonly addGenerationPrompt?: boolean | undefined;
  /** Leave the last message open, for the model to go on with. Default false. */
  readonly continueFinalMessage?: boolean | undefined;
  /** Further variables (vLLM's chat_template_kwargs), such as enable_thinking. */
  readonly templateKwargs?: Readonly<Record<string, unknown>> | undefined;
}

export interface Rendered {
  readonly text: string;
  /** For each UTF-16 unit of `text`, 1 where it may not be part of a special token. */
  readonly untrusted: Uint8Array;
}

export interface ChatTemplate {
  /** Throws BadRequest where the template refuses the messages, or they are not as a chat should be. */
  render(messages: readonly ChatMessage[], options?: RenderOptions): Rendered;
}

/** A closed list, as some templates build a special token around the role. */
const roles: ReadonlySet<string> = new Set(["system", "developer", "user", "assistant", "model", "tool", "function", "ipython", "observation"]);

/** Names that a request may not give anew; so are all the special tokens' (`bos_token`). */
const ownNames: ReadonlySet<string> = new Set([
  "messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now", "range", "namespace",
  "true", "false", "none", "True", "False", "None",
]);

/** The chat template of `files`, or undefined where there is none. A rendering takes at most `maxSteps`, by default a few million. Throws UsageError on one that cannot be parsed. */
export function loadChatTemplate(files: TextFiles, specialTokens: readonly string[], maxSteps?: number): ChatTemplate | undefined {
  const config = parseFile(files, "tokenizer_config.json");
  const sources = templateSources(files, config);
  const plain = sources.get("default");
  if (plain === undefined) return undefined;
  const variables = { ...tokenVariables(parseFile(files, "special_tokens_map.json")), ...tokenVariables(config) };
  const answer = compile(plain, specialTokens, variables, maxSteps);
  const toolUse = sources.get("tool_use");
  if (toolUse === undefined) return { render: answer };
  const withTools = compile(toolUse, specialTokens, variables, maxSteps);
  return { render: (messages, options) => (options?.tools?.length ? withTools : answer)(messages, options) };
}

/** Templates by name. chat_template.jinja goes before tokenizer_config.json, which has a string or a list of named ones. */
function templateSources(files: TextFiles, config: Json): Map<string, string> {
  const own = files["chat_template.jinja"] ?? text(config, "chat_template");
  if (own !== undefined) return new Map([["default", own]]);
  return new Map(list(config, "chat_template").flatMap((row): [string, string][] => {
    const name = text(row, "name"), template = text(row, "template");
    return name === undefined || template === undefined ? [] : [[name, template]];
  }));
}

/** bos_token and its like, as strings. */
function tokenVariables(config: Json): Record<string, unknown> {
  const variables: Record<string, unknown> = {};
  for (const name of Object.keys(typeof config === "object" && config !== null ? config : {})) {
    const token = name.endsWith("_token") ? tokenText(field(config, name)) : undefined;
    if (token !== undefined) variables[name] = token;
  }
  return variables;
}

function compile(given: string, specialTokens: readonly string[], variables: Readonly<Record<string, unknown>>, maxSteps: number | undefined): ChatTemplate["render"] {
  // {% generation %} only marks text for training; the library does not know it.
  const source = given.replace(/\{%(-?)\s*(end)?generation\s*(-?)%\}/g,
    (_all, left: string, end: string | undefined, right: string) => `{%${left} ${end ? "endif" : "if true"} ${right}%}`);
  let template: ReturnType<typeof compileTemplate>, guard: Guard;
  try {
    template = compileTemplate(source, maxSteps);
    const tokens: readonly { readonly type: string; readonly value: string }[] = tokenize(source, { lstrip_blocks: true, trim_blocks: true });
    const literals = tokens.filter((token) => token.type === "StringLiteral").map((token) => token.value);
    guard = new Guard(specialTokens, source, literals);
  } catch (error) {
    const remedy = "give a mended one (--chat-template), or serve the model by token ids (--skip-tokenizer-init)";
    throw new UsageError(`the chat template cannot be parsed (${(error as Error).message}); ${remedy}`);
  }

  return (messages, options = {}) => {
    const { continueFinalMessage: open = false, addGenerationPrompt = !open, templateKwargs: kwargs = {} } = options;
    const tools = options.tools?.length ? options.tools : null;
    check(messages, open, addGenerationPrompt);
    for (const name of Object.keys(kwargs)) {
      if (!ownNames.has(name) && !Object.hasOwn(variables, name)) continue;
      throw new BadRequest("chat_template_kwargs", `chat_template_kwargs may not set "${name}": the template's own variables are given by the server`);
    }
    const { value, spare, restore } = guard.mark({ messages, tools, kwargs });
    const turns = open ? [...value.messages.slice(0, -1), tagged(value.messages.at(-1)!, `${spare} `)] : value.messages;
    let rendered: string;
    try {
      rendered = template({
        ...variables, ...value.kwargs, messages: turns, tools: value.tools, documents: null, add_generation_prompt: addGenerationPrompt,
      });
    } catch (error) {
      throw new BadRequest("messages", `the model's chat template does not accept these messages: ${restore(clipped((error as Error).message, 500)).text}`);
    }
    return restore(open ? cutAtTag(rendered, spare) : rendered);
  };
}

function check(messages: readonly ChatMessage[], open: boolean, addGenerationPrompt: boolean): void {
  if (messages.length === 0) throw new BadRequest("messages", "messages is empty; send at least one message");
  messages.forEach(({ role }, i) => {
    const field = `messages[${i}].role`;
    if (!roles.has(role)) throw new BadRequest(field, `${field} is ${JSON.stringify(role)}; use one of ${[...roles].join(", ")}`);
  });
  if (!open) return;
  const fail = (message: string): never => {
    throw new BadRequest("continue_final_message", `continue_final_message ${message}`);
  };
  if (addGenerationPrompt) fail("and add_generation_prompt exclude each other; set one of them to false");
  if (lastText(messages.at(-1)!) === undefined) fail("needs a last message that has text");
}

/** Index of the last text part, -1 for a content that is a string; undefined where there is no text. */
function lastText(message: ChatMessage): number | undefined {
  if (typeof message.content === "string") return -1;
  const at = message.content?.findLastIndex((part) => part.type === "text" && typeof part.text === "string") ?? -1;
  return at < 0 ? undefined : at;
}

function tagged(message: ChatMessage, tag: string): ChatMessage {
  if (typeof message.content === "string") return { ...message, content: message.content + tag };
  const last = lastText(message);
  return { ...message, content: message.content!.map((part, i) => (i === last ? { ...part, text: part.text! + tag } : part)) };
}

/** What stands before the tag. Where the template trims contents (the space after the tag is gone), the end is trimmed too, as Hugging Face does. */
function cutAtTag(rendered: string, tag: string): string {
  const at = rendered.lastIndexOf(tag);
  if (at < 0) {
    throw new BadRequest("continue_final_message", "this model's chat template leaves the last message out, so that it cannot be continued");
  }
  const before = rendered.slice(0, at);
  return rendered[at + 1] === " " ? before : before.trimEnd();
}
