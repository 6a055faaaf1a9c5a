/**
 * The text files that describe a model's text side, by their names in the model's folder, and careful reading of the JSON in
 * them. Knows no file system: whoever starts the text service has read them, or has made them of what a GGUF file says (gguf.ts).
 */
import { UsageError } from "../core/errors.ts";

/** Contents by file name: their text, or what the JSON in them says. All can cross to another thread. Only tokenizer.json must be there. */
export interface TextFiles {
  readonly "tokenizer.json"?: string | object;
  readonly "tokenizer_config.json"?: string | object;
  readonly "special_tokens_map.json"?: string | object;
  readonly "generation_config.json"?: string | object;
  readonly "config.json"?: string | object;
  readonly "chat_template.jinja"?: string;
}

/** The names that a loader should look for; those that are missing may stay so. */
export const textFileNames = [
  "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json", "chat_template.jinja",
] as const satisfies readonly (keyof TextFiles)[];

export type Json = unknown;

/** The parsed file, or undefined where it is not there. Throws UsageError on what is not JSON. */
export function parseFile(files: TextFiles, name: keyof TextFiles): Json {
  const source = files[name];
  if (typeof source !== "string") return source;
  try {
    return JSON.parse(source) as Json;
  } catch (error) {
    throw new UsageError(`${name} is not JSON (${(error as Error).message}); download the model's files again`);
  }
}

/** `object[name]`, or undefined where `object` is no object or has no such field of its own. */
export function field(object: Json, name: string): Json {
  return typeof object === "object" && object !== null && Object.hasOwn(object, name) ? (object as Record<string, Json>)[name] : undefined;
}

/** The row of one of our tables under a name that a file gives: nothing for what every object has ("toString"). */
export function rowOf<T>(table: Readonly<Record<string, T>>, name: string): T | undefined {
  return Object.hasOwn(table, name) ? table[name] : undefined;
}

export function text(object: Json, name: string): string | undefined {
  const value = field(object, name);
  return typeof value === "string" ? value : undefined;
}

export function list(object: Json, name: string): readonly Json[] {
  const value = field(object, name);
  return Array.isArray(value) ? value : [];
}
