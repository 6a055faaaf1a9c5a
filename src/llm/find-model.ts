/**
 * From what a user calls a model to where it lies and what its files say of text: a folder, a GGUF file, a name on the hub, or the
 * model that comes with this package. Reads no weights.
 */
import { files } from "#files";
import { UsageError } from "../core/errors.ts";
import { ggufSampling, ggufTextFiles } from "../tokenizer/gguf.ts";
import { textFileNames, type TextFiles } from "../tokenizer/text.ts";
import { isGgufPath, openGguf } from "../weights/gguf-file.ts";
import { resolveModel, type HubOptions } from "../weights/hub.ts";

export interface FoundModel {
  /** A folder in Hugging Face layout, or a GGUF file. */
  readonly path: string;
  /** What the model is called where nobody says otherwise. */
  readonly name: string;
  /** Of a GGUF file, only when text is asked for, its tokenizer. */
  readonly text: TextFiles;
}

/** The folder of the demo model that comes with this package. */
export function demoModel(): string {
  return decodeURIComponent(new URL("../../models/demo", import.meta.url).pathname).replace(/^\/(?=[A-Za-z]:)/, "");
}

/**
 * Finds `model`, downloaded if need be; the demo model when left out.
 * @throws UsageError when there is none, or its tokenizer, where `withText` asks for one, is of a kind that is not known.
 */
export async function findModel(model: string | undefined, withText: boolean, options: HubOptions): Promise<FoundModel> {
  if (model === undefined) return { path: demoModel(), name: "demo", text: readTextFiles(demoModel()) };
  if (files.isFile(model) && !isGgufPath(model)) {
    throw new UsageError(`model ${JSON.stringify(model)} is neither a folder nor a .gguf file; give the folder that holds config.json and the weights, or a .gguf file`);
  }
  const folder = await resolveModel(model, options);
  if (isGgufPath(folder) && files.isFile(folder)) return { path: folder, name: nameOfGguf(folder), text: readGgufText(folder, withText) };
  if (files.isFile(files.join(folder, "config.json"))) return { path: folder, name: model, text: readTextFiles(folder) };
  const ggufs = files.list(folder).filter(isGgufPath);
  const remedy = ggufs.length > 0 ? `it holds ${ggufs.join(", ")}: give the path of one of these` : "give a folder in Hugging Face layout, with config.json and the weights, or a .gguf file";
  throw new UsageError(`model ${JSON.stringify(model)} has no config.json; ${remedy}`);
}

/** `text` with another chat template, where one is given: a file, or the template itself. @throws UsageError when it is neither */
export function withChatTemplate(text: TextFiles, template: string | undefined): TextFiles {
  if (template === undefined) return text;
  const source = typeof template !== "string" ? undefined : files.readText(template) ?? (/\{[{%]/.test(template) ? template : undefined);
  if (source === undefined) throw new UsageError(`chatTemplate (--chat-template) is ${JSON.stringify(template)}, which is neither a file nor a Jinja template; give one of these`);
  return { ...text, "chat_template.jinja": source };
}

/** The file's name without its ending, and of a split model without the part's number. */
function nameOfGguf(path: string): string {
  return path.replace(/^.*[/\\]/, "").replace(/(-\d{5}-of-\d{5})?\.gguf$/i, "");
}

function readGgufText(path: string, withText: boolean): TextFiles {
  const { metadata, close } = openGguf(path, (key) => !withText && key.startsWith("tokenizer."));
  close();
  return withText ? ggufTextFiles(metadata, path) : { "generation_config.json": ggufSampling(metadata) };
}

function readTextFiles(folder: string): TextFiles {
  const found: Partial<Record<keyof TextFiles, string>> = {};
  for (const name of textFileNames) {
    const text = files.readText(files.join(folder, name));
    if (text !== undefined) found[name] = text;
  }
  return found;
}
