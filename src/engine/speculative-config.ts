/**
 * What a user says of speculation, vLLM's --speculative-config: its fields (in camelCase) and defaults, checked before anything is loaded.
 */
import { UsageError } from "../core/errors.ts";

export interface SpeculativeConfig {
  /** "ngram": what followed the last tokens where they stood before. "draft_model": a smaller model, `model`; the default where that is given. */
  readonly method?: "ngram" | "draft_model";
  /** Most tokens that are guessed at once. */
  readonly numSpeculativeTokens: number;
  /** The draft model, named as models are; it has the vocabulary of the model that it guesses for, and no sequence is longer than its context. */
  readonly model?: string;
  /** Of "ngram": how many of the last tokens must have stood there before, and how many are looked at. Default: each other, 5 where neither is given. */
  readonly promptLookupMin?: number;
  readonly promptLookupMax?: number;
}

/** With every default filled in. */
export type Speculation =
  | { readonly method: "ngram"; readonly numSpeculativeTokens: number; readonly promptLookupMin: number; readonly promptLookupMax: number }
  | { readonly method: "draft_model"; readonly numSpeculativeTokens: number; readonly model: string };

const defaultLookup = 5;
/** Drafts are rows of a step, and of its logits. */
const mostTokens = 64, mostLookup = 1024;
const methods = ["ngram", "draft_model"] as const;
const fields = ["method", "numSpeculativeTokens", "model", "promptLookupMin", "promptLookupMax"] as const satisfies readonly (keyof SpeculativeConfig)[];

/** @throws UsageError that names the field */
export function readSpeculativeConfig(config: SpeculativeConfig): Speculation {
  if (typeof config !== "object" || config === null || Array.isArray(config)) throw wrong("", config, 'an object, such as { method: "ngram", numSpeculativeTokens: 4 }');
  const stray = Object.keys(config).find((name) => !(fields as readonly string[]).includes(name));
  if (stray !== undefined) throw new UsageError(`speculativeConfig.${stray} (--speculative-config) is no field of it; it has ${fields.join(", ")}`);
  const { model, method = model === undefined ? undefined : "draft_model", numSpeculativeTokens, promptLookupMin, promptLookupMax } = config;
  if (method === undefined || !methods.includes(method)) throw wrong("method", config.method, `one of ${methods.join(", ")}`);
  within("numSpeculativeTokens", numSpeculativeTokens, 1, mostTokens);
  if (method === "draft_model") {
    if (typeof model !== "string" || model === "") throw wrong("model", model, "the draft model: a folder, a .gguf file or org/name");
    for (const name of ["promptLookupMin", "promptLookupMax"] as const) if (config[name] !== undefined) throw wrong(name, config[name], "left out: only method ngram looks tokens up");
    return { method, numSpeculativeTokens, model };
  }
  if (model !== undefined) throw wrong("model", model, "left out: method ngram has none");
  for (const name of ["promptLookupMin", "promptLookupMax"] as const) if (config[name] !== undefined) within(name, config[name], 1, mostLookup);
  const min = promptLookupMin ?? promptLookupMax ?? defaultLookup, max = promptLookupMax ?? promptLookupMin ?? defaultLookup;
  if (min > max) throw wrong("promptLookupMin", min, `at most promptLookupMax, which is ${max}`);
  return { method, numSpeculativeTokens, promptLookupMin: min, promptLookupMax: max };
}

function within(name: keyof SpeculativeConfig, value: unknown, min: number, max: number): void {
  if (!(Number.isInteger(value) && (value as number) >= min && (value as number) <= max)) throw wrong(name, value, `an integer from ${min} to ${max}`);
}

/** The library's name and the flag's, whose JSON spells fields as vLLM does. */
function wrong(name: keyof SpeculativeConfig | "", value: unknown, expected: string): UsageError {
  const both = name === "" ? "speculativeConfig (--speculative-config)" : `speculativeConfig.${name} (--speculative-config ${name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)})`;
  return new UsageError(`${both} is ${value === undefined ? "missing" : JSON.stringify(value)}; it must be ${expected}`);
}
