/**
 * How a byte-level vocabulary's text is cut into words, by the name that a GGUF file gives for it (tokenizer.ggml.pre), said as a
 * tokenizer.json would say it. One row for each name that models of the supported architectures carry.
 *
 * A name stands for the tokenizer of a model on the hub, and the row says what that model's tokenizer.json says. llama.cpp differs
 * from it here and there (it does not normalise Qwen's text); the model was trained on the hub's.
 */
import { quoted, UsageError } from "../core/errors.ts";
import type { Json } from "./files.ts";

export interface PreRules {
  readonly normalizer: Json;
  readonly preTokenizer: Json;
  /** A word that is a token stays whole, whatever the merges say. */
  readonly ignoreMerges: boolean;
  /** Whether a text begins with the begin token where the file does not say (tokenizer.ggml.add_bos_token). */
  readonly addBos: boolean;
}

const split = (regex: string): Json => ({ type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false });
const bytes = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };
const gpt2 = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
const digits = { type: "Digits", individual_digits: true };

/** The cut of tiktoken's cl100k and what descends from it; `numbers` says how digits are grouped. */
const cl100k = (numbers: string): Json =>
  split(String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|${numbers}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`);

/** Words whose letters begin upper case or go on lower case, as tiktoken's o200k has them. */
const cased = (): Json => {
  const first = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`, rest = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`, before = String.raw`[^\r\n\p{L}\p{N}]?`;
  return split(String.raw`${before}${first}*${rest}+|${before}${first}+${rest}*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`);
};

const rules = (steps: readonly Json[], more: Partial<PreRules> = {}): PreRules => ({
  normalizer: null, preTokenizer: { type: "Sequence", pretokenizers: steps }, ignoreMerges: false, addBos: false, ...more,
});

const llama3 = rules([cl100k(String.raw`\p{N}{1,3}`), bytes], { ignoreMerges: true, addBos: true });
const llama3Merges = rules([cl100k(String.raw`\p{N}{1,3}`), bytes]);
const qwen2 = rules([cl100k(String.raw`\p{N}`), bytes], { normalizer: { type: "NFC" } });
const gpt2Words = rules([gpt2]);
const starcoder = rules([digits, gpt2]);
const asianRuns = split("[一-龥ࠀ-一가-\ud7ff]+");

const table: Readonly<Record<string, PreRules>> = {
  "llama-bpe": llama3, "llama3": llama3, "llama-v3": llama3, "falcon3": llama3, "midm-2.0": llama3,
  "smaug-bpe": llama3Merges, "dbrx": llama3Merges, "chatglm-bpe": llama3Merges, "glm4": llama3Merges,
  "qwen2": qwen2, "deepseek-r1-qwen": qwen2, "megrez": qwen2,
  "gpt-2": gpt2Words,
  "smollm": starcoder, "starcoder": starcoder, "refact": starcoder, "minerva-7b": starcoder,
  "tekken": rules([cased(), bytes], { ignoreMerges: true, addBos: true }),
  "deepseek-llm": rules([
    // Letters that have a case; Georgian has none there.
    split("[\r\n]"), split(String.raw`\s?(?:(?![ა-ჿ])[\p{Lu}\p{Ll}\p{Lt}])+`), split(String.raw`\s?[!-/:-~！-／：-～‘-‟　-。]+`), split(String.raw`\s+$`), asianRuns,
    split(String.raw`\p{N}+`), bytes,
  ]),
  "deepseek-coder": rules([split("[\r\n]"), split(String.raw`\s?\p{L}+`), split(String.raw`\s?\p{P}+`), asianRuns, digits, bytes]),
  "seed-coder": rules([
    split(String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+`), bytes,
  ]),
  "viking": rules([split(String.raw` ?[^(\s|.,!?…。，、।۔،)]+`), digits, bytes]),
  // No model's: what llama.cpp does with a file of whose tokenizer its converter knew nothing more.
  "default": rules([
    split(String.raw`[\p{P}\$\+<=>\^~\|]+`), split(String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`),
    split(String.raw`\p{N}+`), split("[0-9][0-9][0-9]"), bytes,
  ]),
};

/** The rules of `name`. Throws UsageError for a name that is not known; `path`: the file that gives it. */
export function preRules(name: string, path: string): PreRules {
  if (Object.hasOwn(table, name)) return table[name]!;
  const known = Object.keys(table).sort().join(", ");
  throw new UsageError(`${path}: tokenizer.ggml.pre is ${quoted(name)}, and how such text is cut into words is known for ${known}; use the model's folder instead, or pass --skip-tokenizer-init to work with token ids`);
}
