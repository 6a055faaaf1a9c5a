/**
 * Mods from a file that the operator names: a module that exports them.
 *
 *   export default { maskMod, scoreMod, layers: { 3: { maskMod: ... } } };      or the same as named exports
 *
 * The file is code and runs with this process's rights: it comes from the command line, never from a request. What it imports as
 * "tessera-llm" is this very package, wherever the file lies.
 */
import { existsSync } from "node:fs";
import { registerHooks } from "node:module";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import type { Mods } from "../attention/explain.ts";
import type { Mod } from "../attention/mod.ts";
import { causal } from "../attention/mods/causal.ts";
import type { AttentionOverride } from "../attention/override.ts";
import { UsageError } from "../core/errors.ts";

/** This package's own modules by the names under which others import them. */
const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
const own: Readonly<Record<string, string>> = Object.fromEntries([["tessera-llm", "index"], ["tessera-llm/attention", "attention/index"], ["tessera-llm/server", "server/index"]]
  .map(([name, path]) => [name, new URL(`../${path}.${extension}`, import.meta.url).href]));

let hooked = false;

/** What a file exports. @throws UsageError when it is not there or cannot be loaded */
async function importFile(path: string): Promise<Readonly<Record<string, unknown>>> {
  const file = resolve(path);
  if (!existsSync(file)) throw new UsageError(`${path} is not there; give a file that exports mods`);
  if (!hooked) registerHooks({ resolve: (name, context, next) => (Object.hasOwn(own, name) ? { url: own[name]!, shortCircuit: true } : next(name, context)) });
  hooked = true;
  try {
    return (await import(pathToFileURL(file).href)) as Readonly<Record<string, unknown>>;
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(whyNot(path, file, error));
  }
}

/** What its writer can use of `error`: what is wrong and where in the file; nothing of how Node loads modules. */
function whyNot(path: string, file: string, error: unknown): string {
  if (!(error instanceof Error)) return `${path} cannot be loaded: it throws ${String(error)}`;
  const { code } = error as NodeJS.ErrnoException;
  if (code === "ERR_UNKNOWN_FILE_EXTENSION") return `${path} is no module; give a .ts, .mts, .js or .mjs file that exports mods`;
  const lines = (error.stack ?? "").split("\n");
  // A syntax error's stack begins with file:line, the line, and a mark under the place; any other error's frames name the file.
  const end = lines.findIndex((line) => line.startsWith(error.name));
  const frame = lines.find((line) => line.startsWith("    at ") && line.includes(file));
  const [, line, column] = (frame === undefined ? /:(\d+)$/ : /:(\d+):(\d+)\)?$/).exec(frame ?? lines[0]!) ?? [];
  const where = line === undefined ? path : `${path}:${line}${column === undefined ? "" : `:${column}`}`;
  const shown = end > 1 ? `\n${lines.slice(1, end).join("\n").trimEnd()}` : "";
  return `${where} cannot be loaded: ${error.name}: ${error.message}${shown}`;
}

const parts = ["maskMod", "scoreMod", "layers"] as const;

/** The override that a file exports: as its default export, or as exports named maskMod, scoreMod and layers. */
export async function loadAttention(path: string): Promise<AttentionOverride> {
  const exported = await importFile(path);
  const given = exported["default"] ?? Object.fromEntries(parts.flatMap((name) => (exported[name] === undefined ? [] : [[name, exported[name]]])));
  // One mod alone says by its kind what it is.
  if (isMod(given)) return { [`${given.kind}Mod`]: given };
  if (typeof given === "object" && given !== null && Object.keys(given).length > 0) return given;
  throw new UsageError(`${path} exports no attention (${Object.keys(exported).join(", ") || "nothing"}); write export default { maskMod, scoreMod, layers }, or export them by these names`);
}

export interface NamedMods {
  /** The exports that are this, and of an override which layers. */
  readonly name: string;
  readonly mods: Mods;
}

const modFields = ["maskMod", "scoreMod", "weightMod", "outputMod"] as const;

/**
 * All that a file exports and can be explained: mods, and overrides, whose functions are given a causal model's mods. `only` names one of the exports.
 * @throws UsageError when there is none
 */
export async function loadMods(path: string, only?: string): Promise<readonly NamedMods[]> {
  const exported = await importFile(path);
  const found: { names: string[]; readonly mods: Mods }[] = [];
  const add = (name: string, mods: Mods): void => {
    const same = found.find((other) => modFields.every((field) => other.mods[field] === mods[field]));
    if (same) same.names.push(name);
    else if (Object.keys(mods).length > 0) found.push({ names: [name], mods });
  };
  for (const [name, value] of Object.entries(exported)) {
    if (only !== undefined && name !== only) continue;
    if (isMod(value)) add(name, { [`${value.kind}Mod`]: value });
    else if (typeof value === "object" && value !== null) {
      const { layers, ...whole } = value as AttentionOverride;
      add(name, modsOf(whole));
      for (const [index, entry] of Object.entries(layers ?? {})) {
        const { from, to } = { from: index, to: index, ...entry };
        add(`${name}, layer${from === to ? ` ${from}` : `s ${from} to ${to}`}`, modsOf({ ...whole, ...entry }));
      }
    }
  }
  if (found.length > 0) return found.map(({ names, mods }) => ({ name: names.join(" = "), mods }));
  const names = Object.keys(exported).join(", ") || "nothing";
  throw new UsageError(only === undefined
    ? `${path} exports no mods (it exports ${names}); write export const mine = maskMod((b, h, q, kv) => q >= kv)`
    : `${path} exports no mod called ${only} (it exports ${names})`);
}

/** The mods among an object's fields. */
function modsOf(fields: object): Mods {
  return Object.fromEntries(modFields.flatMap((field) => {
    const value = (fields as Readonly<Record<string, unknown>>)[field];
    const mod: unknown = typeof value === "function" && !isMod(value) ? value({ maskMod: causal, scoreMod: undefined }) : value;
    return isMod(mod) ? [[field, mod]] : [];
  }));
}

function isMod(value: unknown): value is Mod {
  return typeof value === "function" && "kind" in value && "lower" in value;
}
