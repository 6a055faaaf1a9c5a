/**
 * Text to token ids and back, as Hugging Face's tokenizers do it, from the model's own files.
 *
 * The library (@huggingface/tokenizers 0.2.0) gives normalisers, the translation of patterns, post-processors, and the
 * WordPiece model. Written here, because it differs from the original or is slow: byte-pair merging (bpe.ts), Unigram
 * (unigram.ts), most pre-tokenisers (pre-tokenizer.ts), finding added tokens (added-tokens.ts: it ignores single_word, and
 * cannot be told to leave special tokens alone), and decoding (decode-rules.ts: it throws on no ids, writes the unknown token
 * for an unknown id, and by default changes the text: "clean_up_tokenization_spaces", which never happens here).
 *
 * Text becomes a special token only where the caller allows it, and never where a character is marked as untrusted.
 * Knows no chat, no threads and no files.
 */
import { Tokenizer as Library } from "@huggingface/tokenizers";
import { UsageError, clipped, invariant, quoted } from "../core/errors.ts";
import type { AddedToken, Section } from "./added-tokens.ts";
import { Matcher } from "./added-tokens.ts";
import type { BpeConfig } from "./bpe.ts";
import { Bpe } from "./bpe.ts";
import { decodeRules } from "./decode-rules.ts";
import type { Json, TextFiles } from "./files.ts";
import { field, list, parseFile, text } from "./files.ts";
import { preTokenizer } from "./pre-tokenizer.ts";
import type { DecoderOptions } from "./stream-decoder.ts";
import { StreamDecoder } from "./stream-decoder.ts";
import type { UnigramConfig } from "./unigram.ts";
import { Unigram } from "./unigram.ts";

export interface EncodeOptions {
  /** Put the tokens around the text that the model expects (its beginning-of-text token). Default true. */
  readonly addSpecialTokens?: boolean;
  /** Read "<bos>" and the like in the text as the tokens that they name. Default false: they are plain text. */
  readonly allowSpecial?: boolean;
  /** For each UTF-16 unit of the text, 1 where it may not be part of a special token. All may when undefined. */
  readonly untrusted?: Uint8Array;
}

export interface Tokenizer {
  /** int32 [numTokens]. Throws BadRequest (`text`) on characters for which there is no token, not even an unknown one. */
  encode(text: string, options?: EncodeOptions): Int32Array;
  decode(ids: ArrayLike<number>, options?: DecoderOptions): string;
  decoder(options?: DecoderOptions): StreamDecoder;
  /** One more than the largest id. */
  readonly vocabSize: number;
  readonly bosId: number | undefined;
  /** Ids that end the model's output, by all files that name one; may be empty. */
  readonly eosIds: readonly number[];
  /** What special tokens look like in a text. */
  readonly specialTokens: readonly string[];
  tokenToId(token: string): number | undefined;
  idToToken(id: number): string | undefined;
  /** The UTF-8 bytes that the token adds in the middle of a text; a part of a character for some. */
  idToBytes(id: number): Uint8Array | undefined;
}

/** Appends the ids of a word. */
type Model = (word: string, out: number[]) => void;

/** Builds the tokenizer of `files`. Throws UsageError where tokenizer.json is missing, damaged, or of a kind that is not known. */
export function loadTokenizer(files: TextFiles): Tokenizer {
  const json = parseFile(files, "tokenizer.json");
  if (json === undefined) {
    throw new UsageError("tokenizer.json is missing from the model's folder; download it, or pass --skip-tokenizer-init to serve by token ids");
  }
  try {
    return build(json, files);
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(`tokenizer.json cannot be used: ${clipped((error as Error).message, 300)}; pass --skip-tokenizer-init to serve by token ids`);
  }
}

function build(json: Json, files: TextFiles): Tokenizer {
  const modelConfig = field(json, "model");
  // A thread that only decodes does not need the large tables: ids by texts, and merges.
  const vocab = lazy(() => vocabOf(modelConfig));
  const added = list(json, "added_tokens").map(addedToken);
  const addedIds = new Map(added.map((token) => [token.content, token.id]));
  checkAdded(added);
  const idOf = (token: string): number | undefined => addedIds.get(token) ?? vocab().get(token);
  const tokens = tokensOf(modelConfig, vocab);
  for (const token of added) tokens[token.id] = token.content;
  const special = new Set(added.filter((token) => token.special).map((token) => token.id));

  const library = libraryOf(json);
  const normalize = library.normalizer ?? ((piece: string) => piece);
  const cut = preTokenizer(field(json, "pre_tokenizer"));
  const specialTokens = added.filter((token) => token.special).map((token) => token.content);
  const model = lazy(() => modelOf(modelConfig, vocab(), neverSaid(tokens, special, new Set(specialTokens))));

  const raw = added.filter((token) => !token.normalized), normalized = added.filter((token) => token.normalized);
  const findRaw = new Matcher(raw);
  // Positions are lost in normalising, so where trust differs within the text special tokens are looked for in the raw text only.
  const findTrusted = new Matcher([...raw, ...normalized.filter((token) => token.special)]);
  // A normaliser may take its time over a token: where texts are encoded that is limited, where a model is loaded it is not.
  const findNormalized = lazy(() => new Matcher(normalized, (token) => normalize(token.content)));
  const [prefix, suffix] = surroundings(library.post_processor, idOf);

  const encode = (source: string, options: EncodeOptions = {}): Int32Array => {
    const { addSpecialTokens = true, allowSpecial = false, untrusted } = options;
    invariant(untrusted === undefined || untrusted.length === source.length, "untrusted has one mark for each UTF-16 unit");
    const whole = source.toWellFormed();
    const out: number[] = addSpecialTokens ? [...prefix] : [];
    const trusted = (token: AddedToken, start: number, end: number): boolean => {
      if (!token.special) return true;
      if (!allowSpecial) return false;
      if (untrusted === undefined) return true;
      // A name of letters alone cannot be guarded by marking its punctuation: it is never read out of a mixed text.
      return guards(token.content).length > 0 && !untrusted.subarray(start, end).includes(1);
    };
    const plain = (piece: string, first: boolean): void => {
      for (const word of cut(piece, first)) model()(word, out);
    };
    const sections: readonly Section[] = (untrusted === undefined ? findRaw : findTrusted).split(whole, trusted);
    for (const section of sections) {
      if (section.kind === "token") {
        out.push(section.id);
        continue;
      }
      const piece = normalize(whole.slice(section.start, section.end));
      for (const inner of findNormalized().split(piece, (token) => !token.special || (allowSpecial && untrusted === undefined))) {
        if (inner.kind === "token") out.push(inner.id);
        else plain(piece.slice(inner.start, inner.end), section.start === 0 && inner.start === 0);
      }
    }
    if (addSpecialTokens) for (const id of suffix) out.push(id);
    return Int32Array.from(out);
  };

  const { bytes, ends } = decodeRules(field(json, "decoder"));
  const cache: (Uint8Array | undefined)[] = [];
  const tokenBytes = {
    ends,
    isSpecial: (id: number) => special.has(id),
    bytes: (id: number, first: boolean) => {
      const token = tokens[id];
      if (token === undefined || token === null) return undefined;
      return first ? bytes(token, true) : (cache[id] ??= bytes(token, false));
    },
  };
  const decoder = (options?: DecoderOptions): StreamDecoder => new StreamDecoder(tokenBytes, options);

  return {
    encode,
    decoder,
    decode: (decoded, options) => {
      const stream = decoder(options);
      const start = stream.push(decoded);
      return start + stream.flush();
    },
    vocabSize: tokens.length,
    ...endTokens(files, idOf),
    specialTokens,
    tokenToId: idOf,
    idToToken: (id) => tokens[id] ?? undefined,
    idToBytes: (id) => tokenBytes.bytes(id, false),
  };
}

/** The punctuation of a special token's text, by which a chat template's rendering is guarded; "_", "-" and the like only where it has no other. */
export function guards(content: string): string[] {
  const strong = [...content].filter((char) => char.length === 1 && !/[\p{L}\p{N}\p{M}\s_\-▁]/u.test(char));
  return strong.length > 0 ? strong : [...content].filter((char) => /[_\-▁]/.test(char));
}

const damaged = (what: string): UsageError => new UsageError(`tokenizer.json: ${what}; the file is damaged, download it again`);

function addedToken(row: Json): AddedToken {
  const id = field(row, "id"), content = text(row, "content"), special = field(row, "special") === true;
  if (!isId(id) || content === undefined) throw damaged(`added_tokens has a row without id or content (${quoted(row)})`);
  const flag = (name: string): boolean => field(row, name) === true;
  const normalized = (field(row, "normalized") ?? !special) === true;
  return { id, content, special, normalized, lstrip: flag("lstrip"), rstrip: flag("rstrip"), singleWord: flag("single_word") };
}

/** No two tokens may have one id. A GGUF file's token with a space in it is there in both spellings of that. */
function checkAdded(added: readonly AddedToken[]): void {
  const contents = new Map<number, string>();
  for (const { id, content } of added) {
    const other = contents.get(id) ?? content;
    if (other.replaceAll("▁", " ") !== content.replaceAll("▁", " ")) throw damaged(`added_tokens has the id ${id} twice, for ${quoted(other)} and ${quoted(content)}`);
    contents.set(id, content);
  }
}

/** Many times what the largest vocabularies have. */
const maxIds = 2 ** 22;
const isId = (x: Json): x is number => typeof x === "number" && Number.isInteger(x) && x >= 0 && x < maxIds;

/** By id: the token's text; null where no text becomes it. */
function tokensOf(model: Json, vocab: () => ReadonlyMap<string, number>): (string | null | undefined)[] {
  const listed = field(model, "vocab");
  if (Array.isArray(listed)) return listed.map(rowText);
  const tokens: (string | undefined)[] = [];
  for (const [token, id] of vocab()) {
    if (tokens[id] !== undefined) throw damaged(`model.vocab has the id ${id} twice, for ${quoted(tokens[id])} and ${quoted(token)}`);
    tokens[id] = token;
  }
  return tokens;
}

/** The text in a row of a vocabulary that is a list: Unigram's [token, score] pairs, or the tokens that come of a GGUF file, null where no text becomes one. */
function rowText(row: Json, id: number): string | null {
  const token: Json = Array.isArray(row) ? row[0] : row;
  if (typeof token !== "string" && row !== null) throw damaged(`model.vocab[${id}] is ${quoted(row)}, and no token`);
  return token as string | null;
}

/** token -> id. Unigram and what comes of a GGUF file have a list; the others have an object. */
function vocabOf(model: Json): Map<string, number> {
  const vocab = field(model, "vocab");
  const ids = new Map<string, number>();
  if (Array.isArray(vocab)) {
    for (let id = 0; id < vocab.length; id++) {
      const token = rowText(vocab[id], id);
      if (token !== null) ids.set(token, id);
    }
    return ids;
  }
  if (typeof vocab !== "object" || vocab === null) throw damaged("model.vocab is missing");
  for (const [token, id] of Object.entries(vocab)) {
    if (!isId(id)) throw damaged(`model.vocab says that ${quoted(token)} has the id ${quoted(id)}; whole numbers from 0 to ${maxIds - 1} are ids`);
    ids.set(token, id);
  }
  return ids;
}

/** Ids that plain text never becomes: special tokens, and further ones that are written as they are. */
function neverSaid(tokens: readonly (string | null | undefined)[], special: ReadonlySet<number>, texts: ReadonlySet<string>): ReadonlySet<number> {
  const ids = new Set(special);
  tokens.forEach((token, id) => void (typeof token === "string" && texts.has(token) && ids.add(id)));
  return ids;
}

/** What the library would turn into a text, list by list, whenever it replaces something. */
function checkNormalizer(config: Json): void {
  const content = field(config, "content");
  if ((content ?? undefined) !== undefined && typeof content !== "string") throw damaged(`normalizer ${text(config, "type") ?? "without a type"} has a content that is no text`);
  for (const one of list(config, "normalizers")) checkNormalizer(one);
}

/** The library's normaliser and post-processor; its model, added tokens, pre-tokeniser and decoder stay unused. */
function libraryOf(json: Json): { normalizer: ((piece: string) => string) | null; post_processor: PostProcessor | null } {
  checkNormalizer(field(json, "normalizer"));
  const library = new Library(
    {
      model: { type: "BPE", vocab: {}, merges: [] }, added_tokens: [], pre_tokenizer: null, decoder: null,
      normalizer: field(json, "normalizer") ?? null, post_processor: field(json, "post_processor") ?? null,
    },
    {},
  );
  return library as unknown as ReturnType<typeof libraryOf>;
}

type PostProcessor = (tokens: string[], pair: null, addSpecialTokens: boolean) => { readonly tokens: readonly string[] };

/** The ids that stand before and after a text with special tokens, found by processing a token that no vocabulary has. */
function surroundings(process: PostProcessor | null, idOf: (token: string) => number | undefined): [readonly number[], readonly number[]] {
  if (process === null) return [[], []];
  const probe = "\u0000the text\u0000";
  const { tokens } = process([probe], null, true);
  const known = (token: string): number => {
    const id = idOf(token);
    if (id === undefined) throw damaged(`the post_processor adds ${quoted(token)}, which is no token of this vocabulary`);
    return id;
  };
  const at = tokens.indexOf(probe);
  return [tokens.slice(0, at).map(known), tokens.slice(at + 1).map(known)];
}

function modelOf(config: Json, vocab: ReadonlyMap<string, number>, special: ReadonlySet<number>): Model {
  const type = text(config, "type") ?? (Array.isArray(field(config, "vocab")) ? "Unigram" : field(config, "merges") !== undefined ? "BPE" : "");
  if (type === "BPE") {
    const bpe = new Bpe(bpeConfig(config, vocab.size), vocab, special);
    return (word, out) => bpe.encode(word, out);
  }
  if (type === "Unigram") {
    const unigram = new Unigram(unigramConfig(config), special);
    return (word, out) => unigram.encode(word, out);
  }
  if (type !== "WordPiece") {
    const what = `model type ${quoted(type)} is not supported (BPE, Unigram and WordPiece are)`;
    throw new UsageError(`tokenizer.json: ${what}; serve this model with --skip-tokenizer-init, by token ids`);
  }
  const library = new Library(
    { model: { ...(config as object), type }, added_tokens: [], pre_tokenizer: null, decoder: null, normalizer: null, post_processor: null },
    {},
  );
  const pieces = library.model as unknown as ((words: string[]) => string[]) & { readonly unk_token_id: number | undefined };
  const unknown = pieces.unk_token_id;
  return (word, out) => {
    for (const piece of pieces([word])) {
      const id = vocab.get(piece) ?? unknown;
      // The text of a special token, whole in the vocabulary: as text it is unknown, for pieces of words hold no punctuation.
      const said = id !== undefined && special.has(id) ? unknown : id;
      if (said !== undefined) out.push(said);
    }
  };
}

/** A field of `model` that may be left out or null, and is of this type otherwise. */
function optional<T>(config: Json, name: string, kind: string, is: (value: Json) => value is T): T | undefined {
  const value = field(config, name) ?? undefined;
  if (value !== undefined && !is(value)) throw damaged(`model.${name} is ${quoted(value)}, where ${kind} is expected`);
  return value;
}
const isText = (x: Json): x is string => typeof x === "string";
const isFlag = (x: Json): x is boolean => typeof x === "boolean";
const isNumber = (x: Json): x is number => typeof x === "number" && !Number.isNaN(x);
const isMerge = (x: Json): x is string | readonly string[] => typeof x === "string" || (Array.isArray(x) && x.length === 2 && x.every(isText));

function bpeConfig(config: Json, numTokens: number): BpeConfig {
  const isList = (x: Json): x is readonly (string | readonly string[])[] => Array.isArray(x);
  const isScores = (x: Json): x is ArrayLike<number> => Array.isArray(x) || ArrayBuffer.isView(x);
  const words = (name: string): string | undefined => optional(config, name, "a string", isText);
  const flag = (name: string): boolean => optional(config, name, "true or false", isFlag) ?? false;
  const merges = optional(config, "merges", "a list", isList) ?? [], scores = optional(config, "scores", "a list", isScores);
  const wrong = merges.findIndex((merge) => !isMerge(merge));
  if (wrong >= 0) throw damaged(`model.merges[${wrong}] is ${quoted(merges[wrong])}, and no pair of tokens`);
  if (scores && (scores.length < numTokens || !Array.prototype.every.call(scores, isNumber))) throw damaged(`model.scores has not one number for each of ${numTokens} tokens`);
  const unknown = words("unk_token"), prefix = words("continuing_subword_prefix"), suffix = words("end_of_word_suffix");
  return {
    merges, ...(scores && { scores }), ...(unknown !== undefined && { unk_token: unknown }), ...(prefix !== undefined && { continuing_subword_prefix: prefix }), ...(suffix !== undefined && { end_of_word_suffix: suffix }),
    fuse_unk: flag("fuse_unk"), byte_fallback: flag("byte_fallback"), ignore_merges: flag("ignore_merges"),
  };
}

function unigramConfig(config: Json): UnigramConfig {
  const vocab = list(config, "vocab");
  const wrong = vocab.findIndex((row) => !(Array.isArray(row) && row.length === 2 && isText(row[0]) && isNumber(row[1])));
  if (wrong >= 0) throw damaged(`model.vocab[${wrong}] is ${quoted(vocab[wrong])}, and no token with its score`);
  const unknown = optional(config, "unk_id", "a token's id", isId);
  if (unknown !== undefined && unknown >= vocab.length) throw damaged(`model.unk_id is ${unknown}, and there are ${vocab.length} tokens`);
  return { vocab: vocab as UnigramConfig["vocab"], unk_id: unknown ?? null, byte_fallback: optional(config, "byte_fallback", "true or false", isFlag) ?? false };
}

/** Beginning and end of text, from every file that names them. */
function endTokens(files: TextFiles, idOf: (token: string) => number | undefined): { bosId: number | undefined; eosIds: readonly number[] } {
  const names = [parseFile(files, "tokenizer_config.json"), parseFile(files, "special_tokens_map.json")];
  const configs = [parseFile(files, "generation_config.json"), parseFile(files, "config.json")];
  const named = (name: string): number[] => names.flatMap((file) => tokenText(field(file, name)) ?? []).flatMap((token) => idOf(token) ?? []);
  const numbered = (name: string): number[] => configs.flatMap((file) => field(file, name)).filter((id): id is number => typeof id === "number");
  const [bosId] = [...named("bos_token"), ...numbered("bos_token_id")];
  return { bosId, eosIds: [...new Set([...named("eos_token"), ...numbered("eos_token_id")])] };
}

/** A token in tokenizer_config.json: its text, or an object that holds it. */
export function tokenText(value: Json): string | undefined {
  return typeof value === "string" ? value : text(value, "content");
}

function lazy<T>(make: () => T): () => T {
  let made: T | undefined;
  return () => (made ??= make());
}
