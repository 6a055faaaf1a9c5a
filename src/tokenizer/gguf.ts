/**
 * The tokenizer and chat template in a GGUF file's metadata, said as the files of a model's folder would say it
 * (tokenizer.json, tokenizer_config.json, generation_config.json): so that one tokenizer serves both, and gives Hugging Face's ids.
 *
 * What a GGUF file leaves out is filled in by what the models of its kind have. Knows no bytes: whoever reads the file hands the
 * metadata over as a map. The result can cross to another thread.
 */
import { quoted, UsageError } from "../core/errors.ts";
import type { Json, TextFiles } from "./files.ts";
import { preRules } from "./gguf-pre.ts";

/** Values by key: numbers (or bigints), booleans, strings; arrays as string[] or as a typed array. */
export type GgufMetadata = ReadonlyMap<string, unknown>;

/** Values of tokenizer.ggml.token_type. */
const tokenTypes = { unknown: 2, control: 3, userDefined: 4, unused: 5 } as const;

/** Texts of tokens that end a turn, all with "<" in front. Files name but one of them, and chats end with another. llama.cpp goes by such a list too. */
const endTexts: ReadonlySet<string> = new Set([
  "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>", "<｜end▁of▁sentence｜>",
]);

/** Names of special tokens as tokenizer_config.json has them, and their keys here. */
const namedTokens = {
  bos_token: "bos_token_id", eos_token: "eos_token_id", unk_token: "unknown_token_id", sep_token: "seperator_token_id",
  pad_token: "padding_token_id", cls_token: "cls_token_id", mask_token: "mask_token_id",
} as const;

/** Further keys of tokens that end what the model says. */
const endKeys = ["eos_token_id", "eot_token_id", "eom_token_id"] as const;

/** Sampling defaults, by their names in generation_config.json. */
const samplingKeys = { temperature: "temp", top_p: "top_p", top_k: "top_k", min_p: "min_p" } as const;

/** What is made of the vocabulary: the parts of a tokenizer.json that depend on its kind. */
interface Parts {
  readonly normalizer: Json;
  readonly pre_tokenizer: Json;
  readonly decoder: Json;
  readonly model: object;
  readonly addBos: boolean;
}

interface Vocabulary {
  /** By id. */
  readonly tokens: readonly string[];
  readonly types: ArrayLike<number> | undefined;
}

/**
 * The text files that the metadata of the GGUF file at `path` stands for.
 * @throws UsageError where it holds no tokenizer, one of a kind that is not known, or one whose parts do not fit together.
 */
export function ggufTextFiles(metadata: GgufMetadata, path: string): TextFiles {
  const read = new Reader(metadata, path);
  const kind = read.text("tokenizer.ggml.model");
  if (kind === undefined) throw read.refuse('has no tokenizer ("tokenizer.ggml.model" is missing)');
  const parts = Object.hasOwn(kinds, kind) ? kinds[kind] : undefined;
  if (parts === undefined) throw read.refuse(`tokenizer.ggml.model is ${quoted(kind)}, and ${Object.keys(kinds).join(" and ")} are known`);
  const vocabulary = { tokens: read.tokens(), types: read.numbers("token_type") };
  const { tokens } = vocabulary;
  const { added, ends } = addedTokens(vocabulary, read);
  const { addBos, ...tokenizer } = parts(vocabulary, read);

  const named = Object.entries(namedTokens).flatMap(([name, key]): [string, string][] => {
    const id = read.id(key, tokens.length);
    return id === undefined ? [] : [[name, tokens[id]!]];
  });
  const around = { bos: read.flag("add_bos_token") ?? addBos, eos: read.flag("add_eos_token") ?? false };
  const texts = Object.fromEntries(named);
  return {
    "tokenizer.json": {
      ...tokenizer, added_tokens: added,
      post_processor: template(around.bos ? texts["bos_token"] : undefined, around.eos ? texts["eos_token"] : undefined),
    },
    "tokenizer_config.json": { ...texts, ...read.chatTemplates() },
    "generation_config.json": { eos_token_id: ends, ...ggufSampling(metadata) },
  };
}

/** Sampling defaults in the metadata, as a generation_config.json has them. */
export function ggufSampling(metadata: GgufMetadata): Readonly<Record<string, number>> {
  return Object.fromEntries(Object.entries(samplingKeys).flatMap(([name, key]): [string, number][] => {
    const value = metadata.get(`general.sampling.${key}`);
    return typeof value === "number" ? [[name, value]] : [];
  }));
}

/** The tokens that are looked for in a text before anything else, and the ids of those that end a turn. */
function addedTokens({ tokens, types }: Vocabulary, read: Reader): { readonly added: readonly object[]; readonly ends: readonly number[] } {
  const ids = [...endKeys, "bos_token_id", "unknown_token_id"] as const;
  const special = new Set(types === undefined ? ids.flatMap((key) => read.id(key, tokens.length) ?? []) : []);
  const rows: object[] = [], ends = new Set(endKeys.flatMap((key) => read.id(key, tokens.length) ?? []));
  const add = (id: number, content: string, isSpecial: boolean): void => void rows.push({ id, content, special: isSpecial, normalized: false });
  for (let id = 0; id < tokens.length; id++) {
    const text = tokens[id]!, type = types?.[id];
    const isEnd = text.startsWith("<") && endTexts.has(text);
    if (isEnd) ends.add(id);
    if (type === tokenTypes.control || type === tokenTypes.unknown || special.has(id) || isEnd) add(id, text, true);
    else if (type === tokenTypes.userDefined) {
      // llama.cpp's converter writes the spaces of a token as spaces where the model has "▁" for them; a text may hold either.
      if (text.includes(" ")) add(id, text.replaceAll(" ", "▁"), false);
      add(id, text, false);
    }
  }
  return { added: rows, ends: [...ends] };
}

/** By tokenizer.ggml.model. */
const kinds: Readonly<Record<string, (vocabulary: Vocabulary, read: Reader) => Parts>> = {
  /** SentencePiece's byte-pair encoding: "▁" for a space, merges by scores, bytes for what has no token. */
  llama: ({ tokens, types }, read) => {
    const scores = read.numbers("scores");
    if (scores === undefined || scores.length < tokens.length) {
      throw read.refuse(`tokenizer.ggml.scores has ${scores?.length ?? "no"} numbers, and there are ${tokens.length} tokens`);
    }
    const prefix = read.flag("add_space_prefix") ?? true;
    // No file says which of two rules adds the space at the start: Mistral's tokenizers with control tokens for instructions have it
    // at the start of the whole text only, all others after each special token, too.
    const first = prefix && types !== undefined && types[tokens.indexOf("[INST]")] === tokenTypes.control;
    const spaces = { type: "Replace", pattern: { String: " " }, content: "▁" };
    const normalizer = { type: "Sequence", normalizers: prefix ? [{ type: "Prepend", prepend: "▁" }, spaces] : [spaces] };
    const decoders = [{ type: "Replace", pattern: { String: "▁" }, content: " " }, { type: "ByteFallback" }, { type: "Fuse" }];
    const unknown = read.id("unknown_token_id", tokens.length) ?? 0;
    // Merges never make these: the file's scores for them are made up.
    const apart = (type: number | undefined): boolean => type === tokenTypes.control || type === tokenTypes.userDefined || type === tokenTypes.unused;
    return {
      normalizer: first ? null : normalizer,
      pre_tokenizer: first ? { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: false } : null,
      decoder: { type: "Sequence", decoders: prefix ? [...decoders, { type: "Strip", content: " ", start: 1, stop: 0 }] : decoders },
      model: {
        type: "BPE", vocab: tokens.map((token, id) => (apart(types?.[id]) ? null : token)), scores,
        unk_token: tokens[unknown], fuse_unk: true, byte_fallback: true,
      },
      addBos: true,
    };
  },
  /** Byte-level byte-pair encoding. */
  gpt2: ({ tokens }, read) => {
    const pre = read.text("tokenizer.ggml.pre");
    if (pre === undefined) {
      throw read.refuse("has no tokenizer.ggml.pre (it was made before May 2024), so that how its text is cut into words is not known; convert the model again");
    }
    const merges = read.strings("merges");
    if (merges === undefined) throw read.refuse("has no tokenizer.ggml.merges");
    const { normalizer, preTokenizer, ignoreMerges, addBos } = preRules(pre, read.path);
    return {
      normalizer, pre_tokenizer: preTokenizer, addBos,
      decoder: { type: "ByteLevel" }, model: { type: "BPE", vocab: tokens, merges, ignore_merges: ignoreMerges },
    };
  },
};

/** The post-processor that puts a begin and an end token around a text. */
function template(bos: string | undefined, eos: string | undefined): Json {
  if (bos === undefined && eos === undefined) return null;
  const special = (token: string | undefined): object[] => (token === undefined ? [] : [{ SpecialToken: { id: token, type_id: 0 } }]);
  const single = [...special(bos), { Sequence: { id: "A", type_id: 0 } }, ...special(eos)];
  return { type: "TemplateProcessing", single, pair: single, special_tokens: {} };
}

/** Metadata by key, each value checked to be of the kind that it should. Keys without a dot are of the tokenizer. */
class Reader {
  readonly path: string;
  readonly #metadata: GgufMetadata;

  constructor(metadata: GgufMetadata, path: string) {
    this.#metadata = metadata;
    this.path = path;
  }

  /** An error; what can be done about all of them is the same. */
  refuse(what: string): UsageError {
    return new UsageError(`${this.path}: ${what}; use another file of the model, or pass --skip-tokenizer-init to work with token ids`);
  }

  text(key: string): string | undefined {
    return this.#get(key, "a string", (value): value is string => typeof value === "string");
  }

  flag(name: string): boolean | undefined {
    return this.#get(`tokenizer.ggml.${name}`, "a boolean", (value): value is boolean => typeof value === "boolean");
  }

  strings(name: string): readonly string[] | undefined {
    return this.#get(`tokenizer.ggml.${name}`, "an array of strings", (value): value is string[] => Array.isArray(value) && (value.length === 0 || typeof value[0] === "string"));
  }

  numbers(name: string): ArrayLike<number> | undefined {
    return this.#get(`tokenizer.ggml.${name}`, "an array of numbers", (value): value is ArrayLike<number> =>
      (ArrayBuffer.isView(value) && typeof (value as unknown as ArrayLike<unknown>)[0] !== "bigint") || (Array.isArray(value) && typeof value[0] === "number"));
  }

  /** The id under a key. One that is beyond the vocabulary stands for no token. */
  id(name: string, numTokens: number): number | undefined {
    const key = `tokenizer.ggml.${name}`;
    const value = this.#get(key, "a number", (it): it is number | bigint => typeof it === "number" || typeof it === "bigint");
    return value !== undefined && value >= 0 && value < numTokens ? Number(value) : undefined;
  }

  tokens(): readonly string[] {
    const tokens = this.strings("tokens");
    if (tokens === undefined || tokens.length === 0) throw this.refuse("has no tokenizer.ggml.tokens");
    const types = this.numbers("token_type");
    if (types !== undefined && types.length < tokens.length) {
      throw this.refuse(`tokenizer.ggml.token_type has ${types.length} numbers, and there are ${tokens.length} tokens`);
    }
    return tokens;
  }

  /** As tokenizer_config.json has them: one, or a list by names where there are several. */
  chatTemplates(): { readonly chat_template?: Json } {
    const plain = this.text("tokenizer.chat_template");
    const others = [...this.#metadata.keys()].filter((key) => key.startsWith("tokenizer.chat_template."));
    if (others.length === 0) return plain === undefined ? {} : { chat_template: plain };
    const rows = others.map((key) => ({ name: key.slice("tokenizer.chat_template.".length), template: this.text(key) }));
    return { chat_template: [...(plain === undefined ? [] : [{ name: "default", template: plain }]), ...rows] };
  }

  #get<T>(key: string, kind: string, is: (value: unknown) => value is T): T | undefined {
    const value = this.#metadata.get(key);
    if (value === undefined || is(value)) return value;
    throw this.refuse(`${key} is not ${kind}`);
  }
}
