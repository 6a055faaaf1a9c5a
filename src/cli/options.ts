/**
 * The flags that more than one command takes, vLLM's names, and what they mean to the library.
 * Values are checked here only as far as a flag's text goes; their bounds are the library's.
 */
import { Command, InvalidArgumentError, Option } from "commander";
import { devices } from "../backend/registry.ts";
import { schedulingPolicies } from "../engine/messages.ts";
import type { SpeculativeConfig } from "../engine/speculative-config.ts";
import { isObject, snakeCase, type Raw, type Spelling } from "../llm/fields.ts";
import { checkParams, type GenerateParams } from "../llm/params.ts";
import type { LoadOptions } from "../llm.ts";
import { kvCacheDTypes } from "../model/kv-format.ts";
import { loadFormats, quantizationOptions, weightDTypeOptions } from "../model/weight-formats.ts";

const units: Readonly<Record<string, number>> = { "": 1, k: 1e3, m: 1e6, g: 1e9, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

/** "1000", "64M" (binary) or "64m" (decimal), as vLLM reads sizes. */
export function parseBytes(text: string): number {
  const [, digits, unit] = /^(\d+(?:\.\d+)?)([kmgKMG]?)(?:i?B)?$/.exec(text) ?? [];
  if (digits === undefined) throw new InvalidArgumentError("it must be a number of bytes, such as 67108864, 64M (binary) or 64m (decimal).");
  return Math.floor(Number(digits) * units[unit!]!);
}

export function parseInteger(text: string): number {
  if (!/^-?\d+$/.test(text)) throw new InvalidArgumentError("it must be an integer.");
  return Number(text);
}

/** From 0. */
export function parseCount(text: string): number {
  const count = parseInteger(text);
  if (!(count >= 0 && Number.isSafeInteger(count))) throw new InvalidArgumentError("it must be an integer from 0.");
  return count;
}

export function parsePort(text: string): number {
  const port = parseInteger(text);
  if (port < 0 || port > 65_535) throw new InvalidArgumentError("it must be a port, from 0 (any free one) to 65535.");
  return port;
}

/** At most a day: a timer that is set to more than 2^31 ms fires at once. */
export function parseSeconds(text: string): number {
  const value = parseNumber(text);
  if (!(value >= 0 && value <= 86_400)) throw new InvalidArgumentError("it must be a number of seconds from 0 to 86400.");
  return value;
}

/** "4096", or "128x4096": queries x keys. */
export function parseLengths(text: string): readonly [queries: number, keys: number] {
  const [, queries, keys] = /^(\d+)(?:x(\d+))?$/.exec(text) ?? [];
  if (queries === undefined) throw new InvalidArgumentError("it must be a number of positions, such as 1024, or queries x keys, such as 128x4096.");
  return [Number(queries), Number(keys ?? queries)];
}

export function parseNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || Number.isNaN(value)) throw new InvalidArgumentError("it must be a number.");
  return value;
}

/** "5,6,7" */
export function parseIds(text: string): readonly number[] {
  if (!/^\d+(,\d+)*$/.test(text)) throw new InvalidArgumentError("it must be token ids with commas between them, such as 5,6,7.");
  return text.split(",").map(Number);
}

/** "5=-100", for a flag that may be given several times. */
export function parseBias(text: string, before: Readonly<Record<number, number>> = {}): Readonly<Record<number, number>> {
  const [, id, bias] = /^(\d+)=(.+)$/.exec(text) ?? [];
  if (id === undefined) throw new InvalidArgumentError("it must be a token id and a number, such as 5=-100.");
  return { ...before, [id]: parseNumber(bias!) };
}

/** vLLM's JSON, its fields as the library calls them. What is in it is the library's to check. */
export function parseSpeculative(text: string): SpeculativeConfig {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // Told below.
  }
  if (!isObject(value)) throw new InvalidArgumentError("it must be JSON, such as '{\"method\": \"ngram\", \"num_speculative_tokens\": 4, \"prompt_lookup_max\": 3}'.");
  return Object.fromEntries(Object.entries(value).map(([field, given]) => [field.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()), given])) as unknown as SpeculativeConfig;
}

/** For a flag that may be given several times. One that took several values would swallow the model's name behind it. */
export function collect(text: string, before: readonly string[] = []): readonly string[] {
  return [...before, text];
}

/** The library's options as flags; one has vLLM's longer name. */
export interface EngineFlags extends Omit<LoadOptions, "kvCacheBytes" | "hub" | "onProgress" | "attention"> {
  /** A file that exports mods. */
  readonly attention?: string;
  readonly kvCacheMemoryBytes?: number;
  readonly hfToken?: string;
}

/** Adds the flags that say how a model is loaded. */
export function addEngineFlags(command: Command): Command {
  return command
    .addOption(new Option("--dtype <type>", "type the weights are kept in").choices(weightDTypeOptions).default("auto"))
    .addOption(new Option("--quantization <type>", "weights of 8 or 4 bits; auto: as the file has them, int8 above 200M parameters").choices(quantizationOptions).default("auto"))
    .addOption(new Option("--load-format <format>", "dummy: random weights of the shapes in config.json, to measure by").choices(loadFormats).default("auto"))
    .addOption(new Option("--kv-cache-dtype <type>", "type keys and values are kept in").choices(kvCacheDTypes).default("auto"))
    .addOption(new Option("--device <device>", "what computes: this machine's cpu, its NVIDIA GPU (cuda), or reference, slowly and plainly").choices(devices).default("cpu"))
    .option("--gpu-memory-utilization <share>", "part of a GPU's free memory that the model may take (default: 0.9)", parseNumber)
    .option("--threads <n>", "threads to compute on (default: all cores)", parseInteger)
    .option("--deterministic", "on a GPU: an answer does not depend on what else is computed with it; slower (on the cpu this is always so)")
    .option("--max-model-len <tokens>", "most tokens of a prompt and its answer together (default: the model's)", parseInteger)
    .option("--max-num-seqs <n>", "most sequences in one step", parseInteger)
    .option("--max-num-batched-tokens <n>", "most tokens in one step", parseInteger)
    .option("--block-size <tokens>", "tokens in one page of the KV cache", parseInteger)
    .option("--kv-cache-memory-bytes <bytes>", "size of the KV cache, such as 64M", parseBytes)
    .option("--enable-prefix-caching", "share what is computed of prompts that begin alike (default)")
    .option("--no-enable-prefix-caching", "compute every prompt from its first token")
    .addOption(new Option("--scheduling-policy <policy>", "who is served first: first come (fcfs), or by the requests' priority, lowest first").choices(schedulingPolicies).default("fcfs"))
    .option("--speculative-config <json>", 'guess several tokens and verify them at once: {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3} or {"model": "<draft model>", "num_speculative_tokens": 4}', parseSpeculative)
    .option("--attention <file>", "a module with mods in place of the model's attention: export default { maskMod, scoreMod, layers }")
    .option("--chat-template <file>", "a Jinja chat template in place of the model's own")
    .addOption(new Option("--hf-token <token>", "access token of the hub, for private and gated models").env("HF_TOKEN"))
    .addOption(new Option("--generation-config <source>", "sampling defaults: the model's own (auto) or none (vllm)")
      .choices(["auto", "vllm"]).default("auto"));
}

/** The flags as the library takes them, each by name: a command's flags hold more than these. HF_ENDPOINT in `env` is a mirror of the hub. */
export function loadOptions(flags: EngineFlags, env: Readonly<Record<string, string | undefined>> = process.env): LoadOptions {
  const { dtype, quantization, loadFormat, gpuMemoryUtilization, kvCacheDtype, device, threads, deterministic, seed, maxModelLen, maxNumSeqs, maxNumBatchedTokens, blockSize, kvCacheMemoryBytes, enablePrefixCaching, schedulingPolicy, speculativeConfig } = flags;
  const { skipTokenizerInit, chatTemplate, generationConfig, hfToken } = flags;
  const hub = { ...(hfToken && { token: hfToken }), ...(env["HF_ENDPOINT"] && { hubUrl: env["HF_ENDPOINT"] }) };
  const given = {
    dtype, quantization, loadFormat, gpuMemoryUtilization, kvCacheDtype, device, threads, deterministic, seed, maxModelLen, maxNumSeqs, maxNumBatchedTokens, blockSize, kvCacheBytes: kvCacheMemoryBytes, enablePrefixCaching, schedulingPolicy, speculativeConfig,
    skipTokenizerInit, chatTemplate, generationConfig, hub: Object.keys(hub).length > 0 ? hub : undefined,
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}

/** `loadOptions`, and the mods of --attention. */
export async function engineOptions(flags: EngineFlags): Promise<LoadOptions> {
  const options = loadOptions(flags);
  return flags.attention === undefined ? options : { ...options, attention: await (await import("./mods.ts")).loadAttention(flags.attention) };
}

const samplingFlags = [
  "maxTokens", "temperature", "topP", "topK", "minP", "repetitionPenalty", "presencePenalty", "frequencyPenalty", "logitBias", "allowedTokenIds", "badWords",
  "minTokens", "ignoreEos", "stop", "includeStopStrInOutput", "seed",
] as const satisfies readonly (keyof GenerateParams)[];

export type SamplingFlags = Pick<GenerateParams, (typeof samplingFlags)[number]>;

/** Adds the flags that say how tokens are chosen. */
export function addSamplingFlags(command: Command): Command {
  return command
    .option("--max-tokens <n>", "most tokens of an answer", parseInteger)
    .option("--temperature <t>", "0 always takes the likeliest token", parseNumber)
    .option("--top-p <p>", "keep the likeliest tokens that sum to p", parseNumber)
    .option("--top-k <k>", "keep the k likeliest tokens", parseInteger)
    .option("--min-p <p>", "keep tokens at least p times as likely as the likeliest", parseNumber)
    .option("--repetition-penalty <p>", "above 1: tokens of prompt and answer become rarer", parseNumber)
    .option("--presence-penalty <p>", "above 0: tokens of the answer become rarer", parseNumber)
    .option("--frequency-penalty <p>", "above 0: tokens of the answer become rarer each time", parseNumber)
    .option("--logit-bias <id=bias>", "add to the logit of a token, such as 5=-100; may be repeated", parseBias)
    .option("--allowed-token-ids <ids>", "generate these tokens only, such as 5,6,7", parseIds)
    .option("--bad-words <text>", "a text the answer may not have; may be repeated", collect)
    .option("--min-tokens <n>", "least tokens of an answer", parseInteger)
    .option("--ignore-eos", "go on past the model's end tokens")
    .option("--stop <text>", "end the answer before this text; may be repeated", collect)
    .option("--include-stop-str-in-output", "end the answer behind the --stop text")
    .option("--seed <n>", "same seed, same answer (default: drawn anew each time)", parseInteger);
}

/** "maxTokens" as a person types it. */
export const flagOf: Spelling = (field) => `--${snakeCase(field).replaceAll("_", "-")}`;

/** The flags by their names on the command line, as `LLM.check` takes them with `flagOf`. @throws BadRequest naming the flag */
export function spelledParams(flags: SamplingFlags): Raw {
  const spelled = Object.fromEntries(Object.entries(samplingParams(flags)).map(([field, value]) => [flagOf(field), value]));
  // Before any model is loaded; no flag speaks of the vocabulary.
  checkParams(spelled, Infinity, flagOf);
  return spelled;
}

/** The flags as a generation takes them. */
export function samplingParams(flags: SamplingFlags): GenerateParams {
  return Object.fromEntries(samplingFlags.map((name) => [name, flags[name]]).filter(([, value]) => value !== undefined));
}
