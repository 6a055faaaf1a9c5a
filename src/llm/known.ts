/**
 * Refuses what an untyped caller got wrong before anything is started: option names nobody knows, prompts and messages of the
 * wrong kind. It knows names and shapes; values are checked by params.ts.
 */
import { BadRequest } from "../core/errors.ts";
import type { ChatMessage } from "../tokenizer/text.ts";
import { isObject, mustBe } from "./fields.ts";

/** "max_tokens" and "MaxTokens" are the same name to whoever mistypes it. */
const plain = (name: string): string => name.replaceAll(/[^A-Za-z0-9]/g, "").toLowerCase();

/** Levenshtein's distance: letters to add, take away or change. */
function distance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, j) => j);
  for (const [i, letter] of [...from].entries()) {
    const next = [i + 1];
    for (let j = 0; j < to.length; j++) next.push(Math.min(next[j]! + 1, row[j + 1]! + 1, row[j]! + (letter === to[j] ? 0 : 1)));
    row = next;
  }
  return row[to.length]!;
}

/** The name of `known` that is nearest to `name`; undefined when none is near. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  const byDistance = known.map((other) => [other, distance(plain(name), plain(other))] as const).sort(([, a], [, b]) => a - b);
  const [first] = byDistance;
  return first !== undefined && first[1] <= Math.max(1, Math.floor(plain(name).length / 3)) ? first[0] : undefined;
}

/** What is wrong with the names in `options`; undefined when all are `known`. `taker` is who takes them, as a reader calls it. */
export function unknownOption(options: object, known: readonly string[], taker: string): { readonly name: string; readonly message: string } | undefined {
  const name = Object.entries(options).find(([key, value]) => value !== undefined && !known.includes(key))?.[0];
  if (name === undefined) return undefined;
  const near = nearest(name, known);
  return { name, message: `${name} is no option of ${taker}; ${near === undefined ? `it takes ${known.join(", ")}` : `did you mean ${near}?`}` };
}

/** @throws BadRequest for the first option of a generation that is not `known` */
export function checkOptions(options: unknown, known: readonly string[], taker: string): void {
  if (!isObject(options)) throw mustBe("params", options, `an object of options, such as { ${known[0]}: ... }`);
  const wrong = unknownOption(options, known, taker);
  if (wrong) throw new BadRequest(wrong.name, wrong.message);
}

/** @throws BadRequest when `messages` is no list of objects with a role and a content (or tool calls in its place) */
export function checkMessages(messages: unknown): asserts messages is readonly ChatMessage[] {
  if (!Array.isArray(messages)) throw mustBe("messages", messages, "a list of messages, such as [{ role: \"user\", content: \"Hello\" }]");
  if (messages.length === 0) throw new BadRequest("messages", "messages is empty; give at least one message");
  messages.forEach((message: unknown, i) => {
    const path = `messages[${i}]`;
    if (!isObject(message)) throw mustBe(path, message, "an object with role and content");
    const { role, content } = message;
    if (typeof role !== "string") throw mustBe(`${path}.role`, role, 'a string, such as "user"');
    if (typeof content === "string" || Array.isArray(content)) return;
    // An assistant's turn that only calls tools has no content; templates that know tools write the calls.
    if ((content === null || content === undefined) && Array.isArray(message["tool_calls"])) return;
    throw mustBe(`${path}.content`, content, "a string or a list of text parts");
  });
}
